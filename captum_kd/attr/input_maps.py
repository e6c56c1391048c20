"""Maps of the same inputs for several layers and pairs of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.validation import check_dense, check_mapping, short_repr

__all__ = ["InputMaps"]

Pair = tuple[str, str]
MAPS = "a mapping {layer: {(Student, Base): {title: map}}}"


@dataclass(frozen=True)
class InputMaps:
    """Maps of the same images or texts for several layers and pairs of Student and Base.

    ``report.to_html(path, maps=...)`` shows them.

    Attributes:
        maps (dict): {layer: {(Student, Base): {title: map}}}. Maps are (N, 1, h, w) of images and (N, 1, T) of texts, signed, of
            any resolution. Titles may differ between pairs.
        images (Tensor, optional): (N, 1 or 3, H, W), between 0 and 1. Either images or tokens are needed.
        tokens (list of list of str, optional): the N texts.
        token_mask (Tensor, optional): (N, T), True at the tokens that are no padding.
        labels (Tensor, optional): (N,) integers.
        class_names (list of str, optional): the name of each label.
        predictions (dict): {model: (N,) predicted classes}.
        masks (Tensor, optional): (N, H, W), True on the object.
        same_scale (list of list of str): groups of titles whose maps have one unit, and so share one color scale. Every other
            map has a scale of its own.
        units (dict, optional): {title: unit} of maps that have one, "gain of J per position" for integrated maps.
        indices (Tensor, optional): (N,) the inputs' places in the report's data, which connect a map with ``report.inputs``.

    Raises:
        TypeError: an attribute of the wrong type.
        ValueError: neither images nor tokens, both of them, no map, or parts of different lengths.

    Example::

        >>> transfer = unicam.attribute_transfer(images, labels, n_steps=16)
        >>> maps = InputMaps({"layer4": {("kd", "base"): {"net": transfer.net, "distilled": transfer.distilled}}}, images,
        ...                  same_scale=[["net", "distilled"]])
        >>> report.to_html("transfer.html", maps=maps)
    """

    maps: Mapping[str, Mapping[Pair, Mapping[str, Tensor]]]
    images: Optional[Tensor] = None
    tokens: Optional[Sequence[Sequence[str]]] = None
    token_mask: Optional[Tensor] = None
    labels: Optional[Tensor] = None
    class_names: Optional[Sequence[str]] = None
    predictions: Optional[Mapping[str, Tensor]] = None
    masks: Optional[Tensor] = None
    same_scale: Sequence[Sequence[str]] = ()
    units: Optional[Mapping[str, str]] = None
    indices: Optional[Tensor] = None

    def __post_init__(self) -> None:
        check_mapping(self.maps, "maps", MAPS)
        if (self.images is None) == (self.tokens is None):
            raise ValueError("InputMaps needs images or tokens, and not both.")
        if self.images is not None:
            _check(self.images, "images", None, (4,))
            if self.images.shape[1] not in (1, 3) or not self.images.is_floating_point():
                raise ValueError(f"images must be floating point (N, 1 or 3, H, W), got {short_repr(self.images)}.")
        elif not _is_list_of_texts(self.tokens, depth=2):
            raise TypeError(f"tokens must be a list of lists of str, one for each text, got {short_repr(self.tokens)}.")
        n, titles = len(self), set()
        for layer, pairs in self.maps.items():
            check_mapping(pairs, f"maps[{short_repr(layer)}]", MAPS)
            for pair, maps in pairs.items():
                name = f"maps[{short_repr(layer)}][{short_repr(pair)}]"
                if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(each, str) for each in (layer, *pair)):
                    raise TypeError(f"maps must have names of layers and pairs of names (Student, Base) as keys, got {name}.")
                check_mapping(maps, name, MAPS)
                for title, values in maps.items():
                    _check(values, f"{name}[{short_repr(title)}]", n, (3,) if self.images is None else (4,))
                    titles.add(title)
        if n == 0 or not titles:
            raise ValueError("maps must hold at least one map of at least one input.")
        for argument, ranks in (("labels", (1,)), ("indices", (1,)), ("masks", (3, 4)), ("token_mask", (2,))):
            if getattr(self, argument) is not None:
                _check(getattr(self, argument), argument, n, ranks, integers=len(ranks) == 1 and ranks[0] == 1)
        if self.predictions is not None:
            check_mapping(self.predictions, "predictions", "a mapping {model: (N,) classes}")
            for model, classes in self.predictions.items():
                _check(classes, f"predictions[{short_repr(model)}]", n, (1,), integers=True)
        if self.units is not None:
            check_mapping(self.units, "units", "a mapping {title: unit}")
            if not _is_list_of_texts([*self.units, *self.units.values()]):
                raise TypeError(f"units must map titles to units, both str, got {short_repr(self.units)}.")
        if self.class_names is not None and not _is_list_of_texts(self.class_names):
            raise TypeError(f"class_names must be a list of str, got {short_repr(self.class_names)}.")
        if not isinstance(self.same_scale, (list, tuple)) or not all(_is_list_of_texts(group) for group in self.same_scale):
            raise TypeError(f"same_scale must be a list of lists of titles, got {short_repr(self.same_scale)}.")
        grouped = [title for group in self.same_scale for title in group]
        if len(set(grouped)) < len(grouped):
            raise ValueError(f"same_scale must hold each title once, got {short_repr(self.same_scale)}.")

    def __len__(self) -> int:
        return len(self.tokens if self.images is None else self.images)  # type: ignore[arg-type]


def _check(values: Any, name: str, n: Optional[int], ranks: tuple[int, ...], integers: bool = False) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {short_repr(values)}.")
    check_dense(values, name)
    if values.dim() not in ranks or (n is not None and len(values) != n):
        raise ValueError(
            f"{name} must have {' or '.join(map(str, ranks))} dimensions{'' if n is None else f' and {n} rows'}, got shape "
            f"{tuple(values.shape)}."
        )
    if integers and (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool):
        raise TypeError(f"{name} must hold integers, got {short_repr(values)}.")
    if values.is_complex() or (values.is_floating_point() and not bool(torch.isfinite(values).all())):
        raise ValueError(f"{name} must hold finite real numbers, got {short_repr(values)}.")


def _is_list_of_texts(value: Any, depth: int = 1) -> bool:
    if depth == 0:
        return isinstance(value, str)
    return isinstance(value, (list, tuple)) and all(_is_list_of_texts(each, depth - 1) for each in value)
