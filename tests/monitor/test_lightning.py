"""LightningTransferMonitor in real trainings of tiny networks."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import ConvNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.monitor import TransferMonitor

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402

from captum_kd.monitor import LightningTransferMonitor  # noqa: E402

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*Checkpoint directory", "ignore:.*LeafSpec"),
]


def loader(seed: int, n: int = 24) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(torch.randn(n, 3, 12, 12, generator=generator), torch.arange(n) % 3), 8)


class Distilled(lightning.LightningModule):  # type: ignore[name-defined, misc]
    def __init__(self) -> None:
        super().__init__()
        self.student = ConvNet(seed=0)

    def training_step(self, batch: Any, _: int) -> Any:
        assert self.student.training
        return nn.functional.cross_entropy(self.student(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.student(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def callback(every: float = 1, student: Any = "student") -> Any:
    teacher, base = ConvNet(seed=1), ConvNet(seed=2)
    return LightningTransferMonitor(TransferMonitor(teacher, base, ["conv1", "conv2"], loader(5), every), student)


def train(path: Path, epochs: int, *callbacks: Any, resume: Any = None, **options: Any) -> Distilled:
    module = Distilled()
    trainer = lightning.Trainer(
        **{
            "max_epochs": epochs, "callbacks": list(callbacks), "accelerator": "cpu", "default_root_dir": path, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(resume), "devices": 1,
            "log_every_n_steps": 1, **options,
        }
    )  # fmt: skip
    trainer.fit(module, loader(3), loader(4), ckpt_path=resume)
    return module


def epochs_of(monitor: TransferMonitor) -> list[float]:
    return list(dict.fromkeys(record["epoch"] for record in monitor.history))


def test_every_epoch_is_measured_and_logged(tmp_path: Path) -> None:
    watched = callback()
    loggers = [CSVLogger(tmp_path, "table"), TensorBoardLogger(tmp_path, "board")]
    module = train(tmp_path, 3, watched, logger=loggers)
    assert epochs_of(watched.monitor) == [0, 1, 2, 3]
    last = callback()
    last.monitor.step(module.student, 3)
    assert watched.monitor.history[-len(last.monitor.history) :] == last.monitor.history, "the trained Student's scores"
    with open(tmp_path / "table" / "version_0" / "metrics.csv") as file:
        logged = [row for row in csv.DictReader(file) if row["transfer/conv2/teacher_distilled"]]
    assert [int(row["step"]) for row in logged] == [0, 3, 6, 9]
    expected = [r["value"] for r in watched.monitor.history if (r["layer"], r["score"]) == ("conv2", "teacher_distilled")]
    assert [float(row["transfer/conv2/teacher_distilled"]) for row in logged] == pytest.approx(expected)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    assert len(events.Scalars("transfer/conv1/fss_student_teacher")) == 4


def test_the_training_is_the_same_with_and_without_the_monitor(tmp_path: Path) -> None:
    states = []
    for callbacks in ([callback()], []):
        lightning.seed_everything(7, verbose=False)
        states.append(train(tmp_path, 2, *callbacks).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("on_train_end", [True, False])
def test_resumes_from_the_trainers_checkpoint(tmp_path: Path, on_train_end: bool) -> None:
    whole = callback()
    train(tmp_path, 4, whole)
    kept = ModelCheckpoint(tmp_path / "kept", save_last=True, save_on_train_epoch_end=on_train_end)
    train(tmp_path, 2, callback(), kept, enable_checkpointing=True)
    resumed = callback()
    train(tmp_path, 4, resumed, resume=tmp_path / "kept" / "last.ckpt")
    assert resumed.monitor.history == whole.monitor.history


def test_fractions_of_epochs(tmp_path: Path) -> None:
    watched = callback(every=0.3, student=lambda module: module.student)
    train(tmp_path, 2, watched, val_check_interval=1)
    assert epochs_of(watched.monitor) == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_validations_a_fraction_of_a_batch_early_are_measured(tmp_path: Path) -> None:
    watched = callback(every=0.5)
    train(tmp_path, 2, watched, val_check_interval=0.5)  # after one of three batches, and after two
    assert epochs_of(watched.monitor) == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    often = callback(every=0.01)
    train(tmp_path, 1, often, val_check_interval=1)
    assert epochs_of(often.monitor) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    of_one_score = [r for r in often.monitor.history if (r["layer"], r["score"]) == ("conv1", "fss")]
    assert len(of_one_score) == 4, "none twice"


def test_an_unknown_student_and_another_probe_fail_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="student='studnet' is no attribute of Distilled, whose modules are: student"):
        train(tmp_path, 1, callback(student="studnet"))
    kept = ModelCheckpoint(tmp_path / "kept", save_last=True)
    train(tmp_path, 1, callback(), kept, enable_checkpointing=True)
    other = LightningTransferMonitor(TransferMonitor(ConvNet(seed=1), ConvNet(seed=2), ["conv1", "conv2"], loader(6)), "student")
    trained: list[int] = []

    class Batches(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_train_batch_end(self, *_: Any) -> None:
            trained.append(1)

    with pytest.raises(ValueError, match="other inputs than the probe"):
        train(tmp_path, 2, other, Batches(), resume=tmp_path / "kept" / "last.ckpt")
    assert not trained


def test_the_module_itself_is_the_default_and_validation_alone_measures_nothing(tmp_path: Path) -> None:
    teacher, base = ConvNet(seed=1), ConvNet(seed=2)
    layers = {"conv1": {"student": "student.conv1", "base": "conv1", "teacher": "conv1"}}
    watched = LightningTransferMonitor(TransferMonitor(teacher, base, layers, loader(5), predictions=False))
    Distilled.forward = lambda self, x: self.student(x)  # type: ignore[method-assign, assignment]
    try:
        trainer = lightning.Trainer(callbacks=[watched], accelerator="cpu", logger=False, enable_progress_bar=False)
        trainer.validate(Distilled(), loader(4), verbose=False)
        assert watched.monitor.history == []
        train(tmp_path, 1, watched, precision="bf16-mixed")
    finally:
        del Distilled.forward
    assert epochs_of(watched.monitor) == [0, 1]


def test_several_devices_measure_the_same(tmp_path: Path) -> None:
    train(tmp_path, 2, callback(), logger=CSVLogger(tmp_path, "one"))
    # Processes of their own: a fork of this one would inherit locks of threads that it does not have.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    for variable in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [sys.executable, str(HERE / "two_devices.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "version_0" / "metrics.csv").read_text().splitlines() for name in ("one", "two"))
    assert one[:2] == two[:2], "the same Student at the start"
    assert len(two) == 4, "the start and two epochs, once"


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="monitor must be a captum_kd.monitor.TransferMonitor"):
        LightningTransferMonitor(ConvNet())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="student must be"):
        callback(student=3)
