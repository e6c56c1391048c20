"""The monitor as a callback of Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any, Optional

from captum_kd.monitor.transfer_monitor import TransferMonitor, check_monitor

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "TransformersTransferMonitor needs transformers, which is not installed: pip install transformers."
    ) from error

__all__ = ["TransformersTransferMonitor"]

_STATE = "captum_kd transfer monitor"
"""The key in ``TrainerState.stateful_callbacks``, which is saved in ``trainer_state.json`` of every checkpoint."""


class TransformersTransferMonitor(TrainerCallback):
    """
    Measures the Student before the training, after each evaluation and after each epoch, as often as ``monitor.every`` says.

    The Student is the trainer's ``model``. :meth:`attach` adds the callback to a trainer; the main scores then go through
    ``trainer.log`` to its ``log_history`` and to everything in ``report_to`` as "transfer/layer/score". A callback that is passed
    as ``Trainer(callbacks=[...])`` measures too, but cannot log, since callbacks do not know their trainer. The monitor's state
    is saved in the trainer's checkpoints (``trainer_state.json``) and continues with
    ``trainer.train(resume_from_checkpoint=...)``.

    With several processes, every rank measures the whole probe. Models that are sharded over ranks (FSDP, DeepSpeed's stage 3)
    are not tested.

    Args:

        monitor (TransferMonitor): The monitor. Its ``layers`` are those of the Student, Base and Teacher.

    Raises:
        TypeError: not a monitor.
        ImportError: transformers is not installed.

    Examples::

        >>> callback = TransformersTransferMonitor(TransferMonitor(teacher, base, layers, probe_loader, every=0.25))
        >>> callback.attach(trainer)
        >>> trainer.train()
        >>> callback.monitor.plot().savefig("process.png")
    """

    def __init__(self, monitor: TransferMonitor) -> None:
        check_monitor(monitor)
        self.monitor = monitor
        self._trainer: Optional[Any] = None
        self._is_training = False

    def attach(self, trainer: Any) -> "TransformersTransferMonitor":
        """Adds this callback to a ``transformers.Trainer``, if it is not there yet, and logs through it. Returns the callback."""
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._trainer = trainer
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_training = True
        saved = state.stateful_callbacks.get(_STATE)
        if saved is not None:
            self.monitor.load_state_dict(saved)
        self._step(state, kwargs["model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._is_training:  # trainer.evaluate() may also be called alone
            self._step(state, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step(state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_training = False

    def _step(self, state: Any, model: Any) -> None:
        if self.monitor.step(model, state.epoch or 0):
            state.stateful_callbacks[_STATE] = self.monitor.state_dict()
            if self._trainer is not None:
                self._trainer.log({f"transfer/{name}": value for name, value in self.monitor.scalars().items()})
