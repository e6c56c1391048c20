"""Models, data and layers from the command's options, checked before long work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Union

import torch

from captum_kd._models.logits import class_scores
from captum_kd.command.errors import CommandError, first_line
from captum_kd.command.images import ImageData, read_images
from captum_kd.command.layers import call, resolve_layers
from captum_kd.command.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from captum_kd.command.specs import LoadedModel, Spec, load_model
from captum_kd.command.texts import TextData, read_texts

__all__ = ["Prepared", "device_of", "load_models", "output_folder", "prepare"]

ROLES = ("student", "base", "teacher", "placebo")
TABLE = ".tsv"
FEWEST_INPUTS = 8
NAMED_AT_MOST = 5


class Prepared(NamedTuple):
    """What a command works on.

    Attributes:
        models (list of LoadedModel): Students, Bases, the Teacher, placebo Teachers, on the device.
        data (ImageData or TextData): the examples.
        layers (dict): {label: {model: dotted name}}.
        device (torch.device): of the models.
        has_classes (bool): True if the models' outputs are the data's classes.
    """

    models: list[LoadedModel]
    data: Union[ImageData, TextData]
    layers: dict[str, dict[str, str]]
    device: torch.device
    has_classes: bool

    def of(self, role: str) -> dict[str, Any]:
        return {each.name: each.module for each in self.models if each.role == role}


def prepare(options: argparse.Namespace) -> Prepared:
    """Loads and checks everything.

    Raises:
        CommandError: models, files or layers that do not fit.
    """
    device = device_of(options.device)
    data_path = options.data.expanduser()
    is_text = data_path.suffix.lower() == TABLE
    if is_text and not data_path.is_file():
        raise CommandError(f"--data: there is no file {data_path}.")
    tables = sorted(data_path.glob(f"*{TABLE}")) if data_path.is_dir() else []
    if tables and not any(each.is_dir() for each in data_path.iterdir()):
        named = data_path / f"{options.split}{TABLE}"
        named = named if named in tables else tables[0]
        raise CommandError(f"--data: {data_path} is a folder of tables; for texts name one, such as {named}.")
    models = load_models(_named(options), is_text, options)
    class_lists = _class_lists(options.classes, models)
    if is_text:
        data: Union[ImageData, TextData] = read_texts(data_path, options.limit, options.seed, class_lists, models)
    else:
        data = read_images(data_path, options.split, options.limit, options.seed, class_lists, models)
    if options.classes is not None and data.class_names != class_lists[0]:
        missing = ", ".join(data.class_names[:NAMED_AT_MOST])
        raise CommandError(f"--classes: {options.classes} lacks classes of the data, which have {missing}.")
    _say_data(data, data_path)
    if len(data) < FEWEST_INPUTS:
        raise CommandError(f"--data: {len(data)} inputs are too few; scores need a few hundred, and at least {FEWEST_INPUTS}.")
    if data.labels.bincount().max() < 2:
        raise CommandError("--data: every class has one input; relevance needs classes with several. Raise --limit.")
    models = [each._replace(module=each.module.to(device)) for each in models]
    data.models = models
    probe = data.inputs(range(4))
    has_classes = True
    for model in models:
        has_classes &= _has_classes(model, probe, data.class_names, options.predictions)
    if has_classes and not class_lists:
        names = ", ".join(data.class_names[:NAMED_AT_MOST]) + ", ..." * (len(data.class_names) > NAMED_AT_MOST)
        print(f"Outputs of the models are taken in this order: {names} (change it by --classes FILE)")
    layers = resolve_layers(options.layers, models, probe)
    for label, own in layers.items():
        print(f"Layer {label}: {', '.join(f'{name}: {layer}' for name, layer in own.items())}")
    return Prepared(models, data, layers, device, has_classes)


def device_of(name: Optional[str]) -> torch.device:
    """The device of --device; a GPU if there is one by default."""
    try:
        found = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {name}: torch cannot use it here ({first_line(error)[:150]}). Use cpu.") from error
    return found


def output_folder(folder: Path, overwrite: bool) -> Path:
    """The folder of --output, which must not hold anything unless --overwrite is given.

    Raises:
        CommandError: it holds files, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"--output: {folder} is a file; give a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise CommandError(f"--output: {folder} is not empty. Choose another folder, or replace files in it by --overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".captum-kd"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CommandError(f"--output: nothing can be written to {folder} ({error.strerror}).") from error
    return folder


def _named(options: argparse.Namespace) -> list[tuple[str, str, Spec]]:
    """(name, role, specification) of all models; several of one role without names are numbered."""
    found: list[tuple[str, str, Spec]] = []
    for role in ROLES:
        specs: Sequence[Spec] = getattr(options, role) or []
        for number, spec in enumerate(specs, 1):
            own = spec.name or (role if len(specs) == 1 and role != "placebo" else f"{role} {number}")
            found.append(("teacher" if role == "teacher" else own, role, spec))
    return found


def load_models(named: Sequence[tuple[str, str, Spec]], is_text: bool, options: argparse.Namespace) -> list[LoadedModel]:
    """Loads all models and says what each one gets.

    Raises:
        CommandError: a model that cannot be loaded, or without known preprocessing.
    """
    models = []
    for name, role, spec in named:
        model = load_model(spec, name, role, is_text)
        if not is_text:
            model = model._replace(preprocessing=_preprocessing(model, options))
        for parameter in model.module.parameters():
            parameter.requires_grad_(True)  # maps need gradients; files of frozen Teachers have none
        print(f"{role.capitalize()} {name}: {spec}{'' if model.preprocessing is None else f' ({model.preprocessing})'}")
        models.append(model)
    return models


def _preprocessing(model: LoadedModel, options: argparse.Namespace) -> Preprocessing:
    size, mean, std, resize = (
        own.get(model.name, own.get(model.role, own.get(None)))
        for own in (dict(options.image_size), dict(options.mean), dict(options.std), dict(options.resize))
    )
    if model.preprocessing is not None:
        found = model.preprocessing.changed(size, mean, std, resize)
    elif size is None or mean is None or std is None:
        raise CommandError(
            f"{model.role} {model.name}: {model.spec} does not say how its images are preprocessed. Give --image-size, --mean "
            f"and --std as in its training; ImageNet's are --mean {','.join(map(str, IMAGENET_MEAN))} --std "
            f"{','.join(map(str, IMAGENET_STD))}"
        )
    else:
        # Without a crop rule, the middle square.
        found = Preprocessing((size, size), resize or size, mean, std)
    if found.resize is not None and found.resize < max(found.size):
        raise CommandError(
            f"{model.role} {model.name}: --resize {found.resize} is less than the image size {max(found.size)}, which is cut out "
            "of it."
        )
    if len(found.mean) != len(found.std):
        counts = f"--mean has {len(found.mean)} numbers and --std {len(found.std)}"
        raise CommandError(f"{model.name}: {counts}; give one each per channel.")
    return found


def _class_lists(file: Optional[Path], models: Sequence[LoadedModel]) -> Sequence[Sequence[str]]:
    """The lists of class names that the data may follow: that of a file, or those of the models."""
    if file is None:
        return [each.class_names for each in models if each.class_names is not None]
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--classes: {file} cannot be read ({error}).") from error
    if len(set(names)) < max(2, len(names)):
        raise CommandError(f"--classes: {file} must have one name a line, in the order of the models' outputs, each once.")
    return [names]


def _has_classes(model: LoadedModel, probe: Any, class_names: Sequence[str], is_asked: bool) -> bool:
    """Whether a model's outputs are the data's classes.

    Raises:
        CommandError: they are not, and predictions are asked for; or the model cannot run.
    """
    with torch.no_grad():
        output = call(model, probe)
    try:
        outputs = class_scores(output, None, None, model.name).shape[1]
    except (TypeError, ValueError) as error:
        raise CommandError(f"{model.role} {model.name}: {error}") from error
    own = model.class_names
    same_order = own is None or set(own) != set(class_names) or list(own) == list(class_names)
    if outputs == len(class_names) and same_order:
        return True
    if is_asked:
        reason = f"{outputs} outputs, and the data have {len(class_names)} classes" if same_order else (
            "the same classes as the data in another order"
        )
        raise CommandError(
            f"{model.role} {model.name} has {reason}. Add --no-predictions to compare features alone, or list the names of all "
            "outputs in their order: --classes FILE"
        )
    return False


def _say_data(data: Union[ImageData, TextData], path: Path) -> None:
    counts = data.labels.bincount()
    counts = counts[counts > 0]
    spread = str(int(counts.min())) if counts.min() == counts.max() else f"{int(counts.min())} to {int(counts.max())}"
    print(f"Data {path}: {len(data)} inputs of {len(counts)} classes, {spread} of each")
    if data.left_out:
        shown = ", ".join(map(str, data.left_out[:NAMED_AT_MOST]))
        more = len(data.left_out) - NAMED_AT_MOST
        print(f"Left out, as no whole input can be read from them: {shown}{f' and {more} more' if more > 0 else ''}")
