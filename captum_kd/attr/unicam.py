"""UniCAM: maps of the features that a distilled model has and its Base model lacks."""

from __future__ import annotations

import copy
import functools
from typing import Any, Callable, NamedTuple, Optional, Sequence, Union

import torch
from captum._utils.common import _format_output
from captum.attr._utils.attribution import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_kd._models.extraction import FeatureExtractor
from captum_kd._models.feature_transforms import FeatureTransform, global_average_pool
from captum_kd._models.layer_activations import LayerActivations, Layouts
from captum_kd._models.token_layout import as_layout_hints
from captum_kd._models.training_mode import warn_of_modes
from captum_kd._utils.arguments import Target, check_callable, check_device_ids, check_model
from captum_kd._utils.interrupts import changed_state, interruptible, keeping_grad_mode
from captum_kd.attr.call import Call, checked_map_settings
from captum_kd.attr.gradients import ScaledFeatures, population_gradients, reference_gradients
from captum_kd.attr.layer_pairs import Layers, check_distinct, layer_pairs, teacher_layers
from captum_kd.attr.origin import TransformReference, origin_of
from captum_kd.attr.population import check_population, check_reference_inputs
from captum_kd.attr.reference_population import AddedRows, LayerReference, ReferencePopulation
from captum_kd.embeddings import check_class_embeddings

__all__ = ["TransferAttributions", "UniCAM"]


class TransferAttributions(NamedTuple):
    """Both maps of a pair of models.

    Attributes:
        distilled (Tensor, tuple or list): of the Student's features given the Base model's.
        residual (Tensor, tuple or list): of the Base model's features given the Student's.
    """

    distilled: Any
    residual: Any


class UniCAM(LayerAttribution):
    r"""
    Computes UniCAM attributions for a layer of a Student, given its Base model: the same
    architecture trained without the Teacher.

    The features of both models arrange a population of inputs in space. UniCAM removes the Base
    model's arrangement from the Student's (partial distance correlation) and asks which
    activations the rest depends on. With D the Euclidean distances between the inputs' features
    and P their U-centered form, it differentiates

    .. math:: J = R(P_{S|B}, G), \qquad
              P_{S|B} = P_S - \frac{\langle P_S, P_B\rangle}{\langle P_B, P_B\rangle} P_B,

    how far what only the Student has follows the labels' geometry G, or, without labels,
    :math:`J = \sum_i \max_j (P_{S|B})_{ij}`. As in Grad-CAM the gradient is averaged over positions
    and weighs the activations. Swapping the models (:meth:`residual`) shows what the Student left
    behind.

    With a Teacher (``teacher_func``) the objective is :math:`J = R(P_{S|B}, P_T)`, with P_T the
    geometry of the Teacher's features of the same inputs. The map then shows where the Student looks
    for what it has from the Teacher and the Base has not. The other two objectives never look at
    the Teacher, so they cannot tell transfer from luck. Labels play no part in this one:
    ``target`` is accepted and its form checked, so that Captum's tools and existing calls run
    unchanged, but it changes nothing. Even so, a map is no evidence of transfer; other seeds are the
    null. A second Base of another seed in the Student's place, :math:`R(P_{B'|B}, P_T)`, follows the
    Teacher too, because networks trained on one task have much in common. What the Teacher gave is
    what Students show beyond that, over several seeds.

    A map depends on the population. In batch mode, the paper's, the inputs are the population: in
    other company, an input has another map. In reference mode (``reference=``) every input is added on its
    own to a fixed population, so its map is the same alone and in any batch; single images,
    ``NoiseTunnel``, ``infidelity`` and :func:`captum_kd.metrics.sensitivity_max` need this mode.
    Below 30 inputs maps follow chance; prefer a reference of 64 or more.

    Several layers cost one pass of each model: ``layer`` may be a list, and results are then lists
    with one entry per layer. Layers with a common ``feature_layer`` also share one backward pass from
    it; otherwise each feature layer takes a backward pass of its own. ``LayerAttribution.interpolate``,
    Captum's visualization and this package's metrics take single entries of these lists.
    ``NoiseTunnel``, ``infidelity`` and ``sensitivity_max`` cannot call a UniCAM that returns lists
    (Captum knows only tensors and tuples): give them one UniCAM per layer.

    Models may be in half precision, run under autocast, be compiled or use channels-last memory.
    The geometry is computed in float32 at least; maps have the layer's own dtype, as LayerGradCam's
    do. Maps of many inputs and positions can be too small for float16, and a warning says so; bfloat16
    has the range. Compiled models are run uncompiled, since compiled code skips hooks.

    As in Captum, no ReLU is applied unless asked for. Two deviations from LayerGradCam, both for
    images: token layers of transformers give a map on their grid, (N, 1, h, w), and channels-last
    layers are recognized as such.

    Models are evaluated in the mode they are in. In training mode batch normalization couples the
    inputs of a batch and updates its statistics, as with any Captum attribution, and dropout draws
    random numbers: a warning says so; call ``eval()``.

    Source: Adhane et al., "On Explaining Knowledge Distillation: Measuring and Visualising the
    Knowledge Transfer Process", WACV 2025, https://arxiv.org/abs/2412.13943.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_func: Callable[..., Any],
        base_layer: Optional[Layers] = None,
        *,
        feature_layer: Optional[Layers] = None,
        base_feature_layer: Optional[Layers] = None,
        feature_transform: FeatureTransform = global_average_pool,
        class_embeddings: Optional[Tensor] = None,
        grid: Optional[tuple[int, int]] = None,
        prefix_tokens: Optional[int] = None,
        channels_last: Optional[bool] = None,
        device_ids: Optional[list[int]] = None,
        teacher_func: Optional[Callable[..., Any]] = None,
        teacher_layer: Optional[Layers] = None,
    ) -> None:
        r"""
        Args:

            forward_func (Callable): The Student: a module or any function that runs it.
            layer (str, torch.nn.Module or list of them): Where the map is: a module of the
                        Student or its dotted name, "layer4.1". A list gives a list of results
                        from one pass.
            base_func (Callable): The Base model. Its architecture may differ.
            base_layer (str, torch.nn.Module or list, optional): Counterpart of ``layer`` in the
                        Base model, where the residual map is.
                        Default: the layer of the same dotted name
            feature_layer (str, torch.nn.Module or list, optional): Where the Student's distances
                        are taken: ``layer`` itself or a layer behind it.
                        Default: ``layer``
            base_feature_layer (str, torch.nn.Module or list, optional): The same in the Base.
                        Default: the layer named as ``feature_layer``, or ``base_layer`` where
                        no ``feature_layer`` is given
            feature_transform (Callable, optional): From a layer's output (N, C, ...), prefix
                        tokens left out, to features (N, d). Outputs of several tensors are
                        transformed one by one and concatenated.
                        Default: :func:`captum_kd.global_average_pool`
            class_embeddings (Tensor, optional): (num_classes, e), a point for each class, from
                        which the labels' geometry is taken. Has no effect with a Teacher.
                        Default: None, one-hot
            grid (tuple, optional): (h, w) of a layer's tokens where it cannot be found.
            prefix_tokens (int, optional): Number of class or register tokens in front.
            channels_last (bool, optional): Whether outputs are (N, h, w, C) or (N, t, h, w, C). Of
                        three axes True says that they are tokens, (N, T, C), False (N, C, L).
            device_ids (list[int], optional): Device order of a DataParallel ``forward_func`` that
                        does not have the attribute itself.
            teacher_func (Callable, optional): The Teacher, of any architecture: its geometry takes
                        the place of the labels'. It is run once more per call, without gradients.
                        Default: None, the objective of the labels
            teacher_layer (str, torch.nn.Module or list, optional): Where the Teacher's distances
                        are taken, through the same ``feature_transform``. Its width, resolution
                        and layout may differ: ``grid``, ``prefix_tokens`` and ``channels_last``
                        speak of the other two models and count for the Teacher only where its own
                        outputs do not tell.
                        Default: the layer named as the Student's feature layer

        Raises:
            ValueError: a layer name that does not exist (with close matches) or has no
                        counterpart, a module that is no part of its model, lists of different
                        lengths, the same layers twice in a list, malformed class embeddings, a
                        ``teacher_layer`` without ``teacher_func``.
            TypeError: models that cannot be called, layers that are neither name nor module.
        """
        check_model(forward_func, "forward_func")
        check_model(base_func, "base_func")
        check_callable(feature_transform, "feature_transform")
        if teacher_func is not None:
            check_model(teacher_func, "teacher_func")
        elif teacher_layer is not None:
            raise ValueError("teacher_layer was given without teacher_func; pass the Teacher, or neither of the two.")
        hints = as_layout_hints(grid, prefix_tokens, channels_last)
        check_device_ids(device_ids)
        own, other = layer_pairs(forward_func, layer, base_func, base_layer, feature_layer, base_feature_layer)
        self._several = not isinstance(layer, (str, nn.Module))
        modules = [pair.map_layer.module for pair in own]
        LayerAttribution.__init__(self, forward_func, modules if self._several else modules[0], device_ids)
        self.base_func = base_func
        self.feature_transform = feature_transform
        self.class_embeddings = check_class_embeddings(class_embeddings)
        # Student first, whichever of the two this object explains.
        self._extractors = (
            FeatureExtractor(forward_func, own, feature_transform, hints, device_ids),
            FeatureExtractor(base_func, other, feature_transform, hints, device_ids),
        )
        self.teacher_func = teacher_func
        self._teacher: Optional[FeatureExtractor] = None
        if teacher_func is not None:
            at_features = teacher_layers(teacher_func, teacher_layer, own)
            hints = hints._replace(last_resort=True)
            self._teacher = FeatureExtractor(teacher_func, at_features, feature_transform, hints, device_ids)
        check_distinct(*(extractor.pairs for extractor in (*self._extractors, self._teacher) if extractor is not None))
        self._direction = 0
        self._warns_of_modes = True  # a report says it once for all of its calls

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def has_convergence_delta(self) -> bool:
        return False

    def residual(self) -> "UniCAM":
        """The same pair with the two models swapped: what the Student left behind.

        Returns:
            UniCAM: explains the Base model given the Student. Both use the same reference populations;
            the Teacher, where there is one, stays.

        Examples::

            >>> left_behind = unicam.residual().attribute(images, labels)  # as attribute_transfer(...).residual
        """
        swapped = copy.copy(self)
        swapped._direction = 1 - self._direction
        swapped.forward_func, swapped.base_func = self.base_func, self.forward_func
        modules = [pair.map_layer.module for pair in swapped._own.pairs]
        swapped.layer = modules if self._several else modules[0]
        return swapped

    @property
    def _own(self) -> FeatureExtractor:
        return self._extractors[self._direction]

    @property
    def _other(self) -> FeatureExtractor:
        return self._extractors[1 - self._direction]

    @log_usage()
    def attribute(
        self,
        inputs: Union[Tensor, tuple[Tensor, ...]],
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
    ) -> Any:
        r"""
        Args:

            inputs (Tensor or tuple[Tensor, ...]): Inputs of both models, examples first.
            target (int, list or Tensor, optional): Labels of the inputs, (N,) integers; a single
                        one applies to all inputs. None: the objective without labels. Has no
                        effect with a Teacher.
            additional_forward_args (Any, optional): Further arguments of both models, as in
                        Captum; tensors with one row per input go along with the inputs.
            attribute_to_layer_input (bool, optional): Attribute to the layers' inputs, of map and
                        feature layers alike.
                        Default: False
            relu_attributions (bool, optional): Return positive attributions only.
                        Default: False
            attr_dim_summation (bool, optional): Sum over channels.
                        Default: True
            grad_kwargs (dict, optional): Additional keyword arguments of torch.autograd.grad;
                        ``retain_graph`` has no effect, the graphs end with the call.
            reference (ReferencePopulation, optional): Population to which every input is added on
                        its own, made by :meth:`reference`.
                        Default: None, the inputs are the population
            internal_batch_size (int, optional): Inputs in one forward pass. Bounds memory; the
                        population stays all of ``inputs``. With a deeper ``feature_layer`` the
                        forward passes are made twice.
            show_progress (bool, optional): Show a progress bar over forward passes.

        Returns:
            Tensor, tuple[Tensor, ...] or list of attributions:
            (N, 1, ...) with the layer's spatial shape, or (N, C, ...) without summation; detached,
            in the layer's dtype and on its device. A tuple where the layer has several tensors, a
            list where ``layer`` is a list.

        Raises:
            ValueError: fewer than 4 inputs (5 with labels or a Teacher), labels without geometry
                        or outside the embeddings, a reference made otherwise, a layer never
                        reached, non-finite features, features that do not depend on the layer.
            TypeError: labels that are not integers, inputs that are not tensors.

        Warns:
            UserWarning: models with batch normalization or dropout in training mode, a population
                        of fewer than 30 inputs or of near-copies, nothing left after removal, maps
                        that float16 cannot hold, a model that gave other features when
                        ``internal_batch_size`` had it run twice.

        Examples::

            >>> # Student and Base are classifiers of Nx3x32x32 images whose conv4 gives Nx50x8x8.
            >>> unicam = UniCAM(student, student.conv4, base)
            >>> # The 64 images are the population: a map of 64x1x8x8.
            >>> attr = unicam.attribute(images, labels)
            >>> # One image beside a fixed population: 1x1x8x8, whatever else is in the batch.
            >>> population = unicam.reference(images, labels)
            >>> attr = unicam.attribute(image, target=3, reference=population)
            >>> upsampled = LayerAttribution.interpolate(attr, (32, 32))
            >>> # Where the Student looks for what it has from a Teacher of another architecture.
            >>> unicam = UniCAM(student, "conv4", base, teacher_func=teacher, teacher_layer="layer4")
            >>> attr = unicam.attribute(images)
            >>> # Two layers from one pass: a list of two results.
            >>> attr3, attr4 = UniCAM(student, ["conv3", "conv4"], base).attribute(images, labels)
        """
        call = self._call(
            inputs, target, additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress
        )
        map_settings = checked_map_settings(relu_attributions, attr_dim_summation, grad_kwargs)
        (maps,) = self._explain(call, map_settings, reference, both=False)
        return maps

    @log_usage()
    def attribute_transfer(
        self,
        inputs: Union[Tensor, tuple[Tensor, ...]],
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
    ) -> TransferAttributions:
        """Distilled and residual maps from one forward pass of each model, the Teacher included.

        Args, raises and shapes: as :meth:`attribute`.

        Returns:
            TransferAttributions: ``distilled``, what :meth:`attribute` returns, and ``residual``,
            what ``residual().attribute`` returns.

        Examples::

            >>> # 64 images; the layer gives 64x512x7x7 in both models: two maps of 64x1x7x7.
            >>> distilled, residual = unicam.attribute_transfer(images, labels)
        """
        call = self._call(
            inputs, target, additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress
        )
        map_settings = checked_map_settings(relu_attributions, attr_dim_summation, grad_kwargs)
        distilled, residual = self._explain(call, map_settings, reference, both=True)
        return TransferAttributions(distilled, residual)

    def reference(
        self,
        inputs: Union[Tensor, tuple[Tensor, ...]],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        internal_batch_size: Optional[int] = None,
        show_progress: bool = False,
    ) -> ReferencePopulation:
        """Measures a population to which inputs are added later (reference mode).

        Args:
            inputs (Tensor or tuple[Tensor, ...]): m >= 4 inputs; 64 or more are advisable.
            target (int, list or Tensor, optional): their labels; without them only the objective
                without labels can be used. Have no effect with a Teacher.
            additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress:
                as in :meth:`attribute`.

        Returns:
            ReferencePopulation: detached features only, those of the Teacher included.

        Raises:
            ValueError, TypeError: as :meth:`attribute`; fewer than 4 inputs.

        Warns:
            UserWarning: fewer than 30 inputs; models in training mode, as :meth:`attribute`.

        Examples::

            >>> population = unicam.reference(images, labels)  # 64 images, say
            >>> attr = unicam.attribute(image, target=3, reference=population)  # image: 1x3x224x224
        """
        call = self._call(
            inputs, target, additional_forward_args, attribute_to_layer_input, internal_batch_size, show_progress
        )
        check_reference_inputs(call.n, call.labels, self.class_embeddings)
        layouts: list[Layouts] = []
        measured: list[list[ScaledFeatures]] = []
        for extractor in (*self._extractors, self._teacher):
            if extractor is not None:
                observation = call.observe(extractor, features_only=True)
                layouts.append(observation.layouts)
                measured.append(_scaled_features(observation))
        found: dict[tuple[nn.Module, ...], LayerReference] = {}
        for objective, *models in zip(self._objectives(), *measured):
            if objective not in found:
                student, base, teacher = (*(each.values for each in models), None)[:3]
                rounding = [*(each.rounding for each in models), None]
                found[objective] = LayerReference.of(
                    student, base, call.labels, self.class_embeddings, teacher, rounding
                )
        layers = tuple(found[objective] for objective in self._objectives())
        transform = TransformReference(self.feature_transform)
        return ReferencePopulation(layers, self._origin(call.at_input), layouts, transform)

    def _call(self, *arguments: Any) -> Call:
        """The arguments of :meth:`Call.checked`, for these models."""
        call = Call.checked(*arguments, has_teacher=self._teacher is not None)
        if self._warns_of_modes:
            warn_of_modes(
                forward_func=self.forward_func, base_func=self.base_func, teacher_func=self.teacher_func
            )
        return call

    @keeping_grad_mode
    def _explain(
        self, call: Call, map_settings: dict[str, Any], reference: Optional[ReferencePopulation], *, both: bool
    ) -> list[Any]:
        """Maps of this object's direction and, if asked for, of the other one."""
        if reference is None:
            has_teacher = self._teacher is not None
            of_labels = check_population(call.inputs, call.labels, self.class_embeddings, has_teacher)
            of_batch = functools.partial(population_gradients, labels=of_labels, both=both)
            objectives: list[Callable[..., list[Tensor]]] = [of_batch] * len(self._own.pairs)
        else:
            rows = self._check_reference(reference, call)
            objectives = [
                functools.partial(reference_gradients, layer, self._direction, labels=rows, both=both)
                for layer in reference.layers
            ]
        # The Teacher first: what it kept is gone before the other two keep their activations.
        teacher = None
        if self._teacher is not None:
            teacher = _scaled_features(call.observe(self._teacher, features_only=True, known=self._known(reference, 2)))
        own = call.observe(self._own, known=self._known(reference, self._direction))
        other = call.observe(self._other, features_only=not both, known=self._known(reference, 1 - self._direction))
        gradients = self._gradients(objectives, _scaled_features(own), _scaled_features(other), teacher)
        return [
            self._format(observation.maps([of_pair[place] for of_pair in gradients], **map_settings))
            for place, observation in enumerate((own, other) if both else (own,))
        ]

    @staticmethod
    def _known(reference: Optional[ReferencePopulation], model: int) -> Optional[Layouts]:
        """What a population says of the layouts of Student (0), Base (1) or Teacher (2)."""
        return None if reference is None else dict(enumerate(reference.layouts)).get(model)

    def _gradients(
        self,
        objectives: Sequence[Callable[..., list[Tensor]]],
        own: Sequence[ScaledFeatures],
        other: Sequence[ScaledFeatures],
        teacher: Optional[Sequence[ScaledFeatures]],
    ) -> list[list[Tensor]]:
        """For each layer pair its objectives' gradients at the features, of one direction or of both."""
        # Maps at several layers may be of one objective, that of a shared feature layer.
        found: dict[tuple[nn.Module, ...], list[Tensor]] = {}
        sources = self._objectives()
        for number, (source, objective) in enumerate(zip(sources, objectives)):
            if source not in found:
                first, second, *third = _alike([own[number], other[number], *([] if teacher is None else [teacher[number]])])
                with changed_state(torch.inference_mode(False), torch.no_grad()), interruptible():
                    found[source] = objective(features=(first, second), teacher=third[0] if third else None)
        return [found[source] for source in sources]

    def _objectives(self) -> list[tuple[nn.Module, ...]]:
        """What each layer pair's objective is taken from: the feature layers of all models."""
        extractors = [extractor for extractor in (self._own, self._other, self._teacher) if extractor is not None]
        return [tuple(pair.feature_layer.module for pair in pairs) for pairs in zip(*(o.pairs for o in extractors))]

    def _check_reference(self, reference: object, call: Call) -> Optional[AddedRows]:
        """The labels as rows of the population, where there are labels."""
        if not isinstance(reference, ReferencePopulation):
            raise TypeError(
                f"reference must be a ReferencePopulation made by UniCAM.reference(), got {type(reference).__name__}."
            )
        reference.check(self._origin(call.at_input), self.feature_transform)
        if call.labels is None:
            return None
        if not reference.is_labeled:
            raise ValueError(
                "target was given, but the reference population has no labels; make it with reference(inputs, target) "
                "or pass target=None for the objective without labels."
            )
        return reference.layers[0].added_labels(call.labels, self.class_embeddings)

    def _origin(self, attribute_to_layer_input: bool) -> dict[str, Any]:
        """What a reference population has to share with the calls that use it."""
        student, base = self._extractors
        return origin_of(
            student, base, self._teacher, self.feature_transform, self.class_embeddings, attribute_to_layer_input
        )

    def _format(self, maps: list[tuple[Tensor, ...]]) -> Any:
        formatted = [_format_output(len(of_layer) > 1, of_layer) for of_layer in maps]
        return formatted if self._several else formatted[0]


def _scaled_features(observation: LayerActivations) -> list[ScaledFeatures]:
    found = zip(observation.features, observation.largest, observation.rounding)
    return [ScaledFeatures(values, largest, rounding.amax()) for values, largest, rounding in found]


def _alike(features: Sequence[ScaledFeatures]) -> list[ScaledFeatures]:
    """All models' features on the first one's device and in one dtype."""
    dtype = functools.reduce(torch.promote_types, (each.values.dtype for each in features))
    like = features[0].values.new_empty(0, dtype=dtype)
    return [ScaledFeatures(each.values.to(like), each.largest, each.rounding.to(like.device)) for each in features]
