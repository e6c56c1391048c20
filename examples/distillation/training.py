"""Training on Lightning: a network alone, or a Student with its Teacher."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import Any, Iterator

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchdistill.losses.mid_level import KDLoss

from distillation.networks import ResNet
from distillation.settings import Settings
from distillation.task import Examples

__all__ = ["Alone", "WithTeacher", "augment", "fit", "predict"]


class Alone(lightning.LightningModule):
    """Trains a network by cross-entropy: the Teacher and the Base model."""

    def __init__(self, network: nn.Module, *, learning_rate: float, shifts: int = 0) -> None:
        """
        Args:
            network: what is trained.
            learning_rate: highest rate of the one-cycle schedule.
            shifts: images are mirrored and moved by up to so many pixels; 0 leaves them as they are.
        """
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.shifts = shifts

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, labels = batch
        images = pixels.float() / 255
        if self.shifts:
            images = augment(images, self.shifts)
        logits = self.network(images)
        loss = self.loss(images, logits, labels)
        self.log("loss", loss, prog_bar=True)
        self.log("accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithTeacher(Alone):
    """Trains a Student by response-based distillation (Hinton et al. 2015).

    The loss is alpha * cross-entropy + (1 - alpha) * temperature^2 * KL divergence between the softened outputs of
    Teacher and Student.
    """

    def __init__(
        self, network: nn.Module, teacher: nn.Module, *, temperature: float, alpha: float, **options: Any
    ) -> None:
        super().__init__(network, **options)
        # In a list, out of the module tree: the Teacher is not to be trained, switched to training mode or saved again.
        self._teacher = [teacher]
        self.kd_loss = KDLoss("logits", "output", "logits", "output", temperature=temperature, alpha=alpha)

    def on_fit_start(self) -> None:
        self._teacher[0].to(self.device).eval()

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = self._teacher[0](images)
        loss: Tensor = self.kd_loss({"logits": {"output": logits}}, {"logits": {"output": teacher_logits}}, labels)
        return loss


class NamedBar(TQDMProgressBar):
    """Lightning's bar, saying which network is trained."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self.name = name

    def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.name}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def fit(
    name: str, training: Alone, examples: Examples, epochs: int, settings: Settings, seed: int, progress: bool
) -> ResNet:
    """Trains, saves ``checkpoints/<name>.ckpt`` in the output folder and returns the network, ready for use.

    Args:
        name: of the network, for the progress bar and the checkpoint.
        training: the network and its loss.
        examples: what it learns from.
        epochs: how long.
        settings: batch size, device and output folder.
        seed: of the order of the batches and of the augmentation.
        progress: whether to draw a bar.
    """
    lightning.seed_everything(seed, verbose=False)
    batches = DataLoader(
        TensorDataset(examples.pixels, examples.labels),
        batch_size=min(settings.batch_size, examples.count),
        shuffle=True,
        # A last batch of one image would give batch normalisation nothing to normalise by.
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
    )
    with _quiet(), _as_before():
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator=settings.accelerator,
            devices=1,
            deterministic="warn",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[NamedBar(name)] if progress else None,
            default_root_dir=settings.output,
        )
        trainer.fit(training, batches)
        trainer.save_checkpoint(settings.output / "checkpoints" / f"{name.lower().replace(' ', '_')}.ckpt")
    network = training.network
    assert isinstance(network, ResNet)
    return network.eval().to(trainer.strategy.root_device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides Lightning's notes on hardware, tips and advice on worker processes; warnings of other kinds stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # The images are in memory already: worker processes would only copy them.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            # Lightning's, of torch's trees.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec.*", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _as_before() -> Iterator[None]:
    """Lightning's ``deterministic`` is a switch for the whole process; puts it back."""
    mode = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def augment(images: Tensor, shifts: int) -> Tensor:
    """Mirrors every second image on average and moves each by up to ``shifts`` pixels, repeating the border."""
    n, _, height, width = images.shape
    mirrored = torch.rand(n, device=images.device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, (shifts,) * 4, mode="replicate")
    down, right = torch.randint(2 * shifts + 1, (2, n, 1), device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    places = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def predict(network: nn.Module, examples: Examples, batch_size: int = 250) -> Tensor:
    """(N,) predicted labels, on the CPU."""
    device = next(network.parameters()).device
    batches = examples.pixels.split(batch_size)
    return torch.cat([network(batch.to(device).float() / 255).argmax(1).cpu() for batch in batches])
