"""Reduction of inputs to their salient part, for scores around the salient region."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterator, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd._models.hooks import same_random_state
from captum_kd._utils.arguments import check_callable
from captum_kd._utils.inputs import InputsByModel, ModelInputs
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.maps import as_maps, image_place
from captum_kd._utils.tensors import is_finite
from captum_kd.perturb import keep_relevant

PerturbFunc = Callable[[Tensor, Tensor], Tensor]

_SEED = 0  # for all models, so that their images get the same noise


class InputReducer(NamedTuple):
    """Reduces one model's inputs by its own maps, both checked by :func:`as_reducers`."""

    maps: Tensor  # (N, 1, h, w)
    place: int  # index of the image among the inputs
    perturb_func: PerturbFunc

    def reduce(self, inputs: ModelInputs) -> ModelInputs:
        """Reduces all images at once, so that the noise does not depend on the batch size.

        Raises:
            TypeError, ValueError: perturb_func does not return finite images of the same shape.
        """
        images = inputs[self.place]
        with changed_state(torch.no_grad(), seeded(images, _SEED)), interruptible():
            # A copy, since perturb_func may work in place.
            reduced = self.perturb_func(images.clone(), self.maps.to(images.device))
        if not isinstance(reduced, Tensor):
            raise TypeError(f"perturb_func must return the perturbed images, a tensor, got {type(reduced).__name__}.")
        if reduced.shape != images.shape or not is_finite(reduced):
            found = f"shape {tuple(reduced.shape)}" if reduced.shape != images.shape else "non-finite values"
            raise ValueError(f"perturb_func must return finite images of shape {tuple(images.shape)}, got {found}.")
        return inputs.with_values((*inputs[: self.place], reduced.detach(), *inputs[self.place + 1 :]))


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
        place = image_place(of_model, "Scores of the salient part (attributions=) need")
        images = of_model[place]
        checked = as_maps(maps, argument, len(images), (images.shape[2], images.shape[3]))
        return InputReducer(checked, place, keep_relevant if perturb_func is None else perturb_func)

    return (
        reducer(attributions, "attributions", inputs.of("student")),
        None if base_attributions is None else reducer(base_attributions, "base_attributions", inputs.of("base")),
    )


@contextmanager
def seeded(like: Tensor, seed: int) -> Iterator[None]:
    """Seeds the global generators of the CPU and of a tensor's device; restores them afterwards."""
    with same_random_state((like,)):
        torch.default_generator.manual_seed(seed)
        if like.device.type == "cuda":
            with torch.cuda.device(like.device):
                torch.cuda.manual_seed(seed)
        yield
