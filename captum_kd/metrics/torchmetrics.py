"""FSS, RS and the five scores of a pair of models as torchmetrics metrics.

Scores are taken over all inputs at once, so features are what a metric keeps between updates. In several processes each keeps
its own: where torchmetrics would gather states, features visit the other processes a block at a time
(:mod:`captum_kd.distance.sharded`), and only sums are added up. Needs ``pip install 'captum_kd[distributed]'``.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Union, cast

import torch
from torch import Tensor, nn

from captum_kd._distributed import DifferingProcesses, ProcessGroup, as_process_group
from captum_kd._models.feature_transforms import FeatureTransform, flatten
from captum_kd._models.layer_names import LayerLike, names_in
from captum_kd._models.reachable import modules_of
from captum_kd._models.token_layout import as_layout_hints
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import as_forward_args, as_inputs, as_labels
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.interrupts import changed_state, keeping_grad_mode
from captum_kd._utils.validation import check_choice, check_features
from captum_kd._utils.checksums import checksum, own_parameters
from captum_kd.metrics._fingerprints import digest_of_callable, is_sharded
from captum_kd.distance.block_sums import LocalTiles, TileIterator, population_sums
from captum_kd.distance.blockwise import check_block_size, noise_squares
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS, Estimator, check_estimator, warn_of_no_geometry
from captum_kd.distance.functional import as_real
from captum_kd.distance.gram import partial_correlation
from captum_kd.distance.labels import WAYS_OUT_OF_SCORE, LabelDistances, check_label_geometry
from captum_kd.distance.sharded import RingTiles, Shards
from captum_kd.distance.sources import DistanceSource, FeatureDistances, TensorFeatures
from captum_kd.embeddings import check_class_embeddings
from captum_kd.metrics._layer_features import FeatureSettings, layer_features, layer_observer
from captum_kd.metrics._sharding import common_specs, spec_of, shared_distances
from captum_kd.metrics.report.agreement import exact_digest
from captum_kd.metrics.report.settings import name_of

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.exceptions import TorchMetricsUserError
except ImportError as error:
    raise ImportError(
        "captum_kd.metrics.torchmetrics needs torchmetrics, which is not installed: pip install 'captum_kd[distributed]'."
    ) from error

__all__ = ["FeatureSimilarityScore", "LayerFeatures", "RelevanceScore", "TransferScores"]

_WIDTHS = (torch.float32, torch.float64)
_MADE_BY = "_captum_kd_made_by"
"""An attribute of features that come from :class:`LayerFeatures`: how these were made."""
_ROUNDING = "_captum_kd_rounding"
"""Another one: by which distance rounding may have moved them."""
_ALIKE = "All must come from the same layers, of inputs of one size, in one dtype."


class LayerFeatures:
    """Features of a model's layer, to update metrics with.

    No module: a metric or LightningModule that has one as an attribute does not get the model as a submodule.

    Args:
        model (callable): the model.
        layer (str or nn.Module): its layer, a dotted name or the module.
        feature_transform (callable): from (N, C, ...) to (N, d).
        grid, prefix_tokens, channels_last, attribute_to_layer_input: as for
            :func:`captum_kd.metrics.feature_similarity_score`.

    Raises:
        ValueError, TypeError: as :func:`captum_kd.metrics.feature_similarity_score`.

    Example::

        >>> features = LayerFeatures(student, "layer4")
        >>> features(images).shape
        torch.Size([16, 512])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: LayerLike,
        *,
        feature_transform: FeatureTransform = flatten,
        grid: Optional[tuple[int, int]] = None,
        prefix_tokens: Optional[int] = None,
        channels_last: Optional[bool] = None,
        attribute_to_layer_input: bool = False,
    ) -> None:
        hints = as_layout_hints(grid, prefix_tokens, channels_last)
        self._settings = FeatureSettings(feature_transform, hints, None, attribute_to_layer_input, None)
        self._observer = layer_observer(model, layer, self._settings, model="model", argument="layer")
        self._model = model
        contents = digest_of_callable(feature_transform)
        whole = names_in(model)[""] if isinstance(model, nn.Module) else model
        of_layer = name_of(whole), self._observer.pairs[0].feature_layer.name
        self._made_by = (*of_layer, name_of(feature_transform), contents, tuple(hints), attribute_to_layer_input)
        self._weights: tuple[Any, str] = (None, "")

    def __call__(self, inputs: Union[Tensor, tuple[Tensor, ...]], *args: Any) -> Tensor:
        """Detached features (N, d), float32 or float64, on the layer's device."""
        values = to_device(as_inputs(inputs), device_of(self._model))
        warn_of_modes(model=self._model)
        features = layer_features(self._observer, values, as_forward_args(args or None), self._settings)
        setattr(features.values, _MADE_BY, (self._made_by, self._digest_of_weights()))
        setattr(features.values, _ROUNDING, features.rounding)
        return features.values

    def _digest_of_weights(self) -> str:
        """Of the parameters as they are now; taken again where PyTorch has counted a change."""
        weights = [each for module in modules_of(self._model) for each in own_parameters(module)]
        if any(each.is_inference() or is_sharded(each) for each in weights):
            return ""
        state = [(id(each), each._version) for each in weights]
        if self._weights[0] != state:
            self._weights = state, checksum(weights)
        return self._weights[1]


class _GeometryMetric(Metric):
    """Keeps sets of features of the same inputs, and maybe labels; compares them when asked.

    Args:
        names (sequence of str): of the sets of features.
        labeled (bool): whether labels are kept.
        class_embeddings (Tensor, optional): of the labels.
        estimator (str): of similarity.
        block_size (int, optional): inputs a side of a block.
        settings: those of every ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(
        self,
        names: Sequence[str],
        labeled: bool,
        class_embeddings: Optional[Tensor],
        estimator: Estimator,
        block_size: Optional[int],
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_estimator(estimator)
        check_block_size(block_size)
        self.estimator = estimator
        self.block_size = block_size
        self.names = tuple(names)
        self.labeled = labeled
        self._embeddings = check_class_embeddings(class_embeddings)
        self._made_by: dict[str, set[Any]] = {}
        for name in self.names:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        if labeled:
            self.add_state("target", default=[], dist_reduce_fx="cat")
        self.add_state("rounding", default=torch.zeros(len(self.names)), dist_reduce_fx="max")

    # ------------------------------------------------------------------ keeping

    def _keep(self, features: Mapping[str, Optional[Tensor]], target: Any = None) -> None:
        n: Optional[int] = None
        rows: dict[str, Tensor] = {}
        for name, values in features.items():
            if values is None and name == "given":
                continue
            rows[name] = _as_rows(values, name)
            n = len(rows[name]) if n is None else n
            if len(rows[name]) != n:
                raise ValueError(
                    f"{name} has {len(rows[name])} inputs where {next(iter(rows))} has {n}; both must describe the same "
                    "inputs in the same order."
                )
            before: list[Tensor] = getattr(self, name)
            if before and before[0].shape[1] != rows[name].shape[1]:
                raise ValueError(
                    f"{name} has {rows[name].shape[1]} features an input where earlier updates had {before[0].shape[1]}; "
                    "inputs must be of one size. Features that are flattened (the default) may be pooled over positions instead: "
                    "LayerFeatures(..., feature_transform=global_average_pool)."
                )
        labels = None
        if self.labeled:
            labels = as_labels(target, n or 0)
            if labels is None:
                raise TypeError(f"target must be one label for each of the {n} inputs, got None.")
        if labels is not None:
            rows["target"] = labels.to(next(iter(rows.values())).device)
        with changed_state():  # all of them or none
            for name, values in rows.items():
                getattr(self, name).append(values)
                if name in features:
                    place, rounding = self.names.index(name), getattr(features[name], _ROUNDING, 0.0)
                    of_all: Tensor = getattr(self, "rounding")
                    of_all[place] = of_all[place].clamp(min=rounding)
                if hasattr(features.get(name), _MADE_BY):
                    self._made_by.setdefault(name, set()).add(getattr(features[name], _MADE_BY))

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        """torchmetrics switches the grad mode around an update; a Ctrl-C must not leave it switched."""
        return keeping_grad_mode(super()._wrap_update(update))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Takes a batch and gives its own score: NaN where it has too few inputs or labels without geometry. With
        ``dist_sync_on_step`` the batches of all processes count as one."""
        batch = self._alone()
        batch.update(*args, **kwargs)
        self.update(*args, **kwargs)
        try:
            value = batch.compute()
        except DifferingProcesses:
            raise
        except ValueError:  # a batch may well be too small; what compute() makes of all of them counts
            value = self._nothing()
        self._forward_cache = value
        return value

    def _alone(self) -> "_GeometryMetric":
        """A metric like this one that has seen nothing."""
        with changed_state(self._emptied()):
            alone = cast(_GeometryMetric, self.clone())
        alone._made_by = {}
        alone.process_group = self.process_group
        alone.sync_on_compute = alone._to_sync = self.dist_sync_on_step
        return alone

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        kept = {name: getattr(self, name) for name in (*self._defaults, "process_group", "_computed")}
        try:
            for name in kept:
                default = self._defaults.get(name)
                setattr(self, name, default.clone() if isinstance(default, Tensor) else default and list(default))
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def _nothing(self) -> Any:
        return torch.tensor(torch.nan, device=self.device)

    def reset(self) -> None:
        super().reset()
        self._made_by = {}

    def set_dtype(self, dst_type: Union[str, torch.dtype]) -> "_GeometryMetric":
        """Converts features; labels stay integers, which other types may not hold."""
        labels = getattr(self, "target") if self.labeled else None
        super().set_dtype(dst_type)
        if self.labeled:
            setattr(self, "target", labels)
        return self

    # ------------------------------------------------------------------ several processes

    def sync(
        self,
        dist_sync_fn: Optional[Callable[..., Any]] = None,
        process_group: Optional[Any] = None,
        should_sync: bool = True,
        distributed_available: Optional[Callable[[], bool]] = None,
    ) -> None:
        """From here to :meth:`unsync`, :meth:`compute` is over the inputs of all processes. States stay as they are: each
        process' own. A ``dist_sync_fn`` gathers them, as it does for every other metric.

        Raises:
            ValueError: another metric or other settings in another process; in all processes.
        """
        if self._is_synced and should_sync:
            raise TorchMetricsUserError("The metric has already been synced.")
        available = distributed_available or self.distributed_available_fn
        if not should_sync or not (callable(available) and available()):
            return
        group = process_group or self.process_group or _world()
        self._agree(as_process_group(group), dist_sync_fn)
        if dist_sync_fn is not None:
            super().sync(dist_sync_fn, process_group, should_sync, distributed_available)
            return
        self._cache = {}
        self._is_synced = True
        self._shared_by = group

    def _agree(self, processes: ProcessGroup, dist_sync_fn: Optional[Callable[..., Any]]) -> None:
        """Raises a DifferingProcesses in all processes unless all ask the same of their own features."""
        processes.check_equal(
            {
                "metric": type(self).__qualname__,
                "estimator": self.estimator,
                "class_embeddings": exact_digest(self._embeddings),
                "remove_from": getattr(self, "remove_from", None),
                "block_size": self.block_size,
                "dist_sync_fn": None if dist_sync_fn is None else name_of(dist_sync_fn),
            }
        )
        # A process without inputs, or with features from elsewhere, has nothing that could differ.
        everyone = processes.gather(
            {name: (sorted({repr(way) for way, _ in made}), {each for _, each in made}) for name, made in self._made_by.items()}
        )
        for name in self.names:
            known = [(rank, *made[name]) for rank, made in enumerate(everyone) if name in made]
            for rank, ways, weights in known:
                first, first_ways, first_weights = known[0]
                if ways != first_ways:
                    raise DifferingProcesses(
                        f"The LayerFeatures of {name} differ among the processes in feature_transform, grid, prefix_tokens, "
                        f"channels_last, attribute_to_layer_input, layer or model: {', '.join(first_ways)} in process {first}, "
                        f"{', '.join(ways)} in process {rank}. All processes must be given the same but for their data."
                    )
                # Of a model that is trained between updates each process has seen several states, maybe not as many.
                if len(weights) == len(first_weights) == 1 and weights != first_weights:
                    raise DifferingProcesses(
                        f"The models of {name} have other weights in process {first} than in process {rank}. All processes must "
                        "be given the same but for their data."
                    )

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def raise_together(*args: Any, **kwargs: Any) -> Any:
            available = self.distributed_available_fn
            if self._to_sync and not self._is_synced and callable(available) and available():
                # ProcessGroup that have a score from before would leave one that has seen further inputs waiting.
                if not all(as_process_group(self.process_group or _world()).gather(self._computed is not None)):
                    self._computed = None
            return wrapped(*args, **kwargs)

        return raise_together

    def unsync(self, should_unsync: bool = True) -> None:
        super().unsync(should_unsync)
        if should_unsync:
            self._shared_by = None

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        self.sync(*args, **kwargs)
        try:
            yield
        finally:  # a score that could not be taken leaves a metric that can go on
            self.unsync(should_unsync=self._is_synced and should_unsync)

    _shared_by: Optional[Any] = None

    # ------------------------------------------------------------------ scores

    def _compare(self, used: Sequence[str], minimum: int) -> "_Products":
        """Inner products of all geometries, the labels' last; collective where the metric is synced."""
        processes = as_process_group(self._shared_by)
        here = {name: None if (state := _joined(getattr(self, name))) is None else as_real(state) for name in used}
        labels = _joined(getattr(self, "target")) if self.labeled else None
        seen = processes.gather(
            {
                "n": {name: len(values) for name, values in (*here.items(), ("target", labels)) if values is not None},
                "rounding": getattr(self, "rounding").tolist(),
                "kinds": {name: [spec_of(values)] for name, values in here.items() if values is not None},
                "labels": torch.empty(0, dtype=torch.long) if labels is None else labels.long().cpu(),
            }
        )
        for rank, each in enumerate(seen):
            if len(set(each["n"].values())) > 1:
                raise ValueError(f"The states of process {rank} are of different numbers of inputs: {each['n']}.")
        shards = Shards([max(each["n"].values(), default=0) for each in seen], processes.rank)
        if shards.n < minimum:
            raise ValueError(
                f"The metric has seen {shards.n} inputs; its score needs at least {minimum}, and a few hundred to be stable."
            )
        kinds = {name: of_layer[0] for name, of_layer in common_specs([each["kinds"] for each in seen], _ALIKE).items()}
        device = next((values.device for values in here.values() if values is not None), self.device)
        whole = torch.cat([each["labels"] for each in seen])
        sources: list[DistanceSource] = []
        for name in used:
            features, rounding = here[name], max(each["rounding"][self.names.index(name)] for each in seen)
            own = None if features is None else TensorFeatures(features, rounding)
            if own is not None and type(processes) is ProcessGroup:
                sources.append(FeatureDistances(own))
            else:
                sources.append(shared_distances(own, kinds[name], device, shards, processes))
        if self.labeled:
            check_label_geometry(whole, self._embeddings, self.estimator, ways_out=WAYS_OUT_OF_SCORE)
            sources.append(LabelDistances(whole, self._embeddings, device))
        width = sum(kind.width for kind in kinds.values())
        walk: TileIterator = LocalTiles() if self._shared_by is None else RingTiles(shards, processes, width)
        sums = population_sums(sources, block_size=self.block_size, tile_iterator=walk)
        dtype = max((kind.dtype for kind in kinds.values()), key=_WIDTHS.index)
        return _Products(sums.gram(self.estimator), noise_squares(sums, sources), dtype)


class _Products:
    def __init__(self, gram: Tensor, noise: Tensor, dtype: torch.dtype) -> None:
        self.gram, self.noise, self.dtype = gram, noise, dtype

    def score(self, x: int, y: int, given: Optional[int] = None, from_both: bool = False) -> Tensor:
        removed = () if given is None else (given,)
        value, defined = partial_correlation(self.gram, self.noise, x, y, removed, removed if from_both else ())
        if not bool(defined):
            warn_of_no_geometry()
        return value.to(self.dtype)


class FeatureSimilarityScore(_GeometryMetric):
    """FSS over all inputs of an evaluation loop: the squared distance correlation of two models' features.

    ``update`` takes both models' features of the same inputs, ``compute`` gives the score over all inputs since the last
    ``reset``, in all processes. The numbers are those of :func:`captum_kd.metrics.feature_similarity_score` over all inputs
    at once; it is no mean over batches.

    Args:
        estimator (str): "unbiased" or "biased".
        block_size (int, optional): distances are computed in blocks of this many inputs a side, and no (n, n) matrix is held.
            Default: None, 512
        settings: keyword arguments of every ``torchmetrics.Metric``. ``compute_on_cpu=True`` keeps features on the CPU;
            ``sync_on_compute=False`` leaves the other processes out; a ``dist_sync_fn`` gathers all features in each process
            instead of sending them around in blocks.

    Raises:
        ValueError: (``compute``) fewer than 4 inputs, non-finite features, features of other widths or types in another process,
            or a metric with other settings there.

    Example::

        >>> fss = FeatureSimilarityScore()
        >>> student_features, base_features = LayerFeatures(student, "layer4"), LayerFeatures(base, "layer4")
        >>> for images, labels in loader:
        ...     fss.update(student_features(images), base_features(images))
        >>> fss.compute()
        tensor(0.7104)
    """

    student: list[Tensor]
    base: list[Tensor]

    def __init__(self, *, estimator: Estimator = "unbiased", block_size: Optional[int] = None, **settings: Any) -> None:
        super().__init__(("student", "base"), False, None, estimator, block_size, **settings)

    def update(self, student: Tensor, base: Tensor) -> None:
        """Takes features of the same inputs.

        Args:
            student (Tensor): (N, ...), flattened here.
            base (Tensor): (N, ...).
        """
        self._keep({"student": student, "base": base})

    def compute(self) -> Tensor:
        """Scalar in [-1, 1]."""
        return self._compare(("student", "base"), MIN_INPUTS).score(0, 1)


class RelevanceScore(_GeometryMetric):
    """RS over all inputs of an evaluation loop: the squared distance correlation of features and labels, of the features
    as they are, or of what is left when another model's are removed.

    The numbers are those of :func:`captum_kd.metrics.relevance_score` over all inputs at once.

    Args:
        class_embeddings (Tensor, optional): (num_classes, e); one-hot without.
        estimator (str): "unbiased" or "biased"; removal needs the unbiased one.
        remove_from (str): "x", the features only, or "both", the labels' geometry too.
        block_size (int, optional): as for :class:`FeatureSimilarityScore`.
        settings: as for :class:`FeatureSimilarityScore`.

    Raises:
        ValueError: (``compute``) fewer than 4 inputs, 5 with ``given``, labels without geometry or outside the embeddings,
            non-finite features; updates with and without ``given``.

    Example::

        >>> distilled = RelevanceScore()
        >>> for images, labels in loader:
        ...     distilled.update(student_features(images), labels, given=base_features(images))
        >>> distilled.compute()
        tensor(0.1093)
    """

    features: list[Tensor]
    given: list[Tensor]
    target: list[Tensor]

    def __init__(
        self,
        class_embeddings: Optional[Tensor] = None,
        *,
        estimator: Estimator = "unbiased",
        remove_from: str = "x",
        block_size: Optional[int] = None,
        **settings: Any,
    ) -> None:
        check_choice(remove_from, "remove_from", ("x", "both"))
        super().__init__(("features", "given"), True, class_embeddings, estimator, block_size, **settings)
        self.remove_from = remove_from

    def update(self, features: Tensor, target: Any, given: Optional[Tensor] = None) -> None:
        """Takes features and labels of the same inputs.

        Args:
            features (Tensor): (N, ...), flattened here.
            target (Tensor or list): (N,) integers.
            given (Tensor, optional): (N, ...) features that are removed; with all updates or with none.
        """
        if self.features and (given is None) == bool(self.given):
            raise ValueError("given was passed with some updates and left out of others; pass it always or never.")
        if given is not None and self.estimator != "unbiased":
            raise ValueError("given needs estimator='unbiased': removal is defined for U-centered distances.")
        self._keep({"features": features, "given": given}, target)

    def compute(self) -> Tensor:
        """Scalar in [-1, 1]."""
        removes = any(as_process_group(self._shared_by).gather(_joined(self.given) is not None))
        if removes:
            return self._compare(("features", "given"), LEAST_WITH_REMOVAL).score(0, 2, 1, self.remove_from == "both")
        return self._compare(("features",), MIN_INPUTS).score(0, 1)


class TransferScores(_GeometryMetric):
    """The five scores of a Student and a Base over all inputs of an evaluation loop, from one exchange of features: ``fss``,
    ``rs_student``, ``rs_base``, ``rs_distilled`` and ``rs_residual``, as a report has them, without intervals.

    Args:
        class_embeddings (Tensor, optional): (num_classes, e); one-hot without.
        block_size (int, optional): as for :class:`FeatureSimilarityScore`.
        settings: as for :class:`FeatureSimilarityScore`.

    Raises:
        ValueError: (``compute``) as :class:`RelevanceScore`.

    Example::

        >>> scores = TransferScores()
        >>> for images, labels in loader:
        ...     scores.update(student_features(images), base_features(images), labels)
        >>> scores.compute()["rs_distilled"]
        tensor(0.1093)
    """

    student: list[Tensor]
    base: list[Tensor]
    target: list[Tensor]

    SCORES: Mapping[str, tuple[int, int, Optional[int]]] = {
        "fss": (0, 1, None),
        "rs_student": (0, 2, None),
        "rs_base": (1, 2, None),
        "rs_distilled": (0, 2, 1),
        "rs_residual": (1, 2, 0),
    }
    """Places of the two sides among Student, Base and labels, and of what is removed from the first."""

    def __init__(
        self, class_embeddings: Optional[Tensor] = None, *, block_size: Optional[int] = None, **settings: Any
    ) -> None:
        super().__init__(("student", "base"), True, class_embeddings, "unbiased", block_size, **settings)

    def update(self, student: Tensor, base: Tensor, target: Any) -> None:
        """Takes features and labels of the same inputs.

        Args:
            student (Tensor): (N, ...), flattened here.
            base (Tensor): (N, ...).
            target (Tensor or list): (N,) integers.
        """
        self._keep({"student": student, "base": base}, target)

    def compute(self) -> dict[str, Tensor]:
        """Scalars in [-1, 1] by the score's name."""
        found = self._compare(("student", "base"), LEAST_WITH_REMOVAL)
        return {name: found.score(*sides) for name, sides in self.SCORES.items()}

    def _nothing(self) -> dict[str, Tensor]:
        return {name: torch.tensor(torch.nan, device=self.device) for name in self.SCORES}


def _world() -> Any:
    """The group of all processes; None where a function stands in for torch.distributed."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.group.WORLD if there else None


def _joined(state: Union[Tensor, list[Tensor]]) -> Optional[Tensor]:
    """A state as one tensor, None where there is nothing in it; a function that gathers states has joined them."""
    joined = state if isinstance(state, Tensor) else torch.cat(state) if state else None
    return joined if joined is not None and joined.shape[0] else None


def _as_rows(values: Any, name: str) -> Tensor:
    check_features(values, name)
    if values.dim() == 0 or values.shape[0] and values[0].numel() == 0:
        raise ValueError(f"{name} must be features (N, ...) of some inputs, got shape {tuple(values.shape)}.")
    rows = values.detach().flatten(1) if values.dim() > 1 else values.detach()[:, None]
    return as_real(rows)
