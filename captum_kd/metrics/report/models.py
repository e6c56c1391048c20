"""The models of a report by name and role, and their layers by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Optional, Sequence, Union

from torch import Tensor, nn

from captum_kd._models.layer_names import Layer, LayerLike, resolve_layer
from captum_kd._models.token_layout import LayoutHints
from captum_kd._utils.arguments import check_model
from captum_kd.metrics.scores_table import ALL_BASES, BASE, PLACEBO, STUDENT, TEACHER

Model = Callable[..., Any]
Models = Union[Model, Mapping[str, Model]]
Layers = Union[str, Sequence[str], Mapping[str, Union[str, Mapping[str, LayerLike]]]]

TEACHER_KEY = f"{TEACHER}:{TEACHER}"
"""The Teacher's key, see :attr:`ComparedModel.key`."""

LAYERS_BY_MODEL = "If architectures differ, pass layers={label: {model name: layer}}."


class ComparedModel(NamedTuple):
    """One model of a report.

    Attributes:
        name (str): the name that the user gave.
        role (str): "student", "base", "teacher" or "placebo" (a placebo Teacher).
        model (callable): the model.
        layers (tuple of Layer): one layer for each label, in the labels' order.
    """

    name: str
    role: str
    model: Model
    layers: tuple[Layer, ...]

    @property
    def key(self) -> str:
        """Unique among the models of the report."""
        return f"{self.role}:{self.name}"

    @property
    def names(self) -> tuple[str, str]:
        """The keys of the model's inputs, by priority: its name and its role. Placebos have the Teacher's role."""
        return self.name, TEACHER if self.role == PLACEBO else self.role

    def __str__(self) -> str:
        role = "placebo Teacher" if self.role == PLACEBO else self.role
        return role if self.name == role else f"{role} {self.name!r}"


class FeatureSet(NamedTuple):
    """The features of one model, for all pairs or for one pair.

    A model has one set if its images do not depend on the other model of a pair: whole images, or images reduced by its own
    maps. UniCAM's maps depend on both models of a pair, so they need one set for each model and pair.

    Attributes:
        of (ComparedModel): the model.
        given (ComparedModel, optional): the other model of the pair if the maps depend on it.
    """

    of: ComparedModel
    given: Optional[ComparedModel] = None

    @property
    def key(self) -> str:
        # Names do not contain the null character, so keys are unique.
        return self.of.key if self.given is None else f"{self.of.key}\0{self.given.key}"


class Pair(NamedTuple):
    """The feature sets of a Student and of the Base that it is compared with, or of all Bases, which are removed at once."""

    student: FeatureSet
    bases: tuple[FeatureSet, ...]

    @property
    def has_all_bases(self) -> bool:
        return len(self.bases) > 1

    @property
    def base_name(self) -> str:
        """The name in the rows."""
        return ALL_BASES if self.has_all_bases else self.bases[0].of.name

    @property
    def base(self) -> Union[str, list[str]]:
        """The key of the Base's feature set, or those of all Bases."""
        keys = [each.key for each in self.bases]
        return keys if self.has_all_bases else keys[0]


def pairs_of(models: Sequence[ComparedModel], *, explained_in_pairs: bool) -> list[Pair]:
    """All pairs of a Student and a Base, ordered by Student, then each Student with all Bases if there are several.

    If maps depend on both models of a pair, a Student has other images for each Base, so there is nothing to remove at once.
    """
    students, bases = ([each for each in models if each.role == role] for role in (STUDENT, BASE))
    if explained_in_pairs:
        return [Pair(FeatureSet(s, b), (FeatureSet(b, s),)) for s in students for b in bases]
    pairs = [Pair(FeatureSet(s), (FeatureSet(b),)) for s in students for b in bases]
    if len(bases) > 1:
        pairs += [Pair(FeatureSet(s), tuple(map(FeatureSet, bases))) for s in students]
    return pairs


def feature_sets_of(models: Sequence[ComparedModel], pairs: Sequence[Pair]) -> list[FeatureSet]:
    """The sets of all pairs, of the Teacher and of the placebo Teachers, without repetition."""
    teachers = [FeatureSet(each) for each in models if each.role in (TEACHER, PLACEBO)]
    sets = [each for pair in pairs for each in (pair.student, *pair.bases)] + teachers
    return list({each.key: each for each in sets}.values())


def as_compared_models(
    student: Models, base: Models, teacher: Optional[Model], placebo_teachers: Optional[Mapping[str, Model]], layers: Layers
) -> tuple[list[str], list[ComparedModel]]:
    """The layers' labels and the models: Students, Bases, the Teacher, placebo Teachers."""
    named: list[tuple[str, str, Model]] = []
    for role, models in ((STUDENT, student), (BASE, base)):
        _check_form(models, role)
        by_name = models if isinstance(models, Mapping) else {role: models}
        if not by_name:
            raise ValueError(f"{role} is an empty mapping; pass at least one model.")
        named += [(name, role, model) for name, model in by_name.items()]
    given: object = teacher
    if isinstance(given, (Mapping, list, tuple)):
        _check_weights(given, TEACHER)
        raise TypeError(
            f"teacher must be one model, got a {type(given).__name__}; pass a further Teacher or an assistant as one more "
            "Student, by name."
        )
    if teacher is not None:
        named.append((TEACHER, TEACHER, teacher))
    if placebo_teachers is not None:
        _check_placebos(placebo_teachers, teacher)
        named += [(name, PLACEBO, model) for name, model in placebo_teachers.items()]
    for name, role, model in named:
        argument = "placebo_teachers" if role == PLACEBO else role
        if not isinstance(name, str):
            raise TypeError(f"The names in {argument} must be strings, got {name!r}.")
        check_model(model, argument if name == role != PLACEBO else f"{argument}[{name!r}]")
    names = [name for name, _, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two models are called {twice[0]!r}; give every model its own name.")
    entries = _by_label(layers)
    known = {*names, STUDENT, BASE, TEACHER}
    for label, entry in entries.items():
        # A misspelled name would go unnoticed if there is an entry for the role.
        unknown = [name for name in entry if name not in known] if isinstance(entry, Mapping) else []
        if unknown:
            raise ValueError(f"layers[{label!r}] names {unknown[0]!r}, but the models are {', '.join(names)}.")
    compared = []
    for name, role, model in named:
        bare = ComparedModel(name, role, model, ())
        compared.append(bare._replace(layers=tuple(_layer_of(bare, label, entry) for label, entry in entries.items())))
    return list(entries), compared


def _check_form(models: object, role: str) -> None:
    """Raises a TypeError for several models without names, and for a state dict instead of a model."""
    if isinstance(models, (list, tuple, set, nn.ModuleList, nn.ModuleDict)):
        raise TypeError(
            f"{role} must be a model or a dict of models by name, got a {type(models).__name__}; pass several as "
            f"{{'{role} 1': first, '{role} 2': second}}."
        )
    _check_weights(models, role)


def _check_placebos(placebos: object, teacher: Optional[Model]) -> None:
    if not isinstance(placebos, Mapping):
        raise TypeError(
            f"placebo_teachers must be a dict of models by name, got {type(placebos).__name__}; pass networks of the Teacher's "
            "recipe and other seeds as {'placebo 1': first, 'placebo 2': second}."
        )
    _check_weights(placebos, "placebo_teachers")
    if not placebos:
        raise ValueError("placebo_teachers is an empty mapping; leave it out, or name at least one network.")
    if teacher is None:
        raise ValueError("placebo_teachers are compared with the Teacher, but there is none; pass teacher=.")


def _check_weights(models: object, role: str) -> None:
    if isinstance(models, Mapping) and any(isinstance(each, (Tensor, Mapping)) for each in models.values()):
        check_model(models, role)


def hints_for(model: ComparedModel, hints: LayoutHints) -> LayoutHints:
    """Layout hints describe Student and Base. For Teachers they are used only if the layout cannot be inferred."""
    return hints._replace(last_resort=True) if model.role in (TEACHER, PLACEBO) else hints


def _by_label(layers: Layers) -> dict[str, Union[str, Mapping[str, LayerLike]]]:
    if isinstance(layers, nn.Module) or not isinstance(layers, (str, Mapping, list, tuple)):
        raise TypeError(
            f"layers must be names of layers or {{label: {{model name: layer}}}}, got {type(layers).__name__}. A module "
            "belongs to one model only: pass the layer's name, or map each model's name to its own module."
        )
    labels = [layers] if isinstance(layers, str) else list(layers)
    if not labels:
        raise ValueError("layers is empty; name at least one layer.")
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"The entries of layers must be names (strings), got {type(label).__name__}. {LAYERS_BY_MODEL}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"layers names a layer twice: {labels}. Pass each label once.")
    entries = layers if isinstance(layers, Mapping) else {label: label for label in labels}
    for label, entry in entries.items():
        if not isinstance(entry, (str, Mapping)):
            raise TypeError(f"layers[{label!r}] must be a layer's name or {{model name: layer}}, got {type(entry).__name__}.")
    return dict(entries)


def _layer_of(model: ComparedModel, label: str, entry: Union[str, Mapping[str, LayerLike]]) -> Layer:
    if not isinstance(entry, Mapping):
        try:
            return resolve_layer(model.model, entry, model=str(model), argument=f"layers[{label!r}]")
        except ValueError as error:
            raise ValueError(f"{error} {LAYERS_BY_MODEL}") from None
    # An entry for a role stands for all of its models, which may share an architecture. Placebos have the Teacher's.
    role = TEACHER if model.role == PLACEBO else model.role
    layer = entry.get(model.name, entry.get(role))
    if layer is None:
        raise ValueError(
            f"layers[{label!r}] has no layer for {model}: it names {', '.join(map(str, entry))}. Add an entry for "
            f"{model.name!r}, or for {role!r} if all models of that role share it."
        )
    return resolve_layer(model.model, layer, model=str(model), argument=f"layers[{label!r}]")
