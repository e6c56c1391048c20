"""What happens in a training, step by step and epoch by epoch, as a module of Lightning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, TypedDict

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from distillation.augmentation import augment
from distillation.checkpoints import CheckpointError
from distillation.randomness import derived
from distillation.settings import Settings
from distillation.task import Examples, Inputs, answer, as_inputs
from distillation.techniques import Technique

__all__ = ["Epoch", "Learner", "TrainingSetup"]

VALIDATED = 128
"""Images in one forward pass of validation; no result depends on it."""
IGNORED = -100
"""Label of an image that fills a share up; torch's losses leave it out."""


class Epoch(TypedDict):
    """An epoch of a training.

    Attributes:
        epoch: from 1.
        loss: mean over the epoch's steps, of everything that the technique adds up.
        train_accuracy: share of right answers in these steps, for the changed images, by the network as it then was.
        validation_loss: cross-entropy at the end of the epoch, in evaluation mode.
        validation_accuracy: share of right answers there.
    """

    epoch: int
    loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that decides the result of one training.

    Attributes:
        name: of the network, for the files; no two trainings of a run may share it.
        network: is trained in place.
        train: images to learn from.
        validation: images for the loss and accuracy after each epoch; they decide nothing.
        epochs: length of the training.
        settings: batch size, optimizer, augmentation, machine and output folder.
        seed: of the order of the batches, the augmentation and dropout.
        technique: made by ``techniques.make``; its guide does not change. None: cross-entropy alone.
        learning_rate: the highest of the schedule. None: the settings'.
    """

    name: str
    network: nn.Module
    train: Examples
    validation: Examples
    epochs: int
    settings: Settings
    seed: int
    technique: Optional[Technique] = None
    learning_rate: Optional[float] = None

    @property
    def rate(self) -> float:
        return self.settings.learning_rate if self.learning_rate is None else self.learning_rate


class Learner(lightning.LightningModule):
    """A network that learns by cross-entropy alone or by a technique.

    The number of the epoch is the length of the history, which a checkpoint restores. The order of the images, their
    augmentation and all other random numbers therefore depend on seed, epoch and step only, also after a kill.

    Args:
        setup: what is trained, and how.
        identity: distinguishes this training from others in its checkpoint.
    """

    def __init__(self, setup: TrainingSetup, identity: dict[str, Any]) -> None:
        super().__init__()
        self.network = setup.network
        self.technique = setup.technique
        self.history: list[Epoch] = []
        self._train, self._validation, self._rate = setup.train, setup.validation, setup.rate
        self._epochs, self._settings, self._seed, self._identity = setup.epochs, setup.settings, setup.seed, identity
        # Of each step: summed loss, right answers, images.
        self._trained: list[Tensor] = []
        self._validated: list[Tensor] = []

    @property
    def finished(self) -> bool:
        return len(self.history) == self._epochs

    def train_dataloader(self) -> DataLoader[Any]:
        # torch's sampler for several devices, also for one: its order is a function of seed and epoch.
        sampler: DistributedSampler[Any] = DistributedSampler(
            self._train,  # type: ignore[arg-type]  # torch asks for a Dataset, and uses its length
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            seed=derived(self._seed, "order"),
        )
        # Lightning sets it too, but takes the first batch after a resume before.
        sampler.set_epoch(len(self.history))
        return DataLoader(
            self._train,  # type: ignore[arg-type]
            batch_size=min(self._settings.batch_size, len(sampler)),
            sampler=sampler,
            # A last batch of one image would give batch normalization little to normalize by.
            drop_last=True,
            collate_fn=_as_it_is,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        count, devices, rank = len(self._validation), self.trainer.world_size, self.trainer.global_rank
        # All devices take the same number of steps, else they would wait for one another for ever.
        rows = torch.arange(rank, rank + -(-count // devices) * devices, devices)
        share = self._validation[rows.clamp(max=count - 1)]
        share.labels[rows >= count] = IGNORED
        return DataLoader(share, batch_size=VALIDATED, collate_fn=_as_it_is)  # type: ignore[arg-type]

    def training_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> Tensor:
        stored, labels = batch
        torch.manual_seed(derived(self._seed, len(self.history), batch_idx, self.global_rank))
        inputs = augment(as_inputs(stored, self._settings.image_size), self._settings.augmentation)
        logits = answer(self.network, inputs)
        if self.technique is None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        else:
            loss = self.technique(inputs, logits, labels)
        right = (logits.detach().argmax(1) == labels).sum()
        self._trained.append(torch.stack([loss.detach() * len(labels), right, right.new_tensor(len(labels))]))
        return loss

    def validation_step(self, batch: tuple[Inputs, Tensor], batch_idx: int) -> None:
        stored, labels = batch
        logits = answer(self.network, as_inputs(stored, self._settings.image_size))
        loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORED)
        right = (logits.argmax(1) == labels).sum()
        self._validated.append(torch.stack([loss, right, (labels != IGNORED).sum()]))

    def on_train_epoch_end(self) -> None:
        loss, train_accuracy = self._means(self._trained)
        validation_loss, validation_accuracy = self._means(self._validated)
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "loss": loss,
                "train_accuracy": train_accuracy,
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
            }
        )

    def _means(self, steps: list[Tensor]) -> tuple[float, float]:
        """Loss and accuracy over the steps of all devices; empties the list."""
        total = torch.stack(steps).sum(0, dtype=torch.float32)
        steps.clear()
        loss, right, count = self.trainer.strategy.reduce(total, reduce_op="sum").tolist()
        return loss / count, right / count

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self._settings.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self._rate, momentum=self._settings.momentum)
        optimizer = torch.optim.AdamW(parameters, lr=self._rate, weight_decay=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self._rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = [dict(record) for record in self.history]
        checkpoint["finished"] = self.finished
        checkpoint["identity"] = self._identity
        checkpoint["devices"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["devices"] != self.trainer.world_size:
            raise CheckpointError(
                f"The training of {self._identity['name']} began on {checkpoint['devices']} device(s) and would go on on "
                f"{self.trainer.world_size}, with other batches. Resume with --devices {checkpoint['devices']}, or delete "
                "its checkpoint to train afresh."
            )
        self.history = list(checkpoint["history"])


def _as_it_is(batch: Any) -> Any:
    """In the place of torch's collation: ``Examples`` hands out whole batches."""
    return batch
