"""Reduction of images to their salient part, for every model of a report.

Each model's images are reduced by its own maps: each layer uses its own map (as the authors do), or all layers use the map of
one layer. Maps of an input's own label carry the label into the reduced images and so into the features, even for an untrained
model. Maps of the predicted class depend on the image only.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.logits import predicted_classes
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.inputs import ModelInputs
from captum_kd._utils.maps import as_maps, image_place
from captum_kd.attr import UniCAM
from captum_kd.attr.grad_cam import layer_gradcams
from captum_kd.attr.reference_population import ReferencePopulation
from captum_kd.metrics.report.localization import Localization
from captum_kd.metrics.report.models import FeatureSet, hints_for
from captum_kd.metrics.report.settings import Settings
from captum_kd.perturb import keep_relevant
from captum_kd.perturb.imputation import skip_noise


class Localizer:
    """Reduces images to their salient part.

    For each model and layer, one random stream draws the noise, starting from the same seed. An input's noise therefore depends
    on its place in the data. It is the same for all models and does not depend on the batches.

    Attributes:
        empty (int): number of constant maps so far, which do not rank the pixels.

    Raises:
        ValueError: ``layer`` of the localization is none of the labels.
    """

    def __init__(self, localize: Localization, settings: Settings, labels: Sequence[str]) -> None:
        if localize.layer is not None and localize.layer not in labels:
            raise ValueError(f"layer={localize.layer!r} of Localization is none of the layers; pass one of {list(labels)}.")
        self._localize = localize
        self._settings = settings
        self._places = [place for place, label in enumerate(labels) if localize.layer in (None, label)]
        self._seed = settings.seed
        self._before = 0
        self._begun: Optional[Tensor] = None
        self._streams: dict[tuple[str, int], torch.Generator] = {}
        self._unicams: dict[tuple[str, str], tuple[UniCAM, ReferencePopulation]] = {}
        self.empty = 0

    def begin(self, before: int) -> None:
        """Skips the noise of the inputs of lower ranks, whose number is ``before``."""
        self._before = before

    def begin_own_stream(self, rank: int) -> None:
        """Starts from another seed for each rank, if the number of inputs of lower ranks is unknown."""
        self._seed = (self._seed + rank * 2**40) % 2**63

    def reduce(
        self, features: FeatureSet, inputs: ModelInputs, labels: Optional[Tensor], args: tuple[Any, ...]
    ) -> list[ModelInputs]:
        """The next batch with its images reduced for a set of features: one tuple for all layers, or one for each.

        Raises a TypeError or ValueError for inputs without an image or with several, and for invalid maps.
        """
        at = image_place(inputs, "localize needs")
        images = inputs[at]
        size = (images.shape[2], images.shape[3])
        classes = labels if self._localize.target == "label" else None
        reduced = []
        for place, values in zip(self._places, self._maps(features, inputs, classes, args)):
            checked = as_maps(values, f"The map of localize at {features.of.layers[place]}", len(images), size)
            flat = checked.flatten(1)
            self.empty += int((flat.amax(1) == flat.amin(1)).sum())
            image = keep_relevant(
                images,
                checked.to(images.device),
                keep=self._settings.keep,
                noise=self._localize.noise,
                generator=self._stream(features.key, place, images),
            )
            reduced.append(inputs.with_values((*inputs[:at], image, *inputs[at + 1 :])))
        return reduced

    def _maps(
        self, features: FeatureSet, inputs: ModelInputs, classes: Optional[Tensor], args: tuple[Any, ...]
    ) -> list[Tensor]:
        """One tensor of maps for each layer, of the predicted classes if ``classes`` is None."""
        method, options = self._localize.method, self._settings.model_options
        at_input, output_transform = options.attribute_to_layer_input, self._settings.output_transform
        model, name = features.of.model, str(features.of)
        layers = [features.of.layers[place] for place in self._places]
        is_unicam = method == "unicam" and features.given is not None  # the Teacher belongs to no pair
        if not callable(method) and not is_unicam:
            return layer_gradcams(
                model,
                layers,
                inputs,
                classes,  # None: this forward pass also gives the predictions
                args,
                model=name,
                hints=hints_for(features.of, options.hints),
                high_resolution=method == "hirescam",
                output_transform=output_transform,
                at_input=at_input,
                device_ids=options.device_ids,
            )
        if classes is None:
            classes = predicted_classes(model, inputs, args, model=name, output_transform=output_transform)
        if callable(method):
            alone, classes = inputs[0] if len(inputs) == 1 else inputs, classes.to(inputs[0].device)
            return [method(model, layer.module, alone, classes) for layer in layers]
        unicam, population = self._unicam(features, args)
        n_steps = self._localize.n_steps
        maps: list[Tensor] = unicam.attribute(inputs, classes, args, at_input, reference=population, n_steps=n_steps)
        return maps

    def _unicam(self, features: FeatureSet, args: tuple[Any, ...]) -> tuple[UniCAM, ReferencePopulation]:
        """The UniCAM of one model of a pair (distilled for the Student, residual for the Base) and its reference population."""
        assert features.given is not None and self._localize.reference is not None
        key, options = (features.of.key, features.given.key), self._settings.model_options
        if key in self._unicams:
            return self._unicams[key]
        if key[::-1] in self._unicams:  # the same pair from the other side
            unicam, population = self._unicams[key[::-1]]
            self._unicams[key] = unicam.residual(), population
            return self._unicams[key]
        own, other = ([model.layers[place].module for place in self._places] for model in (features.of, features.given))
        unicam = UniCAM(
            features.of.model,
            own,
            features.given.model,
            other,
            class_embeddings=self._settings.class_embeddings,
            device_ids=options.device_ids,
            grid=options.grid,
            prefix_tokens=options.prefix_tokens,
            channels_last=options.channels_last,
            tokens=options.tokens,
            stop_early=options.stop_early,
        )
        unicam._warns_of_modes = False
        inputs, labels = self._localize.reference
        values = to_device(inputs, device_of(features.of.model))
        at_input = options.attribute_to_layer_input
        population = unicam.reference(values, labels, args, at_input, internal_batch_size=64)
        self._unicams[key] = unicam, population
        return unicam, population

    def _stream(self, key: str, place: int, images: Tensor) -> torch.Generator:
        if (key, place) not in self._streams:
            stream = torch.Generator()
            if self._begun is None:
                stream.manual_seed(self._seed)
                if self._localize.noise > 0:
                    skip_noise(images, self._before, stream)
                self._begun = stream.get_state()
            stream.set_state(self._begun)  # all streams start alike, so the noise is skipped only once
            self._streams[key, place] = stream
        return self._streams[key, place]
