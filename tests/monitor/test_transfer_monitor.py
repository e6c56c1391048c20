"""TransferMonitor: its scores against compare_transfer's, the state of what it measures, resuming."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from models import ConvNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.metrics import Comparisons, compare_transfer
from captum_kd.monitor import TransferMonitor

LAYERS = ["conv1", "conv2"]


def probe(n: int = 30, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(n, 3, 12, 12, dtype=dtype, generator=generator), torch.arange(n) % 3
    return list(zip(images.split(12), labels.split(12)))


def net(seed: int) -> nn.Module:
    return ConvNet(seed=seed).double().eval()


def values(rows: Any) -> dict[tuple[Any, ...], float]:
    return {(row["base"], row["layer"], row["score"]): row["value"] for row in rows}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"placebo_teachers": {"p 1": net(7), "p 2": net(8)}},
        {"predictions": False},
        {"labels": False},
        {"class_embeddings": torch.eye(3)[:, :2]},
    ],
)
def test_scores_equal_those_of_compare_transfer(options: dict[str, Any]) -> None:
    teacher, bases, data = net(1), {"base 1": net(2), "base 2": net(3)}, probe()
    if not options.get("labels", True):
        data = [(images, None) for images, _ in data]  # type: ignore[misc]
    monitor = TransferMonitor(teacher, bases, LAYERS, data, **options)
    for epoch in range(3):
        student = net(10 + epoch)
        found = monitor.step(student, epoch)
        given = {"predictions": True, **options}
        report = compare_transfer(
            student, bases, LAYERS, data, teacher=teacher, show_progress=False,
            comparisons=Comparisons(labels=given.pop("labels", True)), **given,
        )  # fmt: skip
        expected = values(report.rows)
        assert list(values(found)) == list(expected)
        assert values(found) == pytest.approx(expected, abs=1e-12)
        assert {record["epoch"] for record in found} == {epoch}


def test_teacher_and_base_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    models = {"teacher": net(1), "base": net(2), "student": net(3)}
    for name, model in models.items():
        model.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    monitor = TransferMonitor(models["teacher"], models["base"], LAYERS, probe())
    for epoch in range(4):
        monitor.step(models["student"], epoch)
    assert {name: calls.count(name) for name in models} == {"teacher": 3, "base": 3, "student": 12}  # 3 batches


def test_the_student_stays_as_it_was_in_training() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(400, 3))
    student.train()
    student[1].eval()  # a frozen part
    student(torch.randn(4, 3, 12, 12)).sum().backward()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
    teacher, base = ConvNet(seed=1).train(), ConvNet(seed=2)
    layers = {"first": {"student": "0", "base": "conv1", "teacher": "conv1"}}
    data = DataLoader(TensorDataset(torch.randn(20, 3, 12, 12), torch.arange(20) % 3), 5)
    monitor = TransferMonitor(teacher, base, layers, data)
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        inside = monitor.step(student, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in student] == [True, False, True, True, True] and student.training
    assert teacher.training and torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    now = [parameter.grad for parameter in student.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(gradients, now) if other is not None)
    assert not any(module._forward_hooks for module in student.modules())
    student.eval()
    assert values(inside) == values(monitor.step(student, 1)), "measured in evaluation mode and without autocast"


def test_the_mode_comes_back_after_an_error() -> None:
    student = ConvNet().train()
    monitor = TransferMonitor(ConvNet(seed=1), ConvNet(seed=2), ["conv1"], probe(dtype=torch.float32))
    monitor.step(student, 0)
    student.fc = nn.Linear(4, 3)  # fails
    with pytest.raises(RuntimeError):
        monitor.step(student, 1)
    assert student.training and all(module.training for module in student.modules())
    assert monitor.last_epoch == 0


def test_wrapped_students() -> None:
    student = net(3)
    monitor = TransferMonitor(net(1), net(2), LAYERS, probe())
    bare = monitor.step(student, 0)
    compiled = monitor.step(torch.compile(student), 1)
    assert values(bare) == values(compiled)
    with torch.inference_mode():
        assert values(monitor.step(student, 2)) == values(bare)


def test_data_parallel_students(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        student = net(3).train()
        wrapped = nn.parallel.DistributedDataParallel(student)
        monitor = TransferMonitor(net(1), net(2), LAYERS, probe())
        assert values(monitor.step(wrapped, 0)) == values(monitor.step(student, 1))
        assert wrapped.training
    finally:
        torch.distributed.destroy_process_group()


def test_every_counts_from_the_last_measurement() -> None:
    monitor = TransferMonitor(net(1), net(2), ["conv1"], probe(), every=0.5, predictions=False)
    student = net(3)
    measured = [epoch for epoch in (0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.4, 1.5) if monitor.step(student, epoch)]
    assert measured == [0, 0.5, 1, 1.5]
    assert [record["epoch"] for record in monitor.history if record["score"] == "fss"] == measured
    tenths = TransferMonitor(net(1), net(2), ["conv1"], probe(), every=0.1, predictions=False)
    for k in range(11):
        tenths.step(student, k / 10)
    assert len({record["epoch"] for record in tenths.history}) == 11


def test_state_is_saved_and_resumed(tmp_path: Path) -> None:
    students = [net(seed) for seed in range(5, 9)]

    def made(seed: int = 0) -> TransferMonitor:
        return TransferMonitor(net(1), net(2), LAYERS, probe(seed=seed))

    whole, first = made(), made()
    for epoch, student in enumerate(students):
        whole.step(student, epoch)
    for epoch, student in enumerate(students[:2]):
        first.step(student, epoch)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = made()
    resumed.load_state_dict(state)
    assert resumed.step(students[1], 1) == [], "measured before the checkpoint"
    for epoch, student in enumerate(students[2:], 2):
        resumed.step(student, epoch)
    assert resumed.history == whole.history and resumed.state_dict() == whole.state_dict()
    other = made(seed=1)
    other.load_state_dict(state)
    assert other.state_dict() == state, "also before the first step"
    with pytest.raises(ValueError, match="other inputs than the probe"):
        other.step(students[1], 1)  # at once, although no measurement is due
    with pytest.raises(ValueError, match="other inputs than the probe"):
        other.step(students[2], 2)
    with pytest.raises(TypeError, match="state_dict"):
        made().load_state_dict({"epoch": 3})


def test_a_state_of_other_models_is_noticed() -> None:
    first = TransferMonitor(net(1), net(2), LAYERS, probe())
    first.step(net(3), 0)
    for models, message in (
        ((net(1), net(2), LAYERS[:1]), "has the layers .*, this monitor"),
        ((net(1), {"b": net(2)}, LAYERS), r"has the Bases \['base'\], this monitor \['b'\]"),
    ):
        other = TransferMonitor(*models, probe())
        other.load_state_dict(first.state_dict())
        with pytest.raises(ValueError, match=message):
            other.step(net(3), 0)
    for teacher, base in ((net(4), net(2)), (net(1), net(4))):
        other = TransferMonitor(teacher, base, LAYERS, probe())
        other.load_state_dict(first.state_dict())
        with pytest.warns(UserWarning, match="of another Teacher or Base: .* does not depend on the Student"):
            other.step(net(3), 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.step(net(3), 2)


def test_tables(tmp_path: Path) -> None:
    monitor = TransferMonitor(net(1), {"=b": net(2)}, LAYERS, probe())
    assert monitor.to_csv() == "epoch,base,layer,score,value\r\n"
    monitor.step(net(3), 0)
    monitor.to_csv(tmp_path / "history.csv")
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[1].startswith("0,'=b,conv1,fss,") and len(lines) == len(monitor.history) + 1
    pytest.importorskip("pandas")
    assert monitor.to_dataframe().to_dict("records") == monitor.history
    assert "1 measurement(s), last epoch 0" in repr(monitor)


def test_scalars_are_means_over_bases() -> None:
    monitor = TransferMonitor(net(1), {"a": net(2), "b": net(4)}, LAYERS, probe())
    assert monitor.scalars() == {}
    monitor.step(net(3), 0)
    found = values(monitor.step(net(5), 1))
    scalars = monitor.scalars()
    assert scalars["conv1/fss"] == pytest.approx((found["a", "conv1", "fss"] + found["b", "conv1", "fss"]) / 2)
    assert scalars["predictions/agreement_student_teacher"] == found["a", "predictions", "agreement_student_teacher"]
    assert not any("base_teacher" in key or key.endswith("_all") for key in scalars)


def test_wrong_arguments() -> None:
    models: tuple[Any, ...] = (ConvNet(seed=1), ConvNet(seed=2), ["conv1"])
    dataset = TensorDataset(torch.randn(20, 3, 12, 12), torch.arange(20) % 3)
    with pytest.raises(ValueError, match="shuffles its inputs.*shuffle=False"):
        TransferMonitor(*models, DataLoader(dataset, 5, shuffle=True))
    with pytest.raises(TypeError, match="data must be a DataLoader"):
        TransferMonitor(*models, torch.randn(20, 3, 12, 12))
    with pytest.raises(ValueError, match="every"):
        TransferMonitor(*models, DataLoader(dataset, 5), every=0)
    with pytest.raises(TypeError, match="teacher must be callable"):
        TransferMonitor({"fc": torch.ones(1)}, *models[1:], DataLoader(dataset, 5))
    few = TransferMonitor(*models, [(torch.randn(4, 3, 12, 12), torch.arange(4) % 2)])
    with pytest.raises(ValueError, match="5 to 4,096 inputs"):
        few.step(ConvNet(), 0)
    with pytest.raises(ValueError, match="conv9"):
        TransferMonitor(*models[:2], ["conv9"], DataLoader(dataset, 5)).step(ConvNet(), 0)
    with pytest.raises(ValueError, match="epoch must be"):
        TransferMonitor(*models, DataLoader(dataset, 5)).step(ConvNet(), -1)


def test_a_student_without_geometry_warns() -> None:
    student = net(3)
    nn.init.zeros_(student.conv1.weight), nn.init.zeros_(student.conv1.bias)  # type: ignore[union-attr, arg-type]
    monitor = TransferMonitor(net(1), net(2), ["conv1"], probe(), predictions=False)
    with pytest.warns(UserWarning, match="At epoch 2 these scores are 0 .* fss at conv1"):
        monitor.step(student, 2)


def test_import_needs_neither_lightning_nor_transformers() -> None:
    script = (
        "import sys; sys.modules.update({name: None for name in ('lightning', 'pytorch_lightning', 'transformers')})\n"
        "import captum_kd.monitor as monitor\n"
        "for name in ('LightningTransferMonitor', 'TransformersTransferMonitor'):\n"
        "    try: getattr(monitor, name)\n"
        "    except ImportError as error: print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown == [
        "LightningTransferMonitor needs Lightning, which is not installed: pip install lightning.",
        "TransformersTransferMonitor needs transformers, which is not installed: pip install transformers.",
    ]
