"""Where a layer keeps its positions: bringing every output to (N, C, ...).

Convolutional layers put channels first. Transformers give tokens, (N, T, C), often with
class or register tokens in front, and some image models put channels last, (N, h, w, C).
Which one it is follows from the input's aspect and from the outputs of the layers that ran
before; users of transformers need no reshape function.
"""

from __future__ import annotations

import math
from typing import Iterator, NamedTuple, Optional, Sequence

from torch import Tensor, nn

__all__ = ["Layout", "LayoutHints", "Trace", "find_layout"]

MAX_PREFIX_TOKENS = 16
"""Class, distillation and register tokens in front of the grid that are accepted unasked."""

Size = tuple[int, int]

_CHANNELS_FIRST_2D = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
)
_CHANNELS_FIRST_1D = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)

# What a permutation leaves channels last (True) or first (False).
_PERMUTATIONS = {(0, 2, 3, 1): True, (0, 3, 1, 2): False}


class LayoutHints(NamedTuple):
    """What the user says about layouts; None means: find out."""

    grid: Optional[Size] = None
    prefix_tokens: Optional[int] = None
    channels_last: Optional[bool] = None
    last_resort: bool = False
    """Said of another model: counts only where this one's own outputs do not tell."""


class Trace(NamedTuple):
    """A 4-D output seen during a forward pass: its shape and the module that gave it."""

    shape: tuple[int, int, int, int]
    module: nn.Module
    keeps_shape: bool = False
    """Whether the module was given a tensor of that same shape, as blocks and stages are."""


class Layout(NamedTuple):
    """How a layer's output is laid out."""

    grid: Optional[Size] = None
    """(h, w) of tokens (N, prefix + h * w, C)."""
    prefix_tokens: int = 0
    channels_last: bool = False

    def to_channels_first(self, output: Tensor) -> Tensor:
        """The output, or a gradient of its shape, as (N, C, ...) without prefix tokens: a view."""
        if self.grid is not None:
            tokens = output[:, self.prefix_tokens :].transpose(1, 2)
            return tokens.reshape(tokens.shape[:2] + self.grid)
        return output.permute(0, 3, 1, 2) if self.channels_last else output


def find_layout(
    output: Tensor,
    *,
    module: nn.Module,
    where: str,
    image_size: Optional[Size],
    seen: Sequence[Trace],
    hints: LayoutHints = LayoutHints(),
    known: Optional[Layout] = None,
) -> Layout:
    """Finds out how a layer's output is laid out.

    Args:
        output (Tensor): the layer's output (or input), first dimension the inputs.
        module (nn.Module): the layer, whose type may settle the layout.
        where (str): the layer in words, for errors.
        image_size (tuple or None): (H, W) of the model's input where that is an image (N, C, H, W).
            Without it outputs keep the meaning they have for Captum, channels first, unless hints
            say otherwise.
        seen (sequence of Trace): 4-D outputs ahead of the layer in the same forward pass.
        hints (LayoutHints): the user's own word, which goes first unless it is a last resort.
        known (Layout, optional): what was found of the same layer for several inputs. For one alone it is
            heard: a table that all inputs share, (1, h, w, C), cannot then be told from an output of its own.

    Raises:
        ValueError: tokens whose grid cannot be found, or hints that do not fit.
    """
    if output.dim() not in (3, 4):
        return Layout()
    if output.shape[0] > 1:
        known = None
    if known is not None and known.grid is None:
        return known
    if output.dim() == 4:
        return Layout(channels_last=_is_channels_last(output, module, image_size, seen, hints))
    if hints.last_resort:
        hints = _where_unclear(output, module, image_size, seen, hints, known)
    if known is not None:  # the grid goes with the size of the image, the tokens in front of it do not
        hints = hints._replace(prefix_tokens=known.prefix_tokens)
    if image_size is None and hints.grid is None and hints.prefix_tokens is None:
        return Layout()
    if hints.channels_last is False or (hints.channels_last is None and isinstance(module, _CHANNELS_FIRST_1D)):
        return Layout()
    grid, prefix_tokens = _token_grid(output, where, image_size, seen, hints)
    return Layout(grid, prefix_tokens)


def _where_unclear(
    output: Tensor,
    module: nn.Module,
    image_size: Optional[Size],
    seen: Sequence[Trace],
    hints: LayoutHints,
    known: Optional[Layout],
) -> LayoutHints:
    """The hints about another model's layers that help with this (N, T, C) or (N, C, L): none where it speaks for itself."""
    prefix_tokens = None if known is None else known.prefix_tokens
    if isinstance(module, _CHANNELS_FIRST_1D) or _traced_grid(output, image_size, seen, prefix_tokens) is not None:
        return LayoutHints()
    if hints.grid is None:
        return hints
    h, w = hints.grid
    prefix = output.shape[1] - h * w
    fits = prefix == hints.prefix_tokens or (hints.prefix_tokens is None and prefix >= 0)
    return hints if fits else LayoutHints(channels_last=hints.channels_last)


def _has_aspect(size: Size, image_size: Size) -> bool:
    """Whether (h, w) is the image divided by one stride, rounding of either side allowed."""
    (h, w), (height, width) = size, image_size
    return abs(h * width - w * height) < max(height, width)


def _is_channels_last(
    output: Tensor, module: nn.Module, image_size: Optional[Size], seen: Sequence[Trace], hints: LayoutHints
) -> bool:
    if hints.channels_last is not None and not hints.last_resort:
        return hints.channels_last
    shape = (output.shape[0], output.shape[1], output.shape[2], output.shape[3])
    found = None
    if image_size is not None:
        found = _orientation(Trace(shape, module), image_size)
        if found is None:
            found = _neighbours_orientation(shape, image_size, seen)
    return bool(hints.channels_last) if found is None else found


def _neighbours_orientation(
    shape: tuple[int, int, int, int], image_size: Size, seen: Sequence[Trace]
) -> Optional[bool]:
    """What the latest output of the same batch and grid says about a shape that does not tell."""
    passed: set[nn.Module] = set()
    for trace in reversed(seen):
        if trace.module in passed:
            continue
        orientation = _orientation(trace, image_size)
        positions = slice(1, 3) if orientation else slice(2, 4)
        is_alike = trace.shape[0] == shape[0] and trace.shape[positions] == shape[positions]
        if orientation is not None and is_alike:
            return orientation
        # A block gives what it is given, whatever it permutes inside (ConvNeXt): look ahead of it.
        if trace.keeps_shape:
            passed.update(trace.module.modules())
    return None


def _orientation(trace: Trace, image_size: Size) -> Optional[bool]:
    """True for channels last, False for channels first, None where the shape does not tell."""
    module = trace.module
    if isinstance(module, _CHANNELS_FIRST_2D):
        return False
    # It normalises the last dimension; subclasses that permute around it (timm, torchvision) do not.
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return True
    # Permuting modules (torchvision's Permute) say it themselves.
    dims = getattr(module, "dims", None)
    if isinstance(dims, (list, tuple)) and tuple(dims) in _PERMUTATIONS:
        return _PERMUTATIONS[tuple(dims)]
    _, a, b, c = trace.shape
    first, last = _has_aspect((b, c), image_size), _has_aspect((a, b), image_size)
    if first != last:
        return last
    return True if isinstance(module, nn.Linear) else None  # a linear layer mixes the last dimension


def _token_grid(
    output: Tensor, where: str, image_size: Optional[Size], seen: Sequence[Trace], hints: LayoutHints
) -> tuple[Size, int]:
    tokens = output.shape[1]
    if hints.grid is not None:
        h, w = hints.grid
        prefix = tokens - h * w if hints.prefix_tokens is None else hints.prefix_tokens
        if prefix < 0 or prefix + h * w != tokens:
            raise ValueError(
                f"grid={hints.grid} with prefix_tokens={hints.prefix_tokens} does not fit {where}: it gives "
                f"{tokens} tokens (shape {tuple(output.shape)}), and prefix_tokens + h * w must equal that."
            )
        return (h, w), prefix
    traced = _traced_grid(output, image_size, seen, hints.prefix_tokens)
    if traced is not None:
        return traced
    for prefix in (0, 1) if hints.prefix_tokens is None else (hints.prefix_tokens,):
        side = math.isqrt(max(tokens - prefix, 0))
        if side > 0 and side * side == tokens - prefix:
            return (side, side), prefix
    inputs = "inputs that are not images" if image_size is None else f"images of {image_size[0]} x {image_size[1]}"
    front = "" if hints.prefix_tokens is None else f", {hints.prefix_tokens} of them in front of the grid by prefix_tokens"
    raise ValueError(
        f"{where} gives {tokens} tokens (shape {tuple(output.shape)}) for {inputs}{front}, and no layer before it "
        "shows how they are laid out. Pass grid=(h, w) and, if class or "
        "register tokens stand in front, prefix_tokens=k, with k + h * w equal to the number of tokens; "
        "or channels_last=False if the layer's output is (N, C, L) and no tokens at all."
    )


def _traced_grid(
    output: Tensor, image_size: Optional[Size], seen: Sequence[Trace], prefix_tokens: Optional[int]
) -> Optional[tuple[Size, int]]:
    """The grid and number of prefix tokens that an earlier 4-D output shows, if one does."""
    tokens = output.shape[1]

    def fits(prefix: int) -> bool:
        if prefix_tokens is not None:
            return prefix == prefix_tokens
        return 0 <= prefix <= MAX_PREFIX_TOKENS

    grids = [] if image_size is None else list(_grids_ahead(output, image_size, seen))
    fitting = [(h, w) for h, w in grids if fits(tokens - h * w)]
    # Tokens that attend to a coarser grid of themselves (PVT, SegFormer) show that one later than their own.
    exact = [(h, w) for h, w in fitting if h * w == tokens]
    # Patches that were merged two by two as tokens (Hugging Face's Swin) show their own grid nowhere.
    merged = [(h, w) for grid in grids for h, w in _merged(grid) if fits(0) and h * w == tokens]
    if not (fitting or merged):
        return None
    # Tables of relative positions may look like a coarse grid where the batch is one image (Swin v2): exact goes first.
    h, w = (exact or merged or fitting)[0]
    return (h, w), tokens - h * w


def _merged(grid: Size) -> Iterator[Size]:
    """A grid after one, two, ... mergers of 2 x 2 patches, odd sides padded."""
    h, w = grid
    while h * w > 1:
        h, w = (h + 1) // 2, (w + 1) // 2
        yield h, w


def _grids_ahead(output: Tensor, image_size: Size, seen: Sequence[Trace]) -> Iterator[Size]:
    """Grids of the image's aspect among the 4-D outputs ahead of a layer of tokens, the latest first."""
    for trace in reversed(seen):
        n, a, b, c = trace.shape
        orientation = _orientation(trace, image_size)
        for h, w in {True: [(a, b)], False: [(b, c)], None: [(b, c), (a, b)]}[orientation]:
            # Pooled outputs, 1 x 1, have every square aspect; they are a grid of one token only.
            pooled = h * w == 1 and output.shape[1] > 1
            if n == output.shape[0] and not pooled and _has_aspect((h, w), image_size):
                yield h, w
