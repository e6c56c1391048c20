"""Features of a layer's activations, and the rounding error of features that are averages of larger activations."""

from __future__ import annotations

import functools
from typing import Optional

import torch
from torch import Tensor

from captum_kd._models.cam import precise
from captum_kd._models.feature_transforms import (
    FeatureTransform,
    flatten,
    flatten_to_unit_length,
    global_average_pool,
    takes_mask,
)
from captum_kd._models.hooks import same_random_state
from captum_kd._models.layer_activations import LayerOutput
from captum_kd._models.layer_names import Layer
from captum_kd._models.token_layout import Layout
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_features
from captum_kd.distance.pairwise import is_async_device
from captum_kd.distance.precision import widest

# The relative error that all activations of a channel may have in common. It arises in norms that subtract a mean and is some
# epsilons times the ratio of mean to standard deviation. Measured with InstanceNorm2d and GroupNorm for a ratio of 10: 4
# epsilons in float32, 28 in float64. In half types norms may keep the mean itself in half precision.
_SHARES = {torch.float32: 2.0**-19, torch.float64: 2.0**-42, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def features_of(feature_transform: FeatureTransform, output: LayerOutput, layer: Layer) -> tuple[Tensor, Tensor]:
    r"""Features, and the distance by which rounding may have moved each input if its features are averages.

    The rounding error of a mean over positions depends on the size of the activations, not of the mean: the pooled output of
    an InstanceNorm layer is 0 up to rounding. With :math:`s_c` the mean absolute value of the activations behind
    feature c, the distance is :math:`2^{-19} (\sum_c s_c^2)^{1/2}` in float32, with other shares in other types. A user's
    transform that returns fewer features than activations is called a second time with the same random numbers, on activations
    that are all larger by that fraction.

    Args:
        feature_transform (callable): from activations to features.
        output (LayerOutput): the layer's tensors; without layouts they count as (N, C, ...).
        layer (Layer): the layer, for errors.

    Returns:
        tuple of Tensor: features (N, d) of all tensors, concatenated, float32 or float64, and distances (N,) without graph, in
        float64 if the device supports it; 0 if there are as many features as activations, so that none is an average.

    Raises:
        ValueError, TypeError: a transform that does not return features (N, d).
    """
    layouts = output.layouts or (Layout(),) * len(output.tensors)
    found = [
        _transformed(feature_transform, precise(layout.to_channels_first(tensor)), mask, dtype, str(layer))
        for tensor, layout, mask, dtype in zip(output.tensors, layouts, output.masks, output.dtypes)
    ]
    if len(found) == 1:
        return found[0]
    features, rounding = zip(*found)
    return torch.cat(features, dim=1), torch.linalg.vector_norm(torch.stack(rounding), dim=0)


def _transformed(
    feature_transform: FeatureTransform, activations: Tensor, token_mask: Optional[Tensor], dtype: torch.dtype, where: str
) -> tuple[Tensor, Tensor]:
    """Features and rounding of one tensor of a layer of that dtype, (N, C, ...) in float32 or float64."""
    is_own = token_mask is None and feature_transform in (flatten, flatten_to_unit_length, global_average_pool)
    if token_mask is not None:
        activations = activations.masked_fill(~token_mask[:, None], 0)
        if takes_mask(feature_transform):
            feature_transform = functools.partial(feature_transform, token_mask=token_mask)
    features = feature_transform(activations) if is_own else _drawn(feature_transform, activations)
    _check(features, activations, where)
    features = precise(features)  # under autocast a transform with products gives half types
    wide = widest(activations.device)
    positions = activations.numel() / features.numel()
    if positions <= 1:
        return features, torch.zeros(len(features), dtype=widest(features.device), device=features.device)
    values, share = activations.detach(), max(_SHARES[activations.dtype], _SHARES.get(dtype, 0.0))
    if is_own and not is_async_device(values.device) and not bool(values.amin() < 0):
        shift = features.detach().to(wide) * share  # behind a ReLU the mean absolute values are the means, which are known
    elif is_own:
        # Divide first, since sums of large values overflow. A 1-norm takes ten times as long.
        shift = values.abs().div_(positions).sum(tuple(range(2, values.dim()))).to(wide) * share
    else:
        with changed_state(torch.no_grad()), interruptible():
            moved = _drawn(feature_transform, torch.add(values, values.abs(), alpha=share))
        shift = moved.to(features.device, wide) - features.detach().to(wide)
    rounding: Tensor = torch.linalg.vector_norm(shift, dim=1).nan_to_num(0, 0, 0)
    return features, rounding


def _drawn(feature_transform: FeatureTransform, activations: Tensor) -> Tensor:
    """Features; a transform that draws random numbers draws the same ones in the next call."""
    with changed_state(same_random_state((activations,))), interruptible():
        return feature_transform(activations)


def _check(features: Tensor, activations: Tensor, where: str) -> None:
    if isinstance(features, Tensor):
        check_features(features, f"The result of feature_transform for {where}")
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    if len(shape) != 2 or shape[0] != activations.shape[0] or shape[1] == 0:
        shown = shape if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"feature_transform must turn {tuple(activations.shape)} of {where} into ({activations.shape[0]}, d), got {shown}; "
            "d must be at least 1."
        )
