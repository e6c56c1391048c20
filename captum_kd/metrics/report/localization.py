"""The option for scores of the salient part of images and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from torch import Tensor

from captum_kd._utils.arguments import as_labels
from captum_kd._utils.inputs import as_inputs_by_model
from captum_kd._utils.text import name_of
from captum_kd._utils.validation import check_choice, check_int, check_noise, check_str, short_repr

MAPS = ("gradcam", "hirescam", "unicam")
TARGETS = ("predicted", "label")


@dataclass(frozen=True, eq=False)
class Localization:
    """Reduction of images and texts to their salient part before features are taken.

    Args:
        method (str or Callable): The maps that reduce each model's inputs: "gradcam"; "hirescam" (of the softmax output,
                    as in the authors' scores); "unicam" (distilled map for the Student, residual map for the Base,
                    Grad-CAM for the Teacher; needs ``reference``); or a function (model, layer module, inputs, classes)
                    -> maps (N, 1, h, w), or (N, 1, T) of tokens. It receives the model's inputs: a tensor, a tuple or a
                    mapping.
        target (str, optional): The class that maps explain: "predicted", each model's own prediction, or "label", as in the
                    authors' code. Maps of an input's own label carry the label into the features: relevance is then above 0
                    even for untrained models and random labels, and has no p-values.
        layer (str, optional): Use the map of this layer of the report for all layers. Grad-CAM of the last block is empty in a
                    transformer whose classifier reads only the class token; name the block before it.
                    Default: None, each layer uses its own map
        reference (tuple, optional): (inputs, labels), the reference population of "unicam".
        noise (float, optional): Standard deviation of the imputed pixels' noise, in input units. Text gets no noise.
        n_steps (int, optional): Number of steps of integrated "unicam" maps; 16 are enough.
                    Default: None, the gradient at the input
        mask_token_id (int or mapping, optional): The id that replaces tokens of text: ``tokenizer.mask_token_id``, or ids by
                    role or name for models with their own tokenizers, {"student": 103, "base": 103, "teacher": 50264}.
                    Default: None, tokens become padding, for which batches must be mappings with ``attention_mask``
                    (:func:`captum_kd.perturb.keep_relevant_tokens`)

    Raises:
        ValueError: an unknown method or target, "unicam" without a reference or another method with one, negative noise,
            steps of another method.
        TypeError: arguments of the wrong type.

    Example::

        >>> localize = Localization("unicam", reference=(images, labels))
        >>> report = compare_transfer(student, base, ["layer4"], loader, localize=localize)
    """

    method: Union[str, Callable[..., Tensor]]
    target: str = "predicted"
    layer: Optional[str] = None
    reference: Optional[tuple[Any, Any]] = None
    noise: float = 0.01
    n_steps: Optional[int] = None
    mask_token_id: Union[None, int, Mapping[str, Optional[int]]] = None

    def __post_init__(self) -> None:
        if not callable(self.method):
            if not isinstance(self.method, str):
                raise TypeError(f"localize must be None, a name, a function or a Localization, got {short_repr(self.method)}.")
            if self.method not in MAPS:
                raise ValueError(
                    f"localize must be one of {', '.join(map(repr, MAPS))}, a function or None, got {self.method!r}."
                )
        check_choice(self.target, "target of Localization", TARGETS)
        check_str(self.layer, "layer of Localization")
        if self.method == "unicam":
            object.__setattr__(self, "reference", _as_reference(self.reference))
        elif self.reference is not None:
            raise ValueError(
                f'reference belongs to Localization("unicam"), but the method is {short_repr(self.method)}; leave reference '
                f"out, got {short_repr(self.reference)}."
            )
        object.__setattr__(self, "noise", check_noise(self.noise))
        if self.n_steps is not None:
            check_int(self.n_steps, "n_steps of Localization", 1, or_none=True)
            if self.method != "unicam":
                raise ValueError(f'n_steps belongs to Localization("unicam"), but the method is {short_repr(self.method)}.')
        ids = self.mask_tokens
        for each in ids.values() if isinstance(ids, dict) else [ids]:
            if each is not None:
                check_int(each, "mask_token_id of Localization", or_none=True)

    @property
    def mask_tokens(self) -> Union[None, int, dict[str, Optional[int]]]:
        """``mask_token_id`` in plain types."""
        return dict(self.mask_token_id) if isinstance(self.mask_token_id, Mapping) else self.mask_token_id

    def _mask_token_of(self, *names: str) -> Optional[int]:
        """The id that replaces tokens of a model with these names, the most specific one first.

        Raises:
            ValueError: ids by name, but none for the model.
        """
        ids = self.mask_tokens
        if not isinstance(ids, dict):
            return ids
        found = [ids[name] for name in names if name in ids]
        if not found:
            raise ValueError(
                f"mask_token_id has the keys {list(ids)}, but none for the model {names[0]!r}; add its name or its role, "
                f"{names[-1]!r}."
            )
        return found[0]

    @property
    def name(self) -> str:
        return self.method if isinstance(self.method, str) else name_of(self.method)

    @property
    def in_pairs(self) -> bool:
        """True if a map depends on both models of a pair."""
        return self.method == "unicam"


def as_localization(localize: Union[None, str, Callable[..., Tensor], Localization]) -> Optional[Localization]:
    """The argument ``localize`` as a :class:`Localization`; a name or a function gets the default options."""
    return localize if localize is None or isinstance(localize, Localization) else Localization(localize)


def _as_reference(reference: Optional[tuple[Any, Any]]) -> tuple[Any, Tensor]:
    """The inputs as they were given, since ``ModelOptions(token_mask=...)`` receives these, and checked labels."""
    if reference is None:
        raise ValueError(
            '"unicam" compares each input with a reference population. Pass localize=Localization("unicam", '
            "reference=(inputs, labels)) with at least 64 labeled inputs that are not in data."
        )
    if not isinstance(reference, (tuple, list)) or len(reference) != 2:
        raise TypeError(f"reference must be a pair (inputs, labels), got {short_repr(reference)}.")
    inputs = as_inputs_by_model(reference[0], "reference[0]")
    labels = as_labels(reference[1], len(inputs.student[0]), "reference[1]")
    if labels is None:
        raise TypeError("reference must hold labels, got (inputs, None).")
    return reference[0], labels
