"""Maps of a trained pair and what can be measured on them, with Captum and captum_kd."""

from __future__ import annotations

import warnings
from typing import Any, Mapping, Optional

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from captum_kd import ReferencePopulation, UniCAM
from captum_kd.metrics import KeepCurve, keep_curve, localization_score, random_attributions
from distillation.data.questions import Texts
from distillation.task import Examples, Inputs, answer, on_device

__all__ = [
    "BASE", "BY_TEACHER", "DISTILLED", "FIRST_WORDS", "NET", "NULL", "POINT", "RANDOM", "RESIDUAL", "STUDENT", "keep_curves",
    "localization", "maps_of", "mean_and_error", "net_maps_of_bases", "token_localization",
]  # fmt: skip

BATCH = 64
"""Images in one forward pass; no result depends on it."""

N_STEPS = 16
"""Steps of the integral from the population's mean features to an image's."""

NET, DISTILLED, RESIDUAL, NULL, BY_TEACHER = "net", "distilled", "residual", "net of two Bases", "net by the Teacher"
STUDENT, BASE, POINT, RANDOM = "Grad-CAM Student", "Grad-CAM Base", "paper's gradient", "random"
FIRST_WORDS = "first words"
"""The map that ranks the tokens of a text by their places: a rule that needs no network."""


def maps_of(
    student: nn.Module,
    base: nn.Module,
    teacher: nn.Module,
    layer: str,
    teacher_layer: str,
    inputs: Inputs,
    answers: tuple[Tensor, Tensor],
    reference: Examples,
) -> dict[str, Tensor]:
    """Maps of the same inputs at one layer, each (N, 1, h, w), of texts (N, 1, T), and signed, on the CPU.

    UniCAM's maps compare each input with the reference population. Integrated maps of the distilled features (Student given
    Base) and of the residual features (Base given Student) add up to the change of the objective when an input moves from
    the population's mean features to its own; the net map is their difference. The objective is the relevance for the labels
    or, for the last net map, the Teacher's share. The paper's gradient is the distilled map without the integral.

    No map uses the true label, because what such a map keeps would carry the label. All explain
    what the Student predicts; the Base's Grad-CAM explains what the Base predicts.

    Args:
        student, base, teacher: the networks, in evaluation mode.
        layer: dotted name of a layer of Student and Base.
        teacher_layer: of the Teacher's.
        inputs: N images or texts that are explained.
        answers: (N,) labels that the Student and the Base predict for them.
        reference: labeled examples that are none of these.
    """
    device = next(student.parameters()).device
    inputs = on_device(inputs, device)
    of_student, of_base = (labels.to(device) for labels in answers)
    options: dict[str, Any] = {"internal_batch_size": BATCH}

    unicam, population = _unicam(student, base, layer, reference, inputs)
    integrated = unicam.attribute_transfer(inputs, of_student, reference=population, n_steps=N_STEPS, **options)
    by_teacher, of_teacher = _unicam(student, base, layer, reference, inputs, (teacher, teacher_layer))
    maps = {
        NET: integrated.net,
        DISTILLED: integrated.distilled,
        RESIDUAL: integrated.residual,
        BY_TEACHER: by_teacher.attribute_transfer(inputs, reference=of_teacher, n_steps=N_STEPS, **options).net,
        STUDENT: _grad_cam(student, layer, inputs, of_student),
        BASE: _grad_cam(base, layer, inputs, of_base),
        POINT: unicam.attribute(inputs, of_student, reference=population, **options),
    }
    return {name: values.detach().cpu() for name, values in maps.items()}


def net_maps_of_bases(
    bases: Mapping[str, nn.Module],
    layer: str,
    inputs: Inputs,
    predictions: Mapping[str, Tensor],
    reference: Examples,
) -> dict[str, Tensor]:
    """For each Base its net map with the next Base in the Student's place: what net maps show without a Teacher.

    Made as the net maps of :func:`maps_of`; empty if there is one Base.

    Args:
        bases: by name, in evaluation mode.
        layer: dotted name of a layer.
        inputs: N images or texts that are explained.
        predictions: by network, (N,) labels that it predicts for them.
        reference: labeled examples that are none of these.
    """
    names = list(bases)
    found = {}
    for base, other in zip(names, names[1:] + names[:1]) if len(names) > 1 else ():
        device = next(bases[base].parameters()).device
        moved = on_device(inputs, device)
        unicam, population = _unicam(bases[other], bases[base], layer, reference, moved)
        integrated = unicam.attribute_transfer(
            moved, predictions[other].to(device), reference=population, n_steps=N_STEPS,
            internal_batch_size=BATCH,
        )  # fmt: skip
        found[base] = integrated.net.detach().cpu()
    return found


def _unicam(
    student: nn.Module,
    base: nn.Module,
    layer: str,
    reference: Examples,
    inputs: Inputs,
    teacher: tuple[Optional[nn.Module], Optional[str]] = (None, None),
) -> tuple[UniCAM, ReferencePopulation]:
    """A UniCAM and its population, of the images' size; ``teacher`` is a network and its layer."""
    unicam = UniCAM(student, layer, base, teacher_func=teacher[0], teacher_layer=teacher[1])
    device = next(student.parameters()).device
    size = None if isinstance(inputs, dict) else inputs.shape[-1]
    known = on_device(reference.inputs(size), device), reference.labels.to(device)
    return unicam, unicam.reference(*known, internal_batch_size=BATCH)


def _grad_cam(network: nn.Module, layer: str, inputs: Inputs, labels: Tensor) -> Tensor:
    if isinstance(inputs, dict):
        return _token_grad_cam(network, layer, inputs, labels)
    grad_cam = LayerGradCam(network, network.get_submodule(layer))
    return torch.cat([grad_cam.attribute(*batch) for batch in zip(inputs.split(BATCH), labels.split(BATCH))])


def _token_grad_cam(network: nn.Module, layer: str, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """(N, 1, T), by Captum's formula with tokens in the place of positions; 0 at padding. Captum's own takes the second axis,
    which holds the tokens here, for channels."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        logits = answer(network, inputs)
    finally:
        handle.remove()
    (features,) = seen
    mask = inputs["attention_mask"].to(features.dtype)
    (gradients,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)
    weights = (gradients * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    maps: Tensor = (torch.einsum("ntc,nc->nt", features, weights) * mask)[:, None].detach()
    return maps


def localization(maps: Mapping[str, Tensor], masks: Tensor) -> dict[str, Any]:
    """How far the maps lie on the objects: means over images with standard errors, what chance would give, and
    differences between two kinds of maps, image by image. Energy is that of maps with positive values."""
    return _localization(maps, masks, masks.float().mean((1, 2)))


def token_localization(maps: Mapping[str, Tensor], masks: Tensor, inputs: Mapping[str, Tensor]) -> Optional[dict[str, Any]]:
    """The same of maps (N, 1, T) and marked tokens (N, T), over the texts that have marked tokens; None if none has."""
    rows = masks.any(1)
    if not rows.any():
        return None
    is_token = inputs["attention_mask"][rows].bool()
    marked = masks[rows, : is_token.shape[1]]
    chosen = {name: values[rows, :, None] for name, values in maps.items()}
    return _localization(chosen, marked[:, None], marked.sum(1) / is_token.sum(1))


def _localization(maps: Mapping[str, Tensor], masks: Tensor, areas: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"mask_area": float(areas.mean()), "number": len(areas), "maps": {}}
    shares = {}
    for name, values in maps.items():
        is_empty = values.flatten(1).amax(1) <= 0
        with warnings.catch_warnings(record=True):  # the record says how many maps are empty
            scores = localization_score(values, masks)
        # localization_score has 0 for them. Their mean with the others would look as if maps avoided the object.
        shares[name] = scores.energy_share.masked_fill(is_empty, torch.nan)
        found["maps"][name] = {
            "energy_share": mean_and_error(shares[name]),
            "pointing_game": mean_and_error(scores.pointing_game),
            "empty_maps": int(is_empty.sum()),
        }
    pairs = [(DISTILLED, RESIDUAL), *([(NET, NULL)] if NULL in maps else [])]
    found["differences"] = {f"{one} - {other}": mean_and_error(shares[one] - shares[other]) for one, other in pairs}
    return found


def mean_and_error(values: Tensor) -> tuple[Optional[float], Optional[float]]:
    """Mean of the values that are not NaN, and its standard error; None where there are too few."""
    values = values[~values.isnan()]
    n = len(values)
    return float(values.mean()) if n else None, float(values.std()) / n**0.5 if n > 1 else None


def keep_curves(
    student: nn.Module, inputs: Inputs, shown: Examples, maps: Mapping[str, Tensor]
) -> dict[str, KeepCurve]:
    """Accuracy of the Student on examples of which only the most salient part is kept, by each map and by chance. Of texts
    the other tokens become the mask token, or padding; tokens such as [CLS] stay, and one more curve keeps the first words."""
    device = next(student.parameters()).device
    options: dict[str, Any] = {}
    if isinstance(shown, Texts) and isinstance(inputs, dict):
        is_word = inputs["attention_mask"].bool() & ~torch.isin(inputs["input_ids"], shown.source.special)
        options = {"mask_token_id": shown.source.mask, "token_mask": is_word.to(device)}
    chosen = {name: values.to(device) for name, values in maps.items() if name != BASE}
    chosen[RANDOM] = random_attributions(chosen[DISTILLED])
    if isinstance(inputs, dict):
        distilled = chosen[DISTILLED]
        chosen[FIRST_WORDS] = -torch.arange(distilled.shape[-1]).to(distilled).expand_as(distilled)
    return keep_curve(
        student, on_device(inputs, device), shown.labels.to(device), chosen, max_examples_per_batch=BATCH,
        show_progress=False, **options,
    )  # fmt: skip
