"""Keep curves: a model's accuracy on the most salient pixels or tokens of a map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union, overload

import torch
from captum._utils.progress import progress
from captum.log import log_usage
from torch import Tensor

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.hooks import run_model, same_random_state
from captum_kd._models.logits import OutputTransform, class_scores
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import (
    Target,
    as_forward_args,
    as_labels,
    check_batch_size,
    check_callable,
    check_model,
    take_rows,
)
from captum_kd._utils.data_frame import data_frame
from captum_kd._utils.html_table import html_table
from captum_kd._utils.inputs import Inputs, ModelInputs, as_inputs, is_ids
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.maps import mapped_place, maps_of
from captum_kd._utils.validation import check_bool, check_noise, check_share, check_dense, check_generator, short_repr
from captum_kd.perturb import keep_relevant
from captum_kd.perturb.keep_tokens import check_mask_token, keep_tokens, token_mask_of

__all__ = ["SHARES", "KeepCurve", "keep_curve"]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# Image values (pixels times channels) that are reduced at once. Grouping by max_examples_per_batch instead would change the
# random numbers of each image, and so the result, with the batch size.
_REDUCED_AT_ONCE = 20_000_000


class KeepCurve(NamedTuple):
    """Accuracy on inputs of which a share of the pixels or tokens is kept. All tensors are on the CPU.

    ``print(curve)`` is one line; notebooks show a table.

    Attributes:
        shares (Tensor): (k,) shares that are kept, float64, increasing.
        accuracy (Tensor): (k,) float64.
        area (Tensor): scalar, the area under the curve over the range of the shares (trapezoids), divided by that
            range: the mean accuracy, in [0, 1]. With a single share it is the accuracy there.
        area_standard_error (Tensor or None): scalar, of the area as a mean over inputs; None for a single input.
            Curves of one call share inputs and noise, so test their differences on ``areas``, input by input.
        areas (Tensor): (N,) the area under each input's own curve of zeros and ones; their mean is ``area``.
        correct (Tensor): (k, N) boolean, True if input i is classified correctly at share j.
    """

    shares: Tensor
    accuracy: Tensor
    area: Tensor
    area_standard_error: Optional[Tensor]
    areas: Tensor
    correct: Tensor

    @property
    def accuracy_standard_error(self) -> Optional[Tensor]:
        """(k,) float64, the standard error of each accuracy as a mean over inputs; None for a single input.

        It is 0 where all inputs or none are classified correctly, which says nothing about other inputs.
        """
        n = self.correct.shape[1]
        return (self.accuracy * (1 - self.accuracy) / (n - 1)).sqrt() if n > 1 else None

    def to_dataframe(self) -> Any:
        """The curve as a ``pandas.DataFrame`` with the columns share, accuracy and standard_error, one row for each share.

        Raises:
            ImportError: pandas is not installed.

        Example::

            >>> pandas.concat({name: curve.to_dataframe() for name, curve in curves.items()}, names=["map"])
        """
        columns = {"share": self.shares, "accuracy": self.accuracy, "standard_error": self.accuracy_standard_error}
        values = {name: [None] * len(self.shares) if each is None else each.tolist() for name, each in columns.items()}
        return data_frame([dict(zip(values, row)) for row in zip(*values.values())], list(values))

    def __repr__(self) -> str:
        ends = dict.fromkeys((0, len(self.shares) - 1))
        accuracies = " and ".join(f"{self.accuracy[at]:.3f} at {self.shares[at]:.0%}" for at in ends)
        shares, inputs = len(self.shares), len(self.areas)
        counts = f"{shares} share{'s' * (shares > 1)}, {inputs} input{'s' * (inputs > 1)}"
        return f"KeepCurve({self._area()}; accuracy {accuracies}; {counts})"

    def _repr_html_(self) -> str:
        rows = [["accuracy", *(f"{each:.3f}" for each in self.accuracy)]]
        if (errors := self.accuracy_standard_error) is not None:
            rows.append(["standard error", *(f"{each:.3f}" for each in errors)])
        head = ["share kept", *(f"{each:.0%}" for each in self.shares)]
        return html_table(head, rows, f"Keep curve of {len(self.areas)} inputs: {self._area()}")

    def _area(self) -> str:
        error = "" if self.area_standard_error is None else f" \u00b1 {self.area_standard_error:.3f}"
        return f"area {self.area:.3f}{error}"

    @classmethod
    def of(cls, shares: Sequence[float], correct: Tensor) -> "KeepCurve":
        """The curve from (k, N) correct and wrong predictions.

        Raises:
            TypeError: ``correct`` is not a boolean tensor.
            ValueError: shares that do not increase inside (0, 1), or another number of rows than shares.
        """
        shares = _as_shares(shares)
        if not isinstance(correct, Tensor) or correct.dtype != torch.bool:
            raise TypeError(f"correct must be a boolean tensor (shares, inputs), got {short_repr(correct)}.")
        check_dense(correct, "correct")
        if correct.dim() != 2 or correct.shape[0] != len(shares) or correct.shape[1] == 0:
            raise ValueError(f"correct must have shape ({len(shares)}, N), one row per share, got {tuple(correct.shape)}.")
        at = torch.tensor(shares, dtype=torch.float64, device="cpu")
        right = correct.double()
        areas = right[0] if len(at) == 1 else torch.trapezoid(right, at, dim=0) / (at[-1] - at[0])
        error = areas.std() / math.sqrt(len(areas)) if len(areas) > 1 else None
        return cls(at, right.mean(1), areas.mean(), error, areas, correct)


@overload
def keep_curve(
    forward_func: Callable[..., Any],
    inputs: Inputs,
    target: Target,
    attributions: Tensor,
    *,
    shares: Sequence[float] = ...,
    additional_forward_args: Any = ...,
    noise: float = ...,
    generator: Optional[torch.Generator] = ...,
    mask_token_id: Optional[int] = ...,
    token_mask: Optional[Tensor] = ...,
    max_examples_per_batch: Optional[int] = ...,
    output_transform: Optional[OutputTransform] = ...,
    show_progress: bool = ...,
) -> KeepCurve: ...


@overload
def keep_curve(
    forward_func: Callable[..., Any],
    inputs: Inputs,
    target: Target,
    attributions: Mapping[str, Tensor],
    *,
    shares: Sequence[float] = ...,
    additional_forward_args: Any = ...,
    noise: float = ...,
    generator: Optional[torch.Generator] = ...,
    mask_token_id: Optional[int] = ...,
    token_mask: Optional[Tensor] = ...,
    max_examples_per_batch: Optional[int] = ...,
    output_transform: Optional[OutputTransform] = ...,
    show_progress: bool = ...,
) -> dict[str, KeepCurve]: ...


@log_usage()
def keep_curve(
    forward_func: Callable[..., Any],
    inputs: Inputs,
    target: Target,
    attributions: Union[Tensor, Mapping[str, Tensor]],
    *,
    shares: Sequence[float] = SHARES,
    additional_forward_args: Any = None,
    noise: float = 0.01,
    generator: Optional[torch.Generator] = None,
    mask_token_id: Optional[int] = None,
    token_mask: Optional[Tensor] = None,
    max_examples_per_batch: Optional[int] = None,
    output_transform: Optional[OutputTransform] = None,
    show_progress: bool = False,
) -> Union[KeepCurve, dict[str, KeepCurve]]:
    r"""
    Accuracy of a model on images of which only the most salient 10, 20, ... 90 % of the pixels are kept.
    The other pixels are imputed (:func:`captum_kd.perturb.keep_relevant`). Black pixels would make images
    unlike those the model was trained on, and their outline would reveal the map.

    Of text a share of each sentence's own tokens is kept. The others become the mask token, or padding if there is none
    (:func:`captum_kd.perturb.keep_relevant_tokens`).

    Several maps by name can be compared, for example UniCAM's distilled maps with its residual maps,
    Grad-CAM, or random maps (:func:`random_attributions`). Maps of the true labels reveal the labels:
    the kept pixels may be classified better than the whole image. Compare only maps of the same kind,
    or explain predictions.

    All curves of a call use the same inputs and the same noise, so compare them input by input, by
    ``areas``. Differences show at small shares; at large shares nearly the whole image is kept.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods"
    (ROAD), ICML 2022, in its keeping order.

    Args:

        forward_func (Callable): The model, run without gradients and in its present mode.
        inputs (Tensor, tuple[Tensor, ...] or mapping): Inputs, N examples first. One of them holds the images
                    (N, C, H, W), or else the ids (N, T) of text; the others are passed unchanged. A mapping is passed by name.
        target (int, list or Tensor): Labels, (N,) integers; an int applies to all.
        attributions (Tensor or Mapping[str, Tensor]): (N, 1, h, w) maps, at the layer's or the
                    image's resolution, (N, 1, T) of text, or several tensors by name.
        shares (sequence of float, optional): Shares of the pixels or tokens that are kept, increasing,
                    inside (0, 1).
        additional_forward_args (Any, optional): Further arguments of the model, as in Captum.
        noise (float, optional): Standard deviation of the noise on imputed pixels, in input units.
        generator (torch.Generator, optional): Source of that noise.
                    Default: a generator seeded with 0; the global random state is not touched
        mask_token_id (int, optional): Of text, the id that replaces tokens: ``tokenizer.mask_token_id``.
                    Default: None, they become padding, for which ``inputs`` must be a mapping with ``attention_mask``
        token_mask (Tensor, optional): (N, T), True for the tokens of text that may be kept or replaced.
                    Default: None, the model's ``attention_mask``, without the ``special_tokens_mask`` of a mapping
        max_examples_per_batch (int, optional): Inputs in one forward pass. Bounds memory and does
                    not change the result.
        output_transform (Callable, optional): From the model's output to logits (N, classes).
                    Default: ``.logits`` if there is one
        show_progress (bool, optional): Captum's progress display over shares.

    Returns:
        KeepCurve, or a dict of curves by name if ``attributions`` is a mapping.

    Raises:
        TypeError: maps or labels of another type, an output without logits.
        ValueError: maps of another batch or size or with non-finite values, shares outside (0, 1)
                    or not increasing, inputs without images and ids or with several images, labels without a logit,
                    text without an id or an attention mask to replace tokens.

    Examples::

        >>> transfer = unicam.attribute_transfer(images, labels)
        >>> maps = {"distilled": transfer.distilled, "residual": transfer.residual}
        >>> maps["random"] = random_attributions(transfer.distilled)
        >>> curves = keep_curve(student, images, labels, maps, max_examples_per_batch=64)
        >>> gain = curves["distilled"].areas - curves["random"].areas  # (N,), paired
        >>> gain.mean(), gain.std() / len(gain) ** 0.5
        >>> # Text, of which the tokenizer returned a mapping
        >>> keep_curve(student, batch, labels, maps, mask_token_id=tokenizer.mask_token_id)
    """
    check_model(forward_func, "forward_func")
    values, args = as_inputs(inputs, token_mask=token_mask), as_forward_args(additional_forward_args)
    place = mapped_place(values, "keep_curve needs")
    if is_ids(values[place]):
        values = with_named_mask(forward_func, values, args)
        token_mask_of(values, place)  # raises an error for a mask of another length
        check_mask_token(values, place, mask_token_id)
    elif mask_token_id is not None or token_mask is not None:
        raise ValueError("mask_token_id and token_mask belong to text, but the inputs are images; leave them out.")
    n = len(values[place])
    labels = as_labels(target, n)
    if labels is None:
        raise TypeError("target must hold the inputs' labels, got None; pass one label per input.")
    maps = _named_maps(attributions, values[place])
    shares = _as_shares(shares)
    noise = check_noise(noise)
    check_generator(generator)
    check_batch_size(max_examples_per_batch, "max_examples_per_batch")
    if output_transform is not None:
        check_callable(output_transform, "output_transform")
    show_progress = check_bool(show_progress, "show_progress")
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    warn_of_modes(forward_func=forward_func)
    correct = {name: torch.empty(len(shares), n, dtype=torch.bool, device="cpu") for name in maps}
    at_once = max(1, _REDUCED_AT_ONCE // values[place][0].numel())

    def reduced(whole: ModelInputs, of_name: Tensor, share: float) -> ModelInputs:
        if is_ids(whole[place]):
            return keep_tokens(whole, place, of_name, share, mask_token_id)
        return whole.with_value(place, keep_relevant(whole[place], of_name, keep=share, noise=noise, generator=generator))

    with changed_state(torch.no_grad(), same_random_state(values)), interruptible():
        for number, share in enumerate(progress(shares, desc="Shares kept") if show_progress else shares):
            for group in _parts(slice(0, n), at_once):
                state = generator.get_state()
                for name, of_name in maps.items():
                    generator.set_state(state)  # the same noise for all maps
                    kept = reduced(values.rows(group, n), of_name[group], share)
                    for part in _parts(group, max_examples_per_batch):
                        of_group = slice(part.start - group.start, part.stop - group.start)
                        batch = kept.rows(of_group, group.stop - group.start)
                        output = run_model(forward_func, batch, take_rows(args, part, n))
                        logits = class_scores(output, output_transform, labels[part], "forward_func")
                        correct[name][number, part] = logits.argmax(1).cpu() == labels[part]
    curves = {name: KeepCurve.of(shares, answers) for name, answers in correct.items()}
    return curves if isinstance(attributions, Mapping) else curves[""]


def _parts(rows: slice, size: Optional[int]) -> Iterator[slice]:
    """Rows in parts of at most ``size``."""
    size = size or rows.stop - rows.start
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _named_maps(attributions: Any, of: Tensor) -> dict[str, Tensor]:
    """The maps by name, of images or ids; a single tensor gets the empty name."""
    if not isinstance(attributions, Mapping):
        return {"": maps_of(attributions, "attributions", of)}
    if not attributions:
        raise ValueError("attributions is an empty mapping; pass at least one name with its maps.")
    return {name: maps_of(maps, f"attributions[{name!r}]", of) for name, maps in attributions.items()}


def _as_shares(shares: Any) -> tuple[float, ...]:
    values = shares
    if isinstance(shares, Tensor):
        check_dense(shares, "shares")
        values = shares.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"shares must be a sequence of at least one share, got {short_repr(shares)}.")
    numbers = tuple(check_share(value, f"shares[{place}]") for place, value in enumerate(values))
    if any(later <= earlier for earlier, later in zip(numbers, numbers[1:])):
        raise ValueError(f"shares must increase, got {numbers}; pass {sorted(set(numbers))}.")
    return numbers
