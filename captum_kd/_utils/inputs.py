"""Inputs of models: tensors by position or by name, with the mask of their tokens; and inputs that differ between models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Iterable, NamedTuple, Optional, Union

import torch
from torch import Tensor

from captum_kd._utils.validation import check_dense, check_untransformed, short_repr

LABEL_KEYS = ("labels", "label")
IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
SPECIAL_TOKENS_MASK = "special_tokens_mask"
STUDENT_KEY = "student"
ROLES = (STUDENT_KEY, "base", "teacher")

Rows = Union[slice, Tensor]
Inputs = Union[Tensor, tuple[Tensor, ...], Mapping[str, Any]]
"""Inputs of a model by position or by name, or inputs of several models by role."""
TokenMask = Union[None, Tensor, Mapping[str, Tensor]]


class ModelInputs(tuple[Any, ...]):
    """The values of a model's inputs, first dimensions are the examples.

    It is a tuple, so that code that needs nothing but the tensors can use it as one.

    Attributes:
        names (tuple of str, optional): the arguments that receive the values; None for values by position.
        token_mask (Tensor, optional): (N, T) booleans, False at padding and at tokens to leave out.
    """

    names: Optional[tuple[str, ...]]
    token_mask: Optional[Tensor]

    def __new__(
        cls, values: Iterable[Any], names: Optional[tuple[str, ...]] = None, token_mask: Optional[Tensor] = None
    ) -> ModelInputs:
        made = super().__new__(cls, values)
        made.names, made.token_mask = names, token_mask
        return made

    def __reduce__(self) -> Any:
        return ModelInputs, (tuple(self), self.names, self.token_mask)

    @property
    def is_text(self) -> bool:
        """Whether the inputs are sequences of tokens: they have a token mask, or ids (N, T) and no images beside them."""
        has_image = any(isinstance(value, Tensor) and value.dim() > 3 for value in self)
        return self.token_mask is not None or (not has_image and any(is_ids(value) for value in self))

    def as_given(self) -> Any:
        """The values in the form in which users pass them: a tensor, a tuple of tensors, or a dictionary."""
        if self.names is not None:
            return dict(zip(self.names, self))
        return self[0] if len(self) == 1 else tuple(self)

    def by_name(self, name: str) -> Any:
        """The value of an argument; None if there is none of that name."""
        return dict(zip(self.names or (), self)).get(name)

    def with_value(self, place: int, value: Any) -> ModelInputs:
        return self.with_values((*self[:place], value, *self[place + 1 :]))

    def has_tokens_of(self, other: ModelInputs) -> bool:
        """Whether the same positions are tokens: equal masks, or, where a mask is missing, equal lengths."""
        masks = self.token_mask, other.token_mask
        if masks[0] is not None and masks[1] is not None:
            return torch.equal(masks[0], masks[1].to(masks[0].device))
        lengths = {each.shape[1] for inputs in (self, other) for each in (inputs.token_mask, *inputs) if is_ids(each)}
        return len(lengths) < 2

    def with_values(self, values: Iterable[Any]) -> ModelInputs:
        return ModelInputs(values, self.names, self.token_mask)

    def with_mask(self, token_mask: Optional[Tensor]) -> ModelInputs:
        return ModelInputs(self, self.names, token_mask)

    def rows(self, part: Rows, n: int) -> ModelInputs:
        """Rows of all tensors that have one for each of n examples."""
        mask = None if self.token_mask is None else self.token_mask[part]
        return ModelInputs((rows_of(value, part, n) for value in self), self.names, mask)

    def to(self, device: torch.device) -> ModelInputs:
        mask = None if self.token_mask is None else self.token_mask.to(device)
        return ModelInputs((v.to(device) if isinstance(v, Tensor) else v for v in self), self.names, mask)


class InputsByModel(NamedTuple):
    """The inputs of several models.

    Attributes:
        student (ModelInputs): of the Student, and of every model without inputs of its own.
        own (mapping): of other models, by role or name.
    """

    student: ModelInputs
    own: Mapping[str, ModelInputs]

    def of(self, *names: str) -> ModelInputs:
        """The inputs of a model with these names, the most specific one first."""
        return next((self.own[name] for name in names if name in self.own), self.student)

    def check_names(self, known: Iterable[str], argument: str = "inputs") -> None:
        """Raises a ValueError for inputs of a model that does not exist."""
        known = list(dict.fromkeys(known))
        for name in self.own:
            if name not in known:
                raise ValueError(
                    f"{argument} has inputs of {name!r}, but the models are {', '.join(map(repr, known))}. Rename the key, or "
                    "leave it out: models without inputs of their own get those of the Student."
                )


def rows_of(value: Any, part: Rows, n: int) -> Any:
    """Rows of a tensor that has one for each of n examples; everything else as it is."""
    return value[part] if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == n else value


def is_ids(value: Any) -> bool:
    """Whether a value holds ids (N, T) of tokens, or a mask of them."""
    return isinstance(value, Tensor) and value.dim() == 2 and not (value.is_floating_point() or value.is_complex())


def find_ids(inputs: tuple[Any, ...]) -> Optional[int]:
    """The index of the ids (N, T) of tokens: ``input_ids``, or else the first integers (N, T) that are no attention mask."""
    names = getattr(inputs, "names", None) or ("",) * len(inputs)
    places = [
        place
        for place, (name, value) in enumerate(zip(names, inputs))
        if is_ids(value) and value.dtype != torch.bool and name != ATTENTION_MASK
    ]
    return next((place for place in places if names[place] == IDS), places[0] if places else None)


def as_inputs(inputs: Any, argument: str = "inputs", token_mask: Any = None) -> ModelInputs:
    """Checked inputs of one model.

    Args:
        inputs: a tensor, a tuple of tensors, or a mapping from the names of arguments to tensors. Labels in a mapping are left
            out. Its ``attention_mask`` (N, T) is the token mask, without the tokens of ``special_tokens_mask``, which is not
            an input of models.
        argument (str): the inputs' name in messages.
        token_mask: (N, T), takes the place of the mapping's mask.

    Raises:
        TypeError: something other than tensors.
        ValueError: no tensor, no rows, differing numbers of rows, masks of another shape, an input without tokens.
    """
    if isinstance(inputs, ModelInputs):
        found = inputs
    elif isinstance(inputs, Mapping):
        found = _from_mapping(inputs, argument)
    else:
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        if not values:
            raise ValueError(f"{argument} is an empty tuple; pass a tensor or a tuple of tensors.")
        for value in values:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{argument} must be a tensor or a tuple of tensors, got {type(value).__name__}. Texts go through "
                    "the tokenizer first; tensors by name go into a mapping, as a tokenizer returns them."
                )
        found = ModelInputs(values)
    _check_rows(found, argument)
    if token_mask is not None:
        return found.with_mask(as_token_mask(token_mask, len(found[0]), "token_mask"))
    return found


def as_inputs_by_model(inputs: Any, argument: str = "inputs", token_mask: Any = None) -> InputsByModel:
    """Checked inputs of several models: as for :func:`as_inputs`, or a mapping of such inputs by role or name.

    Such a mapping has the key "student". Models without inputs of their own get those of the Student. ``token_mask`` may be such
    a mapping too; a single mask holds for the Student and for models without inputs of their own.

    Raises:
        ValueError, TypeError: as :func:`as_inputs`; numbers of rows that differ between models.
    """
    if isinstance(inputs, InputsByModel):
        return inputs
    masks = token_mask if isinstance(token_mask, Mapping) else {STUDENT_KEY: token_mask}
    if is_by_model(inputs):
        given = {name: (each, f"{argument}[{name!r}]") for name, each in inputs.items() if name not in LABEL_KEYS}
    else:
        given = {STUDENT_KEY: (inputs, argument)}
    shared = {name: given[STUDENT_KEY] for name in masks if name not in given}
    found = {name: as_inputs(*each, masks.get(name)) for name, each in {**given, **shared}.items()}
    rows = {name: len(each[0]) for name, each in found.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"The models in {argument} have {rows} rows; all must describe the same examples.")
    return InputsByModel(found.pop(STUDENT_KEY), found)


def is_by_model(inputs: Any) -> bool:
    """Whether a mapping holds the inputs of several models."""
    if not isinstance(inputs, Mapping) or STUDENT_KEY not in inputs:
        return False
    return all(isinstance(each, (Tensor, tuple, Mapping)) for name, each in inputs.items() if name not in LABEL_KEYS)


def as_token_mask(mask: Any, n: int, argument: str) -> Tensor:
    """A checked mask (N, T) as booleans.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, values other than 0 and 1, an input without tokens.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"{argument} must be a tensor (N, T), got {short_repr(mask)}.")
    check_dense(mask, argument)
    if mask.dim() != 2 or mask.shape[0] != n:
        raise ValueError(
            f"{argument} has shape {tuple(mask.shape)} for {n} inputs; pass (N, T), one value for each token: True or 1 for "
            "tokens, False or 0 for padding."
        )
    found: Tensor = mask != 0
    if not bool((found == mask).all()):
        raise ValueError(f"{argument} must hold 1 for tokens and 0 for padding, got {short_repr(mask)} with other values.")
    empty = ~found.any(1)
    if bool(empty.any()):
        raise ValueError(
            f"{argument} leaves no token of input {int(empty.nonzero()[0])}: all are padding or left out. Leave this input out."
        )
    return found


def _from_mapping(inputs: Mapping[Any, Any], argument: str) -> ModelInputs:
    named = {str(name): value for name, value in inputs.items() if name not in (*LABEL_KEYS, SPECIAL_TOKENS_MASK)}
    for name, value in named.items():
        if isinstance(value, (list, tuple, str)) or type(value).__module__ == "numpy":
            raise TypeError(
                f"{argument}[{name!r}] must be a tensor, got {type(value).__name__}; pass return_tensors=\"pt\" to the "
                "tokenizer, or leave the key out."
            )
    tensors = [value for value in named.values() if isinstance(value, Tensor) and value.dim() > 0]
    if not tensors:
        by_model = " Inputs by model need those of 'student'." * any(isinstance(each, Mapping) for each in named.values())
        raise ValueError(
            f"{argument} has the keys {sorted(map(str, inputs))} and no tensors (N, ...) among them; pass tensors by the names "
            f"of the model's arguments.{by_model}"
        )
    # The first value counts the examples.
    ordered = dict(sorted(named.items(), key=lambda item: not (isinstance(item[1], Tensor) and item[1].dim() > 0)))
    n, mask, special = len(tensors[0]), named.get(ATTENTION_MASK), inputs.get(SPECIAL_TOKENS_MASK)
    token_mask = None
    if isinstance(mask, Tensor) and mask.dim() == 2:
        token_mask = as_token_mask(mask, n, f"{argument}[{ATTENTION_MASK!r}]")
    if special is not None:
        if token_mask is not None and (not isinstance(special, Tensor) or special.shape != token_mask.shape):
            raise ValueError(
                f"{argument}[{SPECIAL_TOKENS_MASK!r}] must have the shape of {ATTENTION_MASK!r}, {tuple(token_mask.shape)}, got "
                f"{short_repr(special)}."
            )
        kept = special == 0 if token_mask is None else token_mask & (special == 0)
        token_mask = as_token_mask(kept, n, f"{argument}[{SPECIAL_TOKENS_MASK!r}]")
    return ModelInputs(ordered.values(), tuple(ordered), token_mask)


def _check_rows(inputs: ModelInputs, argument: str) -> None:
    rows = {}
    for name, value in zip(inputs.names or map(str, range(len(inputs))), inputs):
        if not isinstance(value, Tensor) or (inputs.names is not None and value.dim() == 0):
            continue
        check_dense(value, argument)
        check_untransformed(value, argument)
        if value.dim() == 0 or value.shape[0] == 0:
            raise ValueError(f"{argument} has shape {tuple(value.shape)}: the first dimension must hold the examples.")
        rows[name] = value.shape[0]
    if len(set(rows.values())) > 1:
        found = list(rows.values()) if inputs.names is None else rows
        shared = " Expand a tensor that holds for all examples: value.expand(N, -1)." * (1 in rows.values())
        raise ValueError(f"The tensors in {argument} have {found} rows; all must describe the same examples.{shared}")
