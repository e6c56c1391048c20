"""Which axis of a layer's output holds the channels, told by the modules inside the layer and ahead of it.

1. Convolutions, batch norms and pooling have their channels in front, a permuting module says where it puts them, and a norm
   whose weight fits the axis behind the batch alone works on that one. What has the shape of such an output, or that shape
   with the channels moved, has its channels there. The latest such output counts.
2. Linear layers, norms over the last axis, attention and recurrent layers work on the last axis, which mostly holds the
   channels. But some work on positions: where a linear layer or norm is given the very tensor that a module of rule 1 gave,
   that one speaks for it; otherwise rule 1 goes first, and for three axes nothing is told where the two differ. Nothing is told
   either where the first tokens of a model had the axes the other way round.
3. Activations, dropout and other modules tell nothing.

What is known of a tensor is also known of its views: a function or a module that permutes axes without a copy is followed.

Where the channels may be moved without a change of shape, the latest output on the same positions counts. A block keeps the
layout of what it is given, whatever it permutes inside, unless it gives the very tensor that its last module gave.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Sequence

from torch import nn

__all__ = [
    "Shape", "Size", "Trace", "Word", "channels_are_last", "has_aspect", "is_ambiguous", "own_word", "word_of", "words_of",
]  # fmt: skip

Shape = tuple[int, ...]
Size = tuple[int, int]

_NAMES = (
    "Conv", "ConvTranspose", "BatchNorm", "InstanceNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool",
)  # fmt: skip
_ANY_RANK = (nn.GroupNorm, nn.SyncBatchNorm, nn.Upsample)
_CHANNELS_FIRST: dict[int, tuple[type[nn.Module], ...]] = {
    rank: (*_ANY_RANK, *others, *(getattr(nn, f"{name}{rank - 2}d") for name in _NAMES))
    for rank, others in ((3, (nn.Unfold,)), (4, (nn.Unfold, nn.Fold, nn.PixelShuffle, nn.PixelUnshuffle)), (5, ()))
}
_ELEMENTWISE = ("torch.nn.modules.activation", "torch.nn.modules.dropout")
_GIVEN = nn.Identity()  # stands for what a block is given
_LAST_AXIS = (nn.Linear, nn.MultiheadAttention, nn.RNNBase, nn.Embedding)
# What a permutation leaves channels last (True) or first (False).
_PERMUTATIONS = {(0, 2, 3, 1): True, (0, 3, 1, 2): False, (0, 2, 3, 4, 1): True, (0, 4, 1, 2, 3): False}


class Trace(NamedTuple):
    """An output of three to five axes seen during a forward pass."""

    shape: Shape
    module: nn.Module
    """That gave it."""
    given: tuple[Shape, ...] = ()
    """Shapes of the tensors that the module was given."""
    moved: Optional[Shape] = None
    """How the axes of the output before its module began were permuted into what that was given, where it is the same memory."""
    order: Optional[Shape] = None
    """How it permuted the axes of what it was given, where its output is the same memory."""
    returns: bool = False
    """Whether it gave the very tensor of the output before this one, as a sequence of modules gives what its last one gave."""
    entered: Optional[int] = None
    """How many outputs there were when its module began; None: all those before this one."""
    ahead_of: Optional[nn.Module] = None
    """The layer that this is the input of, where it stands for what that one was given."""

    @property
    def keeps_shape(self) -> bool:
        """Whether the module was given a tensor of that same shape, as blocks and stages are."""
        return self.shape in self.given


class Word(NamedTuple):
    """What a module says about the tensor that it gave."""

    channels_last: bool
    is_certain: bool = True

    def moved(self, shape: Shape) -> tuple[Shape, Shape]:
        """The shape without its batch, with the channels first and with the channels last."""
        channels, positions = (shape[-1:], shape[1:-1]) if self.channels_last else (shape[1:2], shape[2:])
        return channels + positions, positions + channels


def word_of(trace: Trace) -> Optional[Word]:
    """What the module that gave an output says about it, by its type and weights; None: nothing."""
    module, shape = trace.module, trace.shape
    if isinstance(module, _CHANNELS_FIRST[len(shape)]):
        return Word(False)
    dims = getattr(module, "dims", None)
    if isinstance(dims, (list, tuple)) and tuple(dims) in _PERMUTATIONS:
        return Word(_PERMUTATIONS[tuple(dims)])
    if isinstance(module, nn.Flatten) and len(shape) == 3 and module.start_dim in (1, 2):
        return Word(module.start_dim == 1)
    if isinstance(module, _LAST_AXIS):
        return Word(True, is_certain=False)
    return _word_of_norm(module, shape)


def _word_of_norm(module: nn.Module, shape: Shape) -> Optional[Word]:
    """Of a module whose own weights lie along one axis."""
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
        return Word(True, is_certain=False)
    return Word(False) if fits_first and not fits_last else None


def words_of(seen: Sequence[Trace]) -> list[Optional[Word]]:
    """What is said about each of the outputs, by the module that gave it or by the one whose tensor it was given."""
    words: list[Optional[Word]] = []
    for number, trace in enumerate(seen):
        word = word_of(trace)
        place = number if trace.entered is None or trace.returns else trace.entered
        before = words[place - 1] if place > 0 and len(seen[place - 1].shape) == len(trace.shape) else None
        if before is not None and not trace.returns:
            before = None if trace.moved is None else _permuted(before, trace.moved)
            order = trace.order or tuple(getattr(trace.module, "dims", None) or ())
            keeps = word is not None or _is_elementwise(trace.module)
            if before is not None and sorted(order) == list(range(len(trace.shape))):
                before = _permuted(before, order)
                word = before or word
            elif not keeps:
                before = None
        if before is not None and (word is None or (before.is_certain and not word.is_certain)):
            word = before
        words.append(word)
    return words


def _is_elementwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or type(module).__module__ in _ELEMENTWISE


def _permuted(word: Word, order: Shape) -> Optional[Word]:
    """What is said about a tensor once its axes were permuted; None where the channels came to lie in the middle."""
    last = len(order) - 1
    place = order.index(last if word.channels_last else 1)
    return word._replace(channels_last=place == last) if place in (1, last) else None


def own_word(module: nn.Module, shape: Shape, at_input: bool, seen: Sequence[Trace]) -> Optional[Word]:
    """What a layer says about its own output or, at the input, about what it was given; None also where its trace says it."""
    word = word_of(Trace(shape, module))
    if word is None or (word.is_certain and not at_input):
        return word
    if at_input and seen and words_of(seen)[-1] is not None:
        return None
    if at_input and word.is_certain:
        # What is certain is so of both sides, except that a permutation leaves what it was not given.
        permutes = isinstance(getattr(module, "dims", None), (list, tuple))
        return Word(not word.channels_last) if permutes else word
    if at_input:
        return word
    is_traced = len(seen) > 0 and seen[-1].shape == shape and type(seen[-1].module) is type(module)
    return None if is_traced else word


def channels_are_last(
    shape: Shape, own: Optional[Word], seen: Sequence[Trace], image_size: Optional[Size] = None
) -> Optional[bool]:
    """Where a tensor's channels are: True for the last axis, False for the one behind the batch, None where nothing tells.

    Args:
        shape (tuple): (N, ...) of the tensor, three to five axes.
        own (Word or None): of the layer itself.
        seen (sequence of Trace): outputs inside the layer and ahead of it.
        image_size (tuple, optional): (H, W) of the model's input, whose aspect tells where no module does.
    """
    if own is not None and own.is_certain:
        return own.channels_last
    aspect = _by_aspect(shape, image_size)
    first, last = Word(False).moved(shape)[1], shape[1:]
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
    """Whether nothing tells the channels of a tensor from its positions, although some outputs have these first, others last.

    So it is with as many channels as positions along each axis, where a function gave the tensor that the layer was given: it
    may have moved the axes.
    """
    if not seen or seen[-1].shape != shape or len(set(shape[1:])) > 1:
        return False
    words, last = words_of(seen), seen[-1]
    is_turned = len(shape) == 3 and words[-1] == Word(False, is_certain=False)  # away from a linear layer's last axis
    if not is_turned and (last.module._modules or last.moved or last.returns or words[-1] is not None):
        return False
    kinds = {word.channels_last for trace, word in zip(seen, words) if word is not None and trace.shape == shape}
    return is_turned or len(kinds) > 1


def _by_modules(shape: Shape, own: Optional[Word], seen: Sequence[Trace]) -> tuple[Optional[bool], bool]:
    """Where the channels are by rules 1 and 2, and whether that is certain."""
    is_weak, wanted, found, words = own is not None, {shape[1:]}, None, words_of(seen)
    for number, word in _alike(shape, seen, words):
        trace = seen[number]
        if word is None:
            continue
        if not word.is_certain:
            if word.channels_last and trace.shape[1:] in wanted:
                if len(shape) == 3 and _is_exchanged(trace, seen, words):
                    return None, False
                # What works on the last axis leaves the others where they were.
                is_weak = True
                wanted.update(given[1:] for given in trace.given[:1] if len(given) == len(shape))
            continue
        as_first, as_last = (moved in wanted for moved in word.moved(trace.shape))
        if found is None and as_first != as_last:
            found = as_last
            if as_last or len(shape) > 3:
                break
    if found is None:
        return (True if is_weak else None), False
    return (None, False) if is_weak and not found and len(shape) == 3 else (found, True)


def _by_positions(shape: Shape, seen: Sequence[Trace]) -> Optional[bool]:
    """What is certain about outputs on the same positions that have other channels, as of branches that are joined."""
    alike = _alike(shape, seen, words_of(seen))
    certain = [(seen[number].shape, word) for number, word in alike if word is not None and word.is_certain]
    as_first = any(not word.channels_last and other[2:] == shape[2:] for other, word in certain)
    as_last = any(word.channels_last and other[1:-1] == shape[1:-1] for other, word in certain)
    return as_last if as_first != as_last else None


def _is_exchanged(trace: Trace, seen: Sequence[Trace], words: Sequence[Optional[Word]]) -> bool:
    """Whether a linear layer or norm was given tokens whose last axis is the positions, as in an MLP-Mixer: the first
    outputs of either shape were tokens with the axes the other way round."""
    if not trace.given or len(trace.given[0]) != 3 or trace.given[0][1] == trace.given[0][2]:
        return False
    n, a, b = trace.given[0]
    for each, word in zip(seen, words):
        if each.shape in ((n, a, b), (n, b, a)):
            return each.shape == (n, b, a) and word is not None and word.channels_last
    return False


def _latest_on_positions(shape: Shape, seen: Sequence[Trace], image_size: Optional[Size]) -> Optional[bool]:
    """What the latest output on the positions of this shape says; a block keeps the layout of what it was given."""
    last = seen[-1] if seen else None
    if last is not None and last.shape == shape and last.moved is not None and _is_elementwise(last.module):
        place = len(seen) - 1 if last.entered is None else last.entered
        before = channels_are_last(seen[place - 1].shape, None, seen[:place], image_size)
        given = None if before is None else _permuted(Word(before), last.moved)
        if given is not None:
            return given.channels_last
    was_ahead = False
    for number, word in _alike(shape, seen, words_of(seen)):
        trace = seen[number]
        is_block = bool(trace.module._modules) and len(trace.given) > 0 and len(trace.given[0]) == len(shape)
        if word is None and is_block and not was_ahead:
            was_ahead = True
            start = Trace(trace.given[0], _GIVEN, trace.given[:1], trace.moved)
            ahead = [*seen[: number if trace.entered is None else trace.entered], start]
            found = channels_are_last(start.shape, None, ahead, image_size)
            if found is not None:
                return found
        if word is None or not word.is_certain:
            aspect = _by_aspect(trace.shape, image_size)
            word = word if aspect is None else Word(aspect)
        if word is not None:
            positions = slice(1, -1) if word.channels_last else slice(2, None)
            if trace.shape[positions] == shape[positions]:
                return word.channels_last
    return None


def _alike(
    shape: Shape, seen: Sequence[Trace], words: Sequence[Optional[Word]]
) -> Iterator[tuple[int, Optional[Word]]]:
    """The places of outputs of the same batch with as many axes and what is said about them, the latest first."""
    for number in reversed(range(len(seen))):
        trace = seen[number]
        if len(trace.shape) == len(shape) and trace.shape[0] == shape[0]:
            yield number, words[number]


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
