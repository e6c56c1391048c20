"""One small model of every family of image classifiers, with random weights, and the layer to look at.

Nothing is downloaded. Depths and widths are cut where that can be done: how a layer is laid
out does not depend on them.
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, NamedTuple

import torch
from torch import nn

__all__ = ["Family", "Misfit", "build", "layer_name", "unfilled"]


DRAWN = 65537
"""Random numbers for the weights of one convolution: a prime, so that no two channels are given the same ones."""


class Family(NamedTuple):
    """A family of architectures and how one member of it is built and looked at."""

    library: str
    name: str
    """The module of the library that the family lives in, with a variant where a module holds several."""
    make: Callable[[], nn.Module]
    layer: str
    """As one would write it behind ``model.``; ``[-1]`` is the last of a sequence."""
    size: tuple[int, int] = (96, 96)
    note: str = ""
    outputs: int = 1
    """Tensors that the layer gives: one map each."""
    positive: bool = True
    """Whether convolutions of a network with batch normalization get weights of one sign. Deep networks with
    weights of both forget where an input was changed; with one sign changes add up."""


class Misfit(NamedTuple):
    """A family that cannot be explained by a map over the image, and why."""

    library: str
    name: str
    reason: str


def build(family: Family, seed: int = 0) -> nn.Module:
    """The family's small model, in eval mode, weights drawn so that every layer passes on what it is given."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = family.make()
        _liven(model, family.size, family.positive)
    return model.eval()


def unfilled(make: Callable[[], nn.Module], part: int = 1) -> nn.Module:
    """A model of convolutions, batch normalizations and linear layers without the wait for its millions of weights.

    :func:`build` draws those of the convolutions anyway.

    Args:
        make: gives the model, of five classes.
        part: one of so many channels is kept, for constructors that do not let widths be chosen.
    """
    with torch.device("meta"):
        model = make()
        for module in model.modules():
            _narrow(module, part)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def _narrow(module: nn.Module, part: int) -> None:
    """One of so many of a module's channels, save for images' three and logits' five."""

    def kept(channels: int) -> int:
        assert channels in (3, 5) or channels % part == 0, channels
        return channels if channels in (3, 5) else channels // part

    if isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels = kept(module.in_channels), kept(module.out_channels)
        module.groups = module.groups if module.groups == 1 else kept(module.groups)
        shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        module.weight = nn.Parameter(torch.empty(shape))
        module.bias = None if module.bias is None else nn.Parameter(torch.empty(module.out_channels))
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = kept(module.in_features), kept(module.out_features)
        module.weight = nn.Parameter(torch.empty(module.out_features, module.in_features))
        module.bias = nn.Parameter(torch.empty(module.out_features))
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = kept(module.num_features)
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: value[: module.num_features] for name, value in tensors.items() if value.dim()})
        module.weight, module.bias = nn.Parameter(module.weight), nn.Parameter(module.bias)


def layer_name(model: nn.Module, layer: str) -> str:
    """The dotted name of a family's layer in a model: ``blocks[-1]`` of twelve is ``blocks.11``."""
    name = ""
    for part in re.findall(r"[^.\[\]]+|\[-1\]", layer):
        at = model.get_submodule(name)
        step = list(dict(at.named_children()))[-1] if part == "[-1]" else part
        name = f"{name}.{step}" if name else step
    return name


def _liven(model: nn.Module, size: tuple[int, int], positive: bool) -> None:
    """Initial weights are made for training: branches that begin at zero, and statistics that no data has seen.

    An input's change would drown on its way. Here normalizations begin at one, and batch statistics are
    those of a few images.
    """
    for module in model.modules():
        if hasattr(module, "attention_biases") and hasattr(module, "attention_bias_idxs"):
            _attend_nearby(module)
    batch_norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not batch_norms:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            _fill(module.weight, positive)
    model.eval()
    for batch_norm in batch_norms:
        batch_norm.momentum = 1.0
        batch_norm.train()
    with torch.no_grad():
        model(torch.randn(4, 3, *size))


def _fill(weight: torch.Tensor, positive: bool) -> None:
    """Normal weights of the size that passes a signal on, repeated where there are many: to draw 80 million takes a second."""
    drawn = torch.randn(min(weight.numel(), DRAWN))
    drawn = (drawn.abs() if positive else drawn) * math.sqrt(2 / weight[0].numel())
    with torch.no_grad():
        repeated = drawn.repeat(-(-weight.numel() // DRAWN))[: weight.numel()]
        weight.copy_(repeated.view_as(weight))


def _attend_nearby(attention: Any) -> None:
    """LeViT's attention by offsets, which knows nothing of positions until its biases are trained."""
    from_first = attention.attention_bias_idxs[0]  # the first query's offsets are the keys' positions
    side = math.isqrt(len(from_first))
    rows, columns = torch.arange(len(from_first)) // side, torch.arange(len(from_first)) % side
    with torch.no_grad():
        attention.attention_biases.fill_(-10.0)
        attention.attention_biases[:, from_first] = -3.0 * torch.hypot(rows.float(), columns.float())
