"""Modes of modules: evaluation mode for a while, and warnings about modes in which outputs depend on chance or on the batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Callable, Iterator, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from captum_kd._models.reachable import is_installed, methods_of_passes, model_of, modules_of
from captum_kd._utils.warnings import warn_user


class Modes(NamedTuple):
    """The effects of a model's modules in their present modes.

    Attributes:
        updates (bool): a pass changes running statistics.
        couples (bool): batch normalization in training mode takes its statistics from the batch.
        draws (bool): dropout or stochastic depth in training mode draws random numbers.
        always_couples (bool): batch normalization without running statistics takes them from the batch in evaluation mode.
    """

    updates: bool
    couples: bool
    draws: bool
    always_couples: bool

    @property
    def is_training(self) -> bool:
        return self.updates or self.couples or self.draws


@contextmanager
def evaluation_mode(forward_func: Callable[..., Any]) -> Iterator[None]:
    """Evaluation mode of all modules that a model or function runs; then each module gets its own mode back.

    ``train()`` of a model that is in training mode is called too, since some models do more in it than set a flag (they merge
    weights in ``eval()`` and split them again). Modules that are in evaluation mode already stay so.
    """
    root, modes = model_of(forward_func), {module: module.training for module in modules_of(forward_func)}
    was_training = root is not None and root.training
    try:
        if root is not None and (was_training or any(modes.values())):
            root.eval()
        for module in modes:
            module.training = False
        yield
    finally:
        if root is not None and was_training:
            root.train()
        for module, mode in modes.items():
            module.training = mode


def modes_of(forward_func: Callable[..., Any]) -> Modes:
    """The effects of all modules. The model's own training flag does not show frozen parts."""
    modules = modules_of(forward_func)
    of_batch = [module for module in modules if isinstance(module, _BatchNorm)]
    return Modes(
        any(module.training and _updates(module) for module in modules),
        any(module.training for module in of_batch),
        any(module.training and _draws(module) for module in modules),
        any(not module.training and module.running_mean is None and module.running_var is None for module in of_batch),
    )


def _updates(module: nn.Module) -> bool:
    if isinstance(module, _NormBase):
        return module.track_running_stats and module.running_mean is not None and module.momentum != 0
    # Spectral normalization continues its power iteration. It is a module or, in older code, a hook.
    return any(type(each).__name__.endswith("SpectralNorm") for each in (module, *module._forward_pre_hooks.values()))


def _draws(module: nn.Module) -> bool:
    """Whether a module in training mode draws random numbers, judged by its dropout probability or its calls."""
    if isinstance(module, nn.RReLU):
        return module.lower != module.upper
    if isinstance(module, nn.RNNBase) and module.num_layers == 1:
        return False  # dropout is between its layers
    for method in methods_of_passes(module):
        names = () if is_installed(method.__code__) else method.__code__.co_names
        if any("dropout" in name and not hasattr(module, name) for name in names):
            return True  # calls such as F.dropout(x, p, self.training)
    kind = type(module).__name__.lower()
    is_dropout = "drop" in kind or "stochasticdepth" in kind
    return any(
        type(value) in (float, int) and 0 < value <= 1
        for name, value in vars(module).items()
        if "drop" in name.lower() or (is_dropout and name in ("p", "prob"))
    )


def mode_notes(models: Mapping[str, Modes]) -> list[str]:
    """Sentences about the modes of models by name; none if no mode has such an effect."""
    notes = []
    training = {name: modes for name, modes in models.items() if modes.is_training}
    if training:
        effects = []
        if any(modes.couples for modes in training.values()):
            effects.append("Batch normalization couples the inputs of a pass, so that results depend on the batches.")
        if any(modes.updates for modes in training.values()):
            effects.append("Every pass changes running statistics, and so the model.")
        if any(modes.draws for modes in training.values()):
            effects.append("Dropout (or stochastic depth) makes results depend on chance.")
        notes.append(f"In training mode: {', '.join(training)}. {' '.join(effects)} Call eval() first.")
    coupling = [name for name, modes in models.items() if modes.always_couples]
    if coupling:
        notes.append(
            f"Batch normalization without running statistics (track_running_stats=False) couples the inputs of a pass in "
            f"evaluation mode too: {', '.join(coupling)}. Results depend on the batches and on their size; eval() does not "
            "change that."
        )
    return notes


def warn_of_modes(**models: Any) -> None:
    """Warns about the modes of the models of a call; models that are None are left out."""
    for note in mode_notes({name: modes_of(model) for name, model in models.items() if model is not None}):
        warn_user(note)
