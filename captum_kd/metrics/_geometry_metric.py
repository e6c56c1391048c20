"""State and synchronization of the torchmetrics metrics.

Scores are computed over all inputs at once, so a metric keeps the features of each update. torchmetrics would gather them in
every rank. Here each rank keeps its own, and the ranks exchange features block by block (:mod:`captum_kd.distance.sharded`).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, ClassVar, Iterator, Mapping, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup, UnequalRanksError, as_process_group
from captum_kd._utils.arguments import as_labels
from captum_kd._utils.interrupts import changed_state, keeping_grad_mode
from captum_kd._utils.validation import check_features
from captum_kd.distance.block_sums import population_sums
from captum_kd.distance.blockwise import check_block_size, noise_squares
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS, Estimator, check_estimator, warn_of_no_geometry
from captum_kd.distance.functional import as_real
from captum_kd.distance.labels import WAYS_OUT_OF_SCORE, LabelDistances, check_label_geometry
from captum_kd.distance.sources import DistanceSource, TensorFeatures
from captum_kd.embeddings import check_class_embeddings
from captum_kd.metrics._sharding import InputSharding
from captum_kd.metrics.inference.gram_matrices import Products, Score
from captum_kd.metrics.report.agreement import comparable

try:
    from torchmetrics import Metric as Metric
    from torchmetrics.utilities.exceptions import TorchMetricsUserError
except ImportError as error:
    raise ImportError(
        "captum_kd.metrics.torchmetrics needs torchmetrics, which is not installed: pip install 'captum_kd[distributed]'."
    ) from error

ROUNDING = "_captum_kd_rounding"
"""Attribute of a tensor of features: the distance by which rounding may have moved an input."""

_ADVICE = "All must come from the same layers, of inputs of one size, in one dtype."

State = Union[Tensor, list[Tensor]]


class GeometryMetric(Metric):
    """Keeps sets of features of the same inputs, and labels, and compares their geometries.

    Args:
        class_embeddings (Tensor, optional): embeddings of the labels.
        estimator (str): "unbiased" or "biased".
        block_size (int, optional): number of rows and of columns of a block of distances.
        settings: keyword arguments of every ``torchmetrics.Metric``.

    Attributes:
        names (tuple of str): names of the sets of features.
        labeled (bool): True if labels are kept.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    names: ClassVar[tuple[str, ...]] = ("student", "base")
    labeled: ClassVar[bool] = True
    _group = ProcessGroup()

    def __init__(
        self, class_embeddings: Optional[Tensor], estimator: Estimator, block_size: Optional[int], **settings: Any
    ) -> None:
        super().__init__(**settings)
        # A rank that returns a cached score would not take part in the exchange that a rank with further inputs starts.
        self.compute_with_cache = False
        check_estimator(estimator)
        check_block_size(block_size)
        self.estimator = estimator
        self.block_size = block_size
        self._embeddings = check_class_embeddings(class_embeddings)
        for name in (*self.names, *(["target"] if self.labeled else []), "rounding"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _scores(self, used: Sequence[str]) -> Mapping[str, Score]:
        """The scores to compute from the sets of features in use."""
        raise NotImplementedError

    # ------------------------------------------------------------------ state

    def _append(self, features: Mapping[str, Tensor], target: Any = None) -> None:
        rows = {name: _as_rows(values, name) for name, values in features.items()}
        first, n = next((name, len(values)) for name, values in rows.items())
        for name, values in rows.items():
            if len(values) != n:
                raise ValueError(
                    f"{name} has {len(values)} inputs, but {first} has {n}; both must describe the same inputs in the same "
                    "order."
                )
            earlier: list[Tensor] = getattr(self, name)
            if earlier and earlier[0].shape[1] != values.shape[1]:
                raise ValueError(
                    f"{name} has {values.shape[1]} features per input, but earlier updates had {earlier[0].shape[1]}; resize the "
                    "inputs, or pool features over positions: LayerFeatures(..., feature_transform=global_average_pool)."
                )
        rounding = [[float(getattr(features.get(name), ROUNDING, 0.0)) for name in self.names]]
        new = {**rows, "rounding": rows[first].new_tensor(rounding, dtype=torch.float32)}
        if self.labeled:
            labels = as_labels(target, n)
            if labels is None:
                raise TypeError(f"target must be one label for each of the {n} inputs, got None.")
            new["target"] = labels.to(rows[first].device)
        with changed_state():  # appends all states or none
            for name, values in new.items():
                getattr(self, name).append(values)

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        """Restores the grad mode, which torchmetrics switches during an update, even after a Ctrl-C."""
        return keeping_grad_mode(super()._wrap_update(update))

    def set_dtype(self, dst_type: Union[str, torch.dtype]) -> "GeometryMetric":
        """Converts features. Labels stay integers, since other dtypes may not represent them exactly."""
        kept = {name: getattr(self, name) for name in ("target", "rounding") if name in self._defaults}
        super().set_dtype(dst_type)
        for name, state in kept.items():
            setattr(self, name, state)
        return self

    # ------------------------------------------------------------------ synchronization

    def sync(
        self,
        dist_sync_fn: Optional[Callable[..., Any]] = None,
        process_group: Optional[Any] = None,
        should_sync: bool = True,
        distributed_available: Optional[Callable[[], bool]] = None,
    ) -> None:
        """Makes :meth:`compute` cover the inputs of all ranks, until :meth:`unsync`. Only a ``dist_sync_fn`` gathers states.

        Raises:
            ValueError: another rank has another metric or other settings. It is raised in all ranks.
        """
        if self._is_synced and should_sync:
            raise TorchMetricsUserError("The metric has already been synced.")
        if not should_sync or not self._is_distributed(distributed_available):
            return
        group = self._checked_group(process_group, dist_sync_fn)
        if dist_sync_fn is not None:
            super().sync(dist_sync_fn, process_group, should_sync, distributed_available)
        else:
            self._cache, self._is_synced, self._group = {}, True, group

    def unsync(self, should_unsync: bool = True) -> None:
        super().unsync(should_unsync)
        if should_unsync:
            self._group = ProcessGroup()

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        self.sync(*args, **kwargs)
        try:
            yield
        finally:  # torchmetrics would leave the metric synced after an error
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def _is_distributed(self, distributed_available: Optional[Callable[[], bool]] = None) -> bool:
        available = distributed_available or self.distributed_available_fn
        return callable(available) and bool(available())

    def _checked_group(self, process_group: Optional[Any], dist_sync_fn: Optional[Callable[..., Any]]) -> ProcessGroup:
        """The process group, after a check that all ranks have the same metric."""
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.group.WORLD if there else None  # a dist_sync_fn may replace torch.distributed
        group = as_process_group(process_group or self.process_group or world)
        settings = {
            "metric": type(self).__qualname__,
            "estimator": self.estimator,
            "class_embeddings": self._embeddings,
            "remove_from": getattr(self, "remove_from", None),
            "block_size": self.block_size,
            "dist_sync_fn": dist_sync_fn,
        }
        group.check_equal({name: comparable(value) for name, value in settings.items()})
        return group

    # ------------------------------------------------------------------ scores

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Updates the metric with a batch and returns the score of the batch alone.

        It is NaN for too few inputs or labels without geometry. With ``dist_sync_on_step`` all ranks' batches are one batch.
        """
        self.update(*args, **kwargs)
        is_synced = self.dist_sync_on_step and self._is_distributed()
        group = self._checked_group(None, self.dist_sync_fn) if is_synced else ProcessGroup()
        batch = {name: getattr(self, name)[-1:] for name in self._defaults}
        try:
            found = self._compute(batch, group)
        except UnequalRanksError:
            raise
        except ValueError:  # too few inputs; compute() raises the error if this holds for all inputs
            found = {name: torch.tensor(torch.nan, device=self.device) for name in self._scores(self.names)}
        self._forward_cache = self._result(found)
        return self._forward_cache

    def compute(self) -> Any:
        return self._result(self._compute({name: getattr(self, name) for name in self._defaults}, self._group))

    def _result(self, scores: dict[str, Tensor]) -> Any:
        (only,) = scores.values()
        return only

    def _compute(self, states: Mapping[str, State], group: ProcessGroup) -> dict[str, Tensor]:
        """The scores over the states of all ranks of the group."""
        joined = {name: values for name, state in states.items() if (values := _join(state)) is not None}
        roundings = joined.pop("rounding").amax(0).tolist() if joined else []
        features = {name: TensorFeatures(as_real(joined[name]), r) for name, r in zip(self.names, roundings) if name in joined}
        with group.raise_together("checking its states"):
            inputs = {name: len(values) for name, values in joined.items()}
            if len(set(inputs.values())) > 1:
                raise ValueError(f"The states hold different numbers of inputs: {inputs}. Call reset() and update again.")
        # Without labels, zeros carry the number of inputs.
        zeros = torch.zeros(max(inputs.values(), default=0), dtype=torch.long, device="cpu")
        own_labels = joined["target"].long().cpu() if "target" in joined else zeros
        device = next((each.device for each in features.values()), self.device)
        sharding = InputSharding(group, device, _ADVICE)
        labels = sharding.gather_labels(own_labels)
        sharding.gather_specs({name: [each] for name, each in features.items()})
        scores = self._scores(list(sharding.specs))
        least = LEAST_WITH_REMOVAL if any(isinstance(score.x, tuple) for score in scores.values()) else MIN_INPUTS
        if len(labels) < least:
            raise ValueError(
                f"The metric has seen {len(labels)} inputs; its score needs at least {least}, better a few hundred."
            )
        sources: dict[str, DistanceSource] = {}
        for name in sharding.specs:
            sources[name] = sharding.distances(name, 0, features.get(name))
        if self.labeled:
            check_label_geometry(labels, self._embeddings, self.estimator, ways_out=WAYS_OUT_OF_SCORE)
            sources["labels"] = LabelDistances(labels, self._embeddings, device)
        specs = [spec for (spec,) in sharding.specs.values()]
        tiles = sharding.tile_iterator(sum(spec.width for spec in specs))
        sums = population_sums(list(sources.values()), block_size=self.block_size, tile_iterator=tiles)
        gram = sums.gram(self.estimator)
        noise = noise_squares(sums, list(sources.values()))
        products = Products(tuple(sources), gram, gram.new_empty((0, *gram.shape)), noise)
        found = {name: products.score(score) for name, score in scores.items()}
        if not all(defined for _, defined in found.values()):
            warn_of_no_geometry()
        dtype = torch.float64 if any(spec.dtype == torch.float64 for spec in specs) else torch.float32
        return {name: gram.new_tensor(value, dtype=dtype) for name, (value, _) in found.items()}


def _join(state: State) -> Optional[Tensor]:
    """A state as one tensor, None if it is empty. A ``dist_sync_fn`` returns states that are already joined."""
    joined = state if isinstance(state, Tensor) else torch.cat(state) if state else None
    return joined if joined is not None and joined.shape[0] else None


def _as_rows(values: Any, name: str) -> Tensor:
    check_features(values, name)
    if values.dim() == 0 or values.shape[0] and values[0].numel() == 0:
        raise ValueError(f"{name} must be features of shape (N, ...), not empty, got shape {tuple(values.shape)}.")
    rows = values.detach().flatten(1) if values.dim() > 1 else values.detach()[:, None]
    return as_real(rows)
