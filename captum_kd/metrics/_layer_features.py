"""Features of one layer of one model over a batch, for the model-level metrics."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_names import LayerLike, LayerPair, resolve_layer
from captum_kd._models.token_layout import as_layout_hints, LayoutHints
from captum_kd._utils.arguments import as_forward_args, check_batch_size, check_callable, check_device_ids, check_model
from captum_kd._utils.inputs import InputsByModel, ModelInputs
from captum_kd._utils.validation import check_bool
from captum_kd.distance.sources import TensorFeatures
from captum_kd.metrics._salient import InputReducer


class FeatureSettings(NamedTuple):
    """Settings of feature extraction, the same for every model of one score."""

    feature_transform: Optional[FeatureTransform]
    hints: LayoutHints
    max_examples_per_batch: Optional[int]
    attribute_to_layer_input: bool
    device_ids: Optional[list[int]]

    @classmethod
    def checked(
        cls,
        feature_transform: Optional[FeatureTransform],
        max_examples_per_batch: Optional[int],
        grid: Optional[tuple[int, int]],
        prefix_tokens: Optional[int],
        channels_last: Optional[bool],
        attribute_to_layer_input: bool,
        device_ids: Optional[list[int]],
        tokens: Optional[bool],
    ) -> FeatureSettings:
        """Settings from the arguments of :func:`captum_kd.metrics.feature_similarity_score`, validated."""
        if feature_transform is not None:
            check_callable(feature_transform, "feature_transform")
        check_batch_size(max_examples_per_batch, "max_examples_per_batch")
        check_device_ids(device_ids)
        return cls(
            feature_transform,
            as_layout_hints(grid, prefix_tokens, channels_last, tokens),
            max_examples_per_batch,
            check_bool(attribute_to_layer_input, "attribute_to_layer_input"),
            device_ids,
        )


def layer_extractor(
    forward_func: Callable[..., Any], layer: LayerLike, settings: FeatureSettings, *, model: str, argument: str
) -> FeatureExtractor:
    """The feature extractor of one layer; checks model and layer before any model runs."""
    check_model(forward_func, model)
    found = resolve_layer(forward_func, layer, model=model, argument=argument)
    pairs = (LayerPair(found, found),)
    return FeatureExtractor(forward_func, pairs, settings.feature_transform, settings.hints, settings.device_ids)


def layer_features(
    extractor: FeatureExtractor,
    inputs: ModelInputs,
    additional_forward_args: Any,
    settings: FeatureSettings,
    reducer: Optional[InputReducer] = None,
) -> TensorFeatures:
    """Detached features (n, d) of one layer, float32 or float64, on the layer's device."""
    args = as_forward_args(additional_forward_args)
    if reducer is not None:
        inputs = reducer.reduce(with_named_mask(extractor.forward_func, inputs, args))
    activations = extractor.observe(
        inputs,
        args,
        at_input=settings.attribute_to_layer_input,
        features_only=True,
        internal_batch_size=settings.max_examples_per_batch,
    )
    return TensorFeatures(activations.features[0], float(activations.rounding[0].amax()))


def check_inputs(inputs: InputsByModel, least: int) -> None:
    """Raises a ValueError for too few inputs."""
    n = len(inputs.student[0])
    if n < least:
        raise ValueError(f"The score needs at least {least} inputs, got {n}; pass more. It is stable from a few hundred on.")
