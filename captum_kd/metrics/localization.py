"""Localization scores: energy share and pointing game of maps and object masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from captum.log import log_usage
from torch import Tensor

from captum_kd._utils.maps import as_maps, upsample
from captum_kd._utils.validation import check_dense
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.precision import widest

__all__ = ["LocalizationScores", "localization_score"]

# Maxima within this many rounding errors are tied, since interpolating a constant adds rounding errors.
_TIED_EPS = 32


class LocalizationScores(NamedTuple):
    """Localization of each map inside its mask.

    Attributes:
        energy_share (Tensor): (N,) positive energy inside the mask over all positive energy, in [0, 1]; 0 for a
            map without positive energy.
        pointing_game (Tensor): (N,) 1 if the map's maximum lies inside the mask, else 0; the share of
            maxima inside the mask if several are tied.
    """

    energy_share: Tensor
    pointing_game: Tensor


@log_usage()
def localization_score(attributions: Tensor, masks: Tensor) -> LocalizationScores:
    r"""
    Two scores of localization: the share of a map's positive energy inside the object's mask, and the
    pointing game, which tests whether the map's maximum is inside.

    Chance is the mask's share of the image: compare with ``masks.float().mean((-2, -1))``, or with
    the scores of :func:`captum_kd.metrics.random_attributions`.

    A map without positive energy has an energy share of 0, so that means over inputs stay defined; a
    warning counts such maps. These zeros lower the mean, as if the maps avoided the object. To compare
    two kinds of maps of which some are empty, leave these out:
    ``energy_share[attributions.flatten(1).amax(1) > 0]``. Tied maxima count by their share inside the mask, which is the expected
    score if one of them is drawn at random. A constant map therefore scores the mask's share of the
    image.

    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016 (pointing
    game, here without its tolerance of 15 pixels); Wang et al., "Score-CAM", CVPR Workshops 2020
    (energy).

    Args:

        attributions (Tensor): (N, 1, h, w) layer attributions. If they are smaller than the masks,
                    they are upsampled bilinearly, as by ``LayerAttribution.interpolate``.
        masks (Tensor): (N, H, W) or (N, 1, H, W), boolean, True on the object.

    Returns:
        LocalizationScores: ``energy_share`` and ``pointing_game``, each (N,), on the maps' device
        and in their dtype (float32 for half types).

    Raises:
        TypeError: masks that are not boolean, maps that are not a floating point tensor.
        ValueError: a mask that is empty (named by its index), another number of masks than maps,
                    maps of another shape, larger than the masks, or with non-finite values.

    Examples::

        >>> maps = LayerGradCam(student, student.layer4).attribute(images, labels)  # (8, 1, 7, 7)
        >>> scores = localization_score(maps, masks)  # masks: (8, 224, 224), boolean
        >>> scores.energy_share.mean(), scores.pointing_game.mean()
    """
    masks = _as_masks(masks)
    maps = as_maps(attributions, "attributions", masks.shape[0], (masks.shape[2], masks.shape[3]))
    dtype = maps.dtype
    # In float32, sums over a large image lose digits, and interpolation breaks ties.
    wide = maps.to(widest(maps.device))
    size = wide.abs().amax((1, 2, 3), keepdim=True)
    wide = upsample(wide / torch.where(size > 0, size, 1.0), (masks.shape[2], masks.shape[3])).flatten(1)
    inside = masks.to(wide.device).flatten(1)
    return LocalizationScores(_energy_share(wide, inside).to(dtype), _pointing_game(wide, inside).to(dtype))


def _energy_share(maps: Tensor, inside: Tensor) -> Tensor:
    positive = maps.clamp(min=0)
    energy = positive.sum(1)
    without = energy == 0
    if bool(without.any()):
        warn_user(
            f"{int(without.sum())} of {len(maps)} maps have no positive energy; their energy share counts as 0, which lowers the "
            "mean. Leave them out to compare maps."
        )
    return (positive * inside).sum(1) / torch.where(without, 1.0, energy)


def _pointing_game(maps: Tensor, inside: Tensor) -> Tensor:
    level = maps.amax(1, keepdim=True) - _TIED_EPS * torch.finfo(maps.dtype).eps
    tied = maps >= level
    return (tied & inside).sum(1) / tied.sum(1).to(maps.dtype)


def _as_masks(masks: Tensor) -> Tensor:
    """(N, 1, H, W) boolean masks, none of them empty."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks must be a boolean tensor of shape (N, H, W), got {type(masks).__name__}.")
    if masks.dtype != torch.bool:
        raise TypeError(
            f"masks must be boolean, True on the object, got {masks.dtype}; pass masks > 0.5, or masks == value for "
            "the object's value in a segmentation."
        )
    check_dense(masks, "masks")
    shape = tuple(masks.shape)
    if masks.dim() == 3:
        masks = masks.unsqueeze(1)
    if masks.dim() != 4 or masks.shape[1] != 1 or 0 in shape:
        raise ValueError(f"masks must have shape (N, H, W) or (N, 1, H, W), got {shape}.")
    empty = ~masks.flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(
            f"The mask of input {int(empty.nonzero()[0])} is empty ({int(empty.sum())} of {len(masks)} are): nothing can "
            "be localized there; leave such inputs out."
        )
    return masks
