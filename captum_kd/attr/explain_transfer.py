"""Maps of the same inputs for all pairs of Students and Bases, as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence, Union

import torch
from captum._utils.progress import progress
from torch import Tensor, nn

from captum_kd._models.layer_names import Layer, LayerLike, resolve_layer
from captum_kd._models.logits import OutputTransform, predicted_classes
from captum_kd._utils.arguments import as_labels, check_batch_size, check_callable, check_model
from captum_kd._utils.inputs import Inputs, InputsByModel, ModelInputs, as_inputs_by_model
from captum_kd._utils.validation import check_bool, check_int, short_repr
from captum_kd.attr.feature_path import row_parts
from captum_kd.attr.grad_cam import layer_gradcams
from captum_kd.attr.input_maps import InputMaps
from captum_kd.attr.unicam import UniCAM

__all__ = ["explain_transfer"]

Model = Callable[..., Any]
Layers = Union[str, Sequence[str], Mapping[str, Union[str, Mapping[str, LayerLike]]]]

NET, DISTILLED, RESIDUAL, NULL = "net", "distilled", "residual", "net of two Bases"
BY_TEACHER, STUDENT_CAM, BASE_CAM = "net by the Teacher", "Grad-CAM Student", "Grad-CAM Base"

GAINS = {NET: "J", DISTILLED: "J", RESIDUAL: "J", NULL: "J", BY_TEACHER: "the Teacher's share"}
"""What the positions of an integrated map add up to."""


def explain_transfer(
    student: Union[Model, Mapping[str, Model]],
    base: Union[Model, Mapping[str, Model]],
    layers: Layers,
    inputs: Inputs,
    labels: Optional[Tensor] = None,
    *,
    reference_inputs: Inputs,
    reference_labels: Tensor,
    teacher: Optional[Model] = None,
    target: Optional[Tensor] = None,
    images: Optional[Tensor] = None,
    tokens: Optional[Sequence[Sequence[str]]] = None,
    class_names: Optional[Sequence[str]] = None,
    masks: Optional[Tensor] = None,
    indices: Optional[Tensor] = None,
    n_steps: int = 16,
    output_transform: Optional[OutputTransform] = None,
    internal_batch_size: Optional[int] = 64,
    show_progress: bool = False,
) -> InputMaps:
    r"""
    Computes the maps that a page of a report shows: for each layer and each pair of a Student and a Base the integrated
    distilled, residual and net map, Grad-CAM of both models, and a net map of two Bases as the null. With a Teacher there is
    also the net map of the Teacher's share.

    Each map explains the class that its model predicts, not the true label: a map of the true label would show where the label
    is, whether or not the model sees it. UniCAM compares every input with the reference population. The null of a pair
    is the net map of the next Base in the Student's place; without a second Base there is none.

    Args:

        student, base (Callable or dict): The models, or several by name.
        layers (str, list of str or dict): As for :func:`captum_kd.metrics.compare_transfer`: dotted names that all models
                    have, or {label: name}, or {label: {model name or role: layer}}.
        inputs (Tensor, tuple[Tensor, ...] or mapping): N inputs, or inputs by role ("student", "base", "teacher") or by the
                    model's name.
        labels (Tensor, optional): (N,) true labels, which are only shown.
        reference_inputs (Tensor, tuple[Tensor, ...] or mapping): The reference population: 64 inputs or more, none of ``inputs``.
        reference_labels (Tensor): Their labels.
        teacher (Callable, optional): The Teacher.
        target (Tensor, optional): (N,) classes that UniCAM's maps explain, for models whose outputs are other classes than
                    those of ``reference_labels``. The result then has no predictions; Grad-CAM still explains each model's own.
                    Default: None, the class that each model predicts
        images (Tensor, optional): (N, 1 or 3, H, W) between 0 and 1, to show. Needed for images; inputs are usually normalized.
        tokens (list of list of str, optional): The N texts, to show. Needed for text.
        class_names (list of str, optional): The name of each label.
        masks (Tensor, optional): (N, H, W), True on the object.
        indices (Tensor, optional): (N,) places of the inputs in a report's data.
        n_steps (int, optional): Steps of the integrated maps.
        output_transform (Callable, optional): From a model's output to logits (N, classes).
                    Default: the output's ``.logits`` if it has them, else the output
        internal_batch_size (int, optional): Inputs in one pass; bounds memory and does not change the result.
        show_progress (bool, optional): Captum's progress display over layers and pairs.

    Returns:
        InputMaps: maps on the CPU, with the predictions of all models.

    Raises:
        ValueError: unknown layers, names that a Student and a Base share, too few reference inputs, labels without geometry.
        TypeError: models that cannot be called, inputs of the wrong type.

    Examples::

        >>> maps = explain_transfer(student, {"base 1": base, "base 2": base_2}, "layer4", images[:24], labels[:24],
        ...                         reference_inputs=images[24:], reference_labels=labels[24:], images=images[:24])
        >>> report.to_html("transfer.html", maps=maps)
    """
    students, bases = _by_name(student, "student"), _by_name(base, "base")
    both = sorted(set(students) & set(bases))
    if both:
        raise ValueError(f"student and base have the same names {both}; give each model a name of its own.")
    if teacher is not None:
        check_model(teacher, "teacher")
    if output_transform is not None:
        check_callable(output_transform, "output_transform")
    n_steps, show_progress = check_int(n_steps, "n_steps", 1), check_bool(show_progress, "show_progress")
    check_batch_size(internal_batch_size, "internal_batch_size")
    shown, known = as_inputs_by_model(inputs), as_inputs_by_model(reference_inputs, "reference_inputs")
    known_labels = as_labels(reference_labels, len(known.student[0]), "reference_labels")
    if known_labels is None:
        raise TypeError("reference_labels must hold the labels of reference_inputs, got None.")
    places = _resolved(layers, students, bases, teacher)
    run = _Run(list(places.values()), shown, known, known_labels, n_steps, internal_batch_size)
    explained = as_labels(target, len(shown.student[0]), "target")
    predictions = {
        name: _predicted(model, shown.of(name, role), output_transform, internal_batch_size)
        for role, models in (("student", students), ("base", bases), ("teacher", {} if teacher is None else {"teacher": teacher}))
        for name, model in models.items()
    }
    cams = {
        name: _grad_cams(model, [place[name] for place in places.values()], shown.of(name, role), predictions[name],
                         output_transform, internal_batch_size)
        for role, models in (("student", students), ("base", bases)) for name, model in models.items()
    }  # fmt: skip
    names, unit = list(bases), "position" if tokens is None else "word"
    found: dict[str, dict[tuple[str, str], dict[str, Tensor]]] = {label: {} for label in places}
    nulls: dict[str, list[dict[str, Tensor]]] = {}
    steps: Iterable[tuple[str, str]] = list(product(students, bases))
    for name, base_name in progress(steps, desc="Maps") if show_progress else steps:
        if base_name not in nulls and len(names) > 1:
            other = names[(names.index(base_name) + 1) % len(names)]
            classes = predictions[other] if explained is None else explained
            of_bases = run.maps((other, bases[other]), (base_name, bases[base_name]), "base", classes)
            nulls[base_name] = [{NULL: maps[NET]} if NET in maps else {} for maps in of_bases]
        pair = (name, students[name]), (base_name, bases[base_name])
        classes = predictions[name] if explained is None else explained
        of_layers = run.maps(*pair, "student", classes)
        if teacher is not None and NET in of_layers[0]:
            for maps, shares in zip(of_layers, run.maps(*pair, "student", classes, teacher)):
                maps[BY_TEACHER] = shares[NET]
        for number, (label, maps) in enumerate(zip(places, of_layers)):
            null = nulls[base_name][number] if base_name in nulls else {}
            cam = {STUDENT_CAM: cams[name][number], BASE_CAM: cams[base_name][number]}
            found[label][name, base_name] = {**maps, **null, **cam}
    return InputMaps(
        found,
        images=images,
        tokens=tokens,
        token_mask=shown.student.token_mask if tokens is not None else None,
        labels=as_labels(labels, len(shown.student[0]), "labels"),
        class_names=class_names,
        predictions=predictions if explained is None else None,
        masks=masks,
        same_scale=[[NET, DISTILLED, RESIDUAL, NULL], [BY_TEACHER]],
        units={title: f"gain of {what} per {unit}" for title, what in GAINS.items()},
        indices=indices,
    )


class _Run(NamedTuple):
    """What all pairs have in common: layers by the model's name, inputs, reference population and settings."""

    places: Sequence[Mapping[str, Layer]]
    shown: InputsByModel
    known: InputsByModel
    labels: Tensor
    n_steps: int
    batch_size: Optional[int]

    def maps(
        self,
        student: tuple[str, Model],
        base: tuple[str, Model],
        role: str,
        target: Tensor,
        teacher: Optional[Model] = None,
    ) -> list[dict[str, Tensor]]:
        """Net, distilled and residual maps of a pair at each layer, on the CPU, from one pass of each model over each input.

        ``role`` is that of the model in the Student's place.
        """
        own, of_base = ([place[name].module for place in self.places] for name in (student[0], base[0]))
        of_teacher = None if teacher is None else [place["teacher"].module for place in self.places]
        unicam = UniCAM(student[1], own, base[1], of_base, teacher_func=teacher, teacher_layer=of_teacher)
        shown, known = (
            {
                "student": each.of(student[0], role),
                "base": each.of(base[0], "base"),
                **({} if teacher is None else {"teacher": each.of("teacher")}),
            }
            for each in (self.shown, self.known)
        )
        population = unicam.reference(_given(known), self.labels, internal_batch_size=self.batch_size)
        found = unicam.attribute_transfer(
            _given(shown), target, reference=population, n_steps=self.n_steps, internal_batch_size=self.batch_size
        )
        maps = {NET: found.net} if found.has_net else {}
        maps |= {DISTILLED: found.distilled, RESIDUAL: found.residual}
        return [{title: each.detach().cpu() for title, each in zip(maps, of_layer)} for of_layer in zip(*maps.values())]


def _given(inputs: Mapping[str, ModelInputs]) -> Any:
    """Inputs by role as a user passes them; those of one kind for all models as they are."""
    first = inputs["student"]
    if all(each is first for each in inputs.values()):
        return first
    return dict(inputs)


def _by_name(models: Union[Model, Mapping[str, Model]], role: str) -> dict[str, Model]:
    named = dict(models) if isinstance(models, Mapping) and not isinstance(models, nn.Module) else {role: models}
    if not named or not all(isinstance(name, str) for name in named):
        raise ValueError(f"{role} must be a model, or a dict of at least one model by name, got {short_repr(models)}.")
    for name, model in named.items():
        check_model(model, role if name == role else f"{role}[{name!r}]")
    return named


def _resolved(
    layers: Layers, students: Mapping[str, Model], bases: Mapping[str, Model], teacher: Optional[Model]
) -> dict[str, dict[str, Layer]]:
    """{label: {model: layer}}."""
    given: Mapping[str, Any]
    if isinstance(layers, str):
        given = {layers: layers}
    elif isinstance(layers, Mapping):
        given = layers
    elif isinstance(layers, (list, tuple)) and all(isinstance(name, str) for name in layers):
        given = {name: name for name in layers}
    else:
        raise TypeError(f"layers must be names of layers, or a dict by label, got {short_repr(layers)}.")
    if not given:
        raise ValueError("layers is empty; name at least one layer.")
    models = [("student", *each) for each in students.items()] + [("base", *each) for each in bases.items()]
    models += [] if teacher is None else [("teacher", "teacher", teacher)]
    found: dict[str, dict[str, Layer]] = {}
    for label, own in given.items():
        for role, name, model in models:
            layer: Any = own
            if isinstance(own, Mapping):
                layer = own.get(name, own.get(role))
                if layer is None:
                    raise ValueError(f"layers[{label!r}] has no layer of {role} {name!r}; add it by the model's name or role.")
            found.setdefault(label, {})[name] = resolve_layer(model, layer, model=f"{role} {name!r}", argument="layers")
    return found


def _predicted(
    model: Model, inputs: ModelInputs, output_transform: Optional[OutputTransform], batch_size: Optional[int]
) -> Tensor:
    n = len(inputs[0])
    return torch.cat(
        [
            predicted_classes(model, inputs.rows(part, n), output_transform=output_transform).cpu()
            for part in row_parts(n, batch_size or n)
        ]
    )


def _grad_cams(
    model: Model,
    layers: Sequence[Layer],
    inputs: ModelInputs,
    labels: Tensor,
    output_transform: Optional[OutputTransform],
    batch_size: Optional[int],
) -> list[Tensor]:
    """For each layer (N, 1, ...), on the CPU."""
    n = len(inputs[0])
    parts = [
        layer_gradcams(model, layers, inputs.rows(part, n), labels[part], output_transform=output_transform)
        for part in row_parts(n, batch_size or n)
    ]
    return [torch.cat([of_layer.cpu() for of_layer in each]) for each in zip(*parts)]
