"""The arguments of a UniCAM call, checked before any model runs."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.layer_activations import LayerActivations, Layouts
from captum_kd._utils.arguments import Target, as_forward_args, as_grad_kwargs, as_labels, check_batch_size
from captum_kd._utils.inputs import ROLES, Inputs, InputsByModel, ModelInputs, as_inputs_by_model
from captum_kd._utils.tensors import is_finite
from captum_kd._utils.validation import check_bool, check_dense, check_int, check_untransformed, short_repr
from captum_kd._utils.warnings import warn_user
from captum_kd.attr.feature_path import Baseline, Integral, Steps
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, MIN_INPUTS, Geometry
from captum_kd.distance.labels import WAYS_OUT_OF_POPULATION, label_geometry

FEW_INPUTS = 30
"""Maps of populations smaller than this are mostly noise."""


class CheckedCall(NamedTuple):
    """Checked arguments of a call: the inputs, and how the models run over them.

    The errors are those of :meth:`captum_kd.UniCAM.attribute`.

    Attributes:
        of_models (InputsByModel): inputs of the models, examples first.
        labels (Tensor, optional): (n,) on the CPU.
        forward_args (tuple): further arguments of all models.
        at_input (bool): True to take the layers' inputs instead of their outputs.
        internal_batch_size (int, optional): number of inputs in one forward pass.
        show_progress (bool): True to show a progress bar.
    """

    of_models: InputsByModel
    labels: Optional[Tensor]
    forward_args: tuple[Any, ...]
    at_input: bool
    internal_batch_size: Optional[int]
    show_progress: bool

    @classmethod
    def checked(
        cls,
        inputs: Inputs,
        target: Target,
        additional_forward_args: Any,
        attribute_to_layer_input: bool,
        internal_batch_size: Optional[int],
        show_progress: bool,
        token_mask: Any,
    ) -> CheckedCall:
        values = as_inputs_by_model(inputs, token_mask=token_mask)
        values.check_names(ROLES)
        labels = as_labels(target, len(values.student[0]))
        check_batch_size(internal_batch_size, "internal_batch_size")
        return cls(
            values,
            labels,
            as_forward_args(additional_forward_args),
            check_bool(attribute_to_layer_input, "attribute_to_layer_input"),
            internal_batch_size,
            check_bool(show_progress, "show_progress"),
        )

    @property
    def inputs(self) -> ModelInputs:
        """The Student's inputs."""
        return self.of_models.student

    def observe(
        self, extractor: FeatureExtractor, role: str, *, features_only: bool = False, known: Optional[Layouts] = None
    ) -> LayerActivations:
        """Runs a model over its inputs, those of its role."""
        return extractor.observe(
            self.of_models.of(role),
            self.forward_args,
            at_input=self.at_input,
            features_only=features_only,
            internal_batch_size=self.internal_batch_size,
            show_progress=self.show_progress,
            known=known,
        )


def checked_map_settings(relu_attributions: bool, attr_dim_summation: bool, grad_kwargs: Any) -> dict[str, Any]:
    """Keyword arguments of :meth:`LayerActivations.maps`."""
    return {
        "relu_attributions": check_bool(relu_attributions, "relu_attributions"),
        "attr_dim_summation": check_bool(attr_dim_summation, "attr_dim_summation"),
        "grad_kwargs": as_grad_kwargs(grad_kwargs),
    }


def checked_integrals(
    n_steps: Any, feature_baselines: Any, return_convergence_delta: Any, map_settings: Mapping[str, Any], shape: tuple[int, int]
) -> Optional[list[Integral]]:
    """The mean gradients that a call asks for, one request for each entry of ``layer``; None without ``n_steps``.

    Args:
        shape (tuple): numbers of explained models and of entries of ``layer``.

    Raises:
        ValueError, TypeError: as in :meth:`captum_kd.UniCAM.attribute`.
    """
    has_delta = check_bool(return_convergence_delta, "return_convergence_delta")
    if n_steps is None:
        for argument, is_given in (("feature_baselines", feature_baselines is not None), ("return_convergence_delta", has_delta)):
            if is_given:
                raise ValueError(f"{argument} was given without n_steps; pass n_steps=16 with it for integrated maps.")
        return None
    check_int(n_steps, "n_steps", 1)
    if has_delta and map_settings["relu_attributions"]:
        raise ValueError(
            "relu_attributions=True removes the negative part of the maps, so their sums are no gain of the objective; leave "
            "out return_convergence_delta or relu_attributions."
        )
    models, layers = shape
    if not isinstance(feature_baselines, tuple):
        feature_baselines = (feature_baselines,) * models
    if len(feature_baselines) != models:
        raise ValueError(
            f"feature_baselines has {len(feature_baselines)} entries for {models} explained model(s): a tuple has an entry for "
            "the Student and one for each Base, a list one for each layer."
        )
    baselines = [_checked_baselines(each, layers) for each in feature_baselines]
    steps = Steps.gauss_legendre(n_steps, has_delta)
    return [Integral(steps, of_layer) for of_layer in zip(*baselines)]


def _checked_baselines(given: Any, layers: int) -> list[Baseline]:
    """One baseline for each entry of ``layer``."""
    values = list(given) if isinstance(given, (list, tuple)) else [given] * layers
    if len(values) != layers:
        raise ValueError(f"feature_baselines has {len(values)} entries for {layers} layer(s); pass one for each.")
    for value in values:
        if value is None or (isinstance(value, str) and value == "zero"):
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f'feature_baselines must be None, "zero" or features (d,), got {short_repr(value)}.')
        check_dense(value, "feature_baselines")
        check_untransformed(value, "feature_baselines")
        if value.dim() != 1 or not value.is_floating_point() or not is_finite(value):
            raise ValueError(
                "feature_baselines must be one finite floating point vector (d,) for each layer, with an entry per feature, got "
                f"{short_repr(value)}."
            )
    return [value.detach() if isinstance(value, Tensor) else value for value in values]


def check_batch_mode(
    inputs: ModelInputs, labels: Optional[Tensor], class_embeddings: Optional[Tensor], *, has_teacher: bool
) -> Optional[Geometry]:
    """Checks inputs that are their own population. Warns if they are few or near-copies of each other.

    Returns:
        Geometry, optional: the labels' geometry, on the CPU, where its many small steps are fastest.

    Raises:
        ValueError: fewer than 4 inputs, or 5 with labels or a Teacher; labels without geometry.
    """
    n = len(inputs[0])
    least = LEAST_WITH_REMOVAL if has_teacher or labels is not None else MIN_INPUTS
    objective = "with a Teacher" if has_teacher else "without labels" if labels is None else "with labels"
    if n < least:
        raise ValueError(
            f"UniCAM compares inputs with each other, so {n} input(s) are too few: it needs at least {least} "
            f"{objective}. Pass more inputs, or a population made by reference() as reference=; a single input is then enough."
        )
    geometry = None if labels is None else label_geometry(labels, class_embeddings, torch.float64)
    _warn_of_few(n, "Pass more inputs or a reference population of 64 or more (reference=).")
    if not inputs.is_text and _are_repeated(inputs):  # ids have no distances
        warn_user(
            "Most inputs are near-copies of others, as NoiseTunnel and sensitivity metrics make them. In batch "
            "mode the copies become the population, and the maps lose their meaning. Pass a population made by "
            "reference() as reference=; every input is then added to it on its own."
        )
    return geometry


def check_references(n: int, labels: Optional[Tensor], class_embeddings: Optional[Tensor]) -> None:
    """Checks the n inputs of a reference population. Warns if they are few.

    Raises:
        ValueError: fewer than 4 inputs, or labels without geometry.
    """
    if n < MIN_INPUTS:
        raise ValueError(f"A reference population needs at least {MIN_INPUTS} inputs, got {n}; use 64 or more.")
    if labels is not None:
        label_geometry(labels, class_embeddings, torch.float64, ways_out=WAYS_OUT_OF_POPULATION)
    _warn_of_few(n, "Make a reference population of 64 inputs or more.")


def _warn_of_few(n: int, way_out: str) -> None:
    if n < FEW_INPUTS:
        warn_user(f"The population is {n} inputs; below {FEW_INPUTS}, UniCAM maps are mostly noise. {way_out}")


def _are_repeated(inputs: tuple[Tensor, ...]) -> bool:
    """True if most inputs are much closer to another input than two inputs usually are."""
    n = len(inputs[0])
    sampled = []
    for value in (value for value in inputs if isinstance(value, Tensor) and value.dim() > 0):
        flat = value.detach().reshape(n, -1)
        flat = flat[:, :: max(1, flat.shape[1] // 1024)]
        sampled.append(flat.to("cpu", torch.float32))  # many small steps are slower on a GPU
    values = torch.cat(sampled, dim=1)
    if values.numel() == 0 or not is_finite(values):
        return False  # non-finite features are an error after the models have run
    values = values - values.mean(0)  # cdist loses digits far from the origin
    distances = torch.cdist(values, values).fill_diagonal_(torch.inf)
    usual = distances.flatten().kthvalue(n * (n - 1) // 2).values
    return bool((distances.amin(1) < usual / 4).float().mean() > 0.5)
