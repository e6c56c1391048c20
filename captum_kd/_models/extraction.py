"""Layer activations of one model for one batch: features in the forward direction, maps in the backward direction.

An :class:`LayerActivations` joins the two ends of an attribution. Forward, it runs the model (in
parts that fit into memory) and turns layer outputs into features. Backward, it carries a
gradient with respect to the features to the activations and weighs them as Grad-CAM does.
"""

from __future__ import annotations

import functools
import math
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from types import MethodType
from typing import Any, Callable, Hashable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from captum._utils.progress import progress
from torch import Tensor, nn

from captum_kd._models.batch_axis import check_batch_axis
from captum_kd._models.cam import precise, warn_of_lost_digits, weighted_activations
from captum_kd._models.feature_transforms import FeatureTransform, flatten, flatten_to_unit_length, global_average_pool
from captum_kd._models.hooks import Captured, capture_layers
from captum_kd._models.layer_names import Layer
from captum_kd._models.reachable import add_modules
from captum_kd._models.rounding import moved_features, rounding_of
from captum_kd._models.token_layout import Layout, LayoutHints, Size, Trace, find_layout
from captum_kd._utils.arguments import take_rows
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.tensors import largest_of
from captum_kd._utils.validation import check_features
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.sources import widest
from captum_kd._models.patch_order import is_row_by_row

__all__ = ["LayerPair", "Layouts", "LayerActivations", "FeatureExtractor", "Traces", "check_rows", "image_size_of"]

Layouts = Mapping[Union[str, int], tuple[Layout, ...]]
"""How the tensors of a model's layers lay in batches of several inputs, by :meth:`FeatureExtractor.layer_keys`."""

_Shapes = tuple[torch.Size, ...]

# Inputs of ever other sizes would have traces without end.
_MOST_TRACES = 64


class LayerPair(NamedTuple):
    """Where the map of one model is and where its distances are taken."""

    map_layer: Layer
    feature_layer: Layer

    @property
    def is_deeper(self) -> bool:
        return self.feature_layer.module is not self.map_layer.module


class Traces:
    """What passes of a model went through before its layers, by the way they took: equal ways are of inputs of equal shapes
    through the same modules.

    What a model keeps elsewhere than in its modules may have changed all the same: a trace counts as long as the layers give
    tensors of the shapes it was noted with.
    """

    def __init__(self) -> None:
        self._noted: dict[Hashable, dict[nn.Module, tuple[_Shapes, tuple[Trace, ...]]]] = {}
        self._layouts: dict[Hashable, dict[nn.Module, tuple[Layout, ...]]] = {}
        self._orders: dict[Hashable, dict[tuple[Size, int], bool]] = {}

    def __len__(self) -> int:
        return len(self._noted)

    def __contains__(self, way: Hashable) -> bool:
        return way in self._noted

    def note(self, way: Hashable, caught: Sequence[Mapping[nn.Module, Captured]]) -> None:
        """Of one device: each of several has modules of its own."""
        if len(caught) == 1:
            self._noted[way] = {layer: (_shapes(each), each.seen) for layer, each in caught[0].items()}
            self._layouts[way], self._orders[way] = {}, {}
            if len(self._noted) > _MOST_TRACES:
                oldest = next(iter(self._noted))
                for kept in (self._noted, self._layouts, self._orders):
                    kept.pop(oldest, None)

    def given_to(
        self, way: Hashable, caught: Sequence[Mapping[nn.Module, Captured]]
    ) -> Optional[list[dict[nn.Module, Captured]]]:
        """What a pass without a trace caught, with the one that is known of its way; None where that does not fit."""
        noted = self._noted.get(way, {})
        if len(caught) != 1 or any(noted.get(layer, (None,))[0] != _shapes(each) for layer, each in caught[0].items()):
            return None
        return [{layer: each._replace(seen=noted[layer][1]) for layer, each in caught[0].items()}]

    def layouts(self, way: Optional[Hashable]) -> dict[nn.Module, tuple[Layout, ...]]:
        """The layouts that are known of a way that was noted, by layer, to be filled in."""
        return self._layouts.get(way, {})

    def orders(self, way: Optional[Hashable]) -> dict[tuple[Size, int], bool]:
        """Whether tokens are row by row on a grid behind so many others, as far as it was found out, to be filled in."""
        return self._orders.get(way, {})


def _shapes(caught: Captured) -> _Shapes:
    return tuple(tensor.shape for tensor in caught.tensors)


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """How one model is looked at; :meth:`observe` looks.

    Attributes:
        traces (Traces): what a pass went through before each layer. It is noted once: hooks on all modules cost a GPU's
            host as much as a third of a small model's pass.
    """

    forward_func: Callable[..., Any]
    pairs: tuple[LayerPair, ...]
    feature_transform: FeatureTransform
    hints: LayoutHints = LayoutHints()
    device_ids: Optional[Sequence[int]] = None
    traces: Traces = field(default_factory=Traces)

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
    ) -> "LayerActivations":
        """Runs the model once over the batch.

        Args:
            inputs (tuple): the model's inputs; first dimensions are the examples.
            additional_forward_args (tuple): further arguments; tensors with as many rows as there
                are examples go along with them, everything else is passed as it is.
            at_input (bool): look at the layers' inputs instead of their outputs.
            features_only (bool): keep no activations; no maps will be asked for.
            internal_batch_size (int, optional): examples in one forward pass.
            show_progress (bool): Captum's progress display over the forward passes.
            known (mapping, optional): layouts that an earlier observation of the same model found.

        Raises:
            ValueError: a layer never reached, without tensors or with other rows than the inputs,
                tokens without a grid, or non-finite features; the message names layer and model.
        """
        return LayerActivations(
            self, inputs, additional_forward_args, at_input, features_only, internal_batch_size, show_progress, known
        )

    def layer_keys(self) -> dict[nn.Module, Union[str, int]]:
        """What to call each layer beyond this model's life: its name or, in a plain function, a feature layer's place.

        Map layers of plain functions have none.
        """
        keys: dict[nn.Module, Union[str, int]] = {}
        for place, pair in enumerate(self.pairs):
            if pair.map_layer.name is not None:
                keys[pair.map_layer.module] = pair.map_layer.name
            layer = pair.feature_layer
            keys[layer.module] = place if layer.name is None else layer.name
        return keys


class _Part(NamedTuple):
    """One layer pair's share of one forward pass on one device."""

    activations: tuple[Tensor, ...]  # of the map layer, as it gave them
    layouts: tuple[Layout, ...]
    dtypes: tuple[torch.dtype, ...]
    features: Tensor  # (N, d), recorded from the activations on
    rounding: Tensor  # (N,) distances by which rounding may have moved the features


class LayerActivations:
    """Features of a batch and the way back from them to maps.

    Attributes:
        features (list of Tensor): for each layer pair (n, d), detached, float32 or float64.
        largest (list of float): their largest absolute values.
        rounding (list of Tensor): (n,), by which distance rounding alone may have moved each input's features.
        layouts (mapping): of its layers, those known before included.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        inputs: tuple[Any, ...],
        additional_forward_args: tuple[Any, ...],
        at_input: bool,
        features_only: bool,
        internal_batch_size: Optional[int],
        show_progress: bool,
        known: Optional[Layouts],
    ) -> None:
        self._keys = extractor.layer_keys()
        self.layouts: dict[Union[str, int], tuple[Layout, ...]] = dict(known or {})
        self._observer = extractor
        self._at_input = at_input
        self._features_only = features_only
        self._batches = list(_batches(inputs, additional_forward_args, internal_batch_size))
        # With features from deeper layers a part holds the graph between the layers. Of several
        # batches the graphs are not kept but made again on the way back, which bounds memory.
        deeper = any(pair.is_deeper for pair in extractor.pairs)
        self._runs_twice = deeper and len(self._batches) > 1 and not features_only
        self._told_of_change = False
        self._parts: list[list[list[_Part]]] = []  # [batch][device][pair]
        collected: dict[Layer, list[tuple[Tensor, Tensor]]] = {pair.feature_layer: [] for pair in extractor.pairs}
        name = type(extractor.forward_func).__name__
        for batch in progress(self._batches, desc=f"Forward passes of {name}") if show_progress else self._batches:
            parts = self._run(batch, with_graph=not (features_only or self._runs_twice))
            for device_parts in parts:
                for layer, part in {pair.feature_layer: part for pair, part in zip(extractor.pairs, device_parts)}.items():
                    collected[layer].append((part.features.detach(), part.rounding))
            if not (features_only or self._runs_twice):
                self._parts.append(parts)
        joined = {layer: self._joined(layer, features) for layer, features in collected.items()}
        self.features: list[Tensor] = [joined[pair.feature_layer][0] for pair in extractor.pairs]
        self.largest: list[float] = [joined[pair.feature_layer][1] for pair in extractor.pairs]
        self.rounding: list[Tensor] = [joined[pair.feature_layer][2] for pair in extractor.pairs]

    def _joined(self, layer: Layer, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, float, Tensor]:
        joined, rounding = (_concatenated(each) for each in zip(*parts))
        largest = largest_of(joined)
        if not math.isfinite(largest):
            raise ValueError(
                f"{layer} gives non-finite features (NaN or infinity); check the model's weights, "
                "its inputs and, in half precision, its range."
            )
        return joined, largest, rounding

    def _run(self, batch: "_Batch", with_graph: bool) -> list[list[_Part]]:
        extractor = self._observer
        layers = [layer for pair in extractor.pairs for layer in pair]
        roots = [pair.map_layer for pair in extractor.pairs if pair.is_deeper] if with_graph else []
        if roots:  # every map layer cuts the graph, so all of them have to take part
            roots = [pair.map_layer for pair in extractor.pairs]
        image_size = image_size_of(batch.inputs)
        catch = functools.partial(
            capture_layers,
            extractor.forward_func,
            layers,
            batch.inputs,
            batch.additional_forward_args,
            at_input=self._at_input,
            differentiate_from=roots,
            device_ids=extractor.device_ids,
        )
        way = self._way(batch)
        caught = None
        if way is not None and way in extractor.traces:
            caught = extractor.traces.given_to(way, catch())
        known = caught is not None
        if caught is None:
            caught = catch(trace=True)
        for pair in extractor.pairs:
            for layer in pair:
                check_rows(layer, [device[layer.module] for device in caught], batch.size)
        if not known:
            check_batch_axis(
                extractor.forward_func,
                layers,
                caught,
                batch.inputs,
                batch.additional_forward_args,
                at_input=self._at_input,
                device_ids=extractor.device_ids,
            )
            if way is not None:
                extractor.traces.note(way, caught)
        orders = extractor.traces.orders(way)

        def in_order(seen: Sequence[Trace], grid: Size, prefix_tokens: int) -> bool:
            if (grid, prefix_tokens) not in orders:
                args = (batch.inputs, batch.additional_forward_args, seen, grid, prefix_tokens)
                orders[grid, prefix_tokens] = is_row_by_row(extractor.forward_func, *args)
            return orders[grid, prefix_tokens]

        grad_mode = torch.enable_grad() if with_graph else torch.no_grad()
        with changed_state(torch.inference_mode(False), grad_mode), interruptible():
            return [self._parts_of(device, image_size, extractor.traces.layouts(way), in_order) for device in caught]

    def _way(self, batch: "_Batch") -> Optional[Hashable]:
        """What decides which modules a pass goes through, as far as that can be seen; None where it cannot.

        A plain function does not say which modules it calls, and further arguments may choose among them.
        """
        run = self._observer.forward_func
        model = run.__self__ if isinstance(run, MethodType) else run
        if batch.additional_forward_args or not isinstance(model, nn.Module):
            return None
        modules: dict[nn.Module, None] = {}
        add_modules(model, modules)
        shapes = [each.shape if isinstance(each, Tensor) else None for each in batch.inputs]
        return self._at_input, tuple(shapes), tuple(modules), tuple(module.training for module in modules)

    def _parts_of(
        self,
        device: Mapping[nn.Module, Captured],
        image_size: Optional[Size],
        decided: dict[nn.Module, tuple[Layout, ...]],
        in_order: Callable[[Sequence[Trace], Size, int], bool],
    ) -> list[_Part]:
        """All pairs' parts of one pass on one device: what several pairs share is there once."""
        sources: dict[nn.Module, tuple[Tensor, ...]] = {}
        features: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        layouts: dict[nn.Module, tuple[Layout, ...]] = {}
        keeps_all = self._observer.feature_transform in (flatten, flatten_to_unit_length)
        mapped = () if self._features_only else [pair.map_layer.module for pair in self._observer.pairs]
        for layer in dict.fromkeys(pair.feature_layer for pair in self._observer.pairs):
            caught = device[layer.module]
            tensors = caught.tensors
            if torch.is_grad_enabled():
                tensors = tuple(a if a.requires_grad else _recordable(precise(a)) for a in tensors)
            sources[layer.module] = tensors
            any_order = keeps_all and layer.module not in mapped
            layouts[layer.module] = self._layouts(layer, caught, image_size, decided, in_order, any_order)
            dtypes = [tensor.dtype for tensor in caught.tensors]
            features[layer.module] = self._features(layer, tensors, layouts[layer.module], dtypes)
        parts = []
        for pair in self._observer.pairs:
            layer, caught = pair.map_layer, device[pair.map_layer.module]
            activations: tuple[Tensor, ...] = ()
            if pair.is_deeper and self._features_only:
                # No map is asked for yet, so that a layer without a grid is no error.
                with suppress(ValueError):
                    self._layouts(layer, caught, image_size, decided, in_order)
            else:
                activations = sources[layer.module] if layer.module in sources else caught.tensors
                if layer.module not in layouts:
                    layouts[layer.module] = self._layouts(layer, caught, image_size, decided, in_order)
            of_map = layouts.get(layer.module, ())
            map_dtypes = tuple(tensor.dtype for tensor in caught.tensors)
            parts.append(_Part(activations, of_map, map_dtypes, *features[pair.feature_layer.module]))
        return parts

    def _layouts(
        self,
        layer: Layer,
        caught: Captured,
        image_size: Optional[Size],
        decided: dict[nn.Module, tuple[Layout, ...]],
        in_order: Callable[[Sequence[Trace], Size, int], bool],
        any_order: bool = False,
    ) -> tuple[Layout, ...]:
        """With ``any_order`` only all values together count: that nothing tells the layout is then no error."""
        key = self._keys.get(layer.module)
        known = () if key is None else self.layouts.get(key, ())
        is_single = caught.tensors[0].shape[0] == 1
        found = None if is_single else decided.get(layer.module)
        if found is None:
            find = functools.partial(
                find_layout,
                module=layer.module,
                where=str(layer),
                image_size=image_size,
                seen=caught.seen,
                hints=self._observer.hints,
                at_input=self._at_input,
                is_row_by_row=functools.partial(in_order, caught.seen),
            )
            tensors = zip_longest(caught.tensors, known[: len(caught.tensors)])
            try:
                found = decided[layer.module] = tuple(find(tensor, known=before) for tensor, before in tensors)
            except ValueError:
                if not (any_order and image_size is None and self._observer.hints == LayoutHints()):
                    raise
                return (Layout(),) * len(caught.tensors)
        if key is not None and not is_single:
            self.layouts[key] = found
        return found

    def _features(
        self, layer: Layer, tensors: Sequence[Tensor], layouts: Sequence[Layout], dtypes: Sequence[torch.dtype]
    ) -> tuple[Tensor, Tensor]:
        """(N, d) features of all of a layer's tensors side by side, float32 or float64, and their rounding (N,)."""
        features, rounding = [], []
        for activations, layout, dtype in zip(tensors, layouts, dtypes):
            values, of_values = self._transformed(layer, layout.to_channels_first(activations), dtype)
            features.append(values)
            rounding.append(values.new_zeros(len(values), dtype=widest(values.device)) if of_values is None else of_values)
        if len(features) == 1:
            return features[0], rounding[0]
        return torch.cat(features, dim=1), torch.linalg.vector_norm(torch.stack(rounding), dim=0)

    def _transformed(self, layer: Layer, canonical: Tensor, dtype: torch.dtype) -> tuple[Tensor, Optional[Tensor]]:
        canonical = precise(canonical)
        moved = moved_features(self._observer.feature_transform, canonical, dtype)
        features = self._observer.feature_transform(canonical)
        if isinstance(features, Tensor):
            check_features(features, f"What feature_transform makes of {layer}")
        shape = tuple(features.shape) if isinstance(features, Tensor) else ()
        if len(shape) != 2 or shape[0] != canonical.shape[0] or shape[1] == 0:
            shown = shape if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"feature_transform must turn {tuple(canonical.shape)} of {layer} into "
                f"({canonical.shape[0]}, d), got {shown}; d must be at least 1."
            )
        features = precise(features)  # under autocast a transform with products gives half types
        return features, rounding_of(canonical, features, moved, dtype)

    def maps(
        self,
        grad_features: Sequence[Tensor],
        *,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Optional[dict[str, Any]] = None,
    ) -> list[tuple[Tensor, ...]]:
        """Grad-CAM's weighted activations for an objective given by its gradient.

        Args:
            grad_features (sequence of Tensor): for each layer pair the gradient of the objective
                with respect to :attr:`features`, (n, d). Pairs with the same feature layer that are
                given the same tensor share one backward pass.
            relu_attributions (bool): keep positive attributions only.
            attr_dim_summation (bool): sum over channels.
            grad_kwargs (dict, optional): passed to :func:`torch.autograd.grad`, save for
                ``retain_graph``.

        Returns:
            list of tuple of Tensor: for each layer pair the maps of all the layer's tensors,
            (n, 1, ...) or, without summation, (n, C, ...), detached.
        """
        pairs = self._observer.pairs
        pieces: list[list[tuple[Tensor, ...]]] = [[] for _ in pairs]
        # Pairs with one objective of one layer's features share the way back: one backward pass serves them all.
        groups: dict[tuple[nn.Module, int], list[int]] = {}
        for number, pair in enumerate(pairs):
            groups.setdefault((pair.feature_layer.module, id(grad_features[number])), []).append(number)
        largest: list[list[Tensor]] = [[] for _ in pairs]  # magnitudes of maps in float16
        for rows, parts in self._parts_in_order():
            for numbers in groups.values():
                gradients = self._gradients(numbers, parts, grad_features[numbers[0]][rows], grad_kwargs)
                for number, of_pair in zip(numbers, gradients):
                    maps = _maps(parts[number], of_pair, attr_dim_summation)
                    if relu_attributions:
                        maps = [single.relu() for single in maps]
                    typed = list(zip(maps, parts[number].dtypes))
                    largest[number] += [single.abs().amax() for single, dtype in typed if dtype == torch.float16]
                    pieces[number].append(tuple(single.to(dtype) for single, dtype in typed))
        for pair, magnitudes in zip(pairs, largest):
            warn_of_lost_digits(magnitudes, str(pair.map_layer))
        return [tuple(_concatenated(tensors) for tensors in zip(*of_pair)) for of_pair in pieces]

    def _parts_in_order(self) -> Iterator[tuple[slice, list[_Part]]]:
        """Every pass and device's parts, and which inputs they are of; made again where no graph was kept."""
        start = 0
        for index, batch in enumerate(self._batches):
            for parts in self._run(batch, with_graph=True) if self._runs_twice else self._parts[index]:
                stop = start + parts[0].features.shape[0]
                if self._runs_twice and not self._told_of_change:
                    self._told_of_change = self._warn_of_change(slice(start, stop), parts)
                yield slice(start, stop), parts
                start = stop

    def _warn_of_change(self, rows: slice, parts: Sequence[_Part]) -> bool:
        """Warns of a model whose second pass over a batch gives other features than its first, beyond rounding."""
        for pair, part, features in zip(self._observer.pairs, parts, self.features):
            first, second = features[rows], part.features.detach().to(features.device)
            coarsest = max(torch.finfo(dtype).eps for dtype in (*part.dtypes, torch.float32))
            if not float((first - second).abs().max()) <= coarsest**0.5 * float(first.abs().max()):
                warn_user(
                    f"{pair.feature_layer} gave other features in a second pass over the same inputs: the model depends on "
                    "random numbers or on earlier passes, and so does its map. Call eval(), and leave random numbers out of the "
                    "model; without internal_batch_size one pass is made."
                )
                return True
        return False

    def _gradients(
        self, numbers: Sequence[int], parts: Sequence[_Part], grad_features: Tensor, grad_kwargs: Optional[dict[str, Any]]
    ) -> list[list[Tensor]]:
        """An objective's gradient at the activations of the pairs that share it, in float32 at least."""
        features = parts[numbers[0]].features
        activations = [a for number in numbers for a in parts[number].activations]
        # Groups may share a graph: it is freed with this object, whatever the user says of it.
        kwargs: dict[str, Any] = {"allow_unused": True, **(grad_kwargs or {}), "retain_graph": True}
        found: Sequence[Optional[Tensor]] = [None] * len(activations)
        start, size = grad_features.to(features.device, features.dtype), None
        if any(self._may_underflow(number, parts[number]) for number in numbers):
            # Unit size on the way back.
            size = start.abs().amax()
            size = torch.where(size > 0, size, 1.0)
            start = start / size
        if features.requires_grad:
            found = torch.autograd.grad(features, activations, start, **kwargs)
        gradients = iter(found)
        results = []
        for number in numbers:
            of_pair = [(a, next(gradients)) for a in parts[number].activations]
            if all(gradient is None for _, gradient in of_pair):
                raise ValueError(_no_path(self._observer.pairs[number]))
            results.append([torch.zeros_like(precise(a)) if g is None else _unscaled(g, size) for a, g in of_pair])
        return results

    def _may_underflow(self, number: int, part: _Part) -> bool:
        """Whether gradients may pass through half types: behind the map layer, in a transform of a layer in such a type, or
        in one that a user wrote, whose products autocast makes in half precision."""
        half = any(dtype not in (torch.float32, torch.float64) for dtype in part.dtypes)
        own = self._observer.feature_transform in (flatten, global_average_pool)
        return half or not own or self._observer.pairs[number].is_deeper


def _unscaled(gradient: Tensor, size: Optional[Tensor]) -> Tensor:
    gradient = precise(gradient.detach())
    return gradient if size is None else gradient * size


def _maps(part: _Part, gradients: Sequence[Tensor], attr_dim_summation: bool) -> list[Tensor]:
    return [
        weighted_activations(layout.to_channels_first(g), layout.to_channels_first(a.detach()), attr_dim_summation)
        for g, a, layout in zip(gradients, part.activations, part.layouts)
    ]


def _no_path(pair: LayerPair) -> str:
    if not pair.is_deeper:
        return (
            f"The result of feature_transform does not depend on {pair.map_layer} in a way that gradients can "
            "follow; feature_transform must be differentiable."
        )
    return (
        f"The features of {pair.feature_layer} do not depend on {pair.map_layer}: feature_layer must "
        "come after layer, on a path that gradients can follow."
    )


def _recordable(value: Tensor) -> Tensor:
    # A model may run itself in inference mode, whose tensors can begin no graph.
    return (value.clone() if value.is_inference() else value).requires_grad_()


def _concatenated(parts: Sequence[Tensor]) -> Tensor:
    """What several passes and devices gave, on the first one's device."""
    return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts])


def check_rows(layer: Layer, caught: Sequence[Captured], rows: int) -> None:
    """Raises a ValueError where a layer's tensors do not have one row for each input."""
    for tensors in zip(*(device.tensors for device in caught)):
        found = sum(tensor.shape[0] for tensor in tensors)
        if found != rows:
            raise ValueError(f"{layer} works on {found} rows for {rows} inputs; {_way_to_rows(layer.module)}")


def _way_to_rows(module: nn.Module) -> str:
    if any(isinstance(each, nn.RNNBase) for each in module.modules()):
        return (
            "recurrent layers give hidden states (layers, N, C) beside their outputs, and outputs (T, N, C) unless "
            "batch_first=True. Choose a layer behind it whose first dimension is the batch, or the inputs of one "
            "(attribute_to_layer_input=True)."
        )
    return (
        "choose a layer whose first dimension is the batch, or the inputs of one (attribute_to_layer_input=True). Layers "
        "inside windowed attention, for example, fold windows into it, and time-first layers have the steps there."
    )


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
        part = slice(start, min(start + batch_size, n))
        yield _Batch(
            take_rows(inputs, part, n),
            take_rows(additional_forward_args, part, n),
            part.stop - part.start,
        )


def image_size_of(inputs: tuple[Any, ...]) -> Optional[Size]:
    """(H, W) of the first input that is an image batch (N, C, H, W)."""
    for value in inputs:
        if isinstance(value, Tensor) and value.dim() == 4:
            return value.shape[2], value.shape[3]
    return None
