"""The result of :meth:`captum_kd.UniCAM.attribute_transfer`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

_WITHOUT_UNIT = (
    "The net map subtracts the residual map from the distilled map, so both need one unit. The gradient at the input has none: "
    "call attribute_transfer with n_steps=16, which gives maps whose positions add up to a gain of the objective. A "
    "TransferAttributions that you made yourself does not know how its maps were made; subtract these yourself."
)
_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


class _Pair(NamedTuple):
    distilled: Any
    residual: Any


class TransferAttributions(_Pair):
    """Distilled and residual maps of a pair of models.

    Attributes:
        distilled (Tensor, tuple or list): Maps of the Student, with the Base's representation removed.
        residual (Tensor, tuple or list): Maps of the Base model, with the Student's representation removed. With several
            Bases it is a list of such maps, one for each Base.
        has_several_bases (bool): True if ``residual`` is such a list.
        has_unit (bool): True if the positions of each map add up to a gain of the objective: maps made with ``n_steps``
            whose features are the averages of the map layer's channels, or all its activations (``flatten``) with
            ``weights="elementwise"``.
    """

    has_several_bases = False
    has_unit = False
    _why_no_net: Optional[str] = _WITHOUT_UNIT

    @property
    def has_net(self) -> bool:
        """Whether there is a net map."""
        return self._why_no_net is None

    def _with_unit(
        self,
        has_several_bases: bool,
        *,
        relu_attributions: bool,
        attr_dim_summation: bool,
        adds_up: bool,
        has_common_tokens: bool = True,
        **_: Any,
    ) -> TransferAttributions:
        """The same maps, made with ``n_steps`` and with these settings."""
        maps = type(self)(*self)
        maps.has_several_bases, maps._why_no_net = has_several_bases, None
        maps.has_unit = adds_up and not relu_attributions
        if relu_attributions:
            maps._why_no_net = (
                "relu_attributions=True removed the negative part of both maps, so their difference has no unit; leave it out."
            )
        elif not attr_dim_summation:
            maps._why_no_net = (
                "The channels of two networks do not correspond, so their maps cannot be subtracted; leave out "
                "attr_dim_summation."
            )
        elif not has_common_tokens:
            maps._why_no_net = (
                "Student and Base get other tokens, or other padding, so the positions of their maps do not correspond. Give "
                "both the same tokens, or show the two maps one below the other."
            )
        return maps

    @property
    def net(self) -> Any:
        """Distilled minus residual maps, position by position.

        The sum of its positions is the gain of the Student's objective minus the gain of the Base's. With several
        Bases the mean of their residual maps is subtracted. If the models change places, the net map changes its sign: between
        networks of one kind its mean is 0. Compare it with the net maps of two Bases.

        Returns:
            Tensor, tuple or list: in the structure of ``distilled``. If the grids differ, maps are brought to the larger one by
            linear interpolation, with their sums kept.

        Raises:
            ValueError: maps made without ``n_steps``, with ``relu_attributions=True`` or with ``attr_dim_summation=False``;
                sentences whose tokens differ between Student and Base; layers with different numbers of tensors or of axes.

        Examples::

            >>> maps = unicam.attribute_transfer(images, labels, reference=population, n_steps=16)
            >>> maps.net  # (N, 1, h, w)
        """
        if self._why_no_net is not None:
            raise ValueError(self._why_no_net)
        return _net(self.distilled, self.residual if self.has_several_bases else [self.residual])


def _net(distilled: Any, residuals: Sequence[Any]) -> Any:
    if isinstance(distilled, (list, tuple)):
        if any(len(each) != len(distilled) for each in residuals):
            raise ValueError(
                "The layers of Student and Base have different numbers of tensors, so that their maps cannot be subtracted one "
                "by one; subtract the ones that you want to compare."
            )
        return type(distilled)(_net(*each) for each in zip(distilled, zip(*residuals)))
    grids = [tuple(single.shape[2:]) for single in (distilled, *residuals)]
    if len({len(grid) for grid in grids}) > 1:
        raise ValueError(
            f"The maps of Student and Base have the grids {', '.join(map(str, grids))}: they have no common positions, and there "
            "is no net map."
        )
    grid = max(grids, key=math.prod)
    wide = torch.float64 if distilled.dtype == torch.float64 else torch.float32
    own, *others = (_at_grid(single.to(distilled.device, wide), grid) for single in (distilled, *residuals))
    return (own - torch.stack(others).mean(0)).to(distilled.dtype)


def _at_grid(maps: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Maps (N, 1, ...) at another grid, with the same sum of each map."""
    if tuple(maps.shape[2:]) == grid:
        return maps
    positions = tuple(range(2, maps.dim()))
    share = maps[0, 0].numel() / math.prod(grid)
    found = torch.nn.functional.interpolate(maps, grid, mode=_MODES[maps.dim()]) * share
    # Interpolation keeps the sum but for the borders.
    lost = maps.sum(positions, keepdim=True) - found.sum(positions, keepdim=True)
    return found + lost / math.prod(grid)
