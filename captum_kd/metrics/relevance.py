"""The relevance score (RS): correlation between the distances of features and of labels."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence, Union

from captum.log import log_usage
from torch import Tensor

from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_names import LayerLike
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import Target, as_labels
from captum_kd._utils.inputs import ROLES, Inputs, TokenMask, as_inputs_by_model
from captum_kd._utils.validation import check_choice, short_repr
from captum_kd.distance.blockwise import check_block_size, source_correlation
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS, Estimator, check_estimator
from captum_kd.distance.labels import WAYS_OUT_OF_SCORE, LabelDistances, check_label_geometry
from captum_kd.distance.sources import DistanceSource, FeatureDistances
from captum_kd.embeddings import check_class_embeddings
from captum_kd.metrics._layer_features import FeatureSettings, check_inputs, layer_extractor, layer_features
from captum_kd.metrics._salient import PerturbFunc, as_reducers

__all__ = ["relevance_score"]

Given = tuple[Callable[..., Any], LayerLike]


@log_usage()
def relevance_score(
    forward_func: Callable[..., Any],
    layer: LayerLike,
    inputs: Inputs,
    target: Target,
    class_embeddings: Optional[Tensor] = None,
    additional_forward_args: Any = None,
    *,
    given: Union[None, Given, list[Given]] = None,
    remove_from: str = "x",
    attributions: Optional[Tensor] = None,
    base_attributions: Union[None, Tensor, Sequence[Tensor]] = None,
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
    Relevance score (RS): :math:`R(P_S, G)`, the squared distance correlation of a model's features
    and the labels' embeddings. With ``given``, another model's features are removed first:
    :math:`R(P_{S|B}, G)`.

    A positive score of distilled features is no evidence of transfer by itself. If F is the similarity
    of the two models, RS(S|B) - RS(B|S) = (RS_S - RS_B) sqrt((1 + F) / (1 - F)): similarity magnifies
    the difference of the models' own scores. Scores depend on the class frequencies, so compare them
    on identical inputs only.

    Source: Adhane et al., WACV 2025; Szekely & Rizzo 2014.

    Args:

        forward_func (Callable): The model.
        layer (str or torch.nn.Module): Its layer, a dotted name or the module.
        inputs (Tensor, tuple[Tensor, ...] or mapping): n >= 4 inputs (5 with ``given``), examples first; a mapping as for
                    :meth:`captum_kd.UniCAM.attribute`, also {"student": inputs, "base": inputs} for different inputs.
        target (list or Tensor): Labels, (n,) integers.
        class_embeddings (Tensor, optional): (num_classes, e). With two classes, all embeddings give
                    the same score.
                    Default: None, one-hot
        additional_forward_args (Any, optional): Further arguments of the models, as in Captum.
        given (tuple or list of them, optional): (base_func, base_layer), the model whose features are
                    removed. A list removes the span of several models: what is left is in no combination
                    of them.
        remove_from (str, optional): "x" removes them from the features only, as in the paper;
                    "both" also from the labels' geometry (partial distance correlation).
        attributions (Tensor, optional): (N, 1, h, w) maps of ``forward_func``, (N, 1, T) of text; the score is then
                    the score of features around the salient region. Maps of the inputs' own labels reveal
                    the labels to the features, and the score is above 0 even for untrained models and
                    random labels. Explain predictions instead.
        base_attributions (Tensor or list, optional): Maps of the model in ``given``, required with
                    ``attributions`` and ``given``: each model's inputs are reduced by its own maps. With a
                    list of models, a list of their maps.
        perturb_func, feature_transform, estimator, max_examples_per_batch, grid, prefix_tokens,
        channels_last, attribute_to_layer_input, device_ids, block_size, token_mask, tokens: As for
                    :func:`captum_kd.metrics.feature_similarity_score`. ``given`` needs the
                    unbiased estimator.

    Returns:
        Tensor: scalar in [-1, 1], without graph. 0 with a warning for constant features, or if nothing
        is left after removal. Models in training mode cause a warning.

    Raises:
        ValueError: too few inputs, labels without geometry or outside the embeddings, unknown
                    layers, non-finite features; attributions of one of two models only, of
                    another batch or size, or with non-finite values.
        TypeError: labels that are not integers, inputs that are not tensors, attributions of layers
                    with several outputs (choose one).

    Examples::

        >>> whole = relevance_score(student, "layer3", images, labels)
        >>> distilled = relevance_score(student, "layer3", images, labels, given=(base, "layer3"))
        >>> in_no_base = relevance_score(student, "layer3", images, labels, given=[(base_1, "layer3"), (base_2, "layer3")])
        >>> residual = relevance_score(base, "layer3", images, labels, given=(student, "layer3"))
    """
    values = as_inputs_by_model(inputs, token_mask=token_mask)
    values.check_names(ROLES)
    check_inputs(values, MIN_INPUTS if given is None else LEAST_WITH_REMOVAL)
    check_estimator(estimator)
    check_choice(remove_from, "remove_from", ("x", "both"))
    check_block_size(block_size)
    removed = _as_given(given)
    if given is not None and estimator != "unbiased":
        raise ValueError("given needs estimator='unbiased': removal is defined for U-centered distances.")
    several = isinstance(given, list)
    base_maps: Sequence[Any] = [base_attributions]
    if several and base_attributions is None:
        base_maps = [None] * len(removed)
    elif several:
        base_maps = base_attributions if isinstance(base_attributions, (list, tuple)) else []
        if len(base_maps) != len(removed):
            raise ValueError(
                f"base_attributions must be a list of maps, one for each of the {len(removed)} models in given, got "
                f"{short_repr(base_attributions)}."
            )
    reducers = [as_reducers(attributions, maps, perturb_func, values, has_base=bool(removed)) for maps in base_maps]
    n = len(values.student[0])
    labels = as_labels(target, n)
    if labels is None:
        raise TypeError(
            "target must hold the inputs' labels, got None: the score compares features with labels. Pass one label "
            f"per input, ({n},) integers; feature_similarity_score compares two models without any."
        )
    embeddings = check_class_embeddings(class_embeddings)
    check_label_geometry(labels, embeddings, estimator, ways_out=WAYS_OUT_OF_SCORE)
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
    names = [f"given[{place}]" if several else "given" for place in range(len(removed))]
    base_extractors = [
        layer_extractor(*each, settings, model=f"{name}[0]", argument=f"{name}[1]") for name, each in zip(names, removed)
    ]
    warn_of_modes(**{"forward_func": forward_func, **{f"{name}[0]": each[0] for name, each in zip(names, removed)}})
    features = layer_features(extractor, values.student, additional_forward_args, settings, reducers[0][0])
    sources: list[DistanceSource] = [FeatureDistances(features), LabelDistances(labels, embeddings, features.device)]
    for base_extractor, (_, reducer) in zip(base_extractors, reducers):
        of_base = layer_features(base_extractor, values.of("base"), additional_forward_args, settings, reducer)
        sources.append(FeatureDistances(of_base.to(features.device)))
    places = range(2, len(sources))
    score = source_correlation(sources, estimator, block_size, places, places if remove_from == "both" else ())
    return score.to(features.dtype)


def _as_given(given: Any) -> list[Given]:
    """The models whose features are removed, each with its layer."""
    pairs = [] if given is None else given if isinstance(given, list) else [given]
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"given must be a pair (base_func, base_layer) or a list of such pairs, got {short_repr(given)}.")
    if given is not None and not pairs:
        raise ValueError("given is an empty list; name at least one model to remove, or leave it out.")
    return list(pairs)
