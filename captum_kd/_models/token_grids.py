"""Grids of an image's tokens, by the outputs of earlier modules or by square patches of the image."""

from __future__ import annotations

import math
from typing import Callable, Iterator, NamedTuple, Optional, Sequence

from torch import nn

from captum_kd._models.channel_axis import Evidence, Shape, Size, Trace, evidence_in, evidence_of, has_aspect

MAX_PREFIX_TOKENS = 16
"""The most class, distillation and register tokens in front of a grid that are inferred."""


class _Grid(NamedTuple):
    """A grid of an output before a layer of tokens."""

    size: Size
    width: Optional[int]
    """The number of its channels, if its module shows it."""
    is_of_image: bool
    """Whether it has the image's aspect ratio or comes from :func:`_patch_grid`."""


def _grids(shape: Shape, image_size: Optional[Size], seen: Sequence[Trace]) -> Iterator[_Grid]:
    """Grids of earlier outputs, the latest first, that have the image's aspect ratio or certain evidence of their channels."""
    for trace in reversed(seen[_last_longer(shape, seen) :]):
        if trace.shape[0] != shape[0]:
            continue
        patches = _patch_grid(trace)
        if patches is not None:
            if math.prod(patches) > 1 or shape[1] == 1:
                yield _Grid(patches, math.prod(trace.shape[1:]) // math.prod(patches), True)
            continue
        if len(trace.shape) != 4:
            continue
        evidence = evidence_of(trace)
        _, a, b, c = trace.shape
        aspects = [image_size is not None and has_aspect(size, image_size) for size in ((b, c), (a, b))]
        is_last = evidence.channels_last if evidence is not None else None
        if aspects[0] != aspects[1] and not (evidence is not None and evidence.is_certain):
            is_last = aspects[1]
        for last, size, width in ((False, (b, c), a), (True, (a, b), c)):
            # Pooled outputs, 1 x 1, fit all square images; they can only be the grid of a single token.
            if is_last in (last, None) and (math.prod(size) > 1 or shape[1] == 1):
                if aspects[last] or (evidence is not None and evidence.is_certain):
                    yield _Grid(size, None if is_last is None else width, aspects[last])


def _last_longer(shape: Shape, seen: Sequence[Trace]) -> int:
    """The place where the number of tokens of this width decreased, or 0. No grid before it applies."""
    first = next((number for number, trace in enumerate(seen) if trace.shape == shape), len(seen))
    # Inside a block other widths occur. The width of embedded patches, and of the inputs of blocks, is kept.
    is_embedded = any(len(trace.shape) == 4 and trace.shape[1] == shape[2] for trace in seen)
    for number in reversed(range(len(seen))):
        trace = seen[number]
        keeps_width = trace.keeps_shape and (is_embedded or len(trace.module._modules) > 0)
        if keeps_width and _is_longer(trace, shape):
            # Branches of several scales alternate; prefix tokens are added and removed.
            if number < first or trace.shape[1] - shape[1] <= MAX_PREFIX_TOKENS:
                return number
    return 0


def _patch_grid(trace: Trace) -> Optional[Size]:
    """(h, w) of the patches in an output of three axes, if the type and settings of its module determine it."""
    module = trace.module
    if not isinstance(module, nn.Unfold):
        return None
    settings = (module.kernel_size, module.dilation, module.padding, module.stride)
    kernel, dilation, padding, stride = ((each, each) if isinstance(each, int) else each for each in settings)
    height, width = (
        (side + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis, side in enumerate(trace.given[0][-2:])
    )
    return height, width


def _is_longer(trace: Trace, shape: Shape) -> bool:
    """Whether an earlier output has more tokens of the same width."""
    return len(trace.shape) == 3 and trace.shape[::2] == shape[::2] and trace.shape[1] > shape[1]


def by_grids(shape: Shape, image_size: Optional[Size], seen: Sequence[Trace]) -> Optional[bool]:
    """Whether three axes are a flattened grid with channels last (True) or first (False), if no module of three axes shows it."""
    _, a, b = shape
    for grid in _grids(shape, image_size, seen):
        count = math.prod(grid.size)
        as_first = (grid.width, count) == (a, b)
        as_last = grid.width == b and 0 <= a - count <= MAX_PREFIX_TOKENS
        if as_first != as_last:
            return as_last
    return None


def grid_of(
    shape: Shape,
    image_size: Size,
    seen: Sequence[Trace],
    prefix_tokens: Optional[int],
    is_row_by_row: Callable[[Size, int], bool],
) -> Optional[tuple[Size, int]]:
    """Grid and number of prefix tokens of an image's tokens; None if they are unknown."""
    tokens, width = shape[1:]

    def fits(prefix: int) -> bool:
        return 0 <= prefix <= MAX_PREFIX_TOKENS if prefix_tokens is None else prefix == prefix_tokens

    grids = list(_grids(shape, image_size, seen))
    if tokens == 1 and fits(0):
        return (1, 1), 0
    # A grid without the image's aspect ratio must have the width of the tokens.
    fitting = [grid.size for grid in grids if fits(tokens - math.prod(grid.size)) and (grid.is_of_image or grid.width == width)]
    # In PVT and SegFormer tokens attend to a coarser grid, which comes after the grid of the tokens.
    exact = [size for size in fitting if math.prod(size) == tokens]
    # In Hugging Face's Swin no output has the grid of merged patches; their tokens are wider.
    wider = [grid.size for grid in grids if grid.is_of_image and grid.width != width]
    counts = {trace.shape[1] for trace in seen if len(trace.shape) == 3 and trace.shape[0] == shape[0]}
    merged = [size for grid in wider for size in _merged(grid, counts) if fits(0) and math.prod(size) == tokens]
    # For a batch of one image, tables of relative positions may look like a coarse grid (Swin v2): exact has priority.
    found = exact or merged or fitting
    if found:
        return found[0], tokens - math.prod(found[0])
    tokens_ahead = (trace for trace, evidence in zip(seen, evidence_in(seen)) if evidence != Evidence(False))
    if grids or _last_longer(shape, seen) or any(_is_longer(trace, shape) for trace in tokens_ahead):
        return None
    for prefix in (0, 1) if prefix_tokens is None else (prefix_tokens,):
        grid_size = _cut(image_size, tokens - prefix)
        if grid_size is not None and is_row_by_row(grid_size, prefix):
            return grid_size, prefix
    return None


def _merged(grid: Size, counts: set[int]) -> Iterator[Size]:
    """A grid after one, two, ... mergers of 2 x 2 patches, odd sides padded, while its number of tokens occurred before."""
    h, w = grid
    while h * w > 1 and h * w in counts:
        h, w = (h + 1) // 2, (w + 1) // 2
        yield h, w


def _cut(image_size: Size, patches: int) -> Optional[Size]:
    """The grid of this number of square patches if they tile the image without remainder."""
    height, width = image_size
    side = math.isqrt(height * width // patches) if patches > 0 else 0
    exact = side > 0 and height % side == width % side == 0 and height * width == patches * side * side
    return (height // side, width // side) if exact else None
