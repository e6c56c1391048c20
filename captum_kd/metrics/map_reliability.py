"""Reliability of maps over independently trained networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Hashable, Mapping, Optional

import torch
from captum.log import log_usage
from torch import Tensor

from captum_kd._utils.inputs import as_token_mask
from captum_kd._utils.maps import as_maps, correlations, unit_maps, upsample
from captum_kd._utils.validation import check_mapping
from captum_kd._utils.warnings import warn_user

__all__ = ["MapReliability", "map_reliability"]


@dataclass(frozen=True, eq=False)
class MapReliability:
    """Correlations of maps of the same inputs, made with different networks. Tensors are float64 on the CPU.

    Attributes:
        names (tuple): (k,) the names of the sets of maps, in the order of ``matrix``.
        matrix (Tensor): (k, k) correlations, means over inputs; 1 on the diagonal.
        values (Tensor): (k, k, N) correlations of each input.
        is_disjoint (Tensor): (k, k) boolean, True for two sets whose networks all differ.
        mean (float): mean of ``matrix`` over the disjoint pairs.
        standard_deviation (float or None): of ``matrix`` over the disjoint pairs; None for a single pair.
        null (float or None): mean correlation of maps of *different* inputs, over the same pairs of sets: what the place of
            the objects alone gives, if it is much the same in all images. None for a single input.
    """

    names: tuple[Hashable, ...]
    matrix: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    is_disjoint: Tensor = field(repr=False)
    mean: float
    standard_deviation: Optional[float]
    null: Optional[float]

    @property
    def n(self) -> int:
        """Number of inputs."""
        return self.values.shape[2]

    @property
    def pairs(self) -> int:
        """Number of disjoint pairs."""
        return int(self.is_disjoint.sum()) // 2

    def __repr__(self) -> str:
        spread = "" if self.standard_deviation is None else f" (SD {self.standard_deviation:.3f})"
        null = "" if self.null is None else f"; maps of different inputs {self.null:.3f}"
        return (
            f"MapReliability(mean correlation {self.mean:.3f}{spread} over {self.pairs} disjoint pair(s) of {len(self.names)} "
            f"sets, {self.n} inputs{null})"
        )


@log_usage()
def map_reliability(maps: Mapping[Hashable, Tensor], *, token_mask: Optional[Tensor] = None) -> MapReliability:
    r"""
    Correlation of the maps of the same inputs between networks, or pairs of networks, that were trained
    independently. It says how much of a map comes from the way the networks were trained, and how much
    is an accident of one seed.

    The correlation of two maps is Pearson's, over their positions and with their signs. It is computed for
    each input and averaged over inputs. ``mean`` of the result is the average over all pairs of sets without
    a common network: two sets with the same Student, or the same Base, agree for that reason alone.

    Compare the mean with two nulls: ``null`` of the result, which is the same for maps of different inputs,
    and the reliability of maps that cannot show transfer, such as the net maps of two Bases. A reliable map
    may still be wrong; :func:`localization_score` and :func:`randomization_test` check other things.

    A constant map has no correlation. It counts as 0, so that means are defined and maps that show nothing do not
    raise them; a warning counts such maps.

    Args:

        maps (Mapping): From the name of a network to its maps (N, 1, h, w) or (N, h, w), of the same N
                    inputs in the same order. The name of a pair of networks is the tuple of their
                    names, ``("student 1", "base 1")``. Two tuples that have an entry in common, at any
                    place, share a network. Smaller grids are brought to the largest one bilinearly, as
                    by ``LayerAttribution.interpolate``.
        token_mask (Tensor, optional): (N, T), True for the tokens that count in maps of text (N, 1, T). Padding would
                    raise correlations, since all maps are 0 there. ``null`` is then over the tokens that both inputs have.
                    Default: None, all positions

    Returns:
        MapReliability: ``mean``, ``standard_deviation``, ``null``, ``matrix``, ``values``.

    Raises:
        TypeError: maps that are not a mapping to floating point tensors.
        ValueError: fewer than two sets, no two sets without a common network, different numbers of maps,
                    maps of another shape, with non-finite values or of a single position.

    Warns:
        UserWarning: constant maps.

    Examples::

        >>> # Students and Bases by seed. 64 images; each net map is 64x1x7x7.
        >>> maps = {}
        >>> for seed in students:
        ...     unicam = UniCAM(students[seed], "layer4", bases[seed])
        ...     population = unicam.reference(reference_images, reference_labels)
        ...     transfer = unicam.attribute_transfer(images, labels, reference=population, n_steps=16)
        ...     maps[f"student {seed}", f"base {seed}"] = transfer.net
        >>> map_reliability(maps).mean
    """
    check_mapping(maps, "maps", "a mapping from names to the maps of the same inputs")
    if len(maps) < 2:
        raise ValueError(f"maps has {len(maps)} set(s) of maps; pass those of at least two independently trained networks.")
    names = tuple(maps)
    networks = [set(name) if isinstance(name, tuple) else {name} for name in names]
    is_disjoint = torch.tensor([[not (one & other) for other in networks] for one in networks], device="cpu")
    if not bool(is_disjoint.any()):
        raise ValueError(
            f"Every two of the names {list(names)} share an entry, so that no two sets of maps are independent; add maps of "
            "networks that were trained from other seeds."
        )
    checked: list[Tensor] = []
    for name, values in maps.items():
        checked.append(as_maps(values, f"maps[{name!r}]", len(checked[0]) if checked else None, flat_too=True).cpu().double())
    size = (max(single.shape[2] for single in checked), max(single.shape[3] for single in checked))
    if size == (1, 1):
        raise ValueError("The maps have a single position, over which nothing correlates; pass maps of a layer with positions.")
    mask = None if token_mask is None else as_token_mask(token_mask, len(checked[0]), "token_mask")
    if mask is not None and any(single.shape[2:] != (1, mask.shape[1]) for single in checked):
        raise ValueError(
            f"token_mask has {mask.shape[1]} tokens, but the maps are {[tuple(each.shape) for each in maps.values()]}; all must "
            f"be (N, 1, {mask.shape[1]}). Leave prefix tokens out of the mask."
        )
    rows = [unit_maps(upsample(single, size).flatten(1), mask) for single in checked]
    constant = sum(int((each == 0).all(1).sum()) for each in rows)
    if constant:
        warn_user(
            f"{constant} of {len(rows) * len(rows[0])} maps are constant. A constant map has no correlation; it counts as 0."
        )
    found = [[correlations(one, other, mask) for other in rows] for one in rows]
    values = torch.stack([torch.stack([same for same, _ in row]) for row in found])
    matrix = values.mean(2).fill_diagonal_(1.0)
    pairs = is_disjoint.triu()
    of_pairs = matrix[pairs]
    null = None
    if found[0][0][1] is not None:
        nulls = torch.tensor([[of_others for _, of_others in row] for row in found], dtype=torch.float64, device="cpu")
        null = float(nulls[pairs].mean())
    return MapReliability(
        names,
        matrix,
        values,
        is_disjoint,
        float(of_pairs.mean()),
        float(of_pairs.std()) if len(of_pairs) > 1 else None,
        null,
    )
