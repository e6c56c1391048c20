"""Reduction of images to their salient part, for every model of a report.

Each model's images are reduced by its own maps, at each layer by that layer's map (as the authors do) or by one
layer's map for all of them.

A map of an input's own label tells the label: the reduced images, and so the features, then carry it, whatever the model
has learned. Maps of the class that the model predicts depend on nothing but the image.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._models.logits import OutputTransform
from captum_kd._models.token_layout import LayoutHints
from captum_kd._utils.arguments import as_inputs, as_labels
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.maps import as_maps, image_place
from captum_kd._utils.validation import short_repr
from captum_kd.attr import UniCAM
from captum_kd.attr.grad_cam import layer_gradcams, predicted_classes
from captum_kd.attr.population import ReferencePopulation
from captum_kd.metrics.report.models import ComparedModel, hints_for
from captum_kd.perturb import keep_relevant
from captum_kd.perturb.imputation import skip_noise

__all__ = ["Explainer", "LOCALIZERS", "Localize", "Localizer", "TARGETS", "Task", "as_explainer"]

Localize = Union[None, str, Callable[..., Tensor]]
LOCALIZERS = ("gradcam", "hirescam", "unicam")

TARGETS = ("predicted", "label")


class Task(NamedTuple):
    """What is to be explained.

    Attributes:
        subject (Subject): the model.
        given (Subject, optional): the other model of the pair.
        places (sequence of int): of the layers that maps are asked for.
        inputs (tuple of Tensor): one batch on the model's device.
        labels (Tensor, optional): (N,) the classes that maps explain; None for those that the model predicts.
        args (tuple): further arguments of the model.
    """

    subject: ComparedModel
    given: Optional[ComparedModel]
    places: Sequence[int]
    inputs: tuple[Tensor, ...]
    labels: Optional[Tensor]
    args: tuple[Any, ...]

    def classes(self, output_transform: Optional[OutputTransform]) -> Tensor:
        """The labels, or what the model predicts."""
        if self.labels is not None:
            return self.labels
        return predicted_classes(
            self.subject.model, self.inputs, self.args, model=str(self.subject), output_transform=output_transform
        )


Explainer = Callable[[Task], list[Tensor]]
"""From a task to one map for each of its layers."""


class Localizer:
    """Reduces images to their salient part.

    An input's noise is drawn in its turn from a stream that begins at the seed for every model and layer: it
    depends on the input's place in the data, is the same for all models, and does not depend on the batches.

    Attributes:
        empty (int): constant maps so far, which say nothing about what to keep.

    Args:
        explain (callable): the maps.
        target (str): "predicted" or "label", the class that is explained.
        place (int, optional): place of the layer whose map serves all layers; None: each layer has its own.
        layers (int): number of layers.
        keep (float): share of the pixels that stay.
        noise (float): of the imputed pixels.
        seed (int): of that noise.
    """

    def __init__(
        self,
        explain: Explainer,
        target: str,
        place: Optional[int],
        layers: int,
        keep: float,
        noise: float,
        seed: int,
    ) -> None:
        self._explain = explain
        self._by_label = target == "label"
        self._places = range(layers) if place is None else range(place, place + 1)
        self._keep = keep
        self._noise = noise
        self._seed = seed
        self._before = 0
        self._begun: Optional[Tensor] = None
        self.empty = 0
        self._streams: dict[tuple[str, int], torch.Generator] = {}

    def begin(self, before: int) -> None:
        """Inputs of the same data that other processes have, ahead of this one's first."""
        self._before = before

    def begin_apart(self, rank: int) -> None:
        """For a process that cannot know how many these are: a stream of its own."""
        self._seed = (self._seed + rank * 2**40) % 2**63

    def reduce(
        self,
        key: str,
        subject: ComparedModel,
        given: Optional[ComparedModel],
        inputs: tuple[Tensor, ...],
        labels: Tensor,
        args: tuple[Any, ...],
    ) -> list[tuple[Tensor, ...]]:
        """The inputs with their images reduced: one tuple for all layers, or one for each.

        Args:
            key (str): of the view whose next batch this is.
            subject (Subject): the model that is explained and will see the reduced images.
            given (Subject, optional): the other model of the pair.
            inputs (tuple of Tensor): the batch on the model's device.
            labels (Tensor): (N,).
            args (tuple): further arguments of the model.

        Raises:
            TypeError, ValueError: no image among the inputs, or several; maps that are none, of another batch or
                size, or not finite.
        """
        at = image_place(inputs, "localize needs")
        images = inputs[at]
        size = (images.shape[2], images.shape[3])
        maps = self._explain(Task(subject, given, self._places, inputs, labels if self._by_label else None, args))
        reduced = []
        for place, values in zip(self._places, maps):
            checked = as_maps(values, f"What localizes {subject.layers[place]}", len(images), size)
            flat = checked.flatten(1)
            self.empty += int((flat.amax(1) == flat.amin(1)).sum())
            stream = self._stream(key, place, images)
            image = keep_relevant(
                images, checked.to(images.device), keep=self._keep, noise=self._noise, generator=stream
            )
            reduced.append((*inputs[:at], image, *inputs[at + 1 :]))
        return reduced

    def _stream(self, key: str, place: int, images: Tensor) -> torch.Generator:
        if (key, place) not in self._streams:
            stream = torch.Generator()
            if self._begun is None:
                stream.manual_seed(self._seed)
                if self._noise > 0:
                    skip_noise(images, self._before, stream)
                self._begun = stream.get_state()
            stream.set_state(self._begun)  # all streams are alike: what is ahead is drawn once
            self._streams[key, place] = stream
        return self._streams[key, place]


def as_explainer(
    localize: Union[str, Callable[..., Tensor]],
    *,
    output_transform: Optional[OutputTransform],
    reference: Optional[tuple[Any, Any]],
    class_embeddings: Optional[Tensor],
    hints: LayoutHints,
    at_input: bool,
    device_ids: Optional[Sequence[int]],
) -> Explainer:
    """What ``localize=`` says, as a function.

    Raises:
        ValueError: an unknown name, or "unicam" without a reference.
        TypeError: neither a name nor a function.
    """
    if callable(localize):
        return _Custom(localize, output_transform)
    if not isinstance(localize, str):
        raise TypeError(f"localize must be None, a name or a function, got {type(localize).__name__}.")
    if localize not in LOCALIZERS:
        raise ValueError(f"localize must be one of {', '.join(map(repr, LOCALIZERS))}, a function or None, got {localize!r}.")
    gradcam = _GradCam(localize == "hirescam", output_transform, hints, at_input, device_ids)
    if localize != "unicam":
        return gradcam
    return _UniCam(
        _as_reference(reference), class_embeddings, hints, at_input, device_ids, gradcam, output_transform
    )


class _Custom:
    """A user's function (model, layer, inputs, labels) -> maps."""

    def __init__(self, function: Callable[..., Tensor], output_transform: Optional[OutputTransform]) -> None:
        self.function = function
        self.output_transform = output_transform

    def __call__(self, task: Task) -> list[Tensor]:
        inputs = task.inputs[0] if len(task.inputs) == 1 else task.inputs
        classes = task.classes(self.output_transform).to(task.inputs[0].device)
        subject = task.subject
        return [
            self.function(subject.model, subject.layers[place].module, inputs, classes) for place in task.places
        ]


class _GradCam:
    def __init__(
        self,
        high_resolution: bool,
        output_transform: Optional[OutputTransform],
        hints: LayoutHints,
        at_input: bool,
        device_ids: Optional[Sequence[int]],
    ) -> None:
        self.settings: dict[str, Any] = {
            "high_resolution": high_resolution,
            "output_transform": output_transform,
            "at_input": at_input,
            "device_ids": device_ids,
        }
        self.hints = hints

    def __call__(self, task: Task) -> list[Tensor]:
        subject = task.subject
        return layer_gradcams(
            subject.model,
            [subject.layers[place] for place in task.places],
            task.inputs,
            task.labels,  # its own pass tells what the model predicts
            task.args,
            model=str(subject),
            hints=hints_for(subject, self.hints),
            **self.settings,
        )


class _UniCam:
    """Distilled maps for the Student of a pair, residual maps for its Base.

    Beside a fixed reference population, so that no map depends on the loader's batches. The Teacher belongs to no
    pair and is explained by Grad-CAM.
    """

    def __init__(
        self,
        reference: tuple[tuple[Tensor, ...], Tensor],
        class_embeddings: Optional[Tensor],
        hints: LayoutHints,
        at_input: bool,
        device_ids: Optional[Sequence[int]],
        teacher: Explainer,
        output_transform: Optional[OutputTransform],
    ) -> None:
        self.reference = reference
        self.settings: dict[str, Any] = {"class_embeddings": class_embeddings, "device_ids": device_ids}
        self.settings |= {"grid": hints.grid, "prefix_tokens": hints.prefix_tokens, "channels_last": hints.channels_last}
        self.at_input = at_input
        self.teacher = teacher
        self.output_transform = output_transform
        self.pairs: dict[tuple[str, str], tuple[UniCAM, ReferencePopulation]] = {}

    def __call__(self, task: Task) -> list[Tensor]:
        if task.given is None:
            return self.teacher(task)
        classes = task.classes(self.output_transform)
        unicam, population = self._pair(task, task.given)
        maps: list[Tensor] = unicam.attribute(task.inputs, classes, task.args, self.at_input, reference=population)
        return maps

    def _pair(self, task: Task, given: ComparedModel) -> tuple[UniCAM, ReferencePopulation]:
        subject = task.subject
        key = (subject.key, given.key)
        if key not in self.pairs:
            if key[::-1] in self.pairs:  # the same pair from the other side
                unicam, population = self.pairs[key[::-1]]
                self.pairs[key] = unicam.residual(), population
            else:
                own, other = ([model.layers[place].module for place in task.places] for model in (subject, given))
                unicam = UniCAM(subject.model, own, given.model, other, **self.settings)
                unicam._warns_of_modes = False
                inputs, labels = self.reference
                values = to_device(inputs, device_of(subject.model))
                population = unicam.reference(values, labels, task.args, self.at_input, internal_batch_size=64)
                self.pairs[key] = unicam, population
        return self.pairs[key]


def _as_reference(reference: Optional[tuple[Any, Any]]) -> tuple[tuple[Tensor, ...], Tensor]:
    if reference is None:
        raise ValueError(
            'localize="unicam" compares each input with a fixed population: pass reference=(inputs, labels), 64 labeled '
            "inputs or more that are not among the data."
        )
    if not isinstance(reference, (tuple, list)) or len(reference) != 2:
        raise TypeError(f"reference must be a pair (inputs, labels), got {short_repr(reference)}.")
    inputs = as_inputs(reference[0], "reference[0]")
    labels = as_labels(reference[1], inputs[0].shape[0], "reference[1]")
    if labels is None:
        raise TypeError("reference must hold labels, got (inputs, None).")
    return inputs, labels
