"""The feature similarity score (FSS) between two models."""

from __future__ import annotations

from typing import Any, Callable, Optional

from captum.log import log_usage
from torch import Tensor

from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_names import LayerLike
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.inputs import ROLES, Inputs, TokenMask, as_inputs_by_model
from captum_kd.distance.blockwise import check_block_size, source_correlation
from captum_kd.distance.centering import MIN_INPUTS, Estimator, check_estimator
from captum_kd.distance.sources import FeatureDistances
from captum_kd.metrics._layer_features import FeatureSettings, check_inputs, layer_extractor, layer_features
from captum_kd.metrics._salient import PerturbFunc, as_reducers

__all__ = ["feature_similarity_score"]


@log_usage()
def feature_similarity_score(
    forward_func: Callable[..., Any],
    layer: LayerLike,
    base_func: Callable[..., Any],
    base_layer: LayerLike,
    inputs: Inputs,
    additional_forward_args: Any = None,
    *,
    attributions: Optional[Tensor] = None,
    base_attributions: Optional[Tensor] = None,
    perturb_func: Optional[PerturbFunc] = None,
    feature_transform: Optional[FeatureTransform] = None,
    estimator: Estimator = "unbiased",
    max_examples_per_batch: Optional[int] = None,
    grid: Optional[tuple[int, int]] = None,
    prefix_tokens: Optional[int] = None,
    channels_last: Optional[bool] = None,
    attribute_to_layer_input: bool = False,
    device_ids: Optional[list[int]] = None,
    block_size: Optional[int] = None,
    token_mask: TokenMask = None,
    tokens: Optional[bool] = None,
) -> Tensor:
    r"""
    Feature similarity score (FSS): :math:`R(P_S, P_B)`, the squared distance correlation of two
    models' features of the same inputs. It is 1 if the distances between the inputs agree up to scale, and
    about 0 for unrelated features.

    Features that two networks compute from the same images are never independent, not even those of
    untrained networks, so a high score is not a finding by itself. Compare it with the score of two Base
    models of different seeds.

    Source: Adhane et al., WACV 2025, with the unbiased estimator of Szekely & Rizzo 2014 over all
    inputs at once. The authors' code uses the biased estimator on features of unit length:
    ``estimator="biased"``, ``feature_transform=flatten_to_unit_length``. For few inputs the biased score
    tends to 1 for any features.

    Args:

        forward_func (Callable): One model, for example the Student.
        layer (str or torch.nn.Module): Its layer, a dotted name or the module.
        base_func (Callable): The other model.
        base_layer (str or torch.nn.Module): Its layer.
        inputs (Tensor, tuple[Tensor, ...] or mapping): Inputs of both models, n >= 4 examples first; a mapping as for
                    :meth:`captum_kd.UniCAM.attribute`, also {"student": inputs, "base": inputs} for different inputs.
        additional_forward_args (Any, optional): Further arguments of both models, as in Captum.
        attributions (Tensor, optional): (N, 1, h, w) maps of ``forward_func``, any Captum layer
                    attribution at the layer's or the image's resolution, or (N, 1, T) of text. The inputs are then
                    reduced to their relevant part before the forward pass, so that the score compares features
                    around the salient region. One of tuple inputs must be an image (N, C, H, W), or ids (N, T).
        base_attributions (Tensor, optional): Maps of ``base_func``, required with ``attributions``:
                    each model's inputs are reduced by its own maps.
        perturb_func (Callable, optional): From (inputs, attributions) to reduced inputs. It is
                    called once for each model with all images, or with all inputs of text in the form in which they
                    are passed, and with ``token_mask`` if it has a parameter of that name. The global random generators are
                    seeded with 0 for each call and restored afterwards, so that both models' images
                    get the same noise and results repeat. For another share pass
                    ``functools.partial(keep_relevant, keep=0.3)``; for text pass
                    ``functools.partial(keep_relevant_tokens, mask_token_id=tokenizer.mask_token_id)``.
                    Default: :func:`captum_kd.perturb.keep_relevant`, 50 % of the pixels; for text
                    :func:`captum_kd.perturb.keep_relevant_tokens`, 50 % of the tokens, the others become padding
        feature_transform (Callable, optional): From (N, C, ...) to (N, d).
                    Default: :func:`captum_kd.flatten`; for text (ids or a token mask)
                    :func:`captum_kd.global_average_pool`, since flattened sentences differ mostly by their lengths
        estimator (str, optional): "unbiased" or "biased".
        max_examples_per_batch (int, optional): Inputs in one forward pass. Bounds memory and does
                    not change the result.
        grid, prefix_tokens, channels_last, tokens: Layout of token and channels-last layers if it
                    cannot be inferred, as for :class:`captum_kd.UniCAM`.
        attribute_to_layer_input (bool, optional): Use the layers' inputs.
        device_ids (list[int], optional): Device order of DataParallel models.
        block_size (int, optional): Compute distances in square blocks of this many inputs and hold
                    no (n, n) matrix. The score is the same.
                    Default: None, matrices up to 4,096 inputs, blocks of 512 (4,096 on a GPU) beyond
        token_mask (Tensor, optional): (N, T), True for the tokens that count, as for :class:`captum_kd.UniCAM`.
                    Default: None, the models' ``attention_mask``

    Returns:
        Tensor: scalar in [-1, 1], without graph. 0 with a warning for constant features. Models in training mode cause
        a warning.

    Raises:
        ValueError: fewer than 4 inputs, unknown layers, non-finite features; attributions of one
                    model only, of another batch or size, or with non-finite values.
        TypeError: models that cannot be called, inputs that are not tensors, attributions of layers
                    with several outputs (choose one).

    Examples::

        >>> # layer3 of Student and Base over 500 images of 3x32x32, 64 at a time
        >>> fss = feature_similarity_score(
        ...     student, "layer3", base, "layer3", images, max_examples_per_batch=64)
        >>> # around the salient region of each model
        >>> maps = LayerGradCam(student, student.layer3).attribute(images, labels)
        >>> base_maps = LayerGradCam(base, base.layer3).attribute(images, labels)
        >>> localized = feature_similarity_score(
        ...     student, "layer3", base, "layer3", images, attributions=maps, base_attributions=base_maps)
    """
    values = as_inputs_by_model(inputs, token_mask=token_mask)
    values.check_names(ROLES)
    check_inputs(values, MIN_INPUTS)
    check_estimator(estimator)
    check_block_size(block_size)
    reducer, base_reducer = as_reducers(attributions, base_attributions, perturb_func, values, has_base=True)
    settings = FeatureSettings.checked(
        feature_transform,
        max_examples_per_batch,
        grid,
        prefix_tokens,
        channels_last,
        attribute_to_layer_input,
        device_ids,
        tokens,
    )
    extractor = layer_extractor(forward_func, layer, settings, model="forward_func", argument="layer")
    base_extractor = layer_extractor(base_func, base_layer, settings, model="base_func", argument="base_layer")
    warn_of_modes(forward_func=forward_func, base_func=base_func)
    first = layer_features(extractor, values.student, additional_forward_args, settings, reducer)
    second = layer_features(base_extractor, values.of("base"), additional_forward_args, settings, base_reducer)
    sources = [FeatureDistances(each.to(first.device)) for each in (first, second)]
    return source_correlation(sources, estimator, block_size).to(first.dtype)
