"""Forward direction: features of a model's layers for one batch, run in parts that fit into memory."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Hashable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from captum._utils.progress import progress
from torch import Tensor, nn

from captum_kd._models.cam import precise
from captum_kd._models.feature_transforms import FeatureTransform, flatten, flatten_to_unit_length
from captum_kd._models.hooks import Captured
from captum_kd._models.layer_activations import ForwardPass, LayerActivations, LayerOutput, Layouts, concatenated
from captum_kd._models.layer_names import Layer, LayerPair
from captum_kd._models.layer_outputs import capture_outputs, find_layouts, image_size_of
from captum_kd._models.reachable import add_modules, model_of
from captum_kd._models.rounding import features_and_rounding
from captum_kd._models.token_layout import Layout, LayoutHints
from captum_kd._utils.arguments import take_rows
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import largest_of

# Bound the layouts that are kept; inputs of varying shape would add to them without limit.
_MOST_SHAPES = 64

_Found = dict[nn.Module, tuple[tuple[torch.Size, ...], tuple[Layout, ...]]]


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """A model, the layers whose features are taken, and the transform that makes the features.

    Layouts are found once for each shape of the inputs and then kept: for that, all modules need hooks, which cost the host
    of a GPU up to a third of a small model's pass.
    """

    forward_func: Callable[..., Any]
    pairs: tuple[LayerPair, ...]
    feature_transform: FeatureTransform
    hints: LayoutHints = LayoutHints()
    device_ids: Optional[Sequence[int]] = None
    _found: dict[Hashable, _Found] = field(default_factory=dict, init=False)

    def observe(
        self,
        inputs: tuple[Any, ...],
        additional_forward_args: tuple[Any, ...] = (),
        *,
        at_input: bool = False,
        features_only: bool = False,
        internal_batch_size: Optional[int] = None,
        show_progress: bool = False,
        known: Optional[Layouts] = None,
    ) -> LayerActivations:
        """Runs the model over the batch.

        Args:
            inputs (tuple): the model's inputs; first dimensions are the examples.
            additional_forward_args (tuple): further arguments; tensors with as many rows as there
                are examples are divided with them, everything else is passed as it is.
            at_input (bool): take the layers' inputs instead of their outputs.
            features_only (bool): keep no activations; no maps will be asked for.
            internal_batch_size (int, optional): examples in one forward pass.
            show_progress (bool): Captum's progress display over the forward passes.
            known (mapping, optional): layouts that an earlier call for the same model found.

        Returns:
            LayerActivations: the features, and the way back from them to maps.

        Raises:
            ValueError: a layer that is never reached, has no tensors or other rows than the inputs,
                tokens without a grid, or non-finite features; the message names layer and model.
        """
        layouts = dict(known or {})
        batches = list(_batches(inputs, additional_forward_args, internal_batch_size))
        # Features of deeper layers need the graph between the layers. Graphs of several batches are not kept but
        # recorded again on the way back, which bounds memory.
        runs_twice = len(batches) > 1 and not features_only and any(pair.is_deeper for pair in self.pairs)
        run = functools.partial(self._run, at_input=at_input, features_only=features_only, layouts=layouts)
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
            self.feature_transform,
            features=[values for values, _, _ in in_order],
            largest=[largest for _, largest, _ in in_order],
            rounding=[rounding for _, _, rounding in in_order],
            layouts=layouts,
            passes=passes,
            run_again=functools.partial(map, functools.partial(run, with_graph=True), batches) if runs_twice else None,
        )

    def layer_keys(self) -> dict[nn.Module, Union[str, int]]:
        """A key for each layer that outlives the model: its name or, in a plain function, the place of a feature layer.

        Map layers of plain functions have none.
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
    ) -> list[ForwardPass]:
        """One forward pass, for each device; adds the layouts of several inputs to ``layouts``."""
        keys = self.layer_keys()
        known = {module: layouts[key] for module, key in keys.items() if key in layouts}
        layers = list(dict.fromkeys(layer for pair in self.pairs for layer in pair))
        # Every map layer cuts the graph, so all of them have to take part.
        recorded = with_graph and any(pair.is_deeper for pair in self.pairs)
        roots = [pair.map_layer for pair in self.pairs] if recorded else []
        args = (batch.inputs, batch.additional_forward_args)
        settings: dict[str, Any] = dict(at_input=at_input, differentiate_from=roots, device_ids=self.device_ids)
        capture = functools.partial(capture_outputs, self.forward_func, layers, *args, **settings)
        key = self._key(batch, at_input, features_only, known)
        found = None if key is None else self._found.get(key)
        captured = capture(trace=found is None)
        # State outside of modules may have changed the way through the model.
        if found is not None and (len(captured) > 1 or _shapes(captured[0]) != {m: each[0] for m, each in found.items()}):
            found, captured = None, capture(trace=True)
        if found is None:
            optional = self._without_need(batch, features_only)
            places = find_layouts(
                self.forward_func, layers, captured, *args, hints=self.hints, at_input=at_input, known=known, optional=optional
            )
            if key is not None and len(captured) == 1:
                if len(self._found) >= _MOST_SHAPES:
                    self._found.clear()
                self._found[key] = {m: (shapes, places[0][m]) for m, shapes in _shapes(captured[0]).items()}
        else:
            places = [{module: each[1] for module, each in found.items()}]
        for device, of_device in zip(captured, places):
            several = [module for module in of_device if of_device[module] and device[module].tensors[0].shape[0] > 1]
            layouts.update({keys[module]: of_device[module] for module in several if module in keys})
        grad_mode = torch.enable_grad() if with_graph else torch.no_grad()
        with changed_state(torch.inference_mode(False), grad_mode), interruptible():
            return [self._forward_pass(*each, features_only) for each in zip(captured, places)]

    def _key(
        self, batch: _Batch, at_input: bool, features_only: bool, known: Mapping[nn.Module, tuple[Layout, ...]]
    ) -> Optional[Hashable]:
        """What decides which modules a pass runs and what their outputs look like; None if it cannot be told.

        It is unknown which modules a plain function calls, and further arguments may choose among modules.
        """
        model = model_of(self.forward_func)
        if model is None or batch.additional_forward_args:
            return None
        modules: dict[nn.Module, None] = {}
        add_modules(model, modules)
        shapes = tuple(each.shape if isinstance(each, Tensor) else None for each in batch.inputs)
        settings = at_input, features_only, tuple(known.items()) if batch.size == 1 else ()
        return settings, shapes, tuple(modules), tuple(module.training for module in modules)

    def _without_need(self, batch: _Batch, features_only: bool) -> set[nn.Module]:
        """Layers whose layouts change nothing, so that it is no error if they cannot be found.

        These are the layers of maps that are not asked for, and layers of which all values are kept in whatever order.
        """
        sources = {pair.feature_layer.module for pair in self.pairs}
        mapped = {pair.map_layer.module for pair in self.pairs}
        keeps_all = self.feature_transform in (flatten, flatten_to_unit_length)
        optional = mapped - sources if features_only else set()
        if keeps_all and self.hints == LayoutHints() and image_size_of(batch.inputs) is None:
            optional |= sources if features_only else sources - mapped
        return optional

    def _forward_pass(
        self, captured: Mapping[nn.Module, Captured], layouts: Mapping[nn.Module, tuple[Layout, ...]], features_only: bool
    ) -> ForwardPass:
        outputs = {
            module: LayerOutput(each.tensors, layouts[module], tuple(tensor.dtype for tensor in each.tensors))
            for module, each in captured.items()
        }
        features = {}
        for layer in dict.fromkeys(pair.feature_layer for pair in self.pairs):
            output = outputs[layer.module]
            if torch.is_grad_enabled():
                tensors = tuple(a if a.requires_grad else _recordable(precise(a)) for a in output.tensors)
                output = outputs[layer.module] = output._replace(tensors=tensors)
            features[layer.module] = self._features(layer, output)
        kept = () if features_only else [pair.map_layer.module for pair in self.pairs]
        return ForwardPass({module: outputs[module] for module in kept}, features)

    def _features(self, layer: Layer, output: LayerOutput) -> tuple[Tensor, Tensor]:
        """(N, d) features of all of a layer's tensors side by side, float32 or float64, and their rounding (N,)."""
        layouts = output.layouts or (Layout(),) * len(output.tensors)
        found = [
            features_and_rounding(self.feature_transform, precise(layout.to_channels_first(tensor)), dtype, str(layer))
            for tensor, layout, dtype in zip(output.tensors, layouts, output.dtypes)
        ]
        if len(found) == 1:
            return found[0]
        features, rounding = zip(*found)
        return torch.cat(features, dim=1), torch.linalg.vector_norm(torch.stack(rounding), dim=0)


def _shapes(captured: Mapping[nn.Module, Captured]) -> dict[nn.Module, tuple[torch.Size, ...]]:
    return {module: tuple(tensor.shape for tensor in each.tensors) for module, each in captured.items()}


def _recordable(value: Tensor) -> Tensor:
    # A model may run itself in inference mode, whose tensors can begin no graph.
    return (value.clone() if value.is_inference() else value).requires_grad_()


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
    inputs: tuple[Any, ...]
    additional_forward_args: tuple[Any, ...]
    size: int


def _batches(
    inputs: tuple[Any, ...], additional_forward_args: tuple[Any, ...], batch_size: Optional[int]
) -> Iterator[_Batch]:
    n = inputs[0].shape[0]
    if batch_size is None or batch_size >= n:
        yield _Batch(inputs, additional_forward_args, n)
        return
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        yield _Batch(take_rows(inputs, rows, n), take_rows(additional_forward_args, rows, n), rows.stop - rows.start)
