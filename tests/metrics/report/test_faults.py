"""What breaks in the middle of a report: the models stay as they were, files are whole or not there, a rerun goes on."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, Callable

import numpy
import pytest
import torch
from population import batches, compare, data, related
from state import unchanged_state
from torch import Tensor, nn

from captum_kd import flatten
from captum_kd.metrics import TransferReport

pytestmark = [
    pytest.mark.filterwarnings("ignore:Only"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

ERRORS = [RuntimeError("broken"), KeyboardInterrupt()]


class Breaking:
    """Passes values through a function and raises at a certain call; 0: never."""

    def __init__(self, function: Callable[..., Any], error: BaseException, at: int = 3) -> None:
        self.function = function
        self.error = error
        self.left = at

    def __call__(self, *args: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.function(*args)


def maps_of(model: nn.Module, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


def reading(loader: list[Any], step: Callable[[Any], Any]) -> Any:
    for batch in loader:
        yield step(batch)


# What is the user's own, and how a report is made of it.
PLACES: dict[str, Callable[[Callable[[Callable[..., Any]], Breaking]], dict[str, Any]]] = {
    "loader": lambda breaking: {"data": reading(batches(9), breaking(lambda batch: batch))},
    "unpack": lambda breaking: {"unpack": breaking(lambda batch: batch)},
    "feature_transform": lambda breaking: {"feature_transform": breaking(flatten)},
    "localize": lambda breaking: {"localize": breaking(maps_of)},
    "output_transform, Grad-CAM": lambda breaking: {"localize": "gradcam", "output_transform": breaking(lambda out: out)},
    "output_transform, UniCAM": lambda breaking: {
        "localize": "unicam", "reference": data(), "output_transform": breaking(lambda out: out),
    },
}  # fmt: skip


def report_of(student: nn.Module, base: nn.Module, change: dict[str, Any]) -> TransferReport:
    return compare(student, base, ["conv1", "conv2"], **{"data": batches(9), "confidence": 0.9, "n_permutations": 20, **change})


@pytest.fixture
def models():
    student, base = related(1).train(), related(2)
    student.conv1.weight.requires_grad_(False)
    base.fc.weight.grad = torch.ones_like(base.fc.weight)
    return student, base


@pytest.mark.parametrize("error", ERRORS, ids=["error", "interrupt"])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_in_the_users_code_passes_through_and_leaves_nothing_behind(models, place, error):
    with unchanged_state(models, data()), pytest.raises(type(error)) as caught:
        report_of(*models, PLACES[place](lambda function: Breaking(function, error)))
    assert caught.value is error


@pytest.mark.parametrize("localize", [None, "gradcam", "unicam"])
@pytest.mark.parametrize("run", [1, 4])
def test_an_interrupt_in_a_model_leaves_nothing_behind_and_the_rerun_is_as_if_nothing_had_been(models, localize, run):
    change = {"localize": localize, **({"reference": data()} if localize == "unicam" else {})}
    expected = report_of(*models, change).to_json()
    breaking = Breaking(lambda *args: None, KeyboardInterrupt(), at=run)
    handle = models[1].conv3.register_forward_hook(lambda *args: breaking(*args))
    with unchanged_state(models, data()), pytest.raises(KeyboardInterrupt):
        report_of(*models, change)
    handle.remove()
    assert report_of(*models, change).to_json() == expected


# ------------------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def report():
    return report_of(related(1), related(2), {})


@pytest.mark.parametrize("method", ["to_json", "to_csv"])
@pytest.mark.parametrize("step", ["os.fdopen", "os.fsync", "os.chmod", "os.replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_files_are_written_whole_or_not_at_all(report, tmp_path, monkeypatch, method, step, error):
    path = tmp_path / "report"
    path.write_text("before")

    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"captum_kd.metrics.report.transfer_report.{step}", broken)
    with pytest.raises(type(error)):
        getattr(report, method)(path)
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["report"]
    assert path.read_text() == "before"
    text = getattr(report, method)(path)
    assert path.read_bytes() == text.encode() and len(list(tmp_path.iterdir())) == 1


def test_a_text_that_utf_8_does_not_have_is_kept_to_the_letter(tmp_path):
    path = tmp_path / "report"
    TransferReport([], None, ["\ud800"], {"n": 1}).to_json(path)
    assert json.loads(path.read_text("utf-8"))["notes"] == ["\ud800"]


def test_links_and_permissions_stay(report, tmp_path):
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "report.json"
    target.write_text("before")
    target.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(target)
    report.to_json(link)
    assert link.is_symlink() and json.loads(target.read_text())["settings"] == json.loads(report.to_json())["settings"]
    assert target.stat().st_mode & 0o777 == 0o640
    report.to_csv(os.fspath(tmp_path / "new.csv"))
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("path", [".", "", 3])
def test_what_is_no_file_is_refused(report, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match="^path must "):
        report.to_csv(path)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- repeatability


SETTINGS = {
    "whole": {},
    "gradcam": {"localize": "gradcam"},
    "unicam": {"localize": "unicam", "reference": data(), "localize_target": "label"},
    "batches": {"population": "batch", "estimator": "biased", "progression": True},
}


def texts(settings: str, models: Any = None) -> tuple[str, str]:
    found = report_of(*(models or (related(1), related(2))), {"seed": 3, **SETTINGS[settings]})
    return found.to_json(), found.to_csv()


@pytest.mark.parametrize("settings", SETTINGS)
def test_same_seed_same_bytes_whatever_the_global_streams(settings):
    models = related(1), related(2)
    expected = texts(settings, models)
    torch.manual_seed(5), numpy.random.seed(5), random.seed(5)
    with unchanged_state(models):
        assert texts(settings, models) == expected


def test_another_process_writes_the_same_bytes():
    """With other hashes of texts, on which orders of sets hang."""
    code = "import sys, torch; torch.set_num_threads(1); import test_faults as t; sys.stdout.write(t.texts('gradcam')[0])"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1]), str(here.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout == texts("gradcam")[0]


# ---------------------------------------------------------------------------- memory


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_report_keeps_no_model(settings):
    models = related(1), related(2)
    found = report_of(*models, SETTINGS[settings])
    kept = [weakref.ref(module) for model in models for module in model.modules()]
    del models
    gc.collect()
    assert found.rows and [reference() for reference in kept if reference() is not None] == []
