"""The order in which the modules of a model are randomized, and their random weights."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Sequence

import torch
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.hooks import capture_layers
from captum_kd._models.layer_names import LayerLike, names_in, resolve_layer
from captum_kd._models.reachable import modules_of
from captum_kd._utils.arguments import as_layers
from captum_kd._utils.checksums import own_parameters
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import short_repr
from captum_kd.metrics._salient import seeded


def modules_of_model(model: FeatureExtractor) -> list[nn.Module]:
    """All modules of a model. In a plain function, the layer may be reached in ways that :func:`modules_of` does not see."""
    runs = (model.forward_func, model.pairs[0].feature_layer.module)
    return list(dict.fromkeys(module for run in runs for module in modules_of(run)))


def randomization_order(
    model: FeatureExtractor, few: Sequence[tuple[Any, ...]], at_input: bool, chosen: Optional[Sequence[LayerLike]]
) -> dict[str, list[nn.Module]]:
    """The steps of the test for one model: the modules that are randomized together, by name."""
    end = model.pairs[0].feature_layer
    if chosen is not None:
        run, name = model.forward_func, end.model
        layers = [resolve_layer(run, each, model=name, argument="modules") for each in as_layers(chosen, "modules")]
        return {_name(model, each.module): list(each.module.modules()) for each in layers}
    modules = modules_of_model(model)
    parents = {child: module for module in modules for child in module.children()}
    started: list[nn.Module] = []
    done: set[nn.Module] = set()
    with changed_state(_recording(modules, end.module, at_input, started, done)), interruptible():
        capture_layers(model.forward_func, [end], *few, at_input=at_input, device_ids=model.device_ids)
    steps: dict[nn.Module, list[nn.Module]] = {module: [] for module in reversed(started)}
    for module in modules:
        around: Optional[nn.Module] = module
        while around is not None and around not in steps:
            around = parents.get(around)
        # A module that has not run belongs to the one around it, unless that may still run it behind the layer.
        if own_parameters(module) and around is not None and (around is module or around in done):
            steps[around].append(module)
    return {_name(model, module): together for module, together in steps.items() if together}


def _name(model: FeatureExtractor, module: nn.Module) -> str:
    """The dotted name of a module; in a plain function its type and its place among the modules."""
    whole = model.forward_func
    if isinstance(whole, nn.Module):
        for name, each in names_in(whole).items():
            if each is module:
                return name or type(module).__name__
    return f"{type(module).__name__} {modules_of_model(model).index(module)}"


@contextmanager
def _recording(
    modules: Sequence[nn.Module], end: nn.Module, at_input: bool, started: list[nn.Module], done: set[nn.Module]
) -> Iterator[None]:
    """Fills ``started`` with the modules in the order of their last start before the end, ``done`` with those that ended."""
    running: dict[nn.Module, None] = {}
    returned: set[nn.Module] = set()

    def stop(module: nn.Module) -> None:
        if module is end:
            started[:] = running
            done.update(returned)

    def start(module: nn.Module, *_: Any) -> None:
        if at_input:
            stop(module)
        running.pop(module, None)
        running[module] = None

    def finish(module: nn.Module, *_: Any) -> None:
        returned.add(module)
        if not at_input:
            stop(module)

    handles = []
    try:
        for module in modules:
            # Replicas of a DataParallel model run the hooks, but are other objects.
            handles.append(module.register_forward_pre_hook(functools.partial(start, module)))
            handles.append(module.register_forward_hook(functools.partial(finish, module)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def joint_steps(of_models: Sequence[dict[str, list[nn.Module]]]) -> dict[str, list[nn.Module]]:
    """The steps of all models together, by the names that they share.

    Raises:
        ValueError: names that differ between models, or steps without parameters.
    """
    names = list(of_models[0])
    for other in of_models[1:]:
        if list(other) != names:
            only = sorted(set(names) ^ set(other))
            raise ValueError(
                f"The modules of the models differ{f': {short_repr(only)} are in one of them' if only else ' in their order'}. "
                "Pass modules= with names that all models have, or randomize one model at a time."
            )
    steps = {name: [module for each in of_models for module in each[name] if own_parameters(module)] for name in names}
    empty = [name for name, together in steps.items() if not together]
    if empty or not steps:
        raise ValueError(
            f"{empty[0]!r} of modules has no parameters; pass modules with parameters."
            if empty
            else "No module with parameters runs ahead of the layer, so there is nothing to randomize; choose a deeper layer."
        )
    return steps


@contextmanager
def with_copies(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Gives modules copies of their parameters and buffers, and the originals back at the end. Shared ones stay shared."""
    originals: list[tuple[nn.Module, str, Tensor]] = []
    copies: dict[int, Tensor] = {}
    try:
        for module in modules:
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                if value is None:
                    continue
                if id(value) not in copies:
                    copied = value.detach().clone()
                    is_parameter = isinstance(value, nn.Parameter)
                    copies[id(value)] = nn.Parameter(copied, value.requires_grad) if is_parameter else copied
                originals.append((module, name, value))
                setattr(module, name, copies[id(value)])
        yield
    finally:
        for module, name, value in originals:
            setattr(module, name, value)


def randomize_weights(module: nn.Module, seed: int) -> None:
    """Draws a module's own parameters anew."""
    before = {name: value.clone() for name, value in module._parameters.items() if value is not None}
    like = next(iter(before.values()))
    with changed_state(torch.no_grad(), seeded(like, seed)):
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        for name, old in before.items():
            value = module._parameters[name]
            if value is not None and torch.equal(value, old):
                order = torch.randperm(old.numel(), device="cpu").to(old.device)
                value.copy_(old.flatten()[order].view_as(old))
