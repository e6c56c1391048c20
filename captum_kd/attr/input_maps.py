"""Maps of the same inputs for several layers and pairs of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._utils.validation import check_mapping, short_repr

__all__ = ["InputMaps"]

Pair = tuple[str, str]


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
    indices: Optional[Tensor] = None

    def __post_init__(self) -> None:
        check_mapping(self.maps, "maps", "a mapping {layer: {(Student, Base): {title: map}}}")
        if (self.images is None) == (self.tokens is None):
            raise ValueError("InputMaps needs images or tokens, and not both.")
        if self.images is not None and (not isinstance(self.images, Tensor) or self.images.dim() != 4):
            raise ValueError(f"images must have shape (N, 1 or 3, H, W), got {short_repr(self.images)}.")
        n = len(self)
        if n == 0 or not any(maps for pairs in self.maps.values() for maps in pairs.values()):
            raise ValueError("InputMaps needs at least one input and one map.")
        for layer, pairs in self.maps.items():
            for pair, maps in pairs.items():
                if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
                    raise TypeError(f"maps[{layer!r}] must have pairs of names (Student, Base) as keys, got {short_repr(pair)}.")
                for title, values in maps.items():
                    self._check(f"maps[{layer!r}][{pair!r}][{title!r}]", values, n, (3,) if self.images is None else (4,))
        for name in ("labels", "indices", "masks", "token_mask"):
            if getattr(self, name) is not None:
                self._check(name, getattr(self, name), n, {"masks": (3, 4), "token_mask": (2,)}.get(name, (1,)))
        for model, classes in (self.predictions or {}).items():
            self._check(f"predictions[{model!r}]", classes, n, (1,))

    @staticmethod
    def _check(name: str, values: Any, n: int, ranks: tuple[int, ...]) -> None:
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must be a tensor, got {short_repr(values)}.")
        if values.dim() not in ranks or len(values) != n:
            raise ValueError(
                f"{name} must have {' or '.join(map(str, ranks))} dimensions and one entry for each of the {n} inputs, got shape "
                f"{tuple(values.shape)}."
            )
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} has values that are not finite.")

    def __len__(self) -> int:
        return len(self.tokens if self.images is None else self.images)  # type: ignore[arg-type]
