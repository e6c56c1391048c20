"""The axis that holds the channels of a layer's output, inferred from the modules inside the layer and before it.

1. Certain evidence: convolutions, batch norms and pooling have channels first. The permutation of a permuting module tells
   where its channels are. A norm whose weight fits only the axis after the batch has channels first. If another output has the
   shape of such a module's output, with or without the channels moved, its channels are on the corresponding axis. The latest
   such module counts.
2. Weak evidence: linear layers, norms over the last axis, attention and recurrent layers work on the last axis, which usually
   holds the channels. Some work on positions instead. If a linear layer or norm receives the very tensor that a module of
   rule 1 returned, that module's evidence counts. Otherwise rule 1 has priority. For three axes, rules that disagree give no
   answer, and neither do tokens whose axes were exchanged after the first tokens of the model.
3. Activations, dropout and other modules are no evidence.

Evidence about a tensor also holds for its views. A function or module that permutes axes without a copy is followed.

If moving the channels would not change the shape, the latest output on the same positions counts. A block keeps the layout of
its input, whatever it permutes inside, unless it returns the very tensor that its last module returned.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Sequence

from torch import nn

Shape = tuple[int, ...]
Size = tuple[int, int]

_NAMES = (
    "Conv", "ConvTranspose", "BatchNorm", "InstanceNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool",
)  # fmt: skip
_ANY_RANK = (nn.GroupNorm, nn.SyncBatchNorm, nn.Upsample)
_CHANNELS_FIRST: dict[int, tuple[type[nn.Module], ...]] = {
    rank: (*_ANY_RANK, *others, *(getattr(nn, f"{name}{rank - 2}d") for name in _NAMES))
    for rank, others in ((3, (nn.Unfold,)), (4, (nn.Fold, nn.PixelShuffle, nn.PixelUnshuffle)), (5, ()))
}
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_GIVEN = nn.Identity()  # the module of traces that represent the input of a block
_LAST_AXIS = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)
# Whether a permutation moves the channels to the last axis (True) or to the first (False).
_PERMUTATIONS = {(0, 2, 3, 1): True, (0, 3, 1, 2): False, (0, 2, 3, 4, 1): True, (0, 4, 1, 2, 3): False}


class Trace(NamedTuple):
    """An output of three to five axes seen during a forward pass."""

    shape: Shape
    module: nn.Module
    """The module that returned it."""
    given: tuple[Shape, ...] = ()
    """Shapes of the tensors that the module received."""
    moved: Optional[Shape] = None
    """The permutation from the axes of the latest output before the module to those of its input, if both share memory."""
    order: Optional[Shape] = None
    """The permutation from the axes of the module's input to those of its output, if both share memory."""
    returns: bool = False
    """True if it is the same tensor object as the output before, as when an nn.Sequential returns its last output."""
    entered: Optional[int] = None
    """The number of outputs when the module began; None for all outputs before this one."""
    ahead_of: Optional[nn.Module] = None
    """The layer whose input this is, if it represents an input."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the module received a tensor of the same shape, as blocks and stages do."""
        return self.shape in self.given


class Evidence(NamedTuple):
    """The position of the channels in a module's output, as far as the module determines it."""

    channels_last: bool
    is_certain: bool = True

    def moved(self, shape: Shape) -> tuple[Shape, Shape]:
        """The shape without its batch, with the channels first and with the channels last."""
        channels, positions = (shape[-1:], shape[1:-1]) if self.channels_last else (shape[1:2], shape[2:])
        return channels + positions, positions + channels


def evidence_of(trace: Trace) -> Optional[Evidence]:
    """The evidence of the module that returned an output, by its type and weights; None if there is none."""
    module, shape = trace.module, trace.shape
    if isinstance(module, _CHANNELS_FIRST[len(shape)]):
        return Evidence(False)
    dims = getattr(module, "dims", None)
    if isinstance(dims, (list, tuple)) and tuple(dims) in _PERMUTATIONS:
        return Evidence(_PERMUTATIONS[tuple(dims)])
    if isinstance(module, nn.Flatten) and len(shape) == 3 and module.start_dim in (1, 2):
        return Evidence(module.start_dim == 1)
    if isinstance(module, _LAST_AXIS):
        return Evidence(True, is_certain=False)
    return _evidence_of_norm(module, shape)


def _evidence_of_norm(module: nn.Module, shape: Shape) -> Optional[Evidence]:
    """The evidence of a module whose own weights lie along one axis."""
    lengths = {tuple(weight.shape) for weight in module._parameters.values() if weight is not None}
    if isinstance(module, nn.LayerNorm):
        lengths.add(tuple(module.normalized_shape))
    if module._modules or len(lengths) != 1:
        return None
    (length,) = lengths
    if len(length) != 1 or length[0] == 1:
        return None
    fits_first, fits_last = shape[1] == length[0], shape[-1] == length[0]
    if fits_last and (not fits_first or type(module).__name__ == nn.LayerNorm.__name__):
        return Evidence(True, is_certain=False)
    return Evidence(False) if fits_first and not fits_last else None


def evidence_in(seen: Sequence[Trace]) -> list[Optional[Evidence]]:
    """The evidence for each output, from the module that returned it or from the module that made its input."""
    clues: list[Optional[Evidence]] = []
    for number, trace in enumerate(seen):
        evidence = evidence_of(trace)
        place = number if trace.entered is None or trace.returns else trace.entered
        before = clues[place - 1] if place > 0 and len(seen[place - 1].shape) == len(trace.shape) else None
        if before is not None and not trace.returns:
            before = None if trace.moved is None else _permuted(before, trace.moved)
            order = trace.order or tuple(getattr(trace.module, "dims", None) or ())
            keeps = evidence is not None or _is_elementwise(trace.module)
            if before is not None and sorted(order) == list(range(len(trace.shape))):
                before = _permuted(before, order)
                evidence = before or evidence
            elif not keeps:
                before = None
        if before is not None and (evidence is None or (before.is_certain and not evidence.is_certain)):
            evidence = before
        clues.append(evidence)
    return clues


def _is_elementwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or type(module).__module__ in _ELEMENTWISE


def _permuted(evidence: Evidence, order: Shape) -> Optional[Evidence]:
    """The evidence for a tensor after a permutation of its axes; None if the channels are then in the middle."""
    last = len(order) - 1
    place = order.index(last if evidence.channels_last else 1)
    return evidence._replace(channels_last=place == last) if place in (1, last) else None


def own_evidence(module: nn.Module, shape: Shape, at_input: bool, seen: Sequence[Trace]) -> Optional[Evidence]:
    """The evidence of a layer for its own output or input; None also if the layer's trace has it already."""
    evidence = evidence_of(Trace(shape, module))
    if evidence is None or (evidence.is_certain and not at_input):
        return evidence
    if at_input and seen and evidence_in(seen)[-1] is not None:
        return None
    if at_input and evidence.is_certain:
        # Certain evidence holds for input and output, except that a permutation moves the channels.
        permutes = isinstance(getattr(module, "dims", None), (list, tuple))
        return Evidence(not evidence.channels_last) if permutes else evidence
    if at_input:
        return evidence
    is_traced = len(seen) > 0 and seen[-1].shape == shape and type(seen[-1].module) is type(module)
    return None if is_traced else evidence


def channels_are_last(
    shape: Shape, own: Optional[Evidence], seen: Sequence[Trace], image_size: Optional[Size] = None
) -> Optional[bool]:
    """The place of a tensor's channels: True for the last axis, False for the axis after the batch, None if unknown.

    Args:
        shape (tuple): (N, ...) of the tensor, three to five axes.
        own (Evidence or None): the layer's own evidence.
        seen (sequence of Trace): outputs inside the layer and before it.
        image_size (tuple, optional): (H, W) of the model's input; its aspect ratio counts if no module determines the axis.
    """
    if own is not None and own.is_certain:
        return own.channels_last
    aspect = _by_aspect(shape, image_size)
    first, last = Evidence(False).moved(shape)[1], shape[1:]
    if first == last:
        if own is not None:
            return own.channels_last
        if is_ambiguous(shape, seen):
            return None
        return _latest_on_positions(shape, seen, image_size)
    found, is_certain = _by_modules(shape, own, seen)
    if is_certain or (found is not None and aspect in (None, found)):
        return found
    on_positions = _by_positions(shape, seen) if len(shape) > 3 else None
    if on_positions is not None:
        return on_positions
    if aspect is not None:
        return aspect
    return _latest_on_positions(shape, seen, image_size) if len(shape) > 3 else None


def is_ambiguous(shape: Shape, seen: Sequence[Trace]) -> bool:
    """Whether a tensor's channels cannot be told from its positions, although earlier outputs had channels first and last.

    This happens with equally long axes if a function returned the tensor that the layer received, because the function may
    have moved the axes.
    """
    if not seen or seen[-1].shape != shape or len(set(shape[1:])) > 1:
        return False
    clues, last = evidence_in(seen), seen[-1]
    is_turned = len(shape) == 3 and clues[-1] == Evidence(False, is_certain=False)  # the channels left a linear layer's last axis
    if not is_turned and (last.module._modules or last.moved or last.returns or clues[-1] is not None):
        return False
    kinds = {clue.channels_last for trace, clue in zip(seen, clues) if clue is not None and trace.shape == shape}
    return is_turned or len(kinds) > 1


def _by_modules(shape: Shape, own: Optional[Evidence], seen: Sequence[Trace]) -> tuple[Optional[bool], bool]:
    """The place of the channels by rules 1 and 2, and whether the evidence is certain."""
    is_weak, wanted, found, clues = own is not None, {shape[1:]}, None, evidence_in(seen)
    for number, evidence in _alike(shape, seen, clues):
        trace = seen[number]
        if evidence is None:
            continue
        if not evidence.is_certain:
            if evidence.channels_last and trace.shape[1:] in wanted:
                if len(shape) == 3 and _is_exchanged(trace, seen, clues):
                    return None, False
                # Modules that work on the last axis do not move the other axes.
                is_weak = True
                wanted.update(given[1:] for given in trace.given[:1] if len(given) == len(shape))
            continue
        as_first, as_last = (moved in wanted for moved in evidence.moved(trace.shape))
        if found is None and as_first != as_last:
            found = as_last
            if as_last or len(shape) > 3:
                break
    if found is None:
        return (True if is_weak else None), False
    return (None, False) if is_weak and not found and len(shape) == 3 else (found, True)


def _by_positions(shape: Shape, seen: Sequence[Trace]) -> Optional[bool]:
    """Certain evidence for outputs on the same positions with other channels, such as branches that are joined."""
    alike = _alike(shape, seen, evidence_in(seen))
    certain = [(seen[number].shape, evidence) for number, evidence in alike if evidence is not None and evidence.is_certain]
    as_first = any(not evidence.channels_last and other[2:] == shape[2:] for other, evidence in certain)
    as_last = any(evidence.channels_last and other[1:-1] == shape[1:-1] for other, evidence in certain)
    return as_last if as_first != as_last else None


def _is_exchanged(trace: Trace, seen: Sequence[Trace], clues: Sequence[Optional[Evidence]]) -> bool:
    """Whether a linear layer or norm received tokens with the positions on the last axis, as in an MLP-Mixer: the first
    output of either shape had the axes the other way round."""
    if not trace.given or len(trace.given[0]) != 3 or trace.given[0][1] == trace.given[0][2]:
        return False
    n, a, b = trace.given[0]
    for each, evidence in zip(seen, clues):
        if each.shape in ((n, a, b), (n, b, a)):
            return each.shape == (n, b, a) and evidence is not None and evidence.channels_last
    return False


def _latest_on_positions(shape: Shape, seen: Sequence[Trace], image_size: Optional[Size]) -> Optional[bool]:
    """The evidence for the latest output on the positions of this shape; a block keeps the layout of its input."""
    last = seen[-1] if seen else None
    if last is not None and last.shape == shape and last.moved is not None and _is_elementwise(last.module):
        place = len(seen) - 1 if last.entered is None else last.entered
        before = channels_are_last(seen[place - 1].shape, None, seen[:place], image_size)
        given = None if before is None else _permuted(Evidence(before), last.moved)
        if given is not None:
            return given.channels_last
    was_ahead = False
    for number, evidence in _alike(shape, seen, evidence_in(seen)):
        trace = seen[number]
        is_block = bool(trace.module._modules) and len(trace.given) > 0 and len(trace.given[0]) == len(shape)
        if evidence is None and is_block and not was_ahead:
            was_ahead = True
            start = Trace(trace.given[0], _GIVEN, trace.given[:1], trace.moved)
            ahead = [*seen[: number if trace.entered is None else trace.entered], start]
            found = channels_are_last(start.shape, None, ahead, image_size)
            if found is not None:
                return found
        if evidence is None or not evidence.is_certain:
            aspect = _by_aspect(trace.shape, image_size)
            evidence = evidence if aspect is None else Evidence(aspect)
        if evidence is not None:
            positions = slice(1, -1) if evidence.channels_last else slice(2, None)
            if trace.shape[positions] == shape[positions]:
                return evidence.channels_last
    return None


def _alike(
    shape: Shape, seen: Sequence[Trace], clues: Sequence[Optional[Evidence]]
) -> Iterator[tuple[int, Optional[Evidence]]]:
    """Places and evidence of the outputs of the same batch with the same number of axes, the latest first."""
    for number in reversed(range(len(seen))):
        trace = seen[number]
        if len(trace.shape) == len(shape) and trace.shape[0] == shape[0]:
            yield number, clues[number]


def has_aspect(size: Size, image_size: Size) -> bool:
    """Whether (h, w) is the image divided by one stride, rounding of either side allowed."""
    (h, w), (height, width) = size, image_size
    return abs(h * width - w * height) < max(height, width)


def _by_aspect(shape: Shape, image_size: Optional[Size]) -> Optional[bool]:
    if image_size is None or len(shape) != 4:
        return None
    _, a, b, c = shape
    first, last = has_aspect((b, c), image_size), has_aspect((a, b), image_size)
    return last if first != last else None
