"""Agreement of the maps of Students and Bases with those of the Teacher, input by input."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from captum_kd._distributed import ProcessGroup
from captum_kd._models.call_arguments import with_named_mask
from captum_kd._models.layer_names import Layer
from captum_kd._utils.batches import device_of, to_device
from captum_kd._utils.inputs import InputsByModel, ModelInputs, find_ids
from captum_kd._utils.text import name_of
from captum_kd.metrics.attribution_agreement import agreement_of_maps, as_any_maps, is_constant, on_one_grid
from captum_kd.metrics.predictions import check_same_classes
from captum_kd.metrics.report.explanations import INPUTS_LAYER, Explanations
from captum_kd.metrics.report.maps import layer_maps, with_prefix
from captum_kd.metrics.report.models import TEACHER_KEY, ComparedModel
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import BASE, PLACEBO, STUDENT, ReportScore, explanation_scores
from captum_kd.perturb.keep_tokens import token_mask_of

_TARGETS = {"teacher": "the class that the Teacher predicts", "label": "the label", "predicted": "each network's own prediction"}


class _Maps(NamedTuple):
    """Maps of one model for one batch.

    Attributes:
        layers (list of Tensor): (N, 1, h, w) or (N, 1, T) for each layer.
        masks (list of Tensor): the token mask (N, T) for each layer, or None.
        inputs (ModelInputs): what the model received.
    """

    layers: list[Tensor]
    masks: list[Optional[Tensor]]
    inputs: ModelInputs


class ExplanationScores:
    """Agreement of the maps of all Students and Bases with those of the Teacher and of placebo Teachers.

    Attributes:
        scores (list of ReportScore): means of values of single inputs.
        layers (list of str): the layers in their rows.

    Raises:
        ValueError: no Teacher, or a layer that the report does not have.
    """

    def __init__(
        self, models: Sequence[ComparedModel], labels: Sequence[str], options: Explanations, settings: Settings
    ) -> None:
        self._teachers = [each for each in models if each.role not in (STUDENT, BASE)]
        self._others = [each for each in models if each.role in (STUDENT, BASE)]
        if not self._teachers:
            raise ValueError("explanations compare the maps of Students and Bases with the Teacher's; pass teacher=.")
        self._places: list[Optional[int]] = [
            place for place, label in enumerate(labels) if options.layer in (None, label)
        ]
        self.layers = [label for label in labels if options.layer in (None, label)]
        if not self.layers:
            if options.layer != INPUTS_LAYER or not callable(options.method):
                raise ValueError(
                    f"layer={options.layer!r} of Explanations is none of the layers; pass one of {list(labels)}"
                    f'{", or a function whose maps are at the inputs as method" * (options.layer == INPUTS_LAYER)}.'
                )
            self._places, self.layers = [None], [INPUTS_LAYER]
        self._options, self._settings = options, settings
        self._placebos = [each.key for each in models if each.role == PLACEBO]
        self.scores: list[ReportScore] = explanation_scores(bool(self._placebos))
        self._pieces: dict[tuple[str, str, str], list[Tensor]] = {}
        self._constant: dict[tuple[str, str], int] = {}

    @property
    def needs_logits(self) -> bool:
        """Whether :meth:`add` needs the logits of all models."""
        return self._options.target != "label"

    def add(self, inputs: InputsByModel, labels: Optional[Tensor], logits: Mapping[str, Tensor]) -> None:
        """Makes and compares the maps of one batch.

        Args:
            inputs (InputsByModel): the inputs.
            labels (Tensor, optional): (N,).
            logits (mapping): (N, classes) by the model's key.

        Raises:
            ValueError: models with other numbers of classes or other tokens than the Teacher; maps that cannot be compared.
        """
        if self._options.target == "teacher":
            check_same_classes(
                logits,
                "so their maps cannot explain the Teacher's class. Pass an output_transform that returns the logits of the same "
                'classes, or Explanations(target="predicted").',
            )
        classes = {key: values.argmax(1) for key, values in logits.items()}
        of_teachers = {each.key: self._maps(each, inputs, labels, classes) for each in self._teachers}
        for each in self._others:
            own = self._maps(each, inputs, labels, classes)
            for teacher in self._teachers:
                self._compare(each, own, teacher, of_teachers[teacher.key])

    def gather(self, group: ProcessGroup) -> None:
        """Joins the values of all ranks."""
        of_ranks = group.gather(({key: torch.cat(pieces) for key, pieces in self._pieces.items()}, self._constant))
        self._pieces, self._constant = {}, {}
        for values, constant in of_ranks:
            for key, of_rank in values.items():
                self._pieces.setdefault(key, []).append(of_rank)
            for place, count in constant.items():
                self._constant[place] = self._constant.get(place, 0) + count

    def values(self, score: str, layer: str, student: str, base: str) -> Tensor:
        """(n,) float64 values of single inputs, whose mean is the score of a Student and a Base.

        A constant map counts as no agreement, as in :func:`attribution_agreement`. Differences are NaN there, so that a Student
        does not seem to follow the Teacher where only the Base's map is empty.
        """
        if score in ("explanation_student_teacher", "explanation_base_teacher"):
            return self._read(student if score == "explanation_student_teacher" else base, TEACHER_KEY, layer).nan_to_num(0.0)
        gains = self.gains(layer, student, base)
        return gains[0] - gains[1:].mean(0) if score == "explanation_over_placebos" else gains[0]

    def gains(self, layer: str, student: str, base: str) -> Tensor:
        teachers = (TEACHER_KEY, *self._placebos)
        return torch.stack([self._read(student, each, layer) - self._read(base, each, layer) for each in teachers])

    def constant_maps(self) -> list[str]:
        """A caution about constant maps, if there are any."""
        if not self._constant:
            return []
        most = sorted(self._constant.items(), key=lambda item: -item[1])
        shown = "; ".join(f"{model} {count} at {layer}" for (model, layer), count in most[:4])
        more = f"; and {len(most) - 4} more" * (len(most) > 4)
        return [
            f"Maps that are constant show no place: {shown}{more}. Their agreement counts as 0, and differences of Student and "
            "Base leave these inputs out. Choose another layer or method if there are many."
        ]

    def notes(self) -> list[str]:
        """Advice for reading these scores."""
        options = self._options
        of = f"the most salient {100 * options.keep:.10g}% of positions" if options.measure == "iou" else "maps"
        method = options.method if isinstance(options.method, str) else name_of(options.method)
        return [
            f"Agreement of explanations: {options.measure} of {of}, made by {method} for {_TARGETS[options.target]}; a mean over "
            "inputs. Maps of the same objects agree without any transfer, so compare Students with Bases and not with 0."
        ]

    def _maps(
        self, of: ComparedModel, inputs: InputsByModel, labels: Optional[Tensor], classes: Mapping[str, Tensor]
    ) -> _Maps:
        settings, device = self._settings, device_of(of.model)
        args, own = to_device(settings.model_options.forward_args, device), to_device(inputs.of(*of.names), device)
        target = self._options.target
        explained = labels if target == "label" else classes[TEACHER_KEY if target == "teacher" else of.key]
        layers: list[Optional[Layer]] = [None if place is None else of.layers[place] for place in self._places]
        tokens: Optional[Tensor] = None
        if own.is_text:
            own = with_named_mask(of.model, own, args)
            ids = find_ids(own)
            tokens = own.token_mask if ids is None else token_mask_of(own, ids)
        found = layer_maps(of, layers, own, explained, args, self._options.method, settings)
        prefix = settings.model_options.hints.prefix_tokens or 0
        maps: list[Tensor] = []
        masks: list[Optional[Tensor]] = []
        for values, layer in zip(found, self.layers):
            mask = None if tokens is None else tokens.cpu()
            if mask is not None:
                values, mask = with_prefix(values, mask, prefix)
            name = f"The map of {of} at {layer} (explanations)"
            checked = as_any_maps(values, name, len(own[0]), None if mask is None else mask.shape[1])
            if checked.dim() == 4 and checked[0].numel() == 1:
                raise ValueError(
                    f"The map of {of} at {layer} has a single position, where all maps agree. Compare another layer, by "
                    "Explanations(layer=...)."
                )
            constant = int(is_constant(checked.flatten(1), mask).sum())
            if constant:
                self._constant[str(of), layer] = self._constant.get((str(of), layer), 0) + constant
            maps.append(checked)
            masks.append(mask)
        return _Maps(maps, masks, own)

    def _compare(self, model: ComparedModel, own: _Maps, teacher: ComparedModel, of_teacher: _Maps) -> None:
        if own.inputs.is_text and not own.inputs.has_tokens_of(of_teacher.inputs):
            raise ValueError(
                f"The tokens of {model} are not those of {teacher}, so their maps have no common positions. Explanations of text "
                "need models that receive the same tokens."
            )
        for layer, first, second, mask in zip(self.layers, own.layers, of_teacher.layers, own.masks):
            rows = on_one_grid(first, second, f"The maps of {model} and {teacher} at {layer}")
            values = agreement_of_maps(*rows, self._options.measure, self._options.keep, mask)
            self._pieces.setdefault((model.key, teacher.key, layer), []).append(values)

    def _read(self, key: str, teacher: str, layer: str) -> Tensor:
        pieces = self._pieces[key, teacher, layer]
        if len(pieces) > 1:
            pieces[:] = [torch.cat(pieces)]
        return pieces[0]
