"""FSS, RS, the five scores of a pair of models and the agreement of predictions as torchmetrics metrics.

Needs ``pip install 'captum_kd[distributed]'``.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.layer_names import LayerLike
from captum_kd._models.logits import class_scores
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import as_forward_args, as_labels
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.inputs import Inputs, as_inputs
from captum_kd._utils.validation import check_choice
from captum_kd.distance.centering import Estimator
from captum_kd.metrics._geometry_metric import ROUNDING, GeometryMetric, Metric
from captum_kd.metrics._layer_features import FeatureSettings, layer_extractor, layer_features
from captum_kd.metrics.inference.gram_matrices import Score, transfer_scores
from captum_kd.metrics.predictions import PredictionValues, check_temperature
from captum_kd.metrics.scores_table import BASE, STUDENT, TEACHER, prediction_scores

__all__ = ["FeatureSimilarityScore", "LayerFeatures", "PredictionAgreement", "RelevanceScore", "TransferScores"]


class LayerFeatures:
    """Features of a model's layer, to update metrics with.

    It is not a module, so a metric or LightningModule with this object as an attribute does not register the model.

    Args:
        model (callable): the model.
        layer (str or nn.Module): its layer, a dotted name or the module.
        feature_transform (callable): from (N, C, ...) to (N, d).
        grid, prefix_tokens, channels_last, attribute_to_layer_input, tokens: as for
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
        feature_transform: Optional[FeatureTransform] = None,
        grid: Optional[tuple[int, int]] = None,
        prefix_tokens: Optional[int] = None,
        channels_last: Optional[bool] = None,
        attribute_to_layer_input: bool = False,
        tokens: Optional[bool] = None,
    ) -> None:
        self._settings = FeatureSettings.checked(
            feature_transform, None, grid, prefix_tokens, channels_last, attribute_to_layer_input, None, tokens
        )
        self._extractor = layer_extractor(model, layer, self._settings, model="model", argument="layer")
        self._model = model

    def __call__(self, inputs: Inputs, *args: Any, token_mask: Optional[Tensor] = None) -> Tensor:
        """Detached features (N, d), float32 or float64, on the layer's device."""
        values = to_device(as_inputs(inputs, token_mask=token_mask), device_of(self._model))
        warn_of_modes(model=self._model)
        features = layer_features(self._extractor, values, as_forward_args(args or None), self._settings)
        setattr(features.values, ROUNDING, features.rounding)
        return features.values


class FeatureSimilarityScore(GeometryMetric):
    """FSS over all inputs of an evaluation loop: the squared distance correlation of two models' features.

    ``update`` takes both models' features of the same inputs, ``compute`` returns the score over all inputs since the last
    ``reset``, in all ranks. It equals :func:`captum_kd.metrics.feature_similarity_score` of all inputs at once and is not a
    mean over batches.

    Args:
        estimator (str): "unbiased" or "biased".
        block_size (int, optional): compute distances in square blocks of this many inputs and hold no (n, n) matrix.
            Default: None, 512
        settings: keyword arguments of every ``torchmetrics.Metric``. ``compute_on_cpu=True`` keeps features on the CPU;
            ``sync_on_compute=False`` computes scores over this rank's inputs only; a ``dist_sync_fn`` gathers all features in
            each rank instead of exchanging them in blocks. Scores are never cached.

    Raises:
        ValueError: (``compute``) fewer than 4 inputs, non-finite features, or another rank whose features have another width
            or dtype, or whose metric has other settings.

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
    labeled = False

    def __init__(self, *, estimator: Estimator = "unbiased", block_size: Optional[int] = None, **settings: Any) -> None:
        super().__init__(None, estimator, block_size, **settings)

    def update(self, student: Tensor, base: Tensor) -> None:
        """Adds features of the same inputs.

        Args:
            student (Tensor): (N, ...), flattened here.
            base (Tensor): (N, ...).
        """
        self._append({"student": student, "base": base})

    def compute(self) -> Tensor:
        """Scalar in [-1, 1]."""
        found: Tensor = super().compute()
        return found

    def _scores(self, used: Sequence[str]) -> Mapping[str, Score]:
        return {"fss": Score("student", "base")}


class RelevanceScore(GeometryMetric):
    """RS over all inputs of an evaluation loop: the squared distance correlation of features and labels. With ``given``,
    another model's features are removed first.

    It equals :func:`captum_kd.metrics.relevance_score` of all inputs at once.

    Args:
        class_embeddings (Tensor, optional): (num_classes, e).
            Default: None, one-hot
        estimator (str): "unbiased" or "biased"; ``given`` needs the unbiased one.
        remove_from (str): "x" removes from the features only, "both" also from the labels' geometry.
        block_size (int, optional): as for :class:`FeatureSimilarityScore`.
        settings: as for :class:`FeatureSimilarityScore`.

    Raises:
        ValueError: (``compute``) fewer than 4 inputs, 5 with ``given``, labels without geometry or outside the embeddings,
            non-finite features. (``update``) ``given`` in some updates only.

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
    names = ("features", "given")

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
        super().__init__(class_embeddings, estimator, block_size, **settings)
        self.remove_from = remove_from

    def update(self, features: Tensor, target: Any, given: Optional[Tensor] = None) -> None:
        """Adds features and labels of the same inputs.

        Args:
            features (Tensor): (N, ...), flattened here.
            target (Tensor or list): (N,) integers.
            given (Tensor, optional): (N, ...) features that are removed. Pass it in all updates or in none.
        """
        if self.features and (given is None) == bool(self.given):
            raise ValueError("given was passed with some updates and left out of others; pass it always or never.")
        if given is not None and self.estimator != "unbiased":
            raise ValueError("given needs estimator='unbiased': removal is defined for U-centered distances.")
        self._append({"features": features} if given is None else {"features": features, "given": given}, target)

    def compute(self) -> Tensor:
        """Scalar in [-1, 1]."""
        found: Tensor = super().compute()
        return found

    def _scores(self, used: Sequence[str]) -> Mapping[str, Score]:
        if "given" not in used:
            return {"rs": Score("features", "labels")}
        return {"rs": Score(("features", "given"), ("labels", "given") if self.remove_from == "both" else "labels")}


class TransferScores(GeometryMetric):
    """The five scores of a Student and a Base over all inputs of an evaluation loop, from one exchange of features.

    They are those of a report without intervals: ``fss``, ``rs_student``, ``rs_base``, ``rs_distilled`` and ``rs_residual``.

    Args:
        class_embeddings (Tensor, optional): (num_classes, e).
            Default: None, one-hot
        block_size (int, optional): as for :class:`FeatureSimilarityScore`.
        settings: as for :class:`FeatureSimilarityScore`.

    Raises:
        ValueError: (``compute``) as for :class:`RelevanceScore` with ``given``.

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

    def __init__(
        self, class_embeddings: Optional[Tensor] = None, *, block_size: Optional[int] = None, **settings: Any
    ) -> None:
        super().__init__(class_embeddings, "unbiased", block_size, **settings)

    def update(self, student: Tensor, base: Tensor, target: Any) -> None:
        """Adds features and labels of the same inputs.

        Args:
            student (Tensor): (N, ...), flattened here.
            base (Tensor): (N, ...).
            target (Tensor or list): (N,) integers.
        """
        self._append({"student": student, "base": base}, target)

    def compute(self) -> dict[str, Tensor]:
        """Scalars in [-1, 1] by the score's name."""
        found: dict[str, Tensor] = super().compute()
        return found

    def _scores(self, used: Sequence[str]) -> Mapping[str, Score]:
        return transfer_scores()

    def _result(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return scores


class PredictionAgreement(Metric):
    """Agreement of a Student's predictions with those of its Teacher and of a Base over all inputs of an evaluation loop.

    The means are those of :func:`captum_kd.metrics.prediction_agreement`, without intervals. Only sums are kept.

    Args:
        temperature (float): logits are divided by it before the divergences are taken.
        settings: keyword arguments of every ``torchmetrics.Metric``.

    Raises:
        ValueError: (``update``) logits of other classes or inputs; a Base or labels in some updates only.
        RuntimeError: (``compute``) no inputs.

    Example::

        >>> agreement = PredictionAgreement()
        >>> for images, labels in loader:
        ...     agreement.update(student(images), teacher(images), base(images), labels)
        >>> agreement.compute()["agreement_over_base"]
        tensor(0.0420)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, temperature: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.temperature = check_temperature(temperature)
        self._names = [score.name for score in prediction_scores() if not score.name.startswith("ece_")]
        for name in ("total", "count"):  # of each score
            zeros = torch.zeros(len(self._names), dtype=torch.float64, device="cpu")
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor, base: Optional[Tensor] = None, target: Any = None) -> None:
        """Adds the logits (N, classes) of the same inputs, and labels (N,)."""
        logits = {STUDENT: student, TEACHER: teacher, **({} if base is None else {BASE: base})}
        for name, values in logits.items():
            class_scores(values, None, None, name)
        n = len(student)
        labels = as_labels(target, n)
        for name, values in logits.items():
            if len(values) != n:
                raise ValueError(f"{name} has logits of {len(values)} inputs, but student of {n}.")
        found = PredictionValues([(STUDENT, None if base is None else BASE)], TEACHER, (), self.temperature)
        found.add(logits, labels)
        given = [score.name for score in prediction_scores(base is not None, has_labels=labels is not None)]
        is_new = torch.tensor([name in given for name in self._names], device=self.count.device)
        if bool((is_new != (self.count > 0)).any()) and bool((self.count > 0).any()):
            raise ValueError("base and target must be passed in all updates or in none, got them in some only.")
        sums = [float(found.values(name, STUDENT, BASE).sum()) if name in given else 0.0 for name in self._names]
        self.total = self.total + self.total.new_tensor(sums)
        self.count = self.count + n * is_new

    def compute(self) -> dict[str, Tensor]:
        """Scalars by the score's name."""
        if not bool((self.count > 0).any()):
            raise RuntimeError("The metric has seen no inputs; call update with logits before compute.")
        means = self.total / self.count
        return {name: means[place].float() for place, name in enumerate(self._names) if self.count[place] > 0}
