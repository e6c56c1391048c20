"""TransformersTransferMonitor in real trainings of tiny BERTs."""

import json
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch

from captum_kd.monitor import TransferMonitor

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from captum_kd.monitor import TransformersTransferMonitor  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*pin_memory", "ignore:.*Near chance")]


def bert(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


class Sentences(torch.utils.data.Dataset[Any]):
    def __init__(self, n: int = 24, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, 40, (n, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict[str, Any]:
        mask = torch.ones(8, dtype=torch.long)
        mask[6:] = place % 2
        return {"input_ids": self.ids[place], "attention_mask": mask, "labels": torch.tensor(place % 3)}


def callback(every: float = 1) -> Any:
    layers = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    probe = torch.utils.data.DataLoader(Sentences(seed=1), 8)
    return TransformersTransferMonitor(TransferMonitor(bert(1), bert(2), layers, probe, every))


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Any]:
    def made(epochs: int, *callbacks: Any, attached: Any = None, folder: str = "out", **options: Any) -> Any:
        arguments = {
            "output_dir": str(tmp_path / folder), "num_train_epochs": epochs, "per_device_train_batch_size": 8, "use_cpu": True,
            "eval_strategy": "epoch", "save_strategy": "epoch", "report_to": [], "disable_tqdm": True, "logging_steps": 1,
            **options,
        }  # fmt: skip
        found = transformers.Trainer(
            bert(0), transformers.TrainingArguments(**arguments), train_dataset=Sentences(), eval_dataset=Sentences(8, 2),
            callbacks=list(callbacks),
        )  # fmt: skip
        if attached is not None:
            assert attached.attach(found) is attached
        return found

    yield made


def epochs_of(monitor: TransferMonitor) -> list[float]:
    return list(dict.fromkeys(record["epoch"] for record in monitor.history))


def test_every_epoch_is_measured_and_logged(trainer: Any, tmp_path: Path) -> None:
    watched = callback()
    made = trainer(3, attached=watched, report_to=["tensorboard"])
    made.train()
    assert epochs_of(watched.monitor) == [0, 1, 2, 3]
    last = callback()
    last.monitor.step(made.model, 3)
    assert watched.monitor.history[-len(last.monitor.history) :] == last.monitor.history, "the trained Student's scores"
    key = "transfer/bert.encoder.layer.1/teacher_distilled"
    logged = [record for record in made.state.log_history if key in record]
    assert [record["step"] for record in logged] == [0, 3, 6, 9]
    made.evaluate()
    assert epochs_of(watched.monitor) == [0, 1, 2, 3], "an evaluation alone measures nothing"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(path for path in tmp_path.rglob("events.out.tfevents*")).parent
    events = EventAccumulator(str(folder))
    events.Reload()
    assert len(events.Scalars(f"train/{key}")) == 4


@pytest.mark.parametrize("restore", [False, True])
def test_resumes_from_the_trainers_checkpoint(trainer: Any, tmp_path: Path, restore: bool) -> None:
    whole = callback()
    trainer(4, whole, folder="whole").train()
    checkpoint = tmp_path / "whole" / "checkpoint-6"  # after two epochs
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]
    assert {record["epoch"] for record in saved["captum_kd transfer monitor"]["history"]} == {0, 1, 2}
    resumed = callback()
    made = trainer(4, resumed, folder="resumed", restore_callback_states_from_checkpoint=restore)
    made.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.monitor.history == whole.monitor.history


def test_the_training_is_the_same_with_and_without_the_monitor(trainer: Any) -> None:
    states = []
    for callbacks in ([callback()], []):
        made = trainer(2, *callbacks)
        made.train()
        states.append(made.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_fractions_of_epochs(trainer: Any) -> None:
    watched = callback(every=0.3)
    trainer(1, attached=watched, eval_strategy="steps", eval_steps=1).train()
    assert epochs_of(watched.monitor) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="monitor must be a captum_kd.monitor.TransferMonitor"):
        TransformersTransferMonitor(bert(0))
