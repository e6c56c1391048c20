"""Reduction of inputs to their salient part, for scores around the salient region."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd._models.feature_transforms import takes_mask
from captum_kd._models.hooks import same_random_state
from captum_kd._utils.arguments import check_callable
from captum_kd._utils.inputs import ATTENTION_MASK, InputsByModel, ModelInputs, as_token_mask, is_ids
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.maps import mapped_place, maps_of
from captum_kd._utils.tensors import is_finite
from captum_kd._utils.validation import short_repr
from captum_kd.perturb import keep_relevant, keep_relevant_tokens
from captum_kd.perturb.keep_tokens import check_mask_token, token_mask_of

PerturbFunc = Callable[..., Any]

_SEED = 0  # for all models, so that their images get the same noise


class InputReducer(NamedTuple):
    """Reduces one model's inputs by its own maps, both checked by :func:`as_reducers`."""

    maps: Tensor  # (N, 1, h, w), or (N, 1, T) of tokens
    place: int  # index of the images or ids among the inputs
    perturb_func: PerturbFunc

    def reduce(self, inputs: ModelInputs) -> ModelInputs:
        """Reduces all inputs at once, so that the noise does not depend on the batch size.

        Raises:
            TypeError, ValueError: perturb_func does not return finite images of the same shape, or text in the same form.
        """
        if is_ids(inputs[self.place]):
            return self._reduce_text(inputs)
        images = inputs[self.place]
        with changed_state(torch.no_grad(), seeded(images, _SEED)), interruptible():
            # A copy, since perturb_func may work in place.
            reduced = self.perturb_func(images.clone(), self.maps.to(images.device))
        if not isinstance(reduced, Tensor):
            raise TypeError(f"perturb_func must return the perturbed images, a tensor, got {type(reduced).__name__}.")
        if reduced.shape != images.shape or not is_finite(reduced):
            found = f"shape {tuple(reduced.shape)}" if reduced.shape != images.shape else "non-finite values"
            raise ValueError(f"perturb_func must return finite images of shape {tuple(images.shape)}, got {found}.")
        return inputs.with_value(self.place, reduced.detach())

    def _reduce_text(self, inputs: ModelInputs) -> ModelInputs:
        """Tokens that become padding leave the token mask."""
        tokens = token_mask_of(inputs, self.place)
        copies = inputs.with_values(value.clone() if isinstance(value, Tensor) else value for value in inputs)
        mask = {"token_mask": tokens} if takes_mask(self.perturb_func) else {}
        with changed_state(torch.no_grad(), seeded(tokens, _SEED)), interruptible():
            reduced = self.perturb_func(copies.as_given(), self.maps, **mask)
        changed = inputs.with_values(_values_like(reduced, inputs))
        attention = changed.by_name(ATTENTION_MASK)
        if not isinstance(attention, Tensor) or attention.shape != tokens.shape:
            return changed
        left = tokens & (attention != 0)
        return changed.with_mask(as_token_mask(left, len(left), "The attention mask after perturb_func"))


def as_reducers(
    attributions: Any,
    base_attributions: Any,
    perturb_func: Optional[PerturbFunc],
    inputs: InputsByModel,
    *,
    has_base: bool,
) -> tuple[Optional[InputReducer], Optional[InputReducer]]:
    """The reducers of a model and its Base, None without maps. All arguments are checked here, before any model runs."""
    if attributions is None and base_attributions is None:
        if perturb_func is not None:
            raise ValueError("perturb_func is applied to inputs and attributions; pass attributions with it, or leave it out.")
        return None, None
    if base_attributions is not None and not has_base:
        raise ValueError("base_attributions are maps of the model in given=, which is None; leave them out.")
    if attributions is None or (base_attributions is None and has_base):
        missing, passed = "attributions", "base_attributions"
        if attributions is not None:
            missing, passed = passed, missing
        raise ValueError(
            f"{passed} was passed without {missing}: each model's images are reduced by its own maps. Explain both models, "
            "or pass the same maps twice to reduce both models' images alike."
        )
    if perturb_func is not None:
        check_callable(perturb_func, "perturb_func")

    def reducer(maps: Any, argument: str, of_model: ModelInputs) -> InputReducer:
        place = mapped_place(of_model, "Scores of the salient part (attributions=) need")
        default: PerturbFunc = keep_relevant
        if is_ids(of_model[place]):
            default = keep_relevant_tokens
            if perturb_func is None:
                check_mask_token(of_model, place, None)
        return InputReducer(maps_of(maps, argument, of_model[place]), place, perturb_func or default)

    return (
        reducer(attributions, "attributions", inputs.student),
        None if base_attributions is None else reducer(base_attributions, "base_attributions", inputs.of("base")),
    )


def _values_like(reduced: Any, inputs: ModelInputs) -> list[Any]:
    """The values that perturb_func returned for text, by the places of the inputs."""
    if inputs.names is not None:
        is_complete = isinstance(reduced, Mapping) and all(name in reduced for name in inputs.names)
        values = [reduced[name] for name in inputs.names] if is_complete else []
    else:
        values = list(reduced) if isinstance(reduced, tuple) else [reduced]
    if [_form(value) for value in values] != [_form(value) for value in inputs]:
        raise ValueError(
            "perturb_func must return text in the form that it received, with tensors of the same shapes and types: "
            f"{short_repr(inputs.as_given())}, got {short_repr(reduced)}."
        )
    return values


def _form(value: Any) -> Any:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)


@contextmanager
def seeded(like: Tensor, seed: int) -> Iterator[None]:
    """Seeds the global generators of the CPU and of a tensor's device; restores them afterwards."""
    with same_random_state((like,)):
        torch.default_generator.manual_seed(seed)
        if like.device.type == "cuda":
            with torch.cuda.device(like.device):
                torch.cuda.manual_seed(seed)
        yield
