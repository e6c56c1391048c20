"""The same inputs as points in two dimensions, one picture for each of several models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Iterable, Optional, Sequence, Union

import numpy as np
import torch
from captum.log import log_usage
from torch import Tensor

from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.hooks import same_random_state
from captum_kd._models.layer_names import LayerLike, resolve_layer
from captum_kd._models.training_mode import mode_notes, modes_of
from captum_kd._utils.arguments import check_callable, check_model
from captum_kd._utils.batches import Unpack, batches_of, unpack_batch
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_bool, check_choice, check_float, check_int, short_repr
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.centering import MIN_INPUTS
from captum_kd.distance.precision import MOST_DENSE
from captum_kd.distance.sources import FeatureDistances, Features
from captum_kd.metrics._multidimensional_scaling import Array, aligned, classical_scaling
from captum_kd.metrics.report.collect import FeatureCollector, check_data
from captum_kd.metrics.report.models import ComparedModel, FeatureSet
from captum_kd.metrics.report.settings import Compute, ModelOptions, check_option
from captum_kd.metrics.report.storage import FeatureStores, size_advice
from captum_kd.metrics.scores_table import STUDENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["InputEmbeddings", "input_embeddings"]


@dataclass(frozen=True, eq=False)
class InputEmbeddings:
    """Inputs as points in two dimensions, for each model. Tensors are on the CPU.

    Attributes:
        coordinates (dict): by the model's name, (n, 2) float64, in units of the features for "mds". Zero for constant features.
        shares (dict): by the model's name, the share of the features' variance that the two dimensions hold. None for
            constant features and for "tsne", which has no such share.
        labels (Tensor or None): (n,) int64; None without labels.
        method (str): "mds" or "tsne".
        layers (dict): by the model's name, its layer.
        feature_transform (str): name of the feature transform.
    """

    coordinates: dict[str, Tensor] = field(repr=False)
    shares: dict[str, Optional[float]]
    labels: Optional[Tensor] = field(repr=False)
    method: str
    layers: dict[str, str]
    feature_transform: str

    @property
    def n(self) -> int:
        """Number of inputs."""
        return len(next(iter(self.coordinates.values())))

    def plot(
        self, *, class_names: Optional[Sequence[str]] = None, same_scale: bool = False, title: Optional[str] = None
    ) -> "Figure":
        """The points of each model in its panel, see :func:`captum_kd.visualization.plot_embeddings`."""
        from captum_kd.visualization import plot_embeddings

        return plot_embeddings(self, class_names=class_names, same_scale=same_scale, title=title)


@log_usage()
def input_embeddings(
    models: Mapping[str, Callable[..., Any]],
    layer: Union[str, Mapping[str, Union[LayerLike, Mapping[str, LayerLike]]]],
    data: Iterable[Any],
    *,
    method: str = "mds",
    labels: bool = True,
    feature_transform: Optional[FeatureTransform] = None,
    unpack: Optional[Unpack] = None,
    perplexity: Optional[float] = None,
    seed: int = 0,
    show_progress: bool = True,
    model_options: ModelOptions = ModelOptions(),
) -> InputEmbeddings:
    r"""
    Places the same inputs in two dimensions by the features of each model, to look at them side by side.

    Both methods start from the distances between the inputs that scores of a report use. "mds" is classical multidimensional
    scaling, for Euclidean distances the same as the first two principal components. It is linear: distances in the picture are
    at most the true ones, and ``shares`` says how much of the variance it shows. "tsne" shows which inputs are neighbors.
    Distances between its clusters and sizes of its clusters mean nothing, and clusters may be artifacts.

    Each picture is rotated or reflected to be closest to that of the first model (Procrustes), since the directions of the axes
    mean nothing. Similar pictures are no measure of similar features: that is
    :func:`captum_kd.metrics.feature_similarity_score`.

    Source: Torgerson, Psychometrika 1952; van der Maaten & Hinton, JMLR 2008; PCA as start of t-SNE: Kobak & Berens, Nature
    Communications 2019.

    Args:

        models (dict): {name: model}, for example Student, Base and Teacher.
        layer (str or dict): The layer's dotted name in all models, or {name of the model: layer}, a name or module, as in
                    ``report.settings["layers"]["layer4"]``; or {label: such a dict} with one label. Models that are not
                    in ``models`` are ignored.
        data (Iterable): DataLoader or other iterable of batches, as for :func:`compare_transfer`; read once. 4 to 4,096
                    inputs; some hundreds are easiest to read. A batch may have inputs for single models, by their names.
        method (str, optional): "mds", or "tsne", which needs scikit-learn.
        labels (bool, optional): False for data without labels.
        feature_transform (Callable, optional): From (N, C, ...) to (N, d).
                    Default: :func:`captum_kd.flatten`; for text (ids or a token mask) :func:`captum_kd.global_average_pool`
        unpack (Callable, optional): From a batch to (inputs, labels).
        perplexity (float, optional): Perplexity of "tsne", about the number of neighbors that count; less than n.
                    Default: 30, or (n - 1) / 3 for fewer than 91 inputs
        seed (int, optional): Seed of "tsne". Its start is the classical scaling, which needs none.
        show_progress (bool, optional): Show a progress bar over the batches.
        model_options (ModelOptions, optional): Further arguments of the models, and the layouts of their layers; without
                    ``positions``.

    Returns:
        InputEmbeddings: coordinates, shares and labels; ``.plot()`` draws them. Constant features and models in training mode
        cause a warning.

    Raises:
        ValueError: no models, unknown layers, no batches, too few or too many inputs, non-finite features, inputs that
                    differ in size, a perplexity that is not less than n.
        TypeError: models that cannot be called, batches without labels, arguments of the wrong type.
        ImportError: "tsne" without scikit-learn.

    Examples::

        >>> found = input_embeddings({"Teacher": teacher, "Student": student, "Base": base}, "layer4", loader)
        >>> found.shares
        {'Teacher': 0.41, 'Student': 0.38, 'Base': 0.22}
        >>> found.plot(class_names=classes).savefig("embeddings.png")
    """
    check_choice(method, "method", ("mds", "tsne"))
    labels, show_progress = check_bool(labels, "labels"), check_bool(show_progress, "show_progress")
    seed = check_int(seed, "seed")
    if perplexity is not None:
        perplexity = check_float(perplexity, "perplexity", "a positive number or None", 0.0, float("inf"))
    for argument, value in (("feature_transform", feature_transform), ("unpack", unpack)):
        if value is not None:
            check_callable(value, argument)
    check_option(model_options, ModelOptions, "model_options")
    if model_options.positions is not None:
        raise ValueError("input_embeddings takes every sentence as one input; leave out positions in model_options.")
    if method == "tsne":
        _tsne_class()  # fail before any model runs
    check_data(data)
    compared = _compared(models, layer)
    for note in mode_notes({each.name: modes_of(each.model) for each in compared}):
        warn_user(note)
    collector = FeatureCollector(list(map(FeatureSet, compared)), None, model_options, feature_transform)
    stores = FeatureStores(torch.device("cpu"), Compute().memory_limit, size_advice(feature_transform))
    of_inputs: list[Tensor] = []
    n = 0
    try:
        # Even an unshuffled loader draws from the global random generator.
        with changed_state(same_random_state(())), interruptible():
            for batch in batches_of(data, "Embedding inputs", show_progress):
                inputs, of_batch = unpack_batch(batch, unpack, model_options.token_mask, labels)
                inputs.check_names(collector.names, "The inputs of a batch")
                n += len(inputs.student[0])
                if n > MOST_DENSE:
                    raise ValueError(
                        f"The data hold more than {MOST_DENSE} inputs, too many for a picture; pass fewer, for example by "
                        "torch.utils.data.Subset(dataset, range(500))."
                    )
                of_inputs += [] if of_batch is None else [of_batch]
                features = collector.features(inputs, of_batch)
                stores.add({f"Model {each.name!r}": features[each.key] for each in compared})
        if n < MIN_INPUTS:
            raise ValueError(f"The data hold {n} inputs; pass at least {MIN_INPUTS}, and some hundreds to see clusters.")
        if perplexity is not None and perplexity >= n:
            raise ValueError(f"perplexity must be less than the number of inputs, {n}, got {perplexity:g}.")
        scaled = {each.name: _scaled(store) for each, store in zip(compared, stores.all())}
    finally:
        stores.close()
    coordinates: dict[str, Array] = {}
    target: Optional[Array] = None
    for each in compared:
        points, share, squares = scaled[each.name]
        if share is None:
            warn_user(f"{each.layers[0]} does not tell the inputs apart (constant features): no picture.")
        else:
            points = points if target is None else aligned(points, target)
            if method == "tsne":
                points = _tsne(points, squares, perplexity or min(30.0, (n - 1) / 3), seed)
                points = points if target is None else aligned(points, target)
            target = points if target is None else target
        coordinates[each.name] = points
    return InputEmbeddings(
        {name: torch.from_numpy(points) for name, points in coordinates.items()},
        {name: share if method == "mds" else None for name, (_, share, _) in scaled.items()},
        torch.cat(of_inputs) if of_inputs else None,
        method,
        {each.name: each.layers[0].name or "" for each in compared},
        collector.transform or "",
    )


def _compared(models: Any, layer: Any) -> list[ComparedModel]:
    if not isinstance(models, Mapping):
        raise TypeError(f"models must be a dict of models by name, as in {{'Student': student}}, got {type(models).__name__}.")
    if not models:
        raise ValueError("models is an empty mapping; name at least one model.")
    if isinstance(layer, Mapping) and layer and all(isinstance(each, Mapping) for each in layer.values()):
        if len(layer) > 1:
            label = next(iter(layer))
            raise ValueError(
                f"layer has {len(layer)} layers, {', '.join(map(repr, layer))}; pass one of them, as in layer[{label!r}]."
            )
        (layer,) = layer.values()
    found = []
    for name, model in models.items():
        if not isinstance(name, str):
            raise TypeError(f"The names in models must be strings, got {name!r}.")
        check_model(model, f"models[{name!r}]")
        own = layer.get(name) if isinstance(layer, Mapping) else layer
        if own is None or (not isinstance(own, str) and not isinstance(layer, Mapping)):
            raise ValueError(
                f"layer must be a name, or {{name of the model: layer}} with an entry for each model; got {short_repr(layer)}, "
                f"which has no layer for {name!r}."
            )
        resolved = resolve_layer(model, own, model=f"model {name!r}", argument="layer")
        found.append(ComparedModel(name, STUDENT, model, (resolved,)))
    return found


def _scaled(features: Features) -> tuple[Array, Optional[float], Array]:
    """Classical scaling in units of the features, the share that it shows, and the squared distances."""
    source = FeatureDistances(features)
    distances = source.matrix().matrix.double().numpy()
    n = len(distances)
    # Distances that rounding may explain are none, as for scores.
    if float(np.linalg.norm(distances)) <= 2**0.5 * n * source.rounding:
        distances = np.zeros_like(distances)
    squares: Array = distances**2
    points, share = classical_scaling(squares)
    return points * source.unit, share, squares


def _tsne(start: Array, squares: Array, perplexity: float, seed: int) -> Array:
    # A start of small spread, as scikit-learn's own PCA start has it.
    start = (1e-4 * start / start[:, 0].std()).astype(np.float32)
    # t-SNE does not depend on the unit of the distances.
    distances = np.sqrt(squares / squares.mean())
    model = _tsne_class()(metric="precomputed", init=start, perplexity=perplexity, random_state=seed)
    points = np.asarray(model.fit_transform(distances), dtype=np.float64)
    centered: Array = points - points.mean(0)
    return centered


def _tsne_class() -> Any:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError('method="tsne" needs scikit-learn; run pip install scikit-learn, or pass method="mds".') from error
    return TSNE
