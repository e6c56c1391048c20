"""What ``import captum_kd`` offers, and what it costs."""

import configparser
import json
import pathlib
import re
import subprocess
import sys

import pytest

import captum_kd

PUBLIC = {
    "captum_kd": [
        "ReferencePopulation",
        "TransferAttributions",
        "UniCAM",
        "flatten",
        "flatten_to_unit_length",
        "global_average_pool",
    ],
    "captum_kd.metrics": [
        "feature_similarity_score",
        "keep_curve",
        "localization_score",
        "map_reliability",
        "random_attributions",
        "randomization_test",
        "relevance_score",
        "sensitivity_max",
    ],
    "captum_kd.embeddings": ["class_prototypes", "classifier_embeddings"],
    "captum_kd.distance": ["distance_correlation", "semipartial_distance_correlation"],
}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    script = f"import json, sys\n{statement}\njson.dump(sorted(sys.modules), sys.stdout)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def added() -> set[str]:
    """What the package and its metrics load beyond Captum's attributions and metrics."""
    ours = modules_after("import captum_kd, captum_kd.metrics, captum_kd.distance")
    assert "captum_kd.attr.unicam" in ours
    return ours - modules_after("import captum.attr, captum.metrics")


@pytest.mark.parametrize(
    "package",
    [
        "dcor", "numba", "matplotlib", "torchvision", "timm", "sklearn", "scipy", "lightning", "pytorch_lightning",
        "torchmetrics", "PIL",
    ],
)
def test_import_does_not_load(added, package):
    assert not {name for name in added if name.split(".")[0] == package}


def test_import_does_not_load_the_compiler(added):
    assert not {name for name in added if name.startswith(("torch._dynamo", "torch._inductor"))}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module):
    imported = __import__(module, fromlist=["*"])
    missing = [name for name in PUBLIC[module] if not hasattr(imported, name) or name not in imported.__all__]
    assert missing == []


@pytest.mark.parametrize("module", ["captum_kd", "captum_kd.attr", "captum_kd.metrics", "captum_kd.distance"])
def test_everything_announced_is_there(module):
    imported = __import__(module, fromlist=["*"])
    assert [name for name in imported.__all__ if not hasattr(imported, name)] == []


def test_the_version_is_said_in_one_place_and_the_files_about_it_agree():
    root = pathlib.Path(__file__).parents[1]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: captum_kd.__version__"
    cited = dict(re.findall(r"^(version|date-released): (\S+)$", (root / "CITATION.cff").read_text(), re.MULTILINE))
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == (cited["version"], cited["date-released"])
    assert captum_kd.__version__ == cited["version"]
