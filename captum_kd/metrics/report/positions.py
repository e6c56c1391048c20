"""Token positions as the inputs of a report: their features, and a random sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.inputs import ModelInputs, find_ids
from captum_kd._utils.validation import check_int
from captum_kd.distance.centering import LEAST_WITH_REMOVAL
from captum_kd.distance.precision import widest
from captum_kd.distance.sources import TensorFeatures

SAME_TOKENS = (
    "TokenPositions compares the models position by position, so all models need the same tokens. Pass the same inputs to all "
    "models; for models with tokenizers of their own leave out positions=, which compares whole sentences."
)
ONE_TENSOR = "TokenPositions needs layers that give one tensor of tokens, (N, T, C); choose a module that returns nothing else"
# Copies of an input differ by rounding, by at most this share of the features' spread. It is half-precision's.
_COPY = 1e-3


@dataclass(frozen=True)
class TokenPositions:
    """Take every token position of every sentence as one input of a report.

    The features of a position are the layer's channels there. The token mask leaves out padding, and tokens of the key
    ``special_tokens_mask``. With labels (N, T), as in token classification, negative labels leave out a position. All models get
    the same tokens, so that the same position of each is compared.

    Args:
        limit (int, optional): The most positions. Of more, a random sample is scored: every position of the data is as likely to
                    be in it as any other, and it depends neither on the batches nor on padding.
        seed (int, optional): Seed of the sample.

    Raises:
        ValueError: a limit below 5, a negative seed, numbers that are not integers.

    Example::

        >>> options = ModelOptions(positions=TokenPositions(limit=2000))
        >>> report = compare_transfer(
        ...     student, base, ["transformer.h.5"], loader, teacher=teacher, model_options=options,
        ...     comparisons=Comparisons(labels=False))
    """

    limit: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        check_int(self.limit, "limit of TokenPositions", LEAST_WITH_REMOVAL)
        check_int(self.seed, "seed of TokenPositions")


def token_rows(activations: Tensor) -> Tensor:
    """The channels of all tokens (N, C, T), one token after the other, and at the end their number: (N, T * C + 1).

    The last column shows where the tokens of one tensor end.
    """
    if activations.dim() != 3:
        raise ValueError(f"{ONE_TENSOR}. Got a tensor that is (N, C, ...) = {tuple(activations.shape)}.")
    rows = activations.transpose(1, 2).flatten(1)
    return torch.cat([rows, rows.new_full((len(rows), 1), activations.shape[1])], dim=1)


def tokens_of(rows: Tensor, where: str, tokens: Optional[int] = None) -> Tensor:
    """The channels (N, T, C) from :func:`token_rows` of a layer.

    Raises:
        ValueError: a layer with several tensors, or with another number of tokens.
    """
    channels = int(rows[0, -1])
    found, rest = divmod(rows.shape[1] - 1, channels)
    if rest:
        raise ValueError(f"{ONE_TENSOR}. {where} gives several tensors.")
    if tokens not in (None, found):
        raise ValueError(f"{where} gives {found} tokens, but there are {tokens} in each input. {SAME_TOKENS}")
    return rows[:, :-1].reshape(len(rows), found, channels)


def check_same_tokens(first: ModelInputs, other: ModelInputs, model: str) -> None:
    """Raises a ValueError if a model gets other tokens than the first one."""
    if other is first:
        return
    masks = [inputs.token_mask for inputs in (first, other)]
    places = find_ids(first), find_ids(other)
    ids = [None if place is None else inputs[place] for inputs, place in zip((first, other), places)]
    for one, two in (masks, ids):
        if (one is None) != (two is None) or one is not None and two is not None and one.shape != two.shape:
            shapes = [None if each is None else tuple(each.shape) for each in (one, two)]
            raise ValueError(f"The tokens of {model} are {shapes[1]}, those of the first Student {shapes[0]}. {SAME_TOKENS}")
    if masks[0] is not None and masks[1] is not None and not torch.equal(masks[0], masks[1].to(masks[0].device)):
        raise ValueError(f"{model} has another token mask than the first Student. {SAME_TOKENS}")
    if ids[0] is not None and ids[1] is not None:
        differs = ids[0] != ids[1].to(ids[0].device)
        if bool((differs if masks[0] is None else differs & masks[0]).any()):
            raise ValueError(f"{model} has other token ids than the first Student. {SAME_TOKENS}")


class Positions(NamedTuple):
    """A sample of token positions, in the order of the data.

    Attributes:
        features (dict): the features (n, d) of each layer, by the set's key.
        labels (Tensor, optional): (n,).
        sentences (Tensor): (n,), the place of each position's sentence in the data.
    """

    features: dict[str, list[TensorFeatures]]
    labels: Optional[Tensor]
    sentences: Tensor


class PositionSample:
    """Draws a uniform random sample of token positions in one pass over the data.

    Every position draws a number from the seed, in the order of the data. Those with the smallest numbers are the sample.

    Attributes:
        seen (int): the number of positions so far.
        sentences (int): the number of sentences so far.
    """

    def __init__(self, options: TokenPositions, device: torch.device) -> None:
        self.seen = self.sentences = 0
        self._device = device
        self._draw = torch.Generator().manual_seed(options.seed)
        self._bound = float("inf")
        self._features: dict[tuple[str, int], list[Tensor]] = {}
        self._columns: dict[str, list[Tensor]] = {"key": [], "sentence": [], "label": []}
        self._options = options

    def add(self, features: Mapping[str, Sequence[Tensor]], mask: Tensor, labels: Optional[Tensor]) -> None:
        """Adds the features (N, T, C) of each layer of a batch, by the set's key, at the positions of a mask (N, T).

        Raises:
            ValueError: labels of another shape than the mask.
        """
        if labels is not None and labels.shape != mask.shape:
            raise ValueError(f"labels are {tuple(labels.shape)}, but the tokens {tuple(mask.shape)}; pass one for each token.")
        mask = mask.cpu() if labels is None else mask.cpu() & (labels >= 0)
        rows, columns = mask.nonzero().unbind(1)
        keys = torch.rand(len(rows), dtype=torch.float64, generator=self._draw)
        is_drawn = keys < self._bound
        rows, columns, keys = rows[is_drawn], columns[is_drawn], keys[is_drawn]
        self._columns["key"].append(keys)
        self._columns["sentence"].append(self.sentences + rows)
        if labels is not None:
            self._columns["label"].append(labels[rows, columns])
        for key, of_layers in features.items():
            for place, values in enumerate(of_layers):
                drawn = values[rows.to(values.device), columns.to(values.device)]
                self._features.setdefault((key, place), []).append(drawn.to(self._device))
        self.seen += len(is_drawn)
        self.sentences += len(mask)
        if sum(map(len, self._columns["key"])) > 2 * self._options.limit:
            self._shrink()

    def drawn(self) -> Positions:
        """The sample.

        Raises:
            ValueError: no positions.
        """
        if self.seen == 0:
            raise ValueError("data have no token positions: all labels are negative.")
        self._shrink()
        features: dict[str, list[TensorFeatures]] = {}
        for (key, _), (values,) in self._features.items():
            features.setdefault(key, []).append(TensorFeatures(values))
        labels = self._columns["label"]
        return Positions(features, labels[0] if labels else None, self._columns["sentence"][0])

    def recorded(self) -> dict[str, Any]:
        """The sample's size, that of the data, and the number of copies at each layer of the first Student."""
        (sentences,) = self._columns["sentence"] or [torch.empty(0)]
        first = next(iter(self._features), ("", 0))[0]
        return {
            "limit": self._options.limit,
            "seed": self._options.seed,
            "scored": len(sentences),
            "of": self.seen,
            "sentences": len(sentences.unique()),
            "of_sentences": self.sentences,
            "copies": [copies(values) for (key, _), (values,) in self._features.items() if key == first],
        }

    def _shrink(self) -> None:
        """Keeps the positions with the smallest numbers."""
        keys = torch.cat(self._columns["key"])
        kept = keys.argsort()[: self._options.limit].sort().values
        if len(kept) == self._options.limit:
            self._bound = float(keys[kept].max())
        for pieces in (*self._columns.values(), *self._features.values()):
            if pieces:
                pieces[:] = [torch.cat(pieces)[kept.to(pieces[0].device)]]


def copies(features: Tensor) -> int:
    """The number of rows (n, d) that equal another one up to rounding.

    Equal rows have equal projections on a random direction, so they are neighbors in their order.
    """
    values = features.to(widest(features.device))
    values = values - values.mean(0)
    spread = values.norm(dim=1).mean()
    direction = torch.randn(values.shape[1], generator=torch.Generator().manual_seed(0)).to(values)
    order = (values @ direction).argsort()
    is_near = (values[order[1:]] - values[order[:-1]]).norm(dim=1) <= _COPY * spread
    is_copy = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    is_copy[order[1:][is_near]] = True
    is_copy[order[:-1][is_near]] = True
    return int(is_copy.sum())
