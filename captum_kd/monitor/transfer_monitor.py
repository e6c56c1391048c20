"""TransferMonitor: scores of a Student at moments of its training."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, Any, Iterable, Optional, Sequence, Union

from captum.log import log_usage
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.logits import OutputTransform
from captum_kd._utils.arguments import check_model
from captum_kd._utils.batches import Unpack, device_of
from captum_kd._utils.data_frame import data_frame
from captum_kd._utils.files import write_whole
from captum_kd._utils.text import as_spreadsheet_text
from captum_kd._utils.validation import check_bool, check_float, check_mapping, check_str, short_repr
from captum_kd._utils.warnings import warn_user
from captum_kd.embeddings import check_class_embeddings
from captum_kd.metrics.report.collect import check_data
from captum_kd.metrics.report.input_groups import shuffles
from captum_kd.metrics.report.models import ComparedModel, Layers, Model, Models, as_compared_models
from captum_kd.metrics.report.predictions import Predictions, as_predictions
from captum_kd.metrics.report.settings import Comparisons, Compute, ModelOptions, Settings
from captum_kd.metrics.scores_table import ALL_BASES, BASE, PREDICTIONS_LAYER
from captum_kd.monitor.probe import Probe

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.figure import Figure

    from captum_kd.monitor.figure import Runs

__all__ = ["COLUMNS", "LOGGED", "Record", "TransferMonitor"]

Record = dict[str, Any]

COLUMNS = ("epoch", "base", "layer", "score", "value")
LOGGED = (
    "fss", "fss_student_teacher", "rs_student", "rs_distilled", "teacher_distilled", "teacher_only_distilled",
    "teacher_distilled_over_placebos", "teacher_only_distilled_over_placebos", "accuracy_student",
    "agreement_student_teacher", "agreement_over_base",
)  # fmt: skip
"""Scores for a trainer's logger. The history has all scores."""
WITHOUT_STUDENT = ("rs_base", "rs_teacher", "fss_base_teacher")
LEAST_CHANGE = 1e-3
"""A larger change of such a score is none of another device's rounding."""


class TransferMonitor:
    r"""
    Measures a Student while it trains, on a fixed set of inputs (the probe): how similar its layers are to those of the Teacher
    and of a Base, how well they follow the labels, how far the part that the Base lacks follows the Teacher, and how often the
    Student predicts the Teacher's class. The scores are those of :func:`captum_kd.metrics.compare_transfer`.

    The probe's inputs are read once and kept. Teacher, Bases and placebo Teachers are measured at the first call of :meth:`step`
    only; their distances (n, n) and logits are kept. Each further measurement costs one pass of the Student over the probe and
    the distances of its features (docs/monitor.md has measurements). The Student is measured in evaluation mode and without
    autocast; its modes, gradients, hooks and the random state stay as they were. A Student in ``DistributedDataParallel`` is
    measured without it, so that single ranks may measure. ``torch.compile`` is bypassed.

    A curve alone shows no transfer: a network that learns the task without a Teacher comes closer to the Teacher too. Also
    measure the training of such a network, from another seed than the Base, and compare: ``monitor.plot(null=other)``. Even a
    curve above that one can come from a faster training or from any Teacher; pass ``placebo_teachers`` to exclude the latter.

    Source: docs/scores.md (the scores), docs/monitor.md (this class).

    Args:

        teacher (Callable): The Teacher. It must not change.
        base (Callable or dict): The trained Base, or several by name. They must not change.
        layers (str, list of str or dict): As for :func:`~captum_kd.metrics.compare_transfer`.
        data (Iterable): A DataLoader or other batches of the probe: 5 to 4,096 inputs, better a few hundred held-out ones. It
                    must not shuffle, so that a resumed training is measured on the same inputs.
        every (float, optional): Epochs between two measurements, at least; fractions are allowed.
                    Default: 1
        placebo_teachers (dict, optional): {name: model}, networks of the Teacher's recipe that taught nobody. There is then
                    also the Teacher's share minus the mean of theirs.
        class_embeddings (Tensor, optional): (num_classes, e).
                    Default: None, one-hot
        labels (bool, optional): False for a probe without labels; there is then no relevance.
                    Default: True
        predictions (bool or Predictions, optional): Also compare the predictions of Student, Base and Teacher, which need the
                    same classes. Pass False for backbones without logits; passes then end at the last layer.
                    Default: True
        feature_transform (Callable, optional): From (N, C, ...) to (N, d), as for ``compare_transfer``.
        unpack (Callable, optional): From a batch to (inputs, labels), as for ``compare_transfer``.
        output_transform (Callable, optional): From a model's output to logits, as for ``compare_transfer``.
        model_options (ModelOptions, optional): Further arguments of the models, and the layouts of their layers.
        feature_device (str or torch.device, optional): Device of the distances. They take 8 n^2 bytes for each layer and
                    model: 2 MB for 500 inputs.
                    Default: None, the Student's device

    Attributes:
        history (list of dict): a record for each measurement, Base, layer and score, with the keys ``epoch``, ``base``,
            ``layer``, ``score`` and ``value``; scores in the order of ``compare_transfer``.

    Raises:
        ValueError: a loader that shuffles, arguments out of range.
        TypeError: models that cannot be called, data that are no batches, arguments of the wrong type.

    Examples::

        >>> monitor = TransferMonitor(teacher, base, ["layer3", "layer4"], probe_loader)
        >>> monitor.step(student, 0)  # the start; also finds mistakes before the training
        >>> for epoch in range(1, epochs + 1):
        ...     train_one_epoch(student)
        ...     monitor.step(student, epoch)
        >>> monitor.plot(null=monitor_of_a_base).savefig("process.png")
    """

    @log_usage()
    def __init__(
        self,
        teacher: Model,
        base: Models,
        layers: Layers,
        data: Iterable[Any],
        every: float = 1,
        *,
        placebo_teachers: Optional[Mapping[str, Model]] = None,
        class_embeddings: Optional[Tensor] = None,
        labels: bool = True,
        predictions: Union[bool, Predictions] = True,
        feature_transform: Optional[FeatureTransform] = None,
        unpack: Optional[Unpack] = None,
        output_transform: Optional[OutputTransform] = None,
        model_options: ModelOptions = ModelOptions(),
        feature_device: Optional[str] = None,
    ) -> None:
        check_model(teacher, "teacher")
        check_data(data)
        if shuffles(data):
            raise ValueError(
                "data shuffles its inputs, so that a resumed training would be measured on other inputs. Pass a loader with "
                "shuffle=False; take the probe at random once, for example torch.utils.data.Subset(dataset, chosen)."
            )
        self.every = check_float(every, "every (epochs)", "a positive number", 0, math.inf)
        self.history: list[Record] = []
        self._models = (base, teacher, placebo_teachers, layers)
        self._data = data
        self._device = feature_device
        self._settings = Settings(
            class_embeddings=check_class_embeddings(class_embeddings),
            localize=None,
            predictions=as_predictions(predictions),
            explanations=None,
            keep=0.5,
            confidence=None,
            n_permutations=0,
            seed=0,
            population="all",
            estimator="unbiased",
            feature_transform=feature_transform,
            unpack=unpack,
            output_transform=output_transform,
            show_progress=False,
            model_options=model_options,
            comparisons=Comparisons(labels=check_bool(labels, "labels")),
            compute=Compute(feature_device=feature_device or "cpu"),
        )
        self._probe: Optional[Probe] = None
        self._saved_probe: Optional[str] = None
        self._is_compared = True

    @property
    def last_epoch(self) -> Optional[float]:
        """The moment of the last measurement; None before the first one."""
        return self.history[-1]["epoch"] if self.history else None

    def is_due(self, epoch: float) -> bool:
        """Whether :meth:`step` would measure at this moment: ``every`` epochs have passed since the last measurement."""
        epoch = _checked_epoch(epoch)
        # Fractions of epochs are sums of floats, so a tiny shortfall counts as none.
        return self.last_epoch is None or epoch - self.last_epoch >= self.every * (1 - 1e-9)

    def step(self, student: Model, epoch: float) -> list[Record]:
        """Measures the Student if a measurement is due.

        Args:
            student (Callable): the Student as it is now, in any mode.
            epoch (float): the number of epochs that are finished, fractions included; 0 before the training.

        Returns:
            list of dict: the new records of ``history``; empty if no measurement is due.

        Raises:
            ValueError: unknown layers, too few or too many inputs, labels without geometry, models of other classes, a probe
                        or layers or Bases' names that differ from those of a loaded state.
        """
        epoch = _checked_epoch(epoch)
        return self._step(student, epoch, self.is_due(epoch))

    def _step(self, student: Model, epoch: float, is_due: bool) -> list[Record]:
        is_resumed = self._saved_probe is not None and self._probe is None
        if not (is_due or is_resumed):
            return []
        while isinstance(student, DistributedDataParallel):
            student = student.module
        base, teacher, placebos, layers = self._models
        labels, models = as_compared_models(student, base, teacher, placebos, layers)
        if self._probe is None:
            if self._device is None:
                self._settings = replace(self._settings, compute=Compute(feature_device=device_of(student) or "cpu"))
            self._probe = Probe(self._data, self._settings)
        self._check_probe()
        if is_resumed:
            self._check_names(labels, models)
        if not is_due:
            return []
        found = self._probe.scores(labels, models)
        if found.undefined:
            warn_user(
                f"At epoch {epoch:g} these scores are 0 because a side has no geometry (constant features, or a copy of what was "
                f"removed): {', '.join(found.undefined)}."
            )
        new = [{"epoch": _as_int(epoch), **{key: row[key] for key in COLUMNS[1:]}} for row in found.rows]
        if not self._is_compared:
            self._compare_with_loaded(new)
        self.history += new
        return new

    def scalars(self) -> dict[str, float]:
        """The main scores of the last measurement by "layer/score", mean over the Bases, for a logger."""
        last: dict[str, list[float]] = {}
        for record in self.history:
            if record["epoch"] == self.last_epoch and record["score"] in LOGGED and record["base"] != ALL_BASES:
                last.setdefault(f"{record['layer']}/{record['score']}", []).append(record["value"])
        return {key: mean(values) for key, values in last.items()}

    def to_csv(self, path: Union[None, str, "PathLike[str]"] = None) -> str:
        """The history as CSV. Also writes it to ``path`` if given, whole or not at all."""
        lines = io.StringIO()
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({key: as_spreadsheet_text(value) for key, value in record.items()} for record in self.history)
        if path is not None:
            write_whole(path, lines.getvalue())
        return lines.getvalue()

    def to_dataframe(self) -> Any:
        """The history as a ``pandas.DataFrame``, one row for each record.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(self.history, COLUMNS)

    def plot(
        self, null: Optional["Runs"] = None, *, scores: Optional[Sequence[str]] = None, title: Optional[str] = None
    ) -> "Figure":
        """Draws scores over the epochs, layer by layer; see :func:`captum_kd.monitor.plot_process`.

        Args:
            null (TransferMonitor, history or list of them, optional): trainings without a Teacher, drawn in gray.
            scores (sequence of str, optional): names of scores.
                Default: similarity with the Teacher, relevance, distilled relevance, the Teacher's share, predictions
            title (str, optional): a heading over the figure.
        """
        from captum_kd.monitor.figure import plot_process

        return plot_process(self, null, scores=scores, title=title)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs, in plain types: save it with the trainer's checkpoint."""
        probe = self._saved_probe if self._probe is None else self._probe.checksum
        return {"history": [dict(record) for record in self.history], "probe": probe}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state of :meth:`state_dict`. The next :meth:`step`, due or not, checks that probe, layers and Bases'
        names are the same. The next measurement warns if Teacher or Base are others.

        Raises:
            TypeError: not such a state.
        """
        check_mapping(state, "state", "a result of state_dict()")
        if not {"history", "probe"} <= set(state):
            raise TypeError(f"state must be a result of state_dict(), with history and probe, got {short_repr(state)}.")
        check_records(state["history"], "The history of state")
        self.history = [dict(record) for record in state["history"]]
        self._saved_probe = state["probe"]
        self._is_compared = not self.history

    def _check_probe(self) -> None:
        assert self._probe is not None
        if self._saved_probe not in (None, self._probe.checksum):
            raise ValueError(
                "data hold other inputs than the probe of the loaded state, so that old and new scores could not be compared. "
                "Pass the same inputs in the same order, without random augmentation, or begin a new monitor."
            )

    def _check_names(self, layers: Sequence[str], models: Sequence[ComparedModel]) -> None:
        """Raises a ValueError if the loaded history has other layers or Bases."""
        loaded = [record for record in self.history if record["base"] != ALL_BASES]
        names = {
            "layers": ({record["layer"] for record in loaded} - {PREDICTIONS_LAYER}, set(layers)),
            "Bases": ({record["base"] for record in loaded}, {each.name for each in models if each.role == BASE}),
        }
        for word, (before, now) in names.items():
            if loaded and before != now:
                raise ValueError(
                    f"The loaded history has the {word} {sorted(before)}, this monitor {sorted(now)}. Pass the same ones, or "
                    "begin a new monitor."
                )

    def _compare_with_loaded(self, new: Sequence[Record]) -> None:
        """Warns if scores that do not depend on the Student differ from those of the loaded history."""
        self._is_compared = True
        last = {_key(record): record["value"] for record in self.history if record["epoch"] == self.last_epoch}
        for record in new:
            before = last.get(_key(record))
            if record["score"] in WITHOUT_STUDENT and before is not None and abs(record["value"] - before) > LEAST_CHANGE:
                warn_user(
                    f"The loaded history is of another Teacher or Base: {record['score']} at {record['layer']} was "
                    f"{before:.3f} and is {record['value']:.3f}, but does not depend on the Student. Scores before and after are "
                    "not comparable."
                )
                return

    def __repr__(self) -> str:
        measured = len({record["epoch"] for record in self.history})
        return f"TransferMonitor({measured} measurement(s), last epoch {self.last_epoch}; {len(self.history)} records)"


def _checked_epoch(epoch: object) -> float:
    return check_float(epoch, "epoch", "a number that is not negative", 0, math.inf, closed=True)


def check_records(history: Any, argument: str) -> None:
    """Raises unless the value is a history of a monitor; numbers may be texts, as in a CSV file.

    Raises:
        TypeError: not a list of records.
        ValueError: a record without one of its keys, or without numbers.
    """
    if not isinstance(history, (list, tuple)) or not all(isinstance(record, Mapping) for record in history):
        raise TypeError(f"{argument} must be a list of records, as TransferMonitor.history, got {short_repr(history)}.")
    for record in history:
        absent = [key for key in COLUMNS if key not in record]
        if absent:
            raise ValueError(f"{argument} must hold records with {', '.join(COLUMNS)}, but one lacks {absent[0]}.")
        for key in ("base", "layer", "score"):
            check_str(record[key], f"{argument}: {key}", or_none=False)
        for key in ("epoch", "value"):
            try:
                number = float(record[key])
            except (TypeError, ValueError, RuntimeError):
                number = math.nan
            if not math.isfinite(number):
                raise ValueError(f"{argument}: {key} must be a finite number, got {short_repr(record[key])}.")


def check_monitor(monitor: object) -> None:
    """Raises a TypeError unless the value is a TransferMonitor."""
    if not isinstance(monitor, TransferMonitor):
        raise TypeError(f"monitor must be a captum_kd.monitor.TransferMonitor, got {short_repr(monitor)}.")


def _key(record: Record) -> tuple[str, str, str]:
    return record["base"], record["layer"], record["score"]


def _as_int(epoch: float) -> Union[int, float]:
    return int(epoch) if epoch == int(epoch) else epoch
