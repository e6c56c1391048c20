r"""The sides of scores of classes: remainders that are the same for all classes."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.distance.gram import remainder
from captum_kd.metrics.inference.gram_matrices import LEFT_OUT_SHARE, Products, Side

__all__ = ["OneSide", "Sides"]


class OneSide(NamedTuple):
    """A remainder as a combination of a few geometries, over all inputs (scalars) or without each input (n,).

    Attributes:
        terms (list of (int, Tensor)): index of a geometry in the products, and its coefficient.
        square (Tensor): the squared norm.
        defined (Tensor): True if that norm is more than rounding.
    """

    terms: list[tuple[int, Tensor]]
    square: Tensor
    defined: Tensor


class Sides:
    """Finds remainders, each of them once, since a report has many classes.

    Args:
        products (Products): products with leave-one-out values.
    """

    def __init__(self, products: Products) -> None:
        self.products = products
        self._known: dict[tuple[Side, bool], OneSide] = {}

    @cached_property
    def rows(self) -> Tensor:
        """(n, k, k) inner products within each input's row."""
        return self.products.rows()

    def of(self, side: Side, left_out: bool) -> OneSide:
        """A side over all inputs, or with each input left out."""
        if (side, left_out) not in self._known:
            self._known[side, left_out] = self._found(side, left_out)
        return self._known[side, left_out]

    def _found(self, side: Side, left_out: bool) -> OneSide:
        full, noise = self.products.full, self.products.noise
        places = [self.products.names.index(name) for name in ((side,) if isinstance(side, str) else side)]
        gram = self.products.without if left_out else full
        least = torch.maximum(noise, LEFT_OUT_SHARE * full.diagonal()) if left_out else noise
        found = remainder(gram[..., places, :][..., places], least[places], 0, range(1, len(places)))
        defined = found.defined
        for place in places[1:]:
            # A geometry to remove may vanish when an input is left out; the score would then be another quantity.
            if left_out and bool(full[place, place] > noise[place]):
                defined = defined & (gram[:, place, place] > least[place])
        return OneSide(list(zip(places, found.coefficients.movedim(-1, 0).contiguous())), found.square, defined)
