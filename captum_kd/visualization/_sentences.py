"""Sentences as words with the values of their maps: what the figure, the page and Captum's records of text show."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
from torch import Tensor

from captum_kd._utils.inputs import as_token_mask
from captum_kd._utils.maps import as_maps
from captum_kd._utils.validation import check_bool, check_choice, short_repr
from captum_kd.attr import TransferAttributions
from captum_kd.visualization._panels import Array, scale_tops
from captum_kd.visualization._words import Word, find_mark, is_padding, join_pieces
from captum_kd.visualization.transfer import checked_groups, checked_units, columns_of

SCALES = ("map", "name", "shared")

UNIT = "gain of J per word"
"""Unit of integrated maps whose pieces are added up."""

Maps = Union[Mapping[str, Tensor], TransferAttributions]


class Sentences(NamedTuple):
    """N sentences, each with the same kinds of maps."""

    tokens: Sequence[Sequence[str]]
    words: list[list[Word]]
    maps: dict[str, Array]
    """Name -> (N, T) float64, 0 at padding."""
    tops: dict[str, list[float]]
    """Name -> the value with the strongest color, for each sentence."""
    groups: Optional[list[list[str]]]
    """Names that share a scale; None if each map has its own."""
    units: Mapping[str, str]

    def values(self, name: str, sentence: int) -> list[float]:
        """The value of each word, the sum of its pieces."""
        row = self.maps[name][sentence]
        return [float(row[list(word.positions)].sum()) for word in self.words[sentence]]

    def sums(self, name: str, sentence: int) -> Optional[str]:
        """The sum of a map that has a unit, and the part of it that is shown."""
        if name not in self.units:
            return None
        whole, shown = float(self.maps[name][sentence].sum()), sum(self.values(name, sentence))
        texts = signed(whole), signed(shown)
        return f"sum {texts[0]}" if texts[0] == texts[1] else f"sum {texts[0]}, shown {texts[1]}"

    def scales(self) -> list[tuple[str, Optional[float]]]:
        """The legend: a text for each scale, and its end, or None if each map has its own."""
        groups = [list(self.maps)] if self.groups is None else [group for group in self.groups if group]
        legend = []
        for group in groups:
            units = list(dict.fromkeys(self.units[name] for name in group if name in self.units))
            names = "all maps" if len(group) == len(self.maps) > 1 else ", ".join(group)
            legend.append((": ".join([names, *units[:1]]), None if self.groups is None else self.tops[group[0]][0]))
        return legend


def signed(value: float) -> str:
    return f"{value:+.2g}" if value else "0"


def read_sentences(tokens: Any, maps: Any, token_mask: Any, scale: Any, units: Any, special_tokens: Any) -> Sentences:
    """The checked arguments of ``visualize_tokens`` and ``token_records``."""
    has_net = isinstance(maps, TransferAttributions) and maps.has_net
    has_unit = isinstance(maps, TransferAttributions) and maps.has_unit
    given: Any = columns_of(maps) if isinstance(maps, TransferAttributions) else maps
    scale = ("shared" if has_net else "name") if scale is None else scale
    if isinstance(scale, str):
        check_choice(scale, "scale", SCALES)
    special_tokens = check_bool(special_tokens, "special_tokens")
    _check_tokens(tokens)
    if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) for name in given):
        raise TypeError(
            "maps must map names to tensors (N, 1, T), as in {'net': maps.net}, or be the result of attribute_transfer for "
            f"one layer, got {short_repr(maps)}."
        )
    arrays: dict[str, Array] = {}
    for name, values in given.items():
        checked = as_maps(values, f"maps[{name!r}]", len(tokens), is_text=True)
        arrays[name] = checked[:, 0].cpu().double().numpy().copy()
    _check_lengths(tokens, arrays)
    length = next(iter(arrays.values())).shape[1]
    kept = _as_mask(token_mask, tokens, length)
    beyond = np.arange(length) >= np.array([[len(sentence)] for sentence in tokens])
    for name, values in arrays.items():
        values[~kept] = 0.0
        if values[beyond].any():
            sentence = int((values * beyond).any(1).nonzero()[0][0])
            raise ValueError(
                f"tokens[{sentence}] has {len(tokens[sentence])} tokens, but maps[{name!r}] is not 0 at later positions. Pass "
                "all tokens that the model got, in its order, special tokens too: "
                "tokenizer.convert_ids_to_tokens(input_ids[i]). If these positions are padding, pass token_mask (N, T), "
                "False there."
            )
    mark = find_mark(tokens)
    words = []
    for sentence, row in zip(tokens, kept):
        drawn = [place for place, token in enumerate(sentence) if row[place] and not is_padding(token)]
        joined = join_pieces(sentence, drawn, mark)
        words.append([word for word in joined if special_tokens or not word.is_special])
    titles = list(arrays)
    groups = checked_groups("column" if isinstance(scale, str) and scale == "name" else scale, titles)
    sentences = Sentences(tokens, words, arrays, {}, groups, checked_units(units, titles, UNIT if has_unit else None))
    most = max(1, *(len(each) for each in words))
    panels = {name: np.zeros((len(tokens), most)) for name in titles}
    for name, panel in panels.items():
        for i in range(len(tokens)):
            panel[i, : len(words[i])] = sentences.values(name, i)
    return sentences._replace(tops=scale_tops(panels, groups, "all", 0.0))


def _check_tokens(tokens: Any) -> None:
    way = "pass a list of lists of texts, [tokenizer.convert_ids_to_tokens(ids) for ids in input_ids]"
    if isinstance(tokens, str) or not isinstance(tokens, (list, tuple)) or not tokens:
        raise TypeError(f"tokens must be one list of tokens for each sentence, got {short_repr(tokens)}; {way}.")
    for i, sentence in enumerate(tokens):
        if not isinstance(sentence, (list, tuple)) or not all(isinstance(token, str) for token in sentence):
            raise TypeError(f"tokens[{i}] must be a list of tokens (str), got {short_repr(sentence)}; {way}.")


def _check_lengths(tokens: Sequence[Sequence[str]], maps: Mapping[str, Array]) -> None:
    lengths = {name: values.shape[1] for name, values in maps.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"All maps must have as many positions as the sentences have tokens, got {lengths}. Maps of another tokenizer's "
            "tokens need their own figure."
        )
    length = next(iter(lengths.values()))
    for i, sentence in enumerate(tokens):
        if len(sentence) > length:
            raise ValueError(
                f"tokens[{i}] has {len(sentence)} tokens, but the maps have {length} positions. Pass the tokens of the ids "
                "that the model got: tokenizer.convert_ids_to_tokens(input_ids[i])."
            )


def _as_mask(token_mask: Any, tokens: Sequence[Sequence[str]], length: int) -> Array:
    if token_mask is None:
        return np.ones((len(tokens), length), dtype=bool)
    mask = as_token_mask(token_mask, len(tokens), "token_mask")
    if mask.shape[1] != length:
        raise ValueError(f"token_mask has {mask.shape[1]} tokens, but the maps have {length} positions; both must be equal.")
    array: Array = mask.cpu().numpy()
    return array
