"""Training on Lightning: from a network and images to a trained network, also over a kill or an interrupt."""

from __future__ import annotations

import json
import logging
import math
import signal
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from captum_kd.monitor import LightningTransferMonitor, TransferMonitor
from distillation import checkpoints
from distillation.files import write_text
from distillation.learning import Epoch, Learner, TrainingSetup
from distillation.randomness import own_randomness
from distillation.settings import Settings
from distillation.task import DataError, Examples, answer, as_inputs, on_device
from distillation.techniques import evaluating

__all__ = ["Epoch", "Trained", "TrainingError", "TrainingSetup", "check_checkpoint", "fit", "is_main_process", "predict"]

DECISIVE = ("batch_size", "optimizer", "augmentation", "image_size", "weights", "precision")
"""Settings that a training cannot change halfway."""


class TrainingError(RuntimeError):
    """A training that cannot begin or that went astray; the message says why and what to do."""


class Trained(NamedTuple):
    """
    Attributes:
        network: in evaluation mode, on the device where it was trained, without gradients.
        history: a record of each epoch.
        monitored: records of the monitor; none without one.
    """

    network: nn.Module
    history: list[Epoch]
    monitored: list[dict[str, Any]] = []


def fit(
    setup: TrainingSetup,
    *,
    moved: Optional[Callable[[float], None]] = None,
    resume: bool = False,
    monitor: Optional[TransferMonitor] = None,
) -> Trained:
    """Trains a network, by cross-entropy alone or by a technique.

    After each epoch ``checkpoints/<name>.ckpt`` in the output folder holds everything that is needed to go on, and
    ``<name>.json`` beside it the history. A training that was killed at any moment and resumed ends with the same weights
    and the same history, bit for bit, as one that was not (on the same kind of machine with the same number of threads).
    All random numbers depend on the seed; the state of torch's generators is restored.

    On several devices each process returns the same; see :func:`is_main_process`.

    Args:
        setup: what is trained, and how.
        moved: is called after each step with the share of the training that is done.
        resume: load what is finished, continue what is not, begin what is missing. Otherwise an old checkpoint of this
            name is removed.
        monitor: measures the network before the training and after each epoch; its history is in the checkpoint too.

    Raises:
        DataError: there are no images to learn from or to validate on.
        CheckpointError: the checkpoint to resume from is damaged or belongs to another training.
        TrainingError: Lightning refuses the options of the machine, or the loss is not finite in the end.
        KeyboardInterrupt: by Ctrl-C; the finished epochs can be resumed from.
    """
    name, network, technique, settings = setup.name, setup.network, setup.technique, setup.settings
    for part, role in ((setup.train, "learn from"), (setup.validation, "validate on")):
        if not len(part):
            raise DataError(f"There are no images for {name} to {role}; ask for more of them.")
    path = checkpoints.checkpoint_path(settings.output, name)
    identity = _identity(setup)
    learner = Learner(setup, identity)
    watcher = None if monitor is None else LightningTransferMonitor(monitor, "network")
    begun = checkpoints.read(path, identity) if resume and path.exists() else None
    if begun is None and is_main_process():
        path.unlink(missing_ok=True)
    with own_randomness(setup.seed), _quiet(), _switches_as_before():
        callbacks: list[lightning.Callback] = [] if watcher is None else [watcher]
        callbacks += [Kept(path), *([] if moved is None else [Moving(moved)])]
        trainer = _trainer(settings, setup.epochs, callbacks)
        device = trainer.strategy.root_device
        if begun is not None and begun["finished"]:
            learner.load_state_dict(begun["state_dict"])
            learner.history = list(begun["history"])
            # A network that was trained without a monitor has no such entry.
            monitored = begun["callbacks"].get("LightningTransferMonitor")
            if watcher is not None and monitored is not None:
                watcher.load_state_dict(monitored)
        else:
            resumed_from = None if begun is None else str(path)
            del begun  # Lightning reads the file itself
            network.train()
            with nullcontext() if technique is None else technique.watching(network, device):
                _run(trainer, learner, resumed_from)
    if is_main_process():
        _write_history(path.with_suffix(".json"), learner.history)
    if not math.isfinite(learner.history[-1]["validation_loss"]):
        raise TrainingError(
            f"The training of {name} diverged: its loss on held-out images is {learner.history[-1]['validation_loss']}. Take a "
            "smaller --learning-rate or another --precision, in another --output or with --overwrite."
        )
    network.zero_grad(set_to_none=True)
    return Trained(network.eval().to(device), learner.history, [] if monitor is None else monitor.history)


def check_checkpoint(setup: TrainingSetup, guide: Optional[str]) -> Optional[str]:
    """Checks, before anything is trained, that ``fit`` of the same setup can continue from the existing checkpoint.

    Args:
        guide: digest of the technique's guide once it is trained, in place of the guide's own; None: not yet known.

    Returns:
        The digest of the network if it is finished, else None.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another training.
    """
    path = checkpoints.checkpoint_path(setup.settings.output, setup.name)
    if not path.exists():
        return None
    identity = _identity(setup)
    if setup.technique is not None:
        identity["guide"] = guide
    found = checkpoints.read(path, identity, unknown=() if setup.technique is None or guide else ("guide",))
    learner = Learner(setup, identity)
    shapes = [{key: value.shape for key, value in state.items()} for state in (learner.state_dict(), found["state_dict"])]
    if shapes[0] != shapes[1]:
        raise checkpoints.CheckpointError(
            f"The checkpoint {path} holds a network of another architecture. Delete it to train afresh, or choose another "
            "--output."
        )
    if not found["finished"]:
        return None
    prefix = "network."
    state = {key.removeprefix(prefix): value for key, value in found["state_dict"].items() if key.startswith(prefix)}
    return checkpoints.digest_of_state(state)


def _identity(setup: TrainingSetup) -> dict[str, Any]:
    """Distinguishes this training from others, in numbers and words that a message can show."""
    identity = {key: value for key, value in asdict(setup.settings).items() if key in DECISIVE}
    if setup.settings.optimizer == "sgd":
        identity["momentum"] = setup.settings.momentum
    identity |= {
        "learning_rate": setup.rate,
        "name": setup.name,
        "seed": setup.seed,
        "epochs": setup.epochs,
        "weights of the network": sum(parameter.numel() for parameter in setup.network.parameters()),
        "training images": f"{len(setup.train)} ({checkpoints.digest_of_images(setup.train)})",
        "validation images": f"{len(setup.validation)} ({checkpoints.digest_of_images(setup.validation)})",
        "technique": None if setup.technique is None else setup.technique.kind,
    }
    if setup.technique is not None:
        identity |= {**setup.technique.options, "guide": checkpoints.digest(setup.technique.guide)}
    return identity


def _trainer(settings: Settings, epochs: int, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    machine: dict[str, Any] = {name: getattr(settings, name) for name in ("accelerator", "devices", "strategy", "precision")}
    try:
        return lightning.Trainer(
            **machine,
            max_epochs=epochs,
            deterministic="warn",
            logger=False,
            num_sanity_val_steps=0,
            # The learner divides its images itself.
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            plugins=[checkpoints.WholeFiles()],
            callbacks=callbacks,
            default_root_dir=settings.output,
        )
    except Exception as error:  # Lightning refuses options with errors of many kinds
        options = ", ".join(f"--{option} {value}" for option, value in machine.items())
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"Lightning cannot train with {options}: {reason} Give others.") from error


def _run(trainer: lightning.Trainer, learner: Learner, checkpoint: Optional[str]) -> None:
    """``trainer.fit``, with an interrupt that is an interrupt."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    cause: Optional[BaseException] = None
    try:
        trainer.fit(learner, ckpt_path=checkpoint)
    except SystemExit as error:
        # Lightning answers Ctrl-C by leaving the process; on SIGTERM it leaves too, and shall.
        cause = error.__context__
        if not isinstance(cause, KeyboardInterrupt):
            raise
    if trainer.interrupted:
        # Lightning has switched Ctrl-C off for good.
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt(f"after {len(learner.history)} of {trainer.max_epochs} epochs") from cause


class Moving(lightning.Callback):
    """Tells after each step which share of the training is done."""

    def __init__(self, moved: Callable[[float], None]) -> None:
        self._moved = moved

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self._moved(trainer.global_step / trainer.estimated_stepping_batches)


class Kept(ModelCheckpoint):
    """The checkpoint after each epoch, and beside it the history for who looks on; the checkpoint's own is what counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            dirpath=path.parent, filename=path.stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        self._history = path.with_suffix(".json")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        assert isinstance(pl_module, Learner)
        if trainer.is_global_zero:
            _write_history(self._history, pl_module.history)


def _write_history(path: Path, history: list[Epoch]) -> None:
    write_text(path, json.dumps(history, indent=2) + "\n")


def is_main_process() -> bool:
    """Whether this is the process that reports: the only one, or the first of those that train together."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides Lightning's notes on hardware, tips and advice on worker processes; warnings of other kinds stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The images are in memory already: worker processes would only copy them.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            # Other networks' checkpoints.
            warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
            # A folder that was moved between two parts of a training.
            warnings.filterwarnings("ignore", ".*The dirpath has changed from.*")
            # Lightning's, of torch's trees.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec.*", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _switches_as_before() -> Iterator[None]:
    """Lightning's ``deterministic`` and ``benchmark`` are switches for the whole process; puts them back."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


@torch.no_grad()
def predict(network: nn.Module, examples: Examples, size: Optional[int] = None, batch_size: int = 250) -> Tensor:
    """(N,) predicted labels, on the CPU, by the network in evaluation mode.

    Args:
        network: on any device.
        examples: the images.
        size: side of the images that the network takes; None: as they are stored.
        batch_size: images in one forward pass; no result depends on it.
    """
    device = next(network.parameters()).device
    with evaluating(network):
        return torch.cat(
            [
                answer(network, as_inputs(on_device(examples[rows].stored, device), size)).argmax(1).cpu()
                for rows in torch.arange(len(examples)).split(batch_size)
            ]
        )
