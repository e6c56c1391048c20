"""Trainings that are killed, interrupted or met again: processes of their own die by real signals at chosen moments."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest
import torch
from distillation import checkpoints, techniques, training
from distillation.checkpoints import CheckpointError
from small_training import STAGES, Small, examples, settings
from torch import nn

EPOCHS, STEPS = 3, 5


def train(
    output: Path, kind: Optional[str] = None, *, resume: bool, network: Optional[Small] = None, epochs=EPOCHS, **changes: Any
) -> training.Trained:
    options = settings(output, **changes)
    network = Small() if network is None else network
    technique = None
    if kind is not None:
        technique = techniques.make(
            kind, Small(8, seed=5), network, layers=STAGES, guide_layers=STAGES, settings=options, seed=1,
            sample=examples(1).inputs(),
        )  # fmt: skip
    setup = training.TrainingSetup(
        "Student 1",
        network,
        examples(8 * STEPS + 3),
        examples(31, seed=1),
        epochs=epochs,
        settings=options,
        seed=1,
        technique=technique,
    )
    return training.fit(setup, resume=resume)


def at_step(network: nn.Module, step: int, sent: int) -> None:
    """The process sends itself a signal in a training step, counted over all epochs from 1."""
    taken = 0

    def count(module: nn.Module, given: Any) -> None:
        nonlocal taken
        taken += module.training
        if module.training and taken == step:
            os.kill(os.getpid(), sent)

    network.register_forward_pre_hook(count)


def killed_at_a_step(output: Path, kind: Optional[str], step: int, resume: bool) -> None:
    torch.set_num_threads(1)
    network = Small()
    at_step(network, step, signal.SIGKILL)
    train(output, kind, resume=resume, network=network)


def killed_while_writing(output: Path, kind: Optional[str]) -> None:
    """Dies when half of the second epoch's checkpoint is written."""
    torch.set_num_threads(1)
    save, written = torch.save, 0

    def half(content: Any, file: Any) -> None:
        nonlocal written
        written += 1
        if written < 2:
            return save(content, file)
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.torch.save = half  # type: ignore[attr-defined]
    train(output, kind, resume=False)


def interrupted(output: Path, kind: Optional[str]) -> None:
    """Ctrl-C in the second epoch; leaves what it found by the exit status."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell inherits none
    handler = signal.getsignal(signal.SIGINT)
    network = Small()
    at_step(network, STEPS + 2, signal.SIGINT)
    try:
        train(output, kind, resume=False, network=network)
    except KeyboardInterrupt as error:
        as_before = signal.getsignal(signal.SIGINT) is handler
        hooks = [hook for module in network.modules() for hook in module._forward_hooks]
        sys.exit(130 if as_before and not hooks and str(error) == "after 1 of 3 epochs" else 1)


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Forks of one process that has imported torch and Lightning, and nothing else happened in it."""
    here, before = Path(__file__).parent, os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parents[1] / "examples"), *filter(None, sys.path)])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_resuming"])
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By technique: the training without a kill."""
    done: dict[Optional[str], training.Trained] = {}

    def of(kind: Optional[str]) -> training.Trained:
        if kind not in done:
            done[kind] = train(tmp_path_factory.mktemp("uninterrupted"), kind, resume=False)
        return done[kind]

    return of


def run(processes: Any, target: Any, *arguments: Any) -> int:
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join(100)
    assert process.exitcode is not None
    return int(process.exitcode)


def same(first: training.Trained, second: training.Trained) -> bool:
    states = first.network.state_dict(), second.network.state_dict()
    return first.history == second.history and all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def checkpoint(output: Path) -> Path:
    return output / "checkpoints" / "student_1.ckpt"


def history(output: Path) -> Any:
    return json.loads(checkpoint(output).with_suffix(".json").read_text())


# Before the first checkpoint, in the first step after one, in the middle of an epoch, in the last step of all.
MOMENTS = [(None, 3), (None, STEPS + 1), ("shuffled-labels", STEPS + 3), ("feature", 2 * STEPS + 3), ("attention", 3 * STEPS)]


@pytest.mark.parametrize("kind, step", MOMENTS)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(processes, uninterrupted, tmp_path, kind, step):
    assert run(processes, killed_at_a_step, tmp_path, kind, step, False) == -signal.SIGKILL
    complete = (step - 1) // STEPS
    assert checkpoint(tmp_path).exists() == (complete > 0)
    assert complete == 0 or len(history(tmp_path)) == complete
    resumed = train(tmp_path, kind, resume=True)
    assert same(resumed, uninterrupted(kind))
    assert history(tmp_path) == resumed.history
    assert sorted(path.name for path in checkpoint(tmp_path).parent.iterdir()) == ["student_1.ckpt", "student_1.json"]


def test_a_training_survives_several_kills(processes, uninterrupted, tmp_path):
    for resume, step in ((False, STEPS + 2), (True, STEPS + 1)):
        assert run(processes, killed_at_a_step, tmp_path, "feature", step, resume) == -signal.SIGKILL
    assert len(history(tmp_path)) == 2
    assert same(train(tmp_path, "feature", resume=True), uninterrupted("feature"))


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(processes, uninterrupted, tmp_path):
    assert run(processes, killed_while_writing, tmp_path, None) == -signal.SIGKILL
    assert checkpoint(tmp_path).with_name("student_1.ckpt.part").exists()
    assert len(torch.load(checkpoint(tmp_path), weights_only=True)["history"]) == 1
    assert same(train(tmp_path, resume=True), uninterrupted(None))
    assert not checkpoint(tmp_path).with_name("student_1.ckpt.part").exists()


def test_an_interrupt_is_an_interrupt_and_can_be_resumed_from(processes, uninterrupted, tmp_path):
    assert run(processes, interrupted, tmp_path, "attention") == 130
    assert len(history(tmp_path)) == 1
    assert same(train(tmp_path, "attention", resume=True), uninterrupted("attention"))


class MustNotTrain(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return super().forward(images)


@pytest.mark.parametrize("kind", [None, "feature"])
def test_a_finished_training_is_loaded(uninterrupted, tmp_path, kind):
    train(tmp_path, kind, resume=False)
    checkpoint(tmp_path).with_suffix(".json").unlink()
    loaded = train(tmp_path, kind, resume=True, network=MustNotTrain(seed=3))
    assert same(loaded, uninterrupted(kind)) and not loaded.network.training
    assert history(tmp_path) == loaded.history


def test_a_missing_training_is_begun(uninterrupted, tmp_path):
    assert same(train(tmp_path, resume=True), uninterrupted(None))


def test_without_resume_a_training_begins_anew(processes, uninterrupted, tmp_path):
    assert run(processes, killed_at_a_step, tmp_path, None, STEPS + 2, False) == -signal.SIGKILL
    # Killed again before its first checkpoint: the old one must not be taken for its own.
    assert run(processes, killed_at_a_step, tmp_path, None, 2, False) == -signal.SIGKILL
    assert not checkpoint(tmp_path).exists()
    assert same(train(tmp_path, resume=False), uninterrupted(None))


def test_an_output_folder_may_be_moved(processes, uninterrupted, tmp_path, recwarn):
    assert run(processes, killed_at_a_step, tmp_path / "first", None, STEPS + 2, False) == -signal.SIGKILL
    shutil.move(tmp_path / "first", tmp_path / "second")
    assert same(train(tmp_path / "second", resume=True), uninterrupted(None))
    assert not (tmp_path / "first").exists()
    assert not [str(warning.message) for warning in recwarn if "lightning" in warning.filename]


def half_of(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_bit_flipped(content: bytes) -> bytes:
    place = content.index(b"data/0") + 2000
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def nothing(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [half_of, one_bit_flipped, nothing])
def test_a_damaged_file_is_an_error_that_names_it_and_says_what_to_do(tmp_path, damage):
    train(tmp_path, resume=False, epochs=1)
    path = checkpoint(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="student_1.ckpt is damaged .* Delete it and resume again"):
        train(tmp_path, resume=True, epochs=1)


def test_another_kind_of_file_is_an_error(tmp_path):
    checkpoint(tmp_path).parent.mkdir()
    torch.save({"state_dict": {}}, checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="student_1.ckpt is not a checkpoint of these examples"):
        train(tmp_path, resume=True)


def test_a_checkpoint_of_another_training_is_an_error_that_tells_the_differences(tmp_path):
    train(tmp_path, "response", resume=False, epochs=1)
    with pytest.raises(CheckpointError, match=r"another training: batch_size was 8 and is 4 now; epochs was 1 and is 3 now"):
        train(tmp_path, "response", resume=True, batch_size=4)
    with pytest.raises(CheckpointError, match=r"temperature was 4.0 and is 2.0 now"):
        train(tmp_path, "response", resume=True, epochs=1, temperature=2.0)
    with pytest.raises(CheckpointError, match=r"technique was 'response' and is 'feature' now"):
        train(tmp_path, "feature", resume=True, epochs=1)
    # Where and how fast is not what a training is.
    train(tmp_path, "response", resume=True, epochs=1, accelerator="auto", threads=2)


def test_another_guide_or_other_images_are_another_training(tmp_path):
    guide, data = Small(8, seed=5), examples(20)
    options = settings(tmp_path)

    def fit(resume: bool) -> None:
        network = Small()
        technique = techniques.make(
            "response", guide, network, layers=STAGES, guide_layers=STAGES, settings=options, seed=1,
            sample=examples(1).inputs(),
        )  # fmt: skip
        setup = training.TrainingSetup(
            "Student 1", network, data, examples(9), epochs=1, settings=options, seed=1, technique=technique
        )
        training.fit(setup, resume=resume)

    fit(resume=False)
    guide.head.weight.data[0, 0] += 1e-6
    with pytest.raises(CheckpointError, match="another training: guide was"):
        fit(resume=True)
    guide.head.weight.data[0, 0] -= 1e-6
    data = examples(20, seed=4)
    with pytest.raises(CheckpointError, match="training images was"):
        fit(resume=True)
