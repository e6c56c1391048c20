"""Reduction of images and texts to their salient part, for every model of a report.

Each model's inputs are reduced by its own maps: each layer uses its own map (as the authors do), or all layers use the map of
one layer. Maps of an input's own label carry the label into the reduced inputs and so into the features, even for an untrained
model. Maps of the predicted class depend on the input only.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.logits import predicted_classes
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.inputs import InputsByModel, ModelInputs, as_inputs_by_model, is_ids
from captum_kd._utils.maps import mapped_place, maps_of
from captum_kd.attr import UniCAM
from captum_kd.attr.reference_population import ReferencePopulation
from captum_kd.metrics.report.localization import Localization
from captum_kd.metrics.report.maps import layer_maps, with_prefix
from captum_kd.metrics.report.models import ComparedModel, FeatureSet
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import STUDENT
from captum_kd.perturb import keep_relevant
from captum_kd.perturb.imputation import skip_noise
from captum_kd.perturb.keep_tokens import check_mask_token, keep_tokens, token_mask_of


class Localizer:
    """Reduces images and texts to their salient part.

    For each model and layer, one random stream draws the noise, starting from the same seed. An input's noise therefore depends
    on its place in the data. It is the same for all models and does not depend on the batches.

    Attributes:
        empty (int): number of constant maps so far, which do not rank the pixels or tokens.

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
        self, features: FeatureSet, of_models: InputsByModel, labels: Optional[Tensor], args: tuple[Any, ...]
    ) -> list[ModelInputs]:
        """The next batch with its inputs reduced for a set of features: one tuple for all layers, or one for each.

        Raises a TypeError or ValueError for inputs without images and ids or with several images, and for invalid maps.
        """
        inputs = of_models.of(*features.of.names)
        at = mapped_place(inputs, "localize needs")
        is_text = is_ids(inputs[at])
        if is_text:
            inputs = with_named_mask(features.of.model, inputs, args)
            check_mask_token(inputs, at, self._mask_token(features.of))
        classes = labels if self._localize.target == "label" else None
        maps = self._maps(features, inputs, of_models, classes, args)
        reduce = self._reduce_text if is_text else self._reduce_images
        return [reduce(features, inputs, at, place, values) for place, values in zip(self._places, maps)]

    def _reduce_images(self, features: FeatureSet, inputs: ModelInputs, at: int, place: int, values: Any) -> ModelInputs:
        images = inputs[at]
        maps = maps_of(values, _named(features, place), images)
        flat = maps.flatten(1)
        self.empty += int((flat.amax(1) == flat.amin(1)).sum())
        stream = self._stream(features.key, place, images)
        image = keep_relevant(images, maps, keep=self._settings.keep, noise=self._localize.noise, generator=stream)
        return inputs.with_value(at, image)

    def _reduce_text(self, features: FeatureSet, inputs: ModelInputs, at: int, place: int, values: Any) -> ModelInputs:
        tokens = token_mask_of(inputs, at)
        prefix = self._settings.model_options.hints.prefix_tokens or 0
        values, tokens = with_prefix(values, tokens, prefix)  # prefix tokens are kept
        maps = maps_of(values, _named(features, place), inputs[at])
        high, low = (maps[:, 0].masked_fill(~tokens, end) for end in (-torch.inf, torch.inf))
        self.empty += int(((high.amax(1) == low.amin(1)) & (tokens.sum(1) > 1)).sum())
        return keep_tokens(inputs.with_mask(tokens), at, maps, self._settings.keep, self._mask_token(features.of))

    def _mask_token(self, model: ComparedModel) -> Optional[int]:
        return self._localize._mask_token_of(*model.names)

    def _maps(
        self,
        features: FeatureSet,
        inputs: ModelInputs,
        of_models: InputsByModel,
        classes: Optional[Tensor],
        args: tuple[Any, ...],
    ) -> list[Tensor]:
        """One tensor of maps for each layer, of the predicted classes if ``classes`` is None."""
        method = self._localize.method
        if method != "unicam" or features.given is None:  # the Teacher belongs to no pair
            layers = [features.of.layers[place] for place in self._places]
            return layer_maps(features.of, layers, inputs, classes, args, method, self._settings)
        if classes is None:
            model, transform = features.of.model, self._settings.output_transform
            classes = predicted_classes(model, inputs, args, model=str(features.of), output_transform=transform)
        unicam, population = self._unicam(features, args)
        at_input, n_steps = self._settings.model_options.attribute_to_layer_input, self._localize.n_steps
        of_pair: Any = _inputs_of_pair(features, of_models)
        maps: list[Tensor] = unicam.attribute(of_pair, classes, args, at_input, reference=population, n_steps=n_steps)
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
        mask = None if options.token_mask is None else options.token_mask(inputs)
        of_models = as_inputs_by_model(inputs, "reference[0]", mask)
        values = to_device(_inputs_of_pair(features, of_models), device_of(features.of.model))
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


def _named(features: FeatureSet, place: int) -> str:
    return f"The map of localize at {features.of.layers[place]}"


def _inputs_of_pair(features: FeatureSet, of_models: InputsByModel) -> InputsByModel:
    """The inputs of a Student and its Base by role, of which either may be the explained model."""
    models = {each.role: of_models.of(*each.names) for each in features if each is not None}
    return InputsByModel(models.pop(STUDENT), models)
