"""Monitors in the examples: trainings stay as they are, histories survive a break, pictures need no Bases."""

from pathlib import Path
from typing import Any

import pytest
import torch
from distillation import training
from distillation.monitoring import kept, monitor_of, process
from distillation.plan import technique_plan
from distillation.task import Batches, Fold
from distillation.techniques import make
from small_training import STAGES, Small, examples, settings
from torch import nn

from captum_kd.monitor import TransferMonitor


def setup(output: Path, kind: str = "attention") -> tuple[training.TrainingSetup, Any]:
    chosen = settings(output, augmentation="paper")
    teacher, base, student = (Small(seed=seed) for seed in (5, 6, 0))
    sample = examples(1).inputs(chosen.image_size)
    technique = make(kind, teacher, student, layers=STAGES, guide_layers=STAGES, settings=chosen, seed=1, sample=sample)
    made = training.TrainingSetup("Student", student, examples(44), examples(20, seed=1), 3, chosen, 1, technique)

    def monitor() -> TransferMonitor:
        return TransferMonitor(teacher.eval(), base.eval(), list(STAGES), Batches(examples(20, seed=1), chosen.image_size))

    return made, monitor


def test_the_training_is_the_same_with_a_monitor(tmp_path: Path) -> None:
    states = []
    for place, watched in enumerate((True, False)):
        made, monitor = setup(tmp_path / str(place))
        trained = training.fit(made, monitor=monitor() if watched else None)
        states.append((trained.network.state_dict(), trained.history))
        assert len({record["epoch"] for record in trained.monitored}) == 4 * watched
    assert states[0][1] == states[1][1]
    assert all(torch.equal(value, states[1][0][name]) for name, value in states[0][0].items())


def test_a_history_goes_on_after_a_break_bit_for_bit(tmp_path: Path) -> None:
    made, monitor = setup(tmp_path / "whole")
    whole = training.fit(made, monitor=monitor())
    made, monitor = setup(tmp_path / "broken")
    broken = monitor()
    step = broken._step

    def stop(student: Any, epoch: float, is_due: bool) -> Any:
        if epoch == 3:
            raise KeyboardInterrupt
        return step(student, epoch, is_due)

    broken._step = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        training.fit(made, monitor=broken)
    for _ in range(2):  # goes on, then is only loaded
        made, monitor = setup(tmp_path / "broken")
        resumed = training.fit(made, resume=True, monitor=monitor())
        assert resumed.monitored == whole.monitored and resumed.history == whole.history
        assert all(torch.equal(value, whole.network.state_dict()[name]) for name, value in resumed.network.state_dict().items())


def test_students_and_later_bases_are_monitored(tmp_path: Path) -> None:
    chosen = settings(tmp_path, seeds=2, monitor_images=20)
    plan, held = technique_plan(chosen), examples(30)
    fold = Fold(held, held, held, held)
    found = {}
    networks: dict[str, nn.Module] = {}
    for each in plan.trainings(2):
        found[each.name] = monitor_of(each, networks, plan, fold, chosen) is not None
        networks[each.name] = Small()
    assert found == {"Teacher": False, "Base 1": False, "Base 2": True, "Student 1": True, "Student 2": True}
    assert monitor_of(plan.trainings(2)[-1], networks, plan, fold, settings(tmp_path, seeds=2, monitor_images=0)) is None


def test_the_picture_of_trainings() -> None:
    history = [
        {"epoch": epoch, "base": "Base 1", "layer": layer, "score": score, "value": 0.1 * epoch}
        for epoch in range(3)
        for layer in ("stage1", "stage2")
        for score in ("fss_student_teacher", "fss_base_teacher", "teacher_residual")
    ]
    assert {record["score"] for record in kept(history)} == {"fss_student_teacher", "fss_base_teacher"}
    record = {
        "plan": {"groups": [{"name": "Response", "students": ["Response"]}], "bases": ["Base"]},
        "folds": [{"monitor": {"Response": kept(history)}}],
    }
    ((name, caption, figure),) = process(record)
    assert name == "process" and "Gray" not in caption and figure.axes
    record["folds"] = [{}]  # a run of an earlier version
    assert list(process(record)) == []
