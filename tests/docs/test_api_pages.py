"""Every public name is on a page of the reference."""

import importlib
import re

import pytest
from pages import DOCS

MODULES = [
    "captum_kd",
    "captum_kd.attr",
    "captum_kd.distance",
    "captum_kd.embeddings",
    "captum_kd.metrics",
    "captum_kd.metrics.inference",
    "captum_kd.metrics.torchmetrics",
    "captum_kd.monitor",
    "captum_kd.page",
    "captum_kd.perturb",
    "captum_kd.visualization",
]
SHARED_INSIDE = {
    "captum_kd.attr": {"ReferencePopulation", "TransferAttributions", "UniCAM"},  # documented as names of captum_kd
    "captum_kd.embeddings": {"check_class_embeddings"},
    "captum_kd.metrics.inference": {"single_pair_sentence"},
}  # fmt: skip
"""What modules of the package take from one another and the reference does not promise to users."""
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:class|function|data)|py:data|currentmodule):: ([\w.]+)$", re.MULTILINE)


def documented() -> set[str]:
    """Full names that the pages have a directive for, by the module that is current there."""
    found = set()
    for page in (DOCS / "api").glob("*.md"):
        module = ""
        for match in DIRECTIVE.finditer(page.read_text()):
            if "currentmodule" in match[0]:
                module = match[1]
            else:
                found.add(f"{module}.{match[1]}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_a_page(module: str) -> None:
    names = set(importlib.import_module(module).__all__)
    assert {name for name in names if f"{module}.{name}" not in documented()} == SHARED_INSIDE.get(module, set())


def test_pages_document_public_names_only() -> None:
    public = {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}
    assert documented() - public == set()
