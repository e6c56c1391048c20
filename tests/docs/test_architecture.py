"""The map of the code is a map of this code."""

from pathlib import Path
from types import ModuleType

import pytest
from pages import DOCS


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "scripts"))
    return pytest.importorskip("draw_imports")


def test_picture_is_up_to_date(drawing: ModuleType) -> None:
    """If not: python docs/scripts/draw_imports.py"""
    assert (DOCS / "images" / "architecture.svg").read_text() == drawing.picture()


def test_page_names_every_part_of_the_package(drawing: ModuleType) -> None:
    page = (DOCS / "architecture.md").read_text()
    parts = drawing.imports(drawing.ROOT / drawing.PACKAGE)
    assert [part for part in parts if f"`{part}`" not in page and f"`{part}/`" not in page] == []


def test_no_part_imports_one_that_imports_it(drawing: ModuleType) -> None:
    level = drawing.levels(parts := drawing.imports(drawing.ROOT / drawing.PACKAGE))
    assert all(level[target] < level[name] for name, targets in parts.items() for target in targets)


def test_imports_are_read_on_module_level_only(drawing: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "folder").mkdir(parents=True)
    (package / "__init__.py").write_text("from pack.folder import deep\n")
    (package / "folder" / "__init__.py").write_text("from pack.folder.deep import x\nimport os, pack.low\n")
    (package / "folder" / "deep.py").write_text("from pack import low\n\ndef f():\n    from pack.rare import y\n")
    (package / "low.py").write_text("import torch\n")
    (package / "rare.py").write_text("")
    assert drawing.imports(package) == {"folder": {"low"}, "low": set(), "rare": set()}


def test_circles_are_refused(drawing: ModuleType) -> None:
    with pytest.raises(ValueError, match="a -> b -> c -> a"):
        drawing.levels({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_implied_imports_are_left_out(drawing: ModuleType) -> None:
    graph = {"top": {"middle", "low"}, "middle": {"low"}, "low": set()}
    assert drawing.shortest(graph) == {"top": {"middle"}, "middle": {"low"}, "low": set()}


def test_boxes_do_not_overlap_and_arrows_go_down(drawing: ModuleType) -> None:
    graph = {"top": {"one", "low"}, "one": {"low"}, "other": {"low"}, "low": set()}
    steps, ways = drawing.threaded(graph)
    assert ways["top", "low"] == ["top", "top>low@1", "low"]
    arranged = drawing.rows(steps)
    assert [sorted(row) for row in arranged] == [["top"], ["one", "other", "top>low@1"], ["low"]]
