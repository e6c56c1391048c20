"""Similarity of all layers of one model with all layers of another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Iterable, Optional, Sequence, Union

import torch
from captum.log import log_usage
from torch import Tensor, nn

from captum_kd._distributed import ProcessGroup, as_process_group
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.hooks import same_random_state
from captum_kd._models.layer_names import Layer, LayerLike, resolve_layer
from captum_kd._models.training_mode import Modes, mode_notes, modes_of
from captum_kd._utils.arguments import check_callable, check_model
from captum_kd._utils.batches import Unpack, batches_of, unpack_batch
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_bool, short_repr
from captum_kd._utils.versions import versions
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.block_sums import population_sums
from captum_kd.distance.blockwise import noise_squares
from captum_kd.distance.centering import MIN_INPUTS
from captum_kd.distance.gram import correlations_given
from captum_kd.metrics.report.agreement import check_models, shared_arguments
from captum_kd.metrics.report.collect import FeatureCollector, check_data
from captum_kd.metrics.report.models import ComparedModel, FeatureSet, Model
from captum_kd.metrics.report.settings import Compute, ModelOptions, check_option, flat
from captum_kd.metrics.report.sharding import ReportSharding
from captum_kd.metrics.report.storage import FeatureStores, Placement, place_distances, size_advice
from captum_kd.metrics.scores_table import BASE, STUDENT
from captum_kd.metrics.similarity_matrices import MEASURES, READING, LayerSimilarity

__all__ = ["layer_similarity"]

LayerList = Union[LayerLike, Sequence[LayerLike], Mapping[str, LayerLike]]


@log_usage()
def layer_similarity(
    model_a: Model,
    model_b: Model,
    layers_a: LayerList,
    layers_b: LayerList,
    data: Iterable[Any],
    *,
    measures: Sequence[str] = MEASURES,
    feature_transform: Optional[FeatureTransform] = None,
    unpack: Optional[Unpack] = None,
    show_progress: bool = True,
    model_options: ModelOptions = ModelOptions(),
    compute: Compute = Compute(),
) -> LayerSimilarity:
    r"""
    Similarity of every layer of one model with every layer of another one, from one pass of each model over the data. It
    shows which layers match, for example to choose the pairs of a hint loss. One model given twice is compared with itself;
    it runs once.

    "fss" is the feature similarity score of :func:`compare_transfer`: the unbiased squared distance correlation. "cka" is
    unbiased linear CKA (centered kernel alignment): the correlation of the U-centered kernels :math:`K_{ij} = x_i \cdot x_j`,
    which is :math:`\mathrm{HSIC}_1(K, L) / \sqrt{\mathrm{HSIC}_1(K, K)\, \mathrm{HSIC}_1(L, L)}`. Both come from the same
    distances: :math:`|x_i - x_j|^2 = K_{ii} + K_{jj} - 2 K_{ij}`, and U-centering removes :math:`K_{ii} + K_{jj}`, so that
    U-centered squared distances are -2 times the U-centered kernel. CKA is dominated by the directions of largest variance.
    FSS, from distances that are not squared, is less so.

    Both are 1 if two layers' features agree up to shift, rotation and scale, and about 0 for independent ones. Features of
    the same inputs are never independent, so a high value is no finding by itself. Compare it with that of another seed or of
    random weights.

    Features in float64 have errors below 1e-9. Distances of features in float32 are float32, since nothing is removed from
    them: the errors are about 1e-7.

    Source: Kornblith et al., ICML 2019 (CKA between layers); Song et al., JMLR 2012 (:math:`\mathrm{HSIC}_1`); Nguyen et al.,
    ICLR 2021 (unbiased CKA); Szekely & Rizzo 2014 (unbiased distance correlation).

    Args:

        model_a (Callable): One model, for example the Student.
        model_b (Callable): The other model, for example the Teacher; or ``model_a`` itself.
        layers_a (str, torch.nn.Module, list or dict): The layers of ``model_a``: dotted names or modules, or {label: layer}.
        layers_b (str, torch.nn.Module, list or dict): The layers of ``model_b``.
        data (Iterable): DataLoader or other iterable of batches, with or without labels, which are not read; read once.
                    n >= 4 inputs. A batch may have inputs for each model: {"student": inputs of ``model_a``, "base":
                    inputs of ``model_b``}.
        measures (str or sequence of str, optional): "fss", "cka" or both.
        feature_transform (Callable, optional): From (N, C, ...) to (N, d).
                    Default: :func:`captum_kd.flatten`; for text (ids or a token mask) :func:`captum_kd.global_average_pool`
        unpack (Callable, optional): From a batch to (inputs, labels) or (inputs, None).
                    Default: tensors, tuples whose first part holds the inputs, or mappings as for :func:`compare_transfer`
        show_progress (bool, optional): Show a progress bar over the batches.
        model_options (ModelOptions, optional): Further arguments of the models, and the layouts of their layers; without
                    ``positions``.
        compute (Compute, optional): Ranks, memory and device; without ``verify``.

    Returns:
        LayerSimilarity: one matrix for each measure, ``best_match()``, tables and a plot. A layer without a geometry, whose
        features are the same for all inputs, has None in place of its values and a note. Such layers and models in training
        mode cause warnings.

    Raises:
        ValueError: no layers, a layer listed twice, unknown layers or layers of another model, no batches, fewer than 4
                    inputs, non-finite features, unknown measures.
        TypeError: models that cannot be called, arguments of the wrong type.
        OSError: the disk has no room for the features above ``memory_limit``.
        RuntimeError: another rank failed (the message has its number and error) or exited without an error.

    Examples::

        >>> found = layer_similarity(student, teacher, ["layer1", "layer2"], ["layer1", "layer2", "layer3"], loader)
        >>> print(found)
        >>> found.best_match("cka")[0]["match"]
        'layer2'
        >>> found.plot().savefig("layers.png")
    """
    check_option(compute, Compute, "compute")
    group = as_process_group(compute.process_group)
    with group.raise_together("checking its arguments"):
        settings = _Settings(_as_measures(measures), feature_transform, unpack, model_options, compute)
        show_progress = check_bool(show_progress, "show_progress")
        check_data(data)
        name_b = "model_a" if model_a is model_b else "model_b"
        of_a, of_b = _layers(model_a, layers_a, "layers_a", "model_a"), _layers(model_b, layers_b, "layers_b", name_b)
        keys: dict[Layer, str] = {}
        for label, layer in (*of_a.items(), *of_b.items()):
            keys.setdefault(layer, f"layer {label!r} of {layer.model}")
        models = [
            ComparedModel(name, role, model, tuple(layer for layer in keys if layer.model == name))
            for name, role, model in (("model_a", STUDENT, model_a), ("model_b", BASE, model_b))[: 1 + (model_b is not model_a)]
        ]
        check_models(models, group)
        modes = {each.name: modes_of(each.model) for each in models}
        shared = {} if compute.process_group is None else shared_arguments(models, [*of_a, *of_b], flat(settings))
    group.check_equal(shared)
    collector = FeatureCollector(list(map(FeatureSet, models)), None, model_options, feature_transform)
    stores = FeatureStores(settings.device, compute.memory_limit, size_advice(feature_transform))
    try:
        # Even an unshuffled loader draws from the global random generator.
        with group.raise_together("reading its data"), changed_state(same_random_state(())), interruptible():
            own = 0
            for batch in batches_of(data, "Comparing layers", show_progress and group.rank == 0):
                inputs, _ = unpack_batch(batch, unpack, model_options.token_mask, labeled=None)
                inputs.check_names(collector.names, "The inputs of a batch")
                own += len(inputs.student[0])
                by_model = collector.features(inputs, None)
                stores.add({keys[layer]: [by_model[each.key].pop(0)] for each in models for layer in each.layers})
        n, names, geometries, placed = _geometries(stores, own, settings, group)
    finally:
        stores.close()
    places_a, places_b = ([names.index(keys[layer]) for layer in by_label.values()] for by_label in (of_a, of_b))
    matrices = {name: _matrix(*geometries[name], places_a, places_b) for name in settings.measures}
    of_ranks = group.gather((own, modes, collector.transform))
    modes = {name: Modes(*map(any, zip(*(each[name] for _, each, _ in of_ranks)))) for name in modes}
    warnings = [*mode_notes(modes), *_dead_layers(names, geometries)]
    for warning in warnings if group.rank == 0 else []:
        warn_user(warning)
    recorded = {
        "n": n,
        "models": {"model_a": type(model_a).__name__, "model_b": type(model_b).__name__},
        "is_one_model": model_a is model_b,
        "layers": {
            argument: [layer.name or label for label, layer in by_label.items()]
            for argument, by_label in (("model_a", of_a), ("model_b", of_b))
        },
        "feature_transform": next((each for _, _, each in of_ranks if each is not None), None),
        "attribute_to_layer_input": model_options.attribute_to_layer_input,
        "training_mode": [name for name, each in modes.items() if each.is_training],
        "features": {"in_file": placed.in_file, "block_size": None if placed.held else placed.block_size},
        "processes": None if compute.process_group is None else [each for each, _, _ in of_ranks],
        "versions": versions(),
    }
    return LayerSimilarity(tuple(of_a), tuple(of_b), matrices, [*warnings, READING], recorded)


@dataclass(frozen=True, eq=False)
class _Settings:
    """The checked arguments of :func:`layer_similarity`, without models, layers and data."""

    measures: tuple[str, ...]
    feature_transform: Optional[FeatureTransform]
    unpack: Optional[Unpack]
    model_options: ModelOptions
    compute: Compute

    def __post_init__(self) -> None:
        for argument in ("feature_transform", "unpack"):
            if getattr(self, argument) is not None:
                check_callable(getattr(self, argument), argument)
        check_option(self.model_options, ModelOptions, "model_options")
        if self.model_options.positions is not None:
            raise ValueError("layer_similarity takes every sentence as one input; leave out positions in model_options.")
        if self.compute.verify:
            raise ValueError("verify recomputes the scores of compare_transfer; leave it out of compute.")

    @property
    def device(self) -> torch.device:
        return torch.device(self.compute.feature_device)


def _as_measures(measures: object) -> tuple[str, ...]:
    names = (measures,) if isinstance(measures, str) else measures
    if not isinstance(names, (list, tuple)) or not names or any(name not in MEASURES for name in names):
        raise ValueError(f"measures must be one or both of {', '.join(map(repr, MEASURES))}, got {short_repr(measures)}.")
    return tuple(dict.fromkeys(names))


def _layers(model: Model, layers: object, argument: str, name: str) -> dict[str, Layer]:
    """The layers of a model by label. A layer's label is its name, or its class where a model has no names.

    Raises:
        ValueError: no layers, unknown ones, layers of another model, a layer or label listed twice.
        TypeError: something other than names and modules; a model that cannot be called.
    """
    check_model(model, name)
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    if not isinstance(layers, (list, tuple, Mapping)):
        raise TypeError(f"{argument} must be a list of layers (names or modules) or {{label: layer}}, got {short_repr(layers)}.")
    if not layers:
        raise ValueError(f"{argument} is empty; name at least one layer.")
    given = layers.items() if isinstance(layers, Mapping) else enumerate(layers)
    found: dict[str, Layer] = {}
    for key, each in given:
        layer = resolve_layer(model, each, model=name, argument=f"{argument}[{key!r}]")
        label = key if isinstance(layers, Mapping) else layer.name or type(layer.module).__name__
        if not isinstance(label, str):
            raise TypeError(f"The labels in {argument} must be strings, got {short_repr(label)}.")
        if any(layer.module is other.module for other in found.values()):
            raise ValueError(f"{argument} lists {layer} twice; list each layer once.")
        if label in found:
            raise ValueError(f"{argument} has two layers without names that are a {label}; pass them as {{label: layer}}.")
        found[label] = layer
    return found


def _geometries(
    stores: FeatureStores, own: int, settings: _Settings, group: ProcessGroup
) -> tuple[int, list[str], dict[str, tuple[Tensor, Tensor]], Placement]:
    """The number of inputs, the keys of all layers, their Gram matrix (k, k) and noise (k,) by measure, and the storage."""
    advice = f"{size_advice(settings.feature_transform)} Load the models in one dtype."
    sharding = ReportSharding(group, settings.device, advice)
    n = sharding.gather_size(own)
    if n == 0:
        raise ValueError("data yielded no batches; pass a loader with inputs (an iterator that was used up is empty).")
    if n < MIN_INPUTS:
        raise ValueError(f"The data hold {n} inputs; similarity needs at least {MIN_INPUTS}, and a few hundred to be stable.")
    # All layers take the place of one layer's feature sets in a report, which are compared with each other.
    placed = place_distances(settings.compute, settings.device, n, len(stores.all()), group.size, stores.in_file)
    placed = sharding.placement(placed, stores.by_key)
    sources = [sharding.source(key, 0, stores.by_key, placed, spec.dtype) for key, (spec,) in sharding.specs.items()]
    with_squares = "cka" in settings.measures
    sums = population_sums(
        sources, with_squares=with_squares, block_size=placed.block_size, tile_iterator=sharding.tiles
    )
    k = len(sources)
    distances = sums.of(*range(k))
    noise = noise_squares(distances, sources)
    geometries = {"fss": (distances.gram(), noise)}
    if with_squares:
        squares = sums.of(*range(k, 2 * k))
        gram, levels = squares.gram(), noise.new_tensor([source.noise for source in sources])
        # A square has twice the relative error. A layer whose distances are rounding has no kernel either.
        is_dead = geometries["fss"][0].diagonal() <= noise
        geometries["cka"] = gram, torch.where(is_dead, torch.inf, squares.raw_squares() * (2 * levels).square())
    return n, list(sharding.specs), geometries, placed


def _matrix(gram: Tensor, noise: Tensor, places_a: list[int], places_b: list[int]) -> list[list[Optional[float]]]:
    columns = []
    for place in places_b:
        values, defined = correlations_given(gram, noise, place, ())
        columns.append([float(values[each]) if bool(defined[each]) else None for each in places_a])
    return [list(row) for row in zip(*columns)]


def _dead_layers(names: list[str], geometries: Mapping[str, tuple[Tensor, Tensor]]) -> list[str]:
    """A note on each layer without a geometry."""
    notes = []
    for place, name in enumerate(names):
        absent = [measure.upper() for measure, (gram, noise) in geometries.items() if gram[place, place] <= noise[place]]
        if absent:
            notes.append(
                f"No {' and no '.join(absent)} for {name}: up to rounding, it does not tell the inputs apart (constant features, "
                "or all inputs equally far from each other)."
            )
    return notes
