"""Checks of the arguments of a UniCAM call before any model runs."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Union

from torch import Tensor

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.layer_activations import LayerActivations, Layouts
from captum_kd._utils.arguments import Target, as_forward_args, as_grad_kwargs, as_inputs, as_labels, check_batch_size
from captum_kd._utils.validation import check_bool

__all__ = ["Call", "checked_map_settings"]


class Call(NamedTuple):
    """The arguments that explaining inputs and measuring a reference population have in common.

    Attributes:
        inputs (tuple of Tensor): inputs of all models, examples first.
        labels (Tensor, optional): (n,) those that the objective needs: none beside a Teacher.
        forward_args (tuple): further arguments of all models.
        at_input (bool): look at the layers' inputs instead of their outputs.
        internal_batch_size (int, optional): inputs in one forward pass.
        show_progress (bool): whether to show a progress bar.
    """

    inputs: tuple[Tensor, ...]
    labels: Optional[Tensor]
    forward_args: tuple[Any, ...]
    at_input: bool
    internal_batch_size: Optional[int]
    show_progress: bool

    @classmethod
    def checked(
        cls,
        inputs: Union[Tensor, tuple[Tensor, ...]],
        target: Target,
        additional_forward_args: Any,
        attribute_to_layer_input: bool,
        internal_batch_size: Optional[int],
        show_progress: bool,
        *,
        has_teacher: bool,
    ) -> Call:
        """Arguments and errors are those of :meth:`captum_kd.UniCAM.attribute`."""
        values = as_inputs(inputs)
        # Beside a Teacher labels play no part, but their form is checked all the same.
        labels = as_labels(target, values[0].shape[0])
        check_batch_size(internal_batch_size, "internal_batch_size")
        return cls(
            values,
            None if has_teacher else labels,
            as_forward_args(additional_forward_args),
            check_bool(attribute_to_layer_input, "attribute_to_layer_input"),
            internal_batch_size,
            check_bool(show_progress, "show_progress"),
        )

    @property
    def n(self) -> int:
        return self.inputs[0].shape[0]

    def observe(
        self, extractor: FeatureExtractor, *, features_only: bool = False, known: Optional[Layouts] = None
    ) -> LayerActivations:
        """Runs one of the models over the inputs; ``known`` are layouts that a reference population remembers."""
        return extractor.observe(
            self.inputs,
            self.forward_args,
            at_input=self.at_input,
            features_only=features_only,
            internal_batch_size=self.internal_batch_size,
            show_progress=self.show_progress,
            known=known,
        )


def checked_map_settings(relu_attributions: bool, attr_dim_summation: bool, grad_kwargs: Any) -> dict[str, Any]:
    """The settings of :meth:`captum_kd._models.layer_activations.LayerActivations.maps`."""
    return {
        "relu_attributions": check_bool(relu_attributions, "relu_attributions"),
        "attr_dim_summation": check_bool(attr_dim_summation, "attr_dim_summation"),
        "grad_kwargs": as_grad_kwargs(grad_kwargs),
    }
