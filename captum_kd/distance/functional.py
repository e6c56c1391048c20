"""Distance correlation and partial distance correlation of features."""

from __future__ import annotations

import math
from typing import Literal, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._utils.tensors import largest_of
from captum_kd._utils.validation import check_choice, check_dense, short_repr
from captum_kd.distance.blockwise import block_correlation, check_block_size, chosen_block, first_correlation
from captum_kd.distance.centering import MIN_INPUTS, Estimator, check_estimator, geometry, noise_level
from captum_kd.distance.gram import gram_of
from captum_kd.distance.precision import has_float64

__all__ = ["as_real", "distance_correlation", "partial_distance_correlation", "semipartial_distance_correlation"]


def distance_correlation(
    x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased", block_size: Optional[int] = None
) -> Tensor:
    r"""Squared distance correlation of two sets of features of the same inputs.

    Args:
        x (Tensor): (n, ...) features, n >= 4; trailing dimensions are flattened.
        y (Tensor): (n, ...) features of the same inputs, of any width.
        estimator (str): "unbiased" (bias-corrected, in [-1, 1], about 0 for independent
            features) or "biased" (in [0, 1], tends to 1 for few inputs and wide features).
            Both are the squared quantity; dCor in the literature is the square root of the biased one.
        block_size (int, optional): compute distances in blocks of this many inputs per side and hold no (n, n) matrix.
            The value is the same up to rounding; a gradient computes every block again.
            Default: None, which takes whole matrices up to 4,096 inputs and blocks of 512 (4,096 on a GPU) beyond.

    Returns:
        Tensor: scalar, differentiable once in both arguments. Half types are computed in float32,
        integers of 32 bits and more in float64.

    Raises:
        ValueError: fewer than 4 inputs, different numbers of inputs, non-finite features,
            different devices, an unknown estimator, or a block size below 1.
        TypeError: an argument is not a real tensor.

    Source: Szekely, Rizzo & Bakirov 2007 (biased); Szekely & Rizzo 2014 (unbiased).

    Example::

        >>> x = torch.randn(100, 64)
        >>> distance_correlation(x, 3 * x + 1)  # same geometry up to scale
        tensor(1.)
    """
    check_estimator(estimator)
    check_block_size(block_size)
    (x, y), largest = _as_features(x=x, y=y)
    return _correlation([x, y], largest, estimator, block_size, (), ())


def partial_distance_correlation(
    x: Tensor,
    y: Tensor,
    given: Union[Tensor, Sequence[Tensor]],
    *,
    remove_from: Literal["both", "x"] = "both",
    block_size: Optional[int] = None,
) -> Tensor:
    r"""Squared partial distance correlation of ``x`` and ``y``, with ``given`` removed from both.

    Unbiased, as in Szekely & Rizzo 2014 and in dcor. UniCAM and the relevance of distilled features remove from one side
    only: :func:`semipartial_distance_correlation`.

    Args:
        x (Tensor): (n, ...) features, n >= 4.
        y (Tensor): (n, ...) features of the same inputs.
        given (Tensor or sequence of Tensor): (n, ...) features of the same inputs. Their geometry is removed; if there are
            several, the span of their geometries.
        remove_from (str): "both", or "x" for the semipartial distance correlation.
        block_size (int, optional): as for :func:`distance_correlation`.

    Returns:
        Tensor: scalar in [-1, 1], differentiable once. 0 with a warning if a side has no geometry or keeps at most 1e-10 of
        its squared norm after removal.

    Raises:
        ValueError, TypeError: as :func:`distance_correlation`; also if there are no given features.

    Example::

        >>> student, teacher, base = torch.randn(3, 100, 64)
        >>> partial_distance_correlation(student, teacher, given=base)
    """
    check_choice(remove_from, "remove_from", ("both", "x"))
    check_block_size(block_size)
    removed = {"given": given} if isinstance(given, Tensor) else _listed(given)
    features, largest = _as_features(x=x, y=y, **removed)
    places = tuple(range(2, len(features)))
    return _correlation(features, largest, "unbiased", block_size, places, places if remove_from == "both" else ())


def semipartial_distance_correlation(
    x: Tensor, y: Tensor, given: Union[Tensor, Sequence[Tensor]], *, block_size: Optional[int] = None
) -> Tensor:
    r"""Squared semipartial distance correlation of ``x`` and ``y``, with ``given`` removed from ``x`` only.

    The relevance of distilled features is this score for the Student's features and the labels, with the Base model's
    features removed from the Student's.

    Args, raises: as :func:`partial_distance_correlation`.

    Returns:
        Tensor: scalar in [-1, 1], differentiable once.

    Source: Adhane et al., WACV 2025.

    Example::

        >>> student, base = torch.randn(2, 100, 64)
        >>> labels = torch.nn.functional.one_hot(torch.arange(100) % 10)
        >>> semipartial_distance_correlation(student, labels, given=base)
    """
    return partial_distance_correlation(x, y, given, remove_from="x", block_size=block_size)


def _correlation(
    features: Sequence[Tensor],
    largest: Sequence[float],
    estimator: Estimator,
    block_size: Optional[int],
    x_given: Sequence[int],
    y_given: Sequence[int],
) -> Tensor:
    """The correlation of the first two of several features (n, d), with others removed by index."""
    block = chosen_block(features[0], block_size)
    if block is not None:
        return block_correlation(features, estimator, block, x_given, y_given)
    geometries = [geometry(each, estimator, size) for each, size in zip(features, largest)]
    raw_norms = torch.stack([each.raw_norm for each in geometries])
    noise = (noise_level(features[0].dtype) * raw_norms).square()
    # The inner products of the literature are these sums over n(n - 3) or n^2; ratios do not need the divisor.
    gram = gram_of([each.matrix.flatten() for each in geometries])
    return first_correlation(gram, noise, x_given, y_given).to(features[0].dtype)


def _listed(given: object) -> dict[str, Tensor]:
    """Several given features, by their names in error messages."""
    if not isinstance(given, (list, tuple)) or not given:
        raise TypeError(f"given must be a tensor of shape (n, ...) or a non-empty sequence of them, got {short_repr(given)}.")
    return {f"given[{place}]": each for place, each in enumerate(given)}


def _as_features(**features: Tensor) -> tuple[list[Tensor], list[float]]:
    """Checks tensors (n, ...); returns them as (n, d) of one real dtype, and their largest absolute values."""
    for name, value in features.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor of shape (n, ...), got {type(value).__name__}.")
        check_dense(value, name)
        if value.is_complex():
            raise TypeError(f"{name} must be real, got dtype {value.dtype}; pass torch.view_as_real({name}).")
        if value.dim() == 0 or value.shape[0] < MIN_INPUTS:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; distance correlation needs at least "
                f"{MIN_INPUTS} inputs along the first dimension."
            )
        if value.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: pass at least one feature per input.")
    first_name, first = next(iter(features.items()))
    for name, value in features.items():
        if value.shape[0] != first.shape[0]:
            raise ValueError(
                f"{first_name} has {first.shape[0]} inputs but {name} has {value.shape[0]}; "
                "both must describe the same inputs in the same order."
            )
        if value.device != first.device:
            raise ValueError(f"{first_name} is on {first.device} but {name} is on {value.device}; use one device.")
    prepared = {name: as_real(value) for name, value in features.items()}
    prepared = {
        name: value if value.dim() == 2 else value.reshape(value.shape[0], -1) for name, value in prepared.items()
    }
    largest = [largest_of(value) for value in prepared.values()]
    for name, size in zip(prepared, largest):
        if not math.isfinite(size):
            raise ValueError(f"{name} has non-finite values (NaN or infinity); all must be finite.")
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in prepared.values()) else torch.float32
    return [value if value.dtype == dtype else value.to(dtype) for value in prepared.values()], largest


def as_real(value: Tensor) -> Tensor:
    """A real tensor in float32, or in float64 if float32 cannot hold its values exactly (int64 up to 2^53)."""
    if value.dtype in (torch.float32, torch.float64):
        return value
    # float32 holds half types and small integers exactly, not those of 32 bits and more.
    wide = not value.is_floating_point() and value.element_size() > 2 and has_float64(value.device)
    return value.double() if wide else value.float()
