"""Everything that a call might leave changed: random streams, modes, hooks, gradients, switches, values."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import numpy
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all_modules

__all__ = ["state", "unchanged_state"]


def _digest(value: Tensor) -> Any:
    """What a tensor holds, comparable by ``==`` (NaN equals itself), with whatever hangs on it."""
    grad = None if value.grad is None else (id(value.grad), _digest(value.grad))
    if value.layout != torch.strided:
        content: Any = str(value)
    elif value.device.type == "meta":
        content = "meta"
    else:
        flat = value.detach().reshape(-1)
        plain = torch.empty(flat.shape, dtype=value.dtype, device=value.device).copy_(flat)
        content = plain.cpu().view(torch.uint8).numpy().tobytes() if value.numel() else b""
    return (tuple(value.shape), str(value.dtype), value.requires_grad, grad, content)


def state(models: Sequence[nn.Module], values: Sequence[Tensor] = ()) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "random": torch.get_rng_state().numpy().tobytes(),
        "numpy": str(numpy.random.get_state()),
        "python": random.getstate(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "global hooks": [
            list(getattr(hooks_of_all_modules, name).items())
            for name in ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
        ],
        "inputs": [_digest(value) for value in values],
    }
    for number, model in enumerate(models):
        for name, module in model.named_modules():
            kept[f"{number}.{name}"] = (
                module.training,
                list(module._forward_hooks.items()),
                list(module._forward_pre_hooks.items()),
                list(module._forward_hooks_with_kwargs.items()),
                list(module._forward_pre_hooks_with_kwargs.items()),
                list(module._backward_hooks.items()),
            )
        for name, parameter in model.named_parameters():
            kept[f"{number}.{name} parameter"] = _digest(parameter)
        for name, buffer in model.named_buffers():
            kept[f"{number}.{name} buffer"] = _digest(buffer)
    return kept


@contextmanager
def unchanged_state(
    models: Sequence[nn.Module], values: Sequence[Tensor] = (), *, except_for: Sequence[str] = ()
) -> Iterator[None]:
    """Compares the state after the block, however it ends, with the one before."""
    before = state(models, values)
    try:
        yield
    finally:
        after = state(models, values)
        assert [key for key in before if before[key] != after.get(key) and key not in except_for] == []
        assert before.keys() == after.keys()
