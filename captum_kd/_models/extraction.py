"""Features of a model's layers for one batch, extracted in forward passes over parts that fit into memory."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Hashable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from captum._utils.progress import progress
from torch import Tensor, nn

from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.early_end import layer_calls
from captum_kd._models.feature_transforms import FeatureTransform, default_transform, flatten, flatten_to_unit_length
from captum_kd._models.features import features_of
from captum_kd._models.hooks import Captured
from captum_kd._models.layer_activations import ForwardPass, LayerActivations, LayerOutput, Layouts, concatenated
from captum_kd._models.layer_names import Layer, LayerPair
from captum_kd._models.layer_outputs import capture_outputs, find_layouts, image_size_of, joined_outputs
from captum_kd._models.reachable import add_modules, model_of
from captum_kd._models.token_layout import Layout, LayoutHints
from captum_kd._utils.arguments import take_rows
from captum_kd._utils.inputs import ModelInputs
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import largest_of

# Bound the cache of layouts; inputs of varying shape would grow it without limit.
_MOST_SHAPES = 64


class _Found(NamedTuple):
    """What an earlier pass over inputs of the same shapes showed: shapes and layouts of each layer, and whether the next passes
    may end early."""

    layers: dict[nn.Module, tuple[tuple[torch.Size, ...], tuple[Layout, ...]]]
    may_stop: bool


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """A model, the layers whose features are taken, and the transform that makes the features (None: the one of scores).

    Layouts are inferred once for each shape of the inputs and then cached, since inferring them needs hooks on all modules,
    which take up to a third of a small model's pass on a GPU. With ``stop_early`` passes over inputs of a known shape end once
    all layers are captured (:mod:`captum_kd._models.early_end`).
    """

    forward_func: Callable[..., Any]
    pairs: tuple[LayerPair, ...]
    feature_transform: Optional[FeatureTransform]
    hints: LayoutHints = LayoutHints()
    device_ids: Optional[Sequence[int]] = None
    stop_early: bool = True
    _found: dict[Hashable, _Found] = field(default_factory=dict, init=False)

    def observe(
        self,
        inputs: ModelInputs,
        additional_forward_args: tuple[Any, ...] = (),
        *,
        at_input: bool = False,
        features_only: bool = False,
        internal_batch_size: Optional[int] = None,
        show_progress: bool = False,
        known: Optional[Layouts] = None,
        returned: Optional[list[Any]] = None,
    ) -> LayerActivations:
        """Runs the model over the batch.

        Args:
            inputs (ModelInputs): the model's inputs; first dimensions are the examples.
            additional_forward_args (tuple): further arguments; tensors with as many rows as there
                are examples are divided with them, everything else is passed as it is.
            at_input (bool): take the layers' inputs instead of their outputs.
            features_only (bool): keep no activations; maps are then not possible.
            internal_batch_size (int, optional): examples in one forward pass.
            show_progress (bool): Captum's progress display over the forward passes.
            known (mapping, optional): layouts from an earlier call for the same model.
            returned (list, optional): the model's output is appended to it for each forward pass. Passes are then complete.

        Returns:
            LayerActivations: the features, which can also compute maps.

        Raises:
            ValueError: a layer that is never reached, has no tensors, or has another number of rows than the inputs,
                tokens without a grid, or non-finite features; the message names layer and model.
        """
        layouts = dict(known or {})
        inputs = with_named_mask(self.forward_func, inputs, additional_forward_args)
        transform = self.transform_of(inputs)
        batches = list(_batches(inputs, additional_forward_args, internal_batch_size))
        # Features of deeper layers need the graph between the layers. To bound memory, the graphs of several batches are not
        # kept but recorded again in the backward direction.
        runs_twice = len(batches) > 1 and not features_only and any(pair.is_deeper for pair in self.pairs)
        run = functools.partial(self._run, at_input=at_input, features_only=features_only, layouts=layouts, returned=returned)
        passes: list[list[ForwardPass]] = []
        features: dict[Layer, list[tuple[Tensor, Tensor]]] = {pair.feature_layer: [] for pair in self.pairs}
        name = type(self.forward_func).__name__
        for batch in progress(batches, desc=f"Forward passes of {name}") if show_progress else batches:
            devices = run(batch, with_graph=not (features_only or runs_twice))
            for layer, parts in features.items():
                parts += [(values.detach(), moved) for values, moved in (each.features[layer.module] for each in devices)]
            if not (features_only or runs_twice):
                passes.append(devices)
        joined = {layer: _joined(layer, parts) for layer, parts in features.items()}
        in_order = [joined[pair.feature_layer] for pair in self.pairs]
        return LayerActivations(
            self.pairs,
            transform,
            features=[values for values, _, _ in in_order],
            largest=[largest for _, largest, _ in in_order],
            rounding=[rounding for _, _, rounding in in_order],
            layouts=layouts,
            passes=passes,
            run_again=functools.partial(map, functools.partial(run, with_graph=True), batches) if runs_twice else None,
        )

    def transform_of(self, inputs: ModelInputs) -> FeatureTransform:
        return self.feature_transform or default_transform(inputs.is_text)

    def layer_keys(self) -> dict[nn.Module, Union[str, int]]:
        """A key for each layer that is valid without the model: its name, or the index of a feature layer in a plain function.

        Map layers of plain functions have no key.
        """
        keys: dict[nn.Module, Union[str, int]] = {}
        for place, pair in enumerate(self.pairs):
            if pair.map_layer.name is not None:
                keys[pair.map_layer.module] = pair.map_layer.name
            layer = pair.feature_layer
            keys[layer.module] = place if layer.name is None else layer.name
        return keys

    def _run(
        self,
        batch: _Batch,
        *,
        at_input: bool,
        features_only: bool,
        with_graph: bool,
        layouts: dict[Union[str, int], tuple[Layout, ...]],
        returned: Optional[list[Any]],
    ) -> list[ForwardPass]:
        """One forward pass, for each device; adds the layouts found for several inputs to ``layouts``."""
        keys, transform = self.layer_keys(), self.transform_of(batch.inputs)
        known = {module: layouts[key] for module, key in keys.items() if key in layouts}
        captured = self._capture(batch, at_input, features_only, with_graph, known, returned)
        for device in captured:
            for module, output in device.items():
                if module in keys and output.layouts and output.layouts[0].rows(output.tensors[0]) > 1:
                    layouts[keys[module]] = output.layouts
        sources = list(dict.fromkeys(pair.feature_layer for pair in self.pairs))
        grad_mode = torch.enable_grad() if with_graph else torch.no_grad()
        passes = []
        with changed_state(torch.inference_mode(False), grad_mode), interruptible():
            for device in captured:
                if with_graph:
                    device.update({layer.module: device[layer.module].recordable() for layer in sources})
                features = {layer.module: features_of(transform, device[layer.module], layer) for layer in sources}
                kept = () if features_only else [pair.map_layer.module for pair in self.pairs]
                passes.append(ForwardPass({module: device[module] for module in kept}, features))
        return passes

    def _capture(
        self,
        batch: _Batch,
        at_input: bool,
        features_only: bool,
        with_graph: bool,
        known: Mapping[nn.Module, tuple[Layout, ...]],
        returned: Optional[list[Any]],
    ) -> list[dict[nn.Module, LayerOutput]]:
        """The outputs of all layers with their layouts, for each device. Layouts are cached for inputs of the same shapes."""
        layers = list(dict.fromkeys(layer for pair in self.pairs for layer in pair))
        # Every map layer cuts the graph, so all of them are needed.
        is_recorded = with_graph and any(pair.is_deeper for pair in self.pairs)
        args = (self.forward_func, layers, batch.inputs, batch.additional_forward_args)
        outputs: list[Any] = []
        capture = functools.partial(
            capture_outputs,
            *args,
            at_input=at_input,
            device_ids=self.device_ids,
            differentiate_from=[pair.map_layer for pair in self.pairs] if is_recorded else [],
            returned=outputs,
        )
        modules = self._modules_of_pass(batch)
        key = None if modules is None else self._key(modules, batch, at_input, features_only, known)
        found = None if key is None else self._found.get(key)
        calls = None
        if modules is not None and self.stop_early and returned is None:
            may_stop = None if found is None else found.may_stop
            calls = layer_calls(self.forward_func, modules, [layer.module for layer in layers], may_stop)
        captured = capture(trace=found is None, calls=calls)
        if found is not None and calls is not None and calls.was_caught:
            self._found[key] = found._replace(may_stop=False)
        # State outside of modules may have changed which modules run; the shapes show that.
        if found is not None and (len(captured) > 1 or _shapes(captured[0]) != {m: each[0] for m, each in found.layers.items()}):
            found, captured, calls = None, capture(trace=True), None
        if found is not None:
            layouts = [{module: of_layer for module, (_, of_layer) in found.layers.items()}]
        else:
            allows_end = calls is not None and calls.allow_early_end()
            optional = self._without_need(batch, features_only)
            layouts = find_layouts(*args, captured, hints=self.hints, at_input=at_input, known=known, optional=optional)
            if key is not None and len(captured) == 1:
                if len(self._found) >= _MOST_SHAPES:
                    self._found.clear()
                of_layers = {module: (shapes, layouts[0][module]) for module, shapes in _shapes(captured[0]).items()}
                self._found[key] = _Found(of_layers, allows_end)
        if returned is not None:
            returned.append(outputs[-1])
        return joined_outputs(layers, batch.inputs, captured, layouts)

    def _modules_of_pass(self, batch: _Batch) -> Optional[list[nn.Module]]:
        """The modules that a pass may run; None if these are unknown.

        A plain function may call any module, and further arguments may choose among modules.
        """
        model = model_of(self.forward_func)
        if model is None or batch.additional_forward_args:
            return None
        modules: dict[nn.Module, None] = {}
        add_modules(model, modules)
        return list(modules)

    @staticmethod
    def _key(
        modules: Sequence[nn.Module],
        batch: _Batch,
        at_input: bool,
        features_only: bool,
        known: Mapping[nn.Module, tuple[Layout, ...]],
    ) -> Hashable:
        """A key that determines which modules a pass runs and the shapes of their outputs."""
        shapes = batch.inputs.names, tuple(each.shape if isinstance(each, Tensor) else None for each in batch.inputs)
        settings = at_input, features_only, tuple(known.items()) if batch.size == 1 else ()
        # A replaced forward method is another model.
        return settings, shapes, tuple(module.forward for module in modules), tuple(module.training for module in modules)

    def _without_need(self, batch: _Batch, features_only: bool) -> set[nn.Module]:
        """Layers that do not need a layout, so that it is no error if none can be inferred.

        These are layers of maps that are not requested, and layers whose features are all values in any order.
        """
        sources = {pair.feature_layer.module for pair in self.pairs}
        mapped = set() if features_only else {pair.map_layer.module for pair in self.pairs}
        optional = {pair.map_layer.module for pair in self.pairs} - sources - mapped
        keeps_all = self.transform_of(batch.inputs) in (flatten, flatten_to_unit_length)
        if keeps_all and batch.inputs.token_mask is None and self.hints == LayoutHints() and image_size_of(batch.inputs) is None:
            optional |= sources - mapped
        return optional


def _shapes(captured: Mapping[nn.Module, Captured]) -> dict[nn.Module, tuple[torch.Size, ...]]:
    return {module: tuple(tensor.shape for tensor in each.tensors) for module, each in captured.items()}


def _joined(layer: Layer, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, float, Tensor]:
    """Features of all inputs, their largest absolute value and their rounding."""
    features, rounding = (concatenated(each) for each in zip(*parts))
    largest = largest_of(features)
    if not math.isfinite(largest):
        raise ValueError(
            f"{layer} gives non-finite features (NaN or infinity); check the model's weights, "
            "its inputs and, in half precision, its range."
        )
    return features, largest, rounding


class _Batch(NamedTuple):
    inputs: ModelInputs
    additional_forward_args: tuple[Any, ...]
    size: int


def _batches(
    inputs: ModelInputs, additional_forward_args: tuple[Any, ...], batch_size: Optional[int]
) -> Iterator[_Batch]:
    n = inputs[0].shape[0]
    if batch_size is None or batch_size >= n:
        yield _Batch(inputs, additional_forward_args, n)
        return
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        yield _Batch(inputs.rows(rows, n), take_rows(additional_forward_args, rows, n), rows.stop - rows.start)
