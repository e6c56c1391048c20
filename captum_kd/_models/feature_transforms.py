"""Transforms of a layer's output into the features between which distances are taken.

A feature transform receives a layer's output in canonical layout, (N, C, ...), and
returns (N, d). Any callable will do; these three are provided.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from captum_kd._utils.validation import check_dense

FeatureTransform = Callable[[Tensor], Tensor]


def global_average_pool(activations: Tensor) -> Tensor:
    """Mean of each channel over all positions.

    This is the default of UniCAM, as in the authors' maps.

    Args:
        activations (Tensor): (N, C, ...) or (N, C).

    Returns:
        Tensor: (N, C).

    Raises:
        TypeError, ValueError: not a dense floating point tensor of two dimensions or more.

    Example::

        >>> global_average_pool(torch.rand(8, 512, 7, 7)).shape
        torch.Size([8, 512])
    """
    _check_activations(activations)
    # Flattening first would copy activations in channels-last memory.
    return activations.mean(tuple(range(2, activations.dim()))) if activations.dim() > 2 else activations


def flatten(activations: Tensor) -> Tensor:
    """All channels at all positions.

    This is the default of the metrics, as in the authors' scores.

    Args:
        activations (Tensor): (N, C, ...).

    Returns:
        Tensor: (N, C * ...).

    Raises:
        TypeError, ValueError: as :func:`global_average_pool`.

    Example::

        >>> flatten(torch.rand(8, 512, 7, 7)).shape
        torch.Size([8, 25088])
    """
    _check_activations(activations)
    return activations.flatten(1)


def flatten_to_unit_length(activations: Tensor) -> Tensor:
    """Flattened features scaled to unit length, as in the authors' FSS.

    An input whose activations are all zero stays at zero.

    Args:
        activations (Tensor): (N, C, ...).

    Returns:
        Tensor: (N, C * ...), rows of length 1.

    Raises:
        TypeError, ValueError: as :func:`global_average_pool`.

    Example::

        >>> flatten_to_unit_length(torch.rand(8, 512, 7, 7)).norm(dim=1)  # eight times 1
    """
    return torch.nn.functional.normalize(flatten(activations), dim=1)


def _check_activations(activations: Tensor) -> None:
    if not isinstance(activations, Tensor):
        raise TypeError(f"activations must be a tensor (N, C, ...), got {type(activations).__name__}.")
    check_dense(activations, "activations")
    if activations.dim() < 2 or not (activations.is_floating_point() or activations.is_complex()):
        raise ValueError(
            f"activations must be a floating point tensor (N, C, ...), got one of shape {tuple(activations.shape)} and "
            f"{activations.dtype}."
        )
