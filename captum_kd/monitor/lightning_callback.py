"""The monitor as a callback of Lightning's Trainer."""

from __future__ import annotations

from functools import reduce
from typing import Any, Callable, Union

from captum_kd._utils.arguments import check_callable
from captum_kd.monitor.transfer_monitor import TransferMonitor, check_monitor

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment]  # the same class by its older name
    except ImportError as error:
        raise ImportError("LightningTransferMonitor needs Lightning, which is not installed: pip install lightning.") from error

__all__ = ["LightningTransferMonitor"]


class LightningTransferMonitor(Callback):
    """
    Measures the Student before the training, after each validation and after each epoch, as often as ``monitor.every`` says.

    The main scores go to all loggers of the trainer as "transfer/layer/score". The monitor's state is saved in the trainer's
    checkpoints and continues with ``trainer.fit(..., ckpt_path=...)``. With several devices every rank measures the whole probe,
    so that no rank waits for another one. Works with ``lightning.pytorch`` and ``pytorch_lightning``.

    Args:

        monitor (TransferMonitor): The monitor. Its ``layers`` are those of the Student, Base and Teacher.
        student (str or Callable, optional): Where the Student is in the LightningModule: the dotted name of an attribute, or a
                    function from the LightningModule to the Student.
                    Default: "", the LightningModule itself

    Raises:
        TypeError: arguments of the wrong type.
        AttributeError: at the start of the training, if the LightningModule has no such attribute.
        ImportError: neither lightning nor pytorch_lightning is installed.

    Examples::

        >>> callback = LightningTransferMonitor(TransferMonitor(teacher, base, ["layer3", "layer4"], probe_loader), "student")
        >>> trainer = lightning.Trainer(max_epochs=30, callbacks=[callback], logger=CSVLogger("logs"))
        >>> trainer.fit(module, train_loader, validation_loader)
        >>> callback.monitor.plot().savefig("process.png")
    """

    def __init__(self, monitor: TransferMonitor, student: Union[str, Callable[[Any], Any]] = "") -> None:
        check_monitor(monitor)
        self.monitor = monitor
        if not isinstance(student, str):
            check_callable(student, "student")
        self._student = student

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step(trainer, pl_module, trainer.current_epoch)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        # A checkpoint after the validation then has this measurement. The number of batches may be infinite.
        done = (trainer.fit_loop.batch_idx + 1) / trainer.num_training_batches
        self._step(trainer, pl_module, trainer.current_epoch + (done if 0 < done < 1 else 1))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._step(trainer, pl_module, trainer.current_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.monitor.load_state_dict(state_dict)

    def _step(self, trainer: Any, pl_module: Any, epoch: float) -> None:
        # Lightning validates after a whole number of batches: a quarter of 782 batches is 195. So one may be missing.
        batch = 0 if epoch == self.monitor.last_epoch else 1 / trainer.num_training_batches
        if not self.monitor._step(self._student_of(pl_module), epoch, self.monitor.is_due(epoch + 0.99 * batch)):
            return
        values = {f"transfer/{name}": value for name, value in self.monitor.scalars().items()}
        for logger in trainer.loggers:  # rank 0 writes; the others' loggers do nothing
            logger.log_metrics(values, step=trainer.global_step)

    def _student_of(self, pl_module: Any) -> Any:
        if not isinstance(self._student, str):
            return self._student(pl_module)
        try:
            return reduce(getattr, self._student.split(".") if self._student else [], pl_module)
        except AttributeError as error:
            modules = ", ".join(name for name, _ in pl_module.named_children())
            raise AttributeError(
                f"student={self._student!r} is no attribute of {type(pl_module).__name__}, whose modules are: {modules}."
            ) from error
