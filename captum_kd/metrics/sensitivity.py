"""Captum's sensitivity_max, corrected for layer attributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Callable, Optional, Union

from captum._utils.common import _format_tensor_into_tuples
from captum.log import log_usage
from captum.metrics import sensitivity_max as captum_sensitivity_max
from captum.metrics._core.sensitivity import default_perturb_func
from torch import Tensor

from captum_kd._utils.arguments import check_batch_size, check_callable
from captum_kd._utils.inputs import as_inputs
from captum_kd._utils.interrupts import keeping_grad_mode
from captum_kd._utils.validation import check_int, check_float, short_repr

__all__ = ["sensitivity_max"]

TensorOrTuple = Union[Tensor, tuple[Tensor, ...]]


@log_usage()
@keeping_grad_mode  # Captum's function switches the grad mode
def sensitivity_max(
    explanation_func: Callable[..., TensorOrTuple],
    inputs: TensorOrTuple,
    perturb_func: Callable[..., TensorOrTuple] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: str = "fro",
    max_examples_per_batch: Optional[int] = None,
    **kwargs: Any,
) -> Tensor:
    r"""
    Largest change of an explanation under small perturbations of its input
    (:func:`captum.metrics.sensitivity_max`), for layer attributions.

    Captum's function passes the inputs as a tuple and expects a tuple of explanations. A layer
    attribution returns a tensor instead, and Captum treats its rows as separate explanations: values
    are too large by sqrt(k) for one input and k samples, and two inputs raise an error. This function
    puts the explanation into a tuple first, and then calls Captum's function.

    If ``explanation_func`` is ``UniCAM(...).attribute``, pass a reference population as ``reference=``.
    Without it, the perturbed copies become the population.

    Source: Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019.

    Args:

        explanation_func (Callable): e.g. ``unicam.attribute`` or ``LayerGradCam(...).attribute``.
        inputs, perturb_func, perturb_radius, n_perturb_samples, norm_ord, max_examples_per_batch:
                    As for Captum's function.
        **kwargs: Arguments of ``explanation_func``.

    Returns:
        Tensor: (N,) sensitivities, relative to the norm of the unperturbed explanation.

    Raises:
        TypeError: an explanation that is neither a tensor nor a tuple of tensors, such as the list for a
                    list of layers; functions that cannot be called.
        ValueError: a negative radius, no samples, an unknown norm.

    Examples::

        >>> population = unicam.reference(images, labels)
        >>> sensitivity_max(unicam.attribute, image, target=3, reference=population)
    """

    check_callable(explanation_func, "explanation_func")
    check_callable(perturb_func, "perturb_func")
    if isinstance(inputs, Mapping):
        raise TypeError(
            "inputs must be a tensor or a tuple of tensors, which Captum perturbs, got a mapping. Pass the ids as inputs, and "
            "the attention mask in additional_forward_args or as token_mask=."
        )
    for value in as_inputs(inputs):
        if perturb_func is default_perturb_func and not value.is_floating_point():
            raise TypeError(
                f"inputs must be floating point for the default perturb_func, got {value.dtype}; pass your own perturb_func."
            )
    perturb_radius = check_float(perturb_radius, "perturb_radius", "a number, 0 or more", 0, float("inf"), closed=True)
    n_perturb_samples = check_int(n_perturb_samples, "n_perturb_samples", 1)
    check_batch_size(max_examples_per_batch, "max_examples_per_batch")
    if not _is_norm(norm_ord):
        raise ValueError(f"norm_ord must be 'fro' or a number, the order of a vector norm, got {short_repr(norm_ord)}.")

    def as_tuple(perturbed: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        mask = kwargs.get("token_mask")
        if isinstance(mask, Tensor):  # Captum repeats target and additional_forward_args only
            kwargs["token_mask"] = mask.repeat_interleave(max(1, len(as_inputs(perturbed)[0]) // max(1, len(mask))), 0)
        explanation = explanation_func(perturbed, *args, **kwargs)
        tensors = _format_tensor_into_tuples(explanation) if isinstance(explanation, (Tensor, tuple)) else None
        if tensors is None or not all(isinstance(tensor, Tensor) and tensor.is_floating_point() for tensor in tensors):
            raise TypeError(
                f"explanation_func returned {type(explanation).__name__}; sensitivity_max needs a floating point tensor or a "
                "tuple of floating point tensors. Explain one layer, and one direction, at a time."
            )
        return tuple(tensors)

    sensitivity: Tensor = captum_sensitivity_max(
        as_tuple,
        inputs,
        perturb_func=perturb_func,
        perturb_radius=perturb_radius,
        n_perturb_samples=n_perturb_samples,
        norm_ord=norm_ord,
        max_examples_per_batch=max_examples_per_batch,
        **kwargs,
    )
    return sensitivity


def _is_norm(norm_ord: Any) -> bool:
    """True for the order of a vector norm of torch.norm. Captum's type hint is str, but its function also takes numbers."""
    if isinstance(norm_ord, str):
        return norm_ord == "fro"
    return type(norm_ord) in (int, float) and not math.isnan(norm_ord)
