"""Models from specifications such as ``torchvision:resnet18@kd.pt``."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Union

import torch
from torch import nn

from captum_kd.command.checkpoints import classes_in_file, load_weights, read_tensors
from captum_kd.command.errors import CommandError, first_line, needed
from captum_kd.command.preprocessing import Preprocessing, of_timm, of_torchvision, of_transformers

__all__ = ["RANDOM", "LoadedModel", "Spec", "load_model", "parse_spec"]

LIBRARIES = ("torchvision", "timm", "hf")
RANDOM = "random"
"""Behind "@": the library's initial weights, as of an untrained network."""
FORMS = "torchvision:NAME[@WEIGHTS or FILE], timm:NAME[@FILE], hf:NAME_OR_FOLDER or FILE.py:FUNCTION[@FILE]"


class Spec(NamedTuple):
    """A model as the user names it.

    Attributes:
        name: in tables, None for the role's.
        library: one of ``LIBRARIES``, or a path that ends in ".py".
        model: its name there, a folder, or a function.
        weights: a file, the name of weights, ``RANDOM``, or None.
        part: which network of a file with several, such as "student".
    """

    name: Optional[str]
    library: str
    model: str
    weights: Optional[str]
    part: Optional[str]

    def __str__(self) -> str:
        weights = "" if self.weights is None else f"@{self.weights}"
        return f"{self.library}:{self.model}{weights}{'' if self.part is None else f'#{self.part}'}"


class LoadedModel(NamedTuple):
    """A model with what its inputs need.

    Attributes:
        name (str): in tables.
        role (str): "student", "base", "teacher" or "placebo".
        spec (Spec): where it came from.
        module (nn.Module): in evaluation mode.
        preprocessing (Preprocessing, optional): of images.
        tokenizer (Any): of texts, None for images.
        class_names (list of str, optional): of its outputs, where its library knows them.
    """

    name: str
    role: str
    spec: Spec
    module: nn.Module
    preprocessing: Optional[Preprocessing]
    tokenizer: Any
    class_names: Optional[list[str]]


def parse_spec(text: str) -> Spec:
    """Reads ``[NAME=]SPEC``.

    Raises:
        ValueError: another form.
    """
    name: Optional[str] = None
    if found := re.match(r"([^=:/\\@]+)=(.+)", text):
        name, text = found[1].strip(), found[2]
    if found := re.match(r"(torchvision|timm|hf):(.+)", text):
        library, rest = found[1], found[2]
        # Names in the hub and paths may hold "@"; transformers' models have no separate file of weights.
        model, _, weights = (rest, "", "") if library == "hf" else rest.partition("@")
    elif found := re.match(r"(.+\.py):([A-Za-z_]\w*)(?:@(.+))?$", text):
        library, model, weights = found[1], found[2], found[3] or ""
    else:
        raise ValueError(f"{text!r} is no specification of a model; expected {FORMS}, with NAME= in front to name it")
    weights, _, part = weights.partition("#")
    return Spec(name, library, model, weights or None, part or None)


def load_model(spec: Spec, name: str, role: str, is_text: bool) -> LoadedModel:
    """Builds a model, loads its weights, and finds its preprocessing.

    Raises:
        CommandError: unknown models, packages that are not installed, files that do not fit.
    """
    try:
        if spec.library == "hf":
            found = _transformers(spec, is_text)
        elif is_text:
            raise CommandError(f"{spec} is given texts (a .tsv file), which only hf: models take; for images pass a folder.")
        else:
            found = {"torchvision": _torchvision, "timm": _timm}.get(spec.library, _own)(spec)
    except CommandError as error:
        raise CommandError(f"{role} {name}: {error}") from error
    except (ImportError, OSError) as error:
        reason = first_line(error)
        raise CommandError(
            f"{role} {name}: {spec} cannot be loaded ({reason[:300]}). Check the name and the connection, or give a file."
        ) from error
    module, preprocessing, tokenizer, classes = found
    return LoadedModel(name, role, spec, module.eval(), preprocessing, tokenizer, classes)


Found = tuple[nn.Module, Optional[Preprocessing], Any, Optional[list[str]]]


def _torchvision(spec: Spec) -> Found:
    models = needed("torchvision", "models", f"{spec}").models
    if spec.model not in models.list_models(module=models):
        close = _close(spec.model, models.list_models(module=models))
        raise CommandError(f"torchvision has no classifier {spec.model!r}.{close}")
    known = models.get_model_weights(spec.model)
    named = {each.name: each for each in known}
    given = spec.weights or "DEFAULT"
    is_named = given in named or given == "DEFAULT"
    # Networks that people train themselves follow the first recipe, as published checkpoints do.
    weights = known.DEFAULT if given == "DEFAULT" else named.get(given, named.get("IMAGENET1K_V1", known.DEFAULT))
    settings = {"init_weights": False} if spec.model in ("googlenet", "inception_v3") else {}
    if is_named:
        module = models.get_model(spec.model, weights=weights)
        return module, of_torchvision(weights), None, list(weights.meta["categories"])
    if spec.weights != RANDOM and not Path(given).is_file():
        raise CommandError(f"{given!r} is neither a file nor weights of {spec.model}: {', '.join(named)}, DEFAULT or {RANDOM}.")

    def make(**classes: int) -> nn.Module:
        made: nn.Module = models.get_model(spec.model, weights=None, **settings, **classes)
        return made

    return _with_file(make, spec), of_torchvision(weights), None, None


def _timm(spec: Spec) -> Found:
    timm = needed("timm", "models", f"{spec}")
    if not timm.is_model(spec.model):
        raise CommandError(f"timm has no model {spec.model!r}.{_close(spec.model, timm.list_models(pretrained=True))}")
    if spec.weights is None:
        module = timm.create_model(spec.model, pretrained=True)
    else:
        module = _with_file(lambda **classes: timm.create_model(spec.model, pretrained=False, **classes), spec)
    return module, of_timm(timm.data.resolve_data_config({}, model=module)), None, None


def _with_file(make: Any, spec: Spec) -> nn.Module:
    """A library's model with the weights of a file, and with as many classes as the file's."""
    module: nn.Module = make()
    if spec.weights == RANDOM:
        return module
    file = Path(str(spec.weights))
    tensors = read_tensors(file)
    classes = classes_in_file(module, tensors, file, spec.part)
    if classes is not None:
        module = make(num_classes=classes)
    load_weights(module, file, tensors, spec.part, spec.model)
    return module


def _transformers(spec: Spec, is_text: bool) -> Found:
    transformers = needed("transformers", "text", f"{spec}")
    folder: Union[str, Path] = Path(spec.model).expanduser()
    is_local = Path(folder).is_dir()
    source = str(folder) if is_local else spec.model
    if not is_local and (spec.model.count("/") > 1 or spec.model.startswith((".", "/", "~"))):
        raise CommandError(f"There is no folder {spec.model}.")
    kind = transformers.AutoModelForSequenceClassification if is_text else transformers.AutoModelForImageClassification
    try:
        # use_safetensors: other files are pickled.
        module, notes = kind.from_pretrained(source, output_loading_info=True, use_safetensors=True)
    except ValueError as error:
        what = "texts" if is_text else "images"
        other = "images: --data FOLDER, layers without --text" if is_text else "texts: --data FILE.tsv, layers with --text"
        reason = first_line(error)[:200]
        raise CommandError(
            f"{spec.model} is no classifier of {what} in transformers ({reason}). If it is one of {other}."
        ) from error
    if notes["missing_keys"]:
        missing = sorted(notes["missing_keys"])
        raise CommandError(
            f"{spec.model} has no weights for {', '.join(missing[:4])}: it was not trained as a classifier. Give a "
            "checkpoint with its head."
        )
    names = module.config.id2label
    classes = [str(names[place]) for place in range(len(names))]
    own_names = None if all(re.fullmatch(r"LABEL_\d+", each) for each in classes) else classes
    if is_text:
        return module, None, transformers.AutoTokenizer.from_pretrained(source), own_names
    try:
        preprocessing = of_transformers(transformers.AutoImageProcessor.from_pretrained(source))
    except (OSError, ValueError):  # no preprocessor_config.json: --image-size, --mean and --std say it
        preprocessing = None
    return module, preprocessing, None, own_names


def _own(spec: Spec) -> Found:
    """A model from a function in the user's file, which is run."""
    file = Path(spec.library)
    if not file.is_file():
        raise CommandError(f"There is no file {file}; expected FILE.py:FUNCTION[@WEIGHTS].")
    module_spec = importlib.util.spec_from_file_location(f"captum_kd_models_{file.stem}", file)
    assert module_spec is not None and module_spec.loader is not None
    code = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = code
    sys.path.insert(0, str(file.parent.resolve()))  # for what the file imports beside itself
    try:
        module_spec.loader.exec_module(code)
        function = getattr(code, spec.model, None)
        if function is None:
            raise CommandError(f"{file} has no function {spec.model!r}.{_close(spec.model, _functions(code))}")
        with torch.random.fork_rng():
            model = function()
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(
            f"{file}:{spec.model}() failed ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}). It must "
            "return a model without being given arguments."
        ) from error
    finally:
        sys.path.remove(str(file.parent.resolve()))
    if not isinstance(model, nn.Module):
        raise CommandError(f"{file}:{spec.model}() returned {type(model).__name__}; expected a torch.nn.Module.")
    if spec.weights is not None and spec.weights != RANDOM:
        weights = Path(spec.weights)
        load_weights(model, weights, read_tensors(weights), spec.part, f"{file}:{spec.model}()")
    preprocessing = None
    if isinstance(getattr(model, "pretrained_cfg", None), Mapping):  # a model of timm
        preprocessing = of_timm(needed("timm", "models", f"{spec}").data.resolve_data_config({}, model=model))
    return model, preprocessing, None, None


def _functions(code: Any) -> list[str]:
    return [name for name, value in vars(code).items() if inspect.isfunction(value) and not name.startswith("_")]


def _close(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f" Close matches: {', '.join(close)}." if close else ""
