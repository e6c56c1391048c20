"""Layouts of layers: tokens, channels-last and channels-first outputs as (N, C, ...).

Convolutional layers put channels first. Transformers return tokens, (N, T, C), often with
class or register tokens in front, and some models put channels last, (N, h, w, C). The rules, in
this order:

1. The user's settings (:class:`LayoutHints`).
2. The axis of the channels, by the modules inside the layer and before it (:mod:`~captum_kd._models.channel_axis`), or by the
   aspect ratio of the image if no module determines it.
3. The grid of an image's tokens is the grid of an earlier output. That grid may be halved once or more, and a few extra tokens
   are prefix tokens. If no earlier output has such a grid, the model may cut its images into square patches. The grid is then
   the image's size divided by the patch's, with at most one prefix token.
4. If the number of tokens decreased at the same width, tokens were dropped or merged, and no earlier grid applies.
5. Tokens of inputs that are not images are a sequence. If the inputs are sequences of tokens themselves (ids or a token mask),
   their number shows which axis holds the tokens if no module does.

If no rule applies, an error names the argument to pass. The number of tokens alone is never enough.
"""

from __future__ import annotations

import functools
import math
from typing import Callable, NamedTuple, Optional, Sequence

from torch import Tensor, nn

from captum_kd._models.channel_axis import Shape, Size, Trace, channels_are_last, is_ambiguous, own_evidence
from captum_kd._models.token_grids import by_grids, grid_of
from captum_kd._utils.validation import check_int, short_repr


class LayoutHints(NamedTuple):
    """The user's settings of layouts; None means that a setting is inferred."""

    grid: Optional[Size] = None
    prefix_tokens: Optional[int] = None
    channels_last: Optional[bool] = None
    tokens: Optional[bool] = None
    """Whether outputs of three axes are (N, T, C) or (N, C, L)."""
    last_resort: bool = False
    """The hints describe another model; used only if this model's layout cannot be inferred."""


def as_layout_hints(
    grid: Optional[tuple[int, int]],
    prefix_tokens: Optional[int],
    channels_last: Optional[bool],
    tokens: Optional[bool] = None,
) -> LayoutHints:
    """Checks the four layout arguments.

    Raises:
        ValueError: a grid that is not a pair of positive integers, a negative number of prefix tokens, a
            channels_last or tokens that is not a boolean, or arguments that contradict each other.
    """
    if grid is not None:
        if not isinstance(grid, (tuple, list)) or len(grid) != 2 or not all(type(side) is int and side >= 1 for side in grid):
            raise ValueError(f"grid must be (h, w), two positive integers, got {short_repr(grid)}.")
        grid = (grid[0], grid[1])
    if prefix_tokens is not None:
        prefix_tokens = check_int(prefix_tokens, "prefix_tokens", or_none=True)
    if channels_last is not None and not isinstance(channels_last, bool):
        raise ValueError(f"channels_last must be True, False or None, got {short_repr(channels_last)}.")
    if tokens is not None and not isinstance(tokens, bool):
        raise ValueError(f"tokens must be True, False or None, got {short_repr(tokens)}.")
    if None not in (tokens, channels_last) and tokens != channels_last:
        raise ValueError(
            f"tokens={tokens} contradicts channels_last={channels_last}: tokens are (N, T, C), with their channels last. "
            "Pass one of the two."
        )
    if tokens is False and (grid is not None or prefix_tokens is not None):
        given = f"grid={grid}" if grid is not None else f"prefix_tokens={prefix_tokens}"
        raise ValueError(f"tokens=False contradicts {given}, which describes tokens. Leave one of them out.")
    return LayoutHints(grid, prefix_tokens, channels_last, tokens)


class Layout(NamedTuple):
    """The layout of a layer's output."""

    grid: Optional[Size] = None
    """(h, w) of tokens (N, prefix + h * w, C); None if tokens are a sequence."""
    prefix_tokens: int = 0
    channels_last: bool = False
    time_first: bool = False
    """Whether the output is (T, N, C)."""

    def rows(self, output: Tensor) -> int:
        """The number of inputs in an output."""
        return output.shape[1 if self.time_first else 0]

    def to_channels_first(self, output: Tensor) -> Tensor:
        """The output, or a gradient of its shape, as (N, C, ...) without prefix tokens: a view."""
        if self.time_first:
            output = output.transpose(0, 1)
        if self.grid is not None:
            tokens = output[:, self.prefix_tokens :].transpose(1, 2)
            return tokens.reshape(tokens.shape[:2] + self.grid)
        return output[:, self.prefix_tokens :].movedim(-1, 1) if self.channels_last else output

    def mask_of(
        self, output: Tensor, token_mask: Optional[Tensor], where: str, *, beside_images: bool
    ) -> Optional[Tensor]:
        """The mask (N, L) of the positions of :meth:`to_channels_first`; None for outputs without tokens.

        Outputs of more than three axes are those of images, if the model gets images too.

        Raises:
            ValueError: a mask with another number of tokens than the output, some of which it leaves out; padding in outputs of
                more than three axes; padding in front of prefix tokens.
        """
        if token_mask is None or self.grid is not None or output.dim() < 3:
            return None
        if output.dim() > 3:
            if beside_images or bool(token_mask.all()):
                return None
            raise ValueError(
                f"{where} gives shape {tuple(output.shape)}, in which no axis is known to hold the {token_mask.shape[1]} tokens "
                "of the token mask. Choose a layer that gives (N, T, C), or pass token_mask=torch.ones_like(mask) to count it."
            )
        tokens = self.prefix_tokens + self.to_channels_first(output).shape[2]
        if token_mask.shape[1] != tokens:
            if bool(token_mask.all()):
                return None
            raise ValueError(
                f"{where} gives {tokens} tokens (shape {tuple(output.shape)}), but the token mask has {token_mask.shape[1]}. "
                f"Pass token_mask=, (N, {tokens}) with True for the tokens of this layer that count, or choose another layer."
            )
        in_front = token_mask[:, : self.prefix_tokens]
        if bool((in_front != in_front[:1]).any()):
            raise ValueError(
                f"prefix_tokens={self.prefix_tokens} counts from the first position, which is padding in some inputs and none in "
                "others. Leave out prefix_tokens and pass special_tokens_mask, or token_mask= with False for these tokens."
            )
        mask = token_mask[:, self.prefix_tokens :].to(output.device)
        empty = ~mask.any(1)
        if bool(empty.any()):
            raise ValueError(
                f"{where}: no token of input {int(empty.nonzero()[0])} is left without the first {self.prefix_tokens}. Leave the "
                "input out, or prefix_tokens."
            )
        return mask


def find_layout(
    output: Tensor,
    *,
    module: nn.Module,
    where: str,
    image_size: Optional[Size],
    seen: Sequence[Trace],
    hints: LayoutHints = LayoutHints(),
    known: Optional[Layout] = None,
    at_input: bool = False,
    time_first: bool = False,
    token_count: Optional[int] = None,
    is_row_by_row: Callable[[Size, int], bool] = lambda grid, prefix_tokens: True,
) -> Layout:
    """Infers the layout of a layer's output.

    Args:
        output (Tensor): the layer's output (or input); its first dimension is the batch, unless ``time_first``.
        module (nn.Module): the layer, whose type may determine the layout.
        where (str): the layer's description, for errors.
        image_size (tuple or None): (H, W) of the model's input if that is an image (N, C, H, W).
        seen (sequence of Trace): outputs inside the layer and before it in the same forward pass.
        hints (LayoutHints): the user's settings, which have priority unless they are a last resort.
        known (Layout, optional): the same layer's layout for several inputs. It is used for a single input, whose output
            cannot be distinguished from a table that all inputs share, (1, h, w, C).
        at_input (bool): the tensor is the layer's input.
        time_first (bool): the tensor is (T, N, C).
        token_count (int, optional): T if the model's inputs are ids or have a token mask, (N, T).
        is_row_by_row (callable): called with (grid, prefix_tokens) if no output has the grid; returns whether the model's
            first tokens lie on that grid, row by row.

    Raises:
        ValueError: an output that may be (N, T, C) as well as (N, C, L), tokens whose grid cannot be found,
            or hints that do not fit.
    """
    shape = tuple(output.shape)
    if time_first:
        shape = (shape[1], shape[0], *shape[2:])
    if len(shape) not in (3, 4, 5):
        return Layout()
    if shape[0] > 1:
        known = None
    if known is not None and known.grid is None:
        return known
    said = LayoutHints() if hints.last_resort else hints
    if said.channels_last is not None and len(shape) > 3:
        return Layout(channels_last=said.channels_last)
    is_last = time_first or channels_are_last(shape, own_evidence(module, shape, at_input, seen), seen, image_size)
    if len(shape) > 3:
        is_folded = is_last is None and any(trace.shape == (shape[0] * shape[1], *shape[2:]) for trace in seen)
        if hints.channels_last is None and (is_folded or is_last is None and is_ambiguous(shape, seen)):
            raise ValueError(_unclear_channels(shape, where, is_folded))
        return Layout(channels_last=bool(hints.channels_last) if is_last is None else is_last)
    if known is not None:  # the grid depends on the size of the image, the number of prefix tokens does not
        said = said._replace(prefix_tokens=known.prefix_tokens)
    find = functools.partial(
        _sequence, shape, where, image_size, seen, is_last=is_last, token_count=token_count, is_row_by_row=is_row_by_row
    )
    found = find(said)
    if found is None and hints.last_resort and _may_fit(shape, hints):
        found = find(hints)
    if found is None:
        raise ValueError(_unknown_layout(shape, where, image_size, said, is_last))
    if hints.last_resort and hints.prefix_tokens and found.channels_last:  # no output shows what stands in front of a sentence
        found = _row_of_tokens(shape, where, hints.prefix_tokens)
    return found._replace(time_first=time_first)


def _may_fit(shape: Shape, hints: LayoutHints) -> bool:
    """Whether hints about another model are possible for tokens of this shape."""
    if hints.grid is None:
        return True
    prefix = shape[1] - math.prod(hints.grid)
    return prefix >= 0 if hints.prefix_tokens is None else prefix == hints.prefix_tokens


def _sequence(
    shape: Shape,
    where: str,
    image_size: Optional[Size],
    seen: Sequence[Trace],
    hints: LayoutHints,
    *,
    is_last: Optional[bool],
    token_count: Optional[int],
    is_row_by_row: Callable[[Size, int], bool],
) -> Optional[Layout]:
    """The layout of an output of three axes; None if it is unknown."""
    if False in (hints.channels_last, hints.tokens):
        return Layout()
    if hints.grid is not None:
        return _hinted_grid(shape, where, hints.grid, hints.prefix_tokens)
    if hints.channels_last or hints.tokens or hints.prefix_tokens is not None:
        is_last = True
    if is_last is None:
        is_last = by_grids(shape, image_size, seen)
        if is_last is None and shape[1] == shape[2]:
            return None
        if is_last is None and token_count in shape[1:]:
            is_last = shape[1] == token_count
    if is_last is False:
        return Layout()
    # As many tokens as the text beside an image has are that text's; a grid with prefix tokens could fit by coincidence.
    if image_size is not None and token_count != shape[1]:
        found = grid_of(shape, image_size, seen, hints.prefix_tokens, is_row_by_row)
        if found is not None or not hints.tokens:
            return None if found is None else Layout(*found)
    return _row_of_tokens(shape, where, hints.prefix_tokens or 0) if is_last else None


def _row_of_tokens(shape: Shape, where: str, prefix_tokens: int) -> Layout:
    if prefix_tokens >= shape[1]:
        raise ValueError(
            f"prefix_tokens={prefix_tokens} leaves no token of {where}, which gives {shape[1]} (shape {shape}). Pass longer "
            "sequences or fewer prefix tokens."
        )
    return Layout(prefix_tokens=prefix_tokens, channels_last=True)


def _hinted_grid(shape: Shape, where: str, grid: Size, prefix_tokens: Optional[int]) -> Layout:
    tokens, count = shape[1], math.prod(grid)
    prefix = tokens - count if prefix_tokens is None else prefix_tokens
    if prefix < 0 or prefix + count != tokens:
        raise ValueError(
            f"grid={grid} with prefix_tokens={prefix_tokens} does not fit {where}: it returns "
            f"{tokens} tokens (shape {shape}), and prefix_tokens + h * w must equal that."
        )
    return Layout(grid, prefix)


def _unclear_channels(shape: Shape, where: str, is_folded: bool) -> str:
    steps = f"the model folds {shape[1]} steps of each input into the batch, so that the channels may lie behind these"
    equal = "the axes are equally long, and layers before it have their channels on either side"
    return (
        f"{where} gives shape {shape}, and no module shows which axis holds the channels: {steps if is_folded else equal}. "
        "Pass channels_last=False for the second axis or channels_last=True for the last one, or choose another layer."
    )


def _unknown_layout(
    shape: Shape, where: str, image_size: Optional[Size], hints: LayoutHints, is_last: Optional[bool]
) -> str:
    if image_size is None:
        return (
            f"{where} gives shape {shape} for inputs that are not images, and no module inside it or before it shows whether "
            "these are tokens, (N, T, C), or channels come first, (N, C, L). Pass tokens=True for tokens, or tokens=False if "
            "channels come first (channels_last=True and channels_last=False say the same)."
        )
    front = "" if hints.prefix_tokens is None else f", {hints.prefix_tokens} of them in front of the grid by prefix_tokens"
    return (
        f"{where} gives {shape[1]} tokens (shape {shape}) for images of {image_size[0]} x {image_size[1]}{front}, and no layer "
        "before it shows how they are laid out. Pass grid=(h, w) and, if class or "
        "register tokens stand in front, prefix_tokens=k, with k + h * w equal to the number of tokens; "
        "or channels_last=False if the layer's output is (N, C, L) and no tokens at all; or tokens=True for a map over the "
        "tokens in a row, as for text beside an image."
    )
