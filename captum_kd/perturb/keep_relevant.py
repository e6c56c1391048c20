"""Keeping the pixels of an image with the largest attributions."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd._utils.interrupts import without_gradients
from captum_kd._utils.maps import as_maps, upsample
from captum_kd._utils.validation import check_int, check_noise, check_share, check_generator, short_repr
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.precision import widest
from captum_kd.perturb.imputation import check_images, noisy_linear_imputation

# A warning is given if more than this share of the values are tied at the cut.
_MANY_TIED = 0.05


def keep_relevant(
    inputs: Tensor,
    attributions: Tensor,
    *,
    keep: float = 0.5,
    noise: float = 0.01,
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    r"""
    Keeps the most relevant pixels of each image and replaces the others by noisy linear imputation
    (:func:`noisy_linear_imputation`). :func:`relevant_pixels` selects the pixels to keep.

    Source: Adhane et al., WACV 2025, where half of the pixels are kept ("features around the salient region").

    Args:

        inputs (Tensor): Images (N, C, H, W), floating point.
        attributions (Tensor): A map for each image, (N, 1, h, w) as Captum's layer attributions return it,
                    or (N, h, w), of any size; upsampled bilinearly to the images' size.
        keep (float, optional): Share of the pixels to keep, between 0 and 1, both excluded.
        noise (float, optional): Standard deviation of the noise on imputed pixels, in the inputs' units.
        generator (torch.Generator, optional): Source of the noise.

    Returns:
        Tensor: shape and dtype of ``inputs``, without graph.

    Raises:
        TypeError: inputs or attributions that are not floating point tensors.
        ValueError: inputs that are not images, attributions of another batch, with several channels or not
                    finite, a share outside (0, 1), negative noise, kept pixels that are not finite.

    Example::

        >>> cam = LayerGradCam(model, model.layer4)
        >>> salient = keep_relevant(images, cam.attribute(images, labels), keep=0.3)
    """
    check_images(inputs, "inputs")
    noise, keep = check_noise(noise), check_share(keep)
    check_generator(generator)
    maps = as_maps(attributions, "attributions", len(inputs), flat_too=True)
    kept = relevant_pixels(maps, (inputs.shape[-2], inputs.shape[-1]), keep).to(inputs.device)
    return noisy_linear_imputation(inputs, kept, noise=noise, generator=generator)


@without_gradients
def relevant_pixels(attributions: Tensor, size: tuple[int, int], keep: float = 0.5) -> Tensor:
    r"""
    Selects the pixels of each image with the largest attributions.

    Maps are upsampled bilinearly (:meth:`captum.attr.LayerAttribution.interpolate`) and their pixels ranked
    by signed value, so that evidence against the class comes last. Ties go to the pixel with the lower index, row by
    row, on every device, so that exactly the given share is kept even of a constant map. A warning is given if many
    pixels are tied at the cut.

    Args:

        attributions (Tensor): (N, 1, h, w) or (N, h, w), floating point.
        size (tuple[int, int]): (H, W) of the images.
        keep (float, optional): Share of the pixels to keep: ``round(keep * H * W)`` of each image, at least 1 and
                    at most H * W - 1. The only pixel of a 1 x 1 image is kept.

    Returns:
        Tensor: (N, 1, H, W), boolean, True for kept pixels, on the attributions' device.

    Raises:
        TypeError: attributions that are not a floating point tensor.
        ValueError: attributions of another shape or not finite, a size without pixels, a share outside (0, 1).

    Example::

        >>> relevant_pixels(torch.tensor([[[0.2, 0.9], [0.9, -1.0]]]), (2, 2), keep=0.25).int()
        tensor([[[[0, 1],
                  [0, 0]]]], dtype=torch.int32)
    """
    keep = check_share(keep)
    maps = as_maps(attributions, "attributions", None, flat_too=True)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f"size must be the images' (H, W), got {short_repr(size)}.")
    height, width = (check_int(side, "size (H, W)", 1) for side in size)
    pixels = height * width
    count = max(1, min(round(keep * pixels), pixels - 1))
    # Rounded back from float64, so that equal neighbors give equal pixels between them: ties stay ties.
    upsampled = upsample(maps.to(widest(maps.device)), (height, width)).to(maps.dtype)
    counts = torch.full((len(upsampled),), count, device=upsampled.device)
    return highest(upsampled.flatten(1), counts, "pixels").reshape(-1, 1, height, width)


def highest(values: Tensor, counts: Tensor, places: str) -> Tensor:
    """True for the ``counts`` (N,) highest values of each row (N, p); ties go to the lower index.

    Warns if many places of a row have the same value on both sides of the cut, since only their position decides.
    """
    order = values.argsort(dim=1, descending=True, stable=True)
    ends = torch.stack([counts - 1, counts.clamp(max=values.shape[1] - 1)], 1)
    last, next_one = values.gather(1, order.gather(1, ends)).unbind(1)
    is_cut = (last == next_one) & (counts < values.shape[1])
    tied = is_cut & ((values == last[:, None]).sum(1) > max(4, _MANY_TIED * values.shape[1]))
    if bool(tied.any()):
        # Without counts, so that Python shows the warning once for all batches of a report.
        warn_user(
            f"{'All' if bool(tied.all()) else 'Some'} maps have the same value at many {places} on both sides of the cut. Of "
            f"these {places} the first ones are kept. Maps without negative values often have such ties: pass signed maps "
            "(relu_attributions=False). If the maps are constant, choose another layer."
        )
    is_kept = torch.arange(values.shape[1], device=values.device) < counts[:, None]
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, is_kept)
