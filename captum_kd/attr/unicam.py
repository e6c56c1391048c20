"""UniCAM: attribution maps of what a Student has learned and its Base model has not."""

from __future__ import annotations

import copy
from typing import Any, Callable, Optional, Sequence, Union

from captum._utils.common import _format_output
from captum.attr._utils.attribution import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_kd._models.cam import WEIGHTS
from captum_kd._models.feature_transforms import FeatureTransform, global_average_pool
from captum_kd._models.token_layout import as_layout_hints
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import Target
from captum_kd._utils.inputs import Inputs, TokenMask
from captum_kd._utils.interrupts import keeping_grad_mode
from captum_kd._utils.validation import check_choice
from captum_kd.attr.checked_call import CheckedCall, checked_integrals, checked_map_settings
from captum_kd.attr.feature_path import Baseline
from captum_kd.attr.layer_pairs import BaseLayers, Layers
from captum_kd.attr.reference_population import STUDENT, ReferencePopulation
from captum_kd.attr.removal import SEVERAL, Removal
from captum_kd.attr.transfer_attributions import TransferAttributions

FeatureBaselines = Union[Baseline, list[Baseline], tuple[Union[Baseline, list[Baseline]], ...]]


class UniCAM(LayerAttribution):
    r"""
    Computes UniCAM attributions for a layer of a Student, given its Base model: the same architecture trained without the
    Teacher.

    A representation is the set of distances between the inputs' features. UniCAM removes the Base's representation from the
    Student's, as in :func:`captum_kd.distance.semipartial_distance_correlation`. The map shows the activations on which the
    remainder depends. With P the U-centered Euclidean distances between the features, the objective is

    .. math:: J = R(P_{S|B}, G), \qquad
              P_{S|B} = P_S - \frac{\langle P_S, P_B\rangle}{\langle P_B, P_B\rangle} P_B,

    the distance correlation of the remainder with the labels' geometry G. Without labels it is :math:`J = \sum_i \max_j
    (P_{S|B})_{ij}`. As in Grad-CAM, the activations are weighted by the gradient of J, averaged over positions.
    :meth:`residual` swaps the two models: its map shows what the Base has and the Student lacks.

    With a Teacher (``teacher_func``) the objective is :math:`J = R(P_{S|B}, P_T)`, where P_T is the representation of the
    Teacher. The map shows activations behind structure that the Student shares with the Teacher and the Base lacks. ``target``
    then has no effect, but its form is checked, so Captum's tools and existing calls run unchanged.

    The gradient at an input says what would raise J from there. If the Student has already placed the input well, little is
    left to raise, and its map is weak. ``n_steps`` gives integrated maps: the mean gradient over a straight path of features,
    from a baseline to the input's features, times the way. With the default transform the positions of such a map add up to J
    at the input minus J at the baseline, so that maps have a unit and can be compared and subtracted
    (:attr:`TransferAttributions.net`). 16 steps cost hardly more than none, because no network runs again. They are
    recommended; the default is the paper's map.

    ``base_func`` may be a sequence of Bases that differ in their seed. The span of their representations is then removed from
    the Student's: what is left is in none of them.

    A map is no evidence of transfer, with or without a Teacher. Two Bases that differ only in their seed also give a map,
    because networks trained on one task have much in common. Compare with such maps, over several seeds.

    In batch mode, as in the paper, the inputs are the population, and the map of an input depends on the other inputs. In
    reference mode (``reference=``) every input is added on its own to a fixed population, and its map is the same whatever
    else is in the batch. Single images, ``NoiseTunnel``, ``infidelity`` and :func:`captum_kd.metrics.sensitivity_max` need
    reference mode. Maps of fewer than 30 inputs are mostly noise; use a reference population of 64 or more.

    ``layer`` may be a list. One pass of each model then gives a list of results. Layers with the same ``feature_layer`` share
    one backward pass. Captum's visualization, ``LayerAttribution.interpolate`` and this package's metrics take single entries
    of the list. ``NoiseTunnel``, ``infidelity`` and ``sensitivity_max`` take no lists: use one UniCAM per layer with them.

    Models may be in half precision, run under autocast, be compiled or use channels-last memory. Distances are computed in
    float32 or float64. Maps have the layer's dtype, as in LayerGradCam; a warning tells of maps that float16 cannot hold,
    where bfloat16 can. Compiled models run uncompiled, because compiled code skips hooks.

    As in Captum, there is no ReLU by default. UniCAM differs from LayerGradCam in two ways, both for images: token layers of
    transformers give a map on their grid, (N, 1, h, w), and channels-last layers are recognized.

    Models run in the mode they are in. In training mode batch normalization couples the inputs and updates its statistics, as
    with any Captum attribution, and dropout draws random numbers. UniCAM warns in this case; call ``eval()`` first.

    Source: Adhane et al., "On Explaining Knowledge Distillation: Measuring and Visualising the
    Knowledge Transfer Process", WACV 2025, https://arxiv.org/abs/2412.13943.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_func: Union[Callable[..., Any], Sequence[Callable[..., Any]]],
        base_layer: BaseLayers = None,
        *,
        feature_layer: Optional[Layers] = None,
        base_feature_layer: BaseLayers = None,
        feature_transform: FeatureTransform = global_average_pool,
        class_embeddings: Optional[Tensor] = None,
        grid: Optional[tuple[int, int]] = None,
        prefix_tokens: Optional[int] = None,
        channels_last: Optional[bool] = None,
        device_ids: Optional[list[int]] = None,
        teacher_func: Optional[Callable[..., Any]] = None,
        teacher_layer: Optional[Layers] = None,
        stop_early: bool = True,
        tokens: Optional[bool] = None,
        weights: str = "mean",
    ) -> None:
        r"""
        Args:

            forward_func (Callable): The Student: a module or any function that runs it.
            layer (str, torch.nn.Module or list of them): Layer for which attributions are computed: a module of the Student or
                        its dotted name, "layer4.1". A list gives a list of results. Take the last stage or block; of a
                        transformer whose classifier reads only the class token, the block before it, because the last block's
                        other tokens reach neither the classifier nor the loss.
            base_func (Callable or sequence of them): The Base model. Its architecture may differ. A list or tuple of Bases
                        removes all of them at once.
            base_layer (str, torch.nn.Module or list, optional): Counterpart of ``layer`` in the Base model, for residual maps.
                        With several Bases, one name for all, or one entry for each, a list if ``layer`` is a list.
                        Default: the layer of the same dotted name
            feature_layer (str, torch.nn.Module or list, optional): Layer whose features give the Student's distances:
                        ``layer`` itself or a layer behind it.
                        Default: ``layer``
            base_feature_layer (str, torch.nn.Module or list, optional): Layer whose features give the Base's distances; with
                        several Bases as for ``base_layer``.
                        Default: the layer named as ``feature_layer``, or ``base_layer`` if there is no ``feature_layer``
            feature_transform (Callable, optional): Function from a layer's output (N, C, ...), without prefix tokens, to
                        features (N, d). Several tensors are transformed one by one and concatenated. The map weighs channels by
                        means over positions, so the default takes distances between such means. Scores of images have
                        another default, :func:`captum_kd.flatten`.
                        Default: :func:`captum_kd.global_average_pool`
            class_embeddings (Tensor, optional): (num_classes, e), a point for each class. The distances between these points
                        are the labels' geometry. Has no effect with a Teacher. Default: None, one-hot
            grid (tuple[int, int], optional): (h, w) of a layer's tokens. Default: None, inferred
            prefix_tokens (int, optional): Number of class or register tokens in front of the grid, or of tokens in front of a
                        sentence to leave out (1 for BERT's class token).
                        Default: None, inferred for images, 0 for sentences
            channels_last (bool, optional): True if outputs are (N, h, w, C) or (N, t, h, w, C). For three axes True means
                        tokens, (N, T, C), and False means (N, C, L).
                        Default: None, inferred
            device_ids (list[int], optional): Device ID list of a DataParallel model, necessary only if ``forward_func`` is a
                        function that runs it. Default: None
            teacher_func (Callable, optional): The Teacher, of any architecture; it runs once per call, without gradients. Its
                        representation takes the place of the labels' geometry. Default: None, the objective uses the labels
            teacher_layer (str, torch.nn.Module or list, optional): Layer whose features give the Teacher's distances, with the
                        same ``feature_transform``. Width, resolution and layout may differ from the Student's. ``grid``,
                        ``prefix_tokens``, ``channels_last`` and ``tokens`` hold for it only if its layout cannot be inferred.
                        Default: the layer named as the Student's feature layer
            stop_early (bool, optional): End forward passes once all layers of interest have run. What the model runs behind
                        them is skipped: modules, prints and other side effects. Results are the same. The first pass over inputs
                        of a shape is complete. Later ones end early if every layer ran once, the model's code cannot run it
                        again, and no module changed its attributes. All passes are complete in training mode, for models with
                        hooks, plain functions and data-parallel models on several devices, and with ``additional_forward_args``.
                        False makes all passes complete; needed only if the model changes state that cannot be seen: global
                        variables, files, generators of random numbers, or tensors through ``.data`` or NumPy.
                        Default: True
            tokens (bool, optional): True if outputs of three axes are (N, T, C), False if (N, C, L), as ``channels_last``.
                        Default: None, inferred from the modules and, for text, from the number of ids
            weights (str, optional): How gradients weigh activations: "mean", their means over positions (Grad-CAM);
                        "elementwise", each at its own position (HiResCAM); "pooled", their means over 2 x 2 positions,
                        interpolated back to the grid (the authors' local weights; not for sentences). With the default transform
                        all three are equal, because its gradient is the same everywhere; they differ with
                        :func:`captum_kd.flatten` or a deeper ``feature_layer``.
                        Default: "mean"

        Raises:
            ValueError: a layer name that does not exist (with close matches) or has no counterpart, a module that is not part
                        of its model, lists of different lengths, the same layers twice in a list, malformed class embeddings,
                        a ``teacher_layer`` without ``teacher_func``, other ``weights``.
            TypeError: models that cannot be called, layers that are neither name nor module.
        """
        check_choice(weights, "weights", WEIGHTS)
        hints = as_layout_hints(grid, prefix_tokens, channels_last, tokens)
        self._removal = Removal.of(
            forward_func, layer, base_func, base_layer, feature_layer, base_feature_layer, feature_transform,
            class_embeddings, hints, device_ids, teacher_func, teacher_layer, stop_early,
        )  # fmt: skip
        self.base_func = self._given_bases = base_func
        self.teacher_func = teacher_func
        self.feature_transform, self.class_embeddings = feature_transform, self._removal.class_embeddings
        self.weights = weights
        self._several = not isinstance(layer, (str, nn.Module))
        self._warns_of_modes = True  # False in reports, which warn once for all calls
        modules = self._removal.map_modules
        LayerAttribution.__init__(self, forward_func, modules if self._several else modules[0], device_ids)

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def has_convergence_delta(self) -> bool:
        """True: Captum's tools then know that ``return_convergence_delta`` adds a second result."""
        return True

    def residual(self, base: Optional[int] = None) -> "UniCAM":
        """Returns a UniCAM with two models swapped, whose maps show what a Base has and the Student lacks.

        Args:
            base (int, optional): With several Bases, the place of the one to explain.
                        Default: None, the only Base

        Returns:
            UniCAM: explains the Base model, with the Student's representation removed and the same Teacher, if there is one.
            Both UniCAMs can use the same reference populations. Its own ``residual()`` is the first UniCAM again.

        Raises:
            ValueError: several Bases and no place, or a place that does not exist.

        Examples::

            >>> # The map of attribute_transfer(images, labels).residual.
            >>> residual = unicam.residual().attribute(images, labels)
        """
        swapped = copy.copy(self)
        swapped._removal = self._removal.swapped(base)
        models = swapped._removal.models
        swapped.forward_func = models[swapped._removal.explained].forward_func
        is_first_again = swapped._removal.explained == STUDENT
        swapped.base_func = self._given_bases if is_first_again else models[STUDENT].forward_func
        modules = swapped._removal.map_modules
        swapped.layer = modules if self._several else modules[0]
        return swapped

    @log_usage()
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Optional[dict[str, Any]] = None,
        *,
        reference: Optional[ReferencePopulation] = None,
        internal_batch_size: Optional[int] = None,
        show_progress: bool = False,
        token_mask: TokenMask = None,
        n_steps: Optional[int] = None,
        feature_baselines: FeatureBaselines = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        r"""
        Args:

            inputs (Tensor, tuple[Tensor, ...] or mapping): Inputs of all models, with the examples along dimension 0. With a
                        mapping, such as the BatchEncoding of a tokenizer, models are called as ``forward_func(**inputs)``; its
                        ``attention_mask`` is the token mask, and labels in it are left out. A mapping {"student": inputs,
                        "base": inputs, "teacher": inputs} gives each model its own inputs of the same examples.
            target (int, list or Tensor, optional): Labels of the inputs, (N,) integers. A single label applies to all inputs.
                        Has no effect with a Teacher.
                        Default: None, the objective without labels
            additional_forward_args (Any, optional): Additional arguments of all models, as in Captum. Tensors with one row
                        per input are divided into batches together with the inputs.
                        Default: None
            attribute_to_layer_input (bool, optional): Use the inputs of the layers instead of their outputs, for map and
                        feature layers alike.
                        Default: False
            relu_attributions (bool, optional): Return non-negative attributions only. Default: False
            attr_dim_summation (bool, optional): Sum attributions over channels. Default: True
            grad_kwargs (dict[str, Any], optional): Additional keyword arguments for torch.autograd.grad. ``retain_graph`` has
                        no effect, because graphs are freed at the end of the call.
                        Default: None
            reference (ReferencePopulation, optional): Population of :meth:`reference`, to which every input is added on its own.
                        Default: None, the inputs are the population
            internal_batch_size (int, optional): Number of inputs in one forward pass. This bounds memory; the population is
                        still all of ``inputs``. With a deeper ``feature_layer`` every forward pass is made twice.
                        Default: None, all inputs
            show_progress (bool, optional): Show a progress bar over forward passes. Default: False
            token_mask (Tensor, optional): (N, T), True for the tokens that count, in features and maps. It is needed if no
                        argument is called ``attention_mask``, or to leave out class and separator tokens. A mapping by role
                        if inputs are by model. Default: None, the models' ``attention_mask``
            n_steps (int, optional): Number of Gauss-Legendre nodes of the mean gradient over a path of features; 16 are
                        enough from the mean. Baselines far from all features, and the objective without labels, a maximum
                        that changes its place on the path, may need more; the delta shows it. In batch mode the other
                        inputs are then the population of each input.
                        Default: None, the gradient at the input, as in the paper
            feature_baselines (str, Tensor or list, optional): Where the path begins: None for the mean features of the
                        population, "zero", or features (d,); a list with one of these per layer if ``layer`` is a list.
                        Default: None
            return_convergence_delta (bool, optional): Also return, for each input, the sum of the map over positions minus the
                        gain of J from baseline to input. It is near 0 if the features are averages of the map layer, or all its
                        activations (``flatten``) with ``weights="elementwise"``; elsewhere weights are mean gradients, the
                        activations are weighted as they are, and the sum is no gain.
                        Default: False

        Returns:
            *Tensor*, *tuple[Tensor, ...]* or *list* of **attributions**:
            - **attributions** (*Tensor*, *tuple[Tensor, ...]* or *list*):
                        (N, 1, ...) with the layer's spatial shape, (N, 1, T) of tokens, or (N, C, ...) without summation;
                        detached, in the layer's dtype and on its device. A tuple if the layer has several tensors, and a list
                        if ``layer`` is a list.
            - **delta** (*Tensor* or *list*, returned if ``return_convergence_delta=True``):
                        (N,), float32 or float64, in a list if ``layer`` is a list.

        Raises:
            ValueError: fewer than 4 inputs (5 with labels or a Teacher), labels without geometry or outside the embeddings, a
                        reference population made with other models or settings, a layer that is never reached, non-finite
                        features, features that do not depend on the layer, baselines of another width than the features,
                        ``feature_baselines`` or ``return_convergence_delta`` without ``n_steps``.
            TypeError: labels that are not integers, inputs that are not tensors.

        Warns:
            UserWarning: models with batch normalization or dropout in training mode, a population of fewer than 30 inputs or
                        of near-copies, features of which removal leaves nothing, maps that float16 cannot hold, a model that
                        gave other features in its second pass (``internal_batch_size``).

        Examples::

            >>> # Student and Base are classifiers of Nx3x32x32 images whose conv4 gives Nx50x8x8.
            >>> unicam = UniCAM(student, student.conv4, base)
            >>> # The 64 images are the population: a map of 64x1x8x8.
            >>> attr = unicam.attribute(images, labels)
            >>> # One image with a fixed population: 1x1x8x8, the same in any batch.
            >>> population = unicam.reference(images, labels)
            >>> attr = unicam.attribute(image, target=3, reference=population)
            >>> upsampled = LayerAttribution.interpolate(attr, (32, 32))
            >>> # An integrated map: its positions add up to a gain of the correlation.
            >>> attr, delta = unicam.attribute(
            ...     image, target=3, reference=population, n_steps=16, return_convergence_delta=True)
            >>> # With a Teacher of another architecture.
            >>> unicam = UniCAM(student, "conv4", base, teacher_func=teacher, teacher_layer="layer4")
            >>> attr = unicam.attribute(images)
            >>> # Two layers from one pass: a list of two results.
            >>> attr3, attr4 = UniCAM(student, ["conv3", "conv4"], base).attribute(images, labels)
        """
        batch = CheckedCall.checked(
            inputs, target, additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress, token_mask
        )
        map_settings = checked_map_settings(relu_attributions, attr_dim_summation, grad_kwargs)
        path = n_steps, feature_baselines, return_convergence_delta
        ((maps, delta),) = self._maps(batch, reference, map_settings, path, both=False)
        return (maps, delta) if return_convergence_delta else maps

    @log_usage()
    def attribute_transfer(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Optional[dict[str, Any]] = None,
        *,
        reference: Optional[ReferencePopulation] = None,
        internal_batch_size: Optional[int] = None,
        show_progress: bool = False,
        token_mask: TokenMask = None,
        n_steps: Optional[int] = None,
        feature_baselines: FeatureBaselines = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Computes distilled and residual maps from one forward pass of each model, the Teacher included.

        Arguments, errors, warnings and shapes are those of :meth:`attribute`. ``feature_baselines`` holds for all models; a
        tuple has an entry for the Student and one for each Base.

        Returns:
            TransferAttributions: ``distilled`` is the result of :meth:`attribute`, ``residual`` that of
            ``residual().attribute``; with several Bases a list of those of ``residual(0)``, ``residual(1)``, ... With ``n_steps``
            its ``net`` is their difference. With ``return_convergence_delta=True`` a tuple of the maps and a pair of deltas.

        Examples::

            >>> # 64 images; the layer gives 64x512x7x7 in both models: two maps of 64x1x7x7.
            >>> distilled, residual = unicam.attribute_transfer(images, labels)
            >>> # What the Student has beyond the Base, minus what the Base has beyond the Student.
            >>> net = unicam.attribute_transfer(images, labels, n_steps=16).net
        """
        batch = CheckedCall.checked(
            inputs, target, additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress, token_mask
        )
        map_settings = checked_map_settings(relu_attributions, attr_dim_summation, grad_kwargs)
        path = n_steps, feature_baselines, return_convergence_delta
        found = self._maps(batch, reference, map_settings, path, both=True)
        has_several = isinstance(self.base_func, SEVERAL)  # also if there is only one in it
        maps, deltas = (
            TransferAttributions(first, others if has_several else others[0]) for first, *others in zip(*found)
        )
        if n_steps is not None:
            is_common = not batch.inputs.is_text or batch.inputs.has_tokens_of(batch.of_models.of("base"))
            adds_up = self._removal.maps_add_up(self.weights, batch.inputs.is_text)
            maps = maps._with_unit(has_several, adds_up=adds_up, has_common_tokens=is_common, **map_settings)
        return (maps, tuple(deltas)) if return_convergence_delta else maps

    def reference(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        internal_batch_size: Optional[int] = None,
        show_progress: bool = False,
        token_mask: TokenMask = None,
    ) -> ReferencePopulation:
        """Makes a population for reference mode, to which :meth:`attribute` adds its inputs.

        Args:
            inputs (Tensor, tuple[Tensor, ...] or mapping): At least 4 inputs; use 64 or more.
            target (int, list or Tensor, optional): Labels of the inputs. A population without labels can be used only for the
                        objective without labels. Has no effect with a Teacher.
                        Default: None
            additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress, token_mask:
                        As in :meth:`attribute`.

        Returns:
            ReferencePopulation: detached features of all models, the Teacher included.

        Raises:
            ValueError, TypeError: as in :meth:`attribute`; fewer than 4 inputs.

        Warns:
            UserWarning: fewer than 30 inputs; models in training mode, as in :meth:`attribute`.

        Examples::

            >>> # 64 images are the population of all later calls.
            >>> population = unicam.reference(images, labels)
            >>> # One image of 1x3x224x224.
            >>> attr = unicam.attribute(image, target=3, reference=population)
        """
        batch = CheckedCall.checked(
            inputs, target, additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress, token_mask
        )
        self._warn_of_modes()
        return self._removal.measure(batch)

    def _warn_of_modes(self) -> None:
        if self._warns_of_modes:
            bases = {"base_func": self.base_func}
            if isinstance(self.base_func, SEVERAL):
                bases = {f"base_func[{place}]": base for place, base in enumerate(self.base_func)}
            warn_of_modes(forward_func=self.forward_func, **bases, teacher_func=self.teacher_func)

    @keeping_grad_mode
    def _maps(
        self,
        batch: CheckedCall,
        reference: Optional[ReferencePopulation],
        map_settings: dict[str, Any],
        path: tuple[Any, Any, Any],
        *,
        both: bool,
    ) -> list[tuple[Any, Any]]:
        """Maps and deltas of the explained model and, with ``both``, of the removed ones, in Captum's format."""
        explained = 1 + len(self._removal.removed) * both
        integrals = checked_integrals(*path, map_settings, (explained, len(self._removal.map_modules)))
        self._warn_of_modes()
        results: list[tuple[Any, Any]] = []
        for maps, deltas in self._removal.maps(batch, reference, {"weights": self.weights, **map_settings}, integrals, both=both):
            formatted = [_format_output(len(of_layer) > 1, of_layer) for of_layer in maps]
            results.append((formatted, deltas) if self._several else (formatted[0], deltas and deltas[0]))
        return results
