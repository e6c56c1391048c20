"""The option for agreement of the maps of Students and Bases with those of the Teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from torch import Tensor

from captum_kd._utils.text import name_of
from captum_kd._utils.validation import check_choice, check_share, check_str, short_repr
from captum_kd.metrics.attribution_agreement import MEASURES

MAPS = ("gradcam", "hirescam")
TARGETS = ("teacher", "label", "predicted")
INPUTS_LAYER = "inputs"
"""The layer in the rows of maps at the inputs."""


@dataclass(frozen=True, eq=False)
class Explanations:
    """Agreement of each model's maps with the Teacher's, by :func:`attribution_agreement`.

    Args:
        method (str or Callable, optional): The maps: "gradcam"; "hirescam" (of the softmax output); or a function (model, layer
                    module, inputs, classes) -> maps (N, C, h, w), (N, 1, T) or (N, T). It receives the model's inputs: a
                    tensor, a tuple or a mapping.
        measure (str, optional): "cosine", "spearman" or "iou".
        target (str, optional): The class that maps explain: "teacher", the class that the Teacher predicts, for all models, as
                    in e2KD; "label"; or "predicted", each model's own prediction.
        layer (str, optional): Compare the maps of this layer of the report only. "inputs" is for a function whose maps
                    are at the inputs, such as IntegratedGradients. It is called once, with None as the layer, and its rows
                    have the layer "inputs".
                    Default: None, the maps of every layer
        keep (float, optional): Share of the positions that "iou" compares, in (0, 1).

    Raises:
        ValueError: an unknown method, measure or target, a share outside (0, 1), ``layer="inputs"`` of a named method.
        TypeError: arguments of the wrong type.

    Example::

        >>> def integrated_gradients(model, layer, inputs, classes):
        ...     return IntegratedGradients(model).attribute(inputs, target=classes)
        >>> explanations = Explanations(integrated_gradients, layer="inputs", measure="spearman")
        >>> report = compare_transfer(student, base, ["layer4"], loader, teacher=teacher, explanations=explanations)
    """

    method: Union[str, Callable[..., Tensor]] = "gradcam"
    measure: str = "cosine"
    target: str = "teacher"
    layer: Optional[str] = None
    keep: float = 0.25

    def __post_init__(self) -> None:
        if not callable(self.method):
            if not isinstance(self.method, str):
                raise TypeError(
                    f"explanations must be None, a name, a function or an Explanations, got {short_repr(self.method)}."
                )
            if self.method == "unicam":
                raise ValueError(
                    '"unicam" maps belong to a pair of models, and the Teacher has none. Pass the maps of the pair and the '
                    "Teacher's Grad-CAM to captum_kd.metrics.attribution_agreement."
                )
            if self.method not in MAPS:
                raise ValueError(
                    f"explanations must be one of {', '.join(map(repr, MAPS))}, a function or None, got {self.method!r}."
                )
        check_choice(self.measure, "measure of Explanations", list(MEASURES))
        check_choice(self.target, "target of Explanations", TARGETS)
        check_str(self.layer, "layer of Explanations")
        object.__setattr__(self, "keep", check_share(self.keep))

    @property
    def name(self) -> str:
        return self.method if isinstance(self.method, str) else name_of(self.method)

    def _recorded(self) -> dict[str, Any]:
        """The options in plain types."""
        keep = self.keep if self.measure == "iou" else None
        return {"method": self.name, "measure": self.measure, "target": self.target, "layer": self.layer, "keep": keep}


def as_explanations(explanations: Union[None, str, Callable[..., Tensor], Explanations]) -> Optional[Explanations]:
    """The argument ``explanations`` as :class:`Explanations`; a name or a function gets the default options."""
    if explanations is None or isinstance(explanations, Explanations):
        return explanations
    return Explanations(explanations)
