"""Grad-CAM maps of a model's layers from gradients with respect to their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from captum_kd._models.cam import precise, warn_of_lost_digits, weighted_activations
from captum_kd._models.feature_transforms import FeatureTransform, flatten, global_average_pool
from captum_kd._models.layer_names import LayerPair
from captum_kd._models.token_layout import Layout
from captum_kd._utils.warnings import warn_user

Layouts = Mapping[Union[str, int], tuple[Layout, ...]]
"""Layouts of a model's layers in batches of several inputs, by :meth:`FeatureExtractor.layer_keys`."""


class LayerOutput(NamedTuple):
    """One layer's tensors in one forward pass on one device, their layouts, token masks and original dtypes."""

    tensors: tuple[Tensor, ...]
    layouts: tuple[Layout, ...]
    masks: tuple[Optional[Tensor], ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(
        cls,
        tensors: tuple[Tensor, ...],
        layouts: tuple[Layout, ...],
        token_mask: Optional[Tensor],
        where: str,
        *,
        beside_images: bool,
    ) -> LayerOutput:
        """``token_mask`` (N, T) is that of the model's inputs; an error names the layer as ``where``."""
        masks = tuple(
            layout.mask_of(tensor, token_mask, where, beside_images=beside_images) for layout, tensor in zip(layouts, tensors)
        )
        return cls(tensors, layouts, masks or (None,) * len(tensors), tuple(tensor.dtype for tensor in tensors))

    def recordable(self) -> LayerOutput:
        """The output with tensors that have no graph replaced by leaves, in float32 at least."""
        return self._replace(tensors=tuple(a if a.requires_grad else _recordable(precise(a)) for a in self.tensors))

    def maps(
        self,
        gradients: Sequence[Tensor],
        attr_dim_summation: bool,
        baselines: Optional[Tensor] = None,
        *,
        weights: str = "mean",
    ) -> list[Tensor]:
        """Maps of all tensors; ``baselines`` (N, d) are the channels of all tensors, one after the other, or with elementwise
        weights all their activations."""
        found, start = [], 0
        for gradient, tensor, layout, mask in zip(gradients, self.tensors, self.layouts, self.masks):
            gradient, activations = layout.to_channels_first(gradient), layout.to_channels_first(tensor.detach())
            stop = start + (activations[0].numel() if weights == "elementwise" else activations.shape[1])
            own = None if baselines is None else baselines[:, start:stop]
            found.append(weighted_activations(gradient, activations, attr_dim_summation, own, mask, weights))
            start = stop
        return found


class ForwardPass(NamedTuple):
    """One forward pass on one device.

    Attributes:
        outputs (mapping): outputs of the map layers; empty with ``features_only``.
        features (mapping): for each feature layer the features (N, d), with a graph that starts at the outputs, and the
            distances (N,) by which rounding may have moved them.
    """

    outputs: Mapping[nn.Module, LayerOutput]
    features: Mapping[nn.Module, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class LayerActivations:
    """Features of a batch, and maps from gradients with respect to them; made by :meth:`FeatureExtractor.observe`.

    Attributes:
        features (list of Tensor): for each layer pair (n, d), detached, float32 or float64.
        largest (list of float): their largest absolute values.
        rounding (list of Tensor): (n,), the distance by which rounding may have moved each input's features.
        layouts (mapping): layouts of the layers, including those known before.
        passes (list): the forward passes of every batch on every device.
        run_again (callable, optional): repeats the passes batch by batch, if they were not kept.
    """

    pairs: tuple[LayerPair, ...]
    feature_transform: FeatureTransform
    features: list[Tensor]
    largest: list[float]
    rounding: list[Tensor]
    layouts: Layouts
    passes: list[list[ForwardPass]]
    run_again: Optional[Callable[[], Iterable[list[ForwardPass]]]]

    def maps(
        self,
        grad_features: Sequence[Tensor],
        *,
        baselines: Optional[Sequence[Tensor]] = None,
        weights: str = "mean",
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Optional[dict[str, Any]] = None,
    ) -> list[tuple[Tensor, ...]]:
        """Grad-CAM's weighted activations for an objective given by its gradient.

        Args:
            grad_features (sequence of Tensor): for each layer pair the gradient of the objective
                with respect to :attr:`features`, (n, d). Pairs with the same feature layer that are
                given the same tensor share one backward pass.
            baselines (sequence of Tensor, optional): for each layer pair features (n, d). If the maps add up with them, they
                are subtracted from the activations.
            weights (str): one of cam.WEIGHTS. The gradient of averages of the map layer is the same at all positions, so
                all of these weights are equal there.
            relu_attributions (bool): keep positive attributions only.
            attr_dim_summation (bool): sum over channels.
            grad_kwargs (dict, optional): passed to :func:`torch.autograd.grad`, save for
                ``retain_graph``.

        Returns:
            list of tuple of Tensor: for each layer pair the maps of all the layer's tensors,
            (n, 1, ...) or, without summation, (n, C, ...), detached.
        """
        pieces: list[list[tuple[Tensor, ...]]] = [[] for _ in self.pairs]
        largest: list[list[Tensor]] = [[] for _ in self.pairs]  # magnitudes of maps in float16
        # Pairs with the same objective of the same features share a backward pass.
        groups: dict[tuple[nn.Module, int], list[int]] = {}
        for number, pair in enumerate(self.pairs):
            groups.setdefault((pair.feature_layer.module, id(grad_features[number])), []).append(number)
        for rows, forward in self._passes_in_order():
            for numbers in groups.values():
                gradients = self._gradients(numbers, forward, grad_features[numbers[0]][rows], grad_kwargs)
                for number, of_layer in zip(numbers, gradients):
                    output = forward.outputs[self.pairs[number].map_layer.module]
                    has_masks = any(mask is not None for mask in output.masks)
                    adds_up = maps_add_up(self.pairs[number], self.feature_transform, weights, has_masks)
                    own = baselines[number][rows] if baselines is not None and adds_up else None
                    chosen = "mean" if self._are_averages(number) else weights
                    maps = output.maps(of_layer, attr_dim_summation, own, weights=chosen)
                    if relu_attributions:
                        maps = [single.relu() for single in maps]
                    typed = list(zip(maps, output.dtypes))
                    largest[number] += [single.abs().amax() for single, dtype in typed if dtype == torch.float16]
                    pieces[number].append(tuple(single.to(dtype) for single, dtype in typed))
        for pair, magnitudes in zip(self.pairs, largest):
            warn_of_lost_digits(magnitudes, str(pair.map_layer))
        return [tuple(concatenated(tensors) for tensors in zip(*of_pair)) for of_pair in pieces]

    def _are_averages(self, number: int) -> bool:
        """Whether the features of a pair are the averages of its map layer's channels."""
        return not self.pairs[number].is_deeper and self.feature_transform is global_average_pool

    def _passes_in_order(self) -> Iterator[tuple[slice, ForwardPass]]:
        """Every pass and the rows of its inputs; warns if repeated passes give other features."""
        start, warns = 0, self.run_again is not None
        for devices in self.passes if self.run_again is None else self.run_again():
            for forward in devices:
                rows = slice(start, start + len(next(iter(forward.features.values()))[0]))
                if warns:
                    warns = not self._warned_of_change(rows, forward)
                yield rows, forward
                start = rows.stop

    def _warned_of_change(self, rows: slice, forward: ForwardPass) -> bool:
        """Warns if a second pass gave other features than the first, beyond rounding; returns True if so."""
        for pair, features in zip(self.pairs, self.features):
            first, second = features[rows], forward.features[pair.feature_layer.module][0].detach().to(features.device)
            dtypes = forward.outputs[pair.map_layer.module].dtypes
            coarsest = max(torch.finfo(dtype).eps for dtype in (*dtypes, torch.float32))
            if not float((first - second).abs().max()) <= coarsest**0.5 * float(first.abs().max()):
                warn_user(
                    f"{pair.feature_layer} gave other features in a second pass over the same inputs: the model depends on "
                    "random numbers or on earlier passes, and so does its map. Call eval() and remove random numbers from the "
                    "model, or leave out internal_batch_size, which needs the second pass."
                )
                return True
        return False

    def _gradients(
        self, numbers: Sequence[int], forward: ForwardPass, grad_features: Tensor, grad_kwargs: Optional[dict[str, Any]]
    ) -> list[list[Tensor]]:
        """The gradient of an objective with respect to the activations of the pairs that share it, in float32 at least."""
        pairs = [self.pairs[number] for number in numbers]
        features = forward.features[pairs[0].feature_layer.module][0]
        outputs = [forward.outputs[pair.map_layer.module] for pair in pairs]
        activations = [a for output in outputs for a in output.tensors]
        # Groups may share a graph, which is freed with this object, so retain_graph is always True.
        kwargs: dict[str, Any] = {"allow_unused": True, **(grad_kwargs or {}), "retain_graph": True}
        found: Sequence[Optional[Tensor]] = [None] * len(activations)
        start, size = grad_features.to(features.device, features.dtype), None
        if any(map(self._may_underflow, pairs, outputs)):
            size = start.abs().amax()
            size = torch.where(size > 0, size, 1.0)
            start = start / size
        if features.requires_grad:
            found = torch.autograd.grad(features, activations, start, **kwargs)
        gradients = iter(found)
        results = []
        for pair, output in zip(pairs, outputs):
            of_pair = [(a, next(gradients)) for a in output.tensors]
            if all(gradient is None for _, gradient in of_pair):
                raise ValueError(_no_path(pair))
            results.append([torch.zeros_like(precise(a)) if g is None else _unscaled(g, size) for a, g in of_pair])
        return results

    def _may_underflow(self, pair: LayerPair, output: LayerOutput) -> bool:
        """Whether gradients may pass through half types: in a layer of such a dtype, between deeper layers, or in a user's
        transform under autocast."""
        half = any(dtype not in (torch.float32, torch.float64) for dtype in output.dtypes)
        return half or pair.is_deeper or self.feature_transform not in (flatten, global_average_pool)


def maps_add_up(pair: LayerPair, feature_transform: FeatureTransform, weights: str, has_masks: bool) -> bool:
    """Whether integrated maps of a pair add up to a gain of the objective.

    Features must be the averages of the map layer's channels, or all its activations with the gradient at each position as
    weight. Features of masked tokens have a baseline, and no place in a map.
    """
    if pair.is_deeper:
        return False
    return feature_transform is global_average_pool or (
        feature_transform is flatten and weights == "elementwise" and not has_masks
    )


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of several passes and devices as one, on the first one's device."""
    return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts])


def _recordable(value: Tensor) -> Tensor:
    # Tensors that a model made in inference mode cannot start a graph.
    return (value.clone() if value.is_inference() else value).requires_grad_()


def _unscaled(gradient: Tensor, size: Optional[Tensor]) -> Tensor:
    gradient = precise(gradient.detach())
    return gradient if size is None else gradient * size


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
