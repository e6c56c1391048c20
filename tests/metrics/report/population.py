"""Models, loaders and dcor's own scores for the tests of the report."""

from dataclasses import fields
from typing import Any, Optional

import numpy as np
import torch
from models import ConvNet, activations, images, labels
from torch import Tensor

from captum_kd.metrics import Comparisons, Compute, Localization, ModelOptions, compare_transfer

N = 33
PAIR = ("fss", "rs_student", "rs_base", "rs_distilled", "rs_residual")
TEACHER = (
    "rs_teacher", "fss_student_teacher", "fss_base_teacher", "teacher_distilled", "teacher_residual",
    "teacher_only_distilled", "teacher_only_residual",
)  # fmt: skip


def related(seed: int, width: int = 6) -> ConvNet:
    """Models of different seeds whose first layers are alike, so that their features have something in common."""
    model = ConvNet(width, seed=seed).eval()
    with torch.no_grad():
        model.conv1.weight.copy_(ConvNet(seed=99).conv1.weight + 0.1 * model.conv1.weight)
    return model


def data(n: int = N) -> tuple[Tensor, Tensor]:
    """Images whose brightness says something about their label."""
    y = labels(n)
    return images(n) + 0.8 * y[:, None, None, None], y


def batches(size: int, n: int = N) -> list[tuple[Tensor, Tensor]]:
    x, y = data(n)
    return list(zip(x.split(size), y.split(size)))


OPTIONS = {"model_options": ModelOptions, "comparisons": Comparisons, "compute": Compute}
LOCALIZATION = {
    "localize_target": "target", "localize_layer": "layer", "reference": "reference", "noise": "noise", "n_steps": "n_steps",
}  # fmt: skip


def compare(*args: Any, **kwargs: Any) -> Any:
    """compare_transfer without its progress bar, with the fields of its options as keywords."""
    given: dict[str, Any] = {"show_progress": False, **kwargs}
    for name, option in OPTIONS.items():
        of_option = {field.name: given.pop(field.name) for field in fields(option) if field.name in given}
        if of_option:
            given[name] = option(**of_option)
    of_maps = {LOCALIZATION[name]: given.pop(name) for name in LOCALIZATION if name in given}
    if of_maps:
        given["localize"] = Localization(given["localize"], **of_maps)
    return compare_transfer(*args, **given)


def by_score(report: Any, layer: str, student: str = "student", base: str = "base") -> dict[str, dict[str, Any]]:
    return {
        row["score"]: row
        for row in report.rows
        if (row["layer"], row["student"], row["base"]) == (layer, student, base)
    }


def hooked(model: torch.nn.Module, layer: str, x: Tensor) -> Tensor:
    """Flattened activations, by a hook of the tests' own."""
    return activations(model, layer, x).flatten(1).double()


def dcor_scores(student: Tensor, base: Tensor, y: Tensor, teacher: Optional[Tensor] = None) -> dict[str, float]:
    """All scores by dcor, from features in float64."""
    import dcor

    def centered(values: Tensor) -> np.ndarray:
        apart = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
        return dcor.u_centered(apart.numpy())

    def r(p: np.ndarray, q: np.ndarray) -> float:
        return float(dcor.u_product(p, q) / np.sqrt(dcor.u_product(p, p) * dcor.u_product(q, q)))

    def without(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return dcor.u_complementary_projection(q)(p)

    s, b, g = centered(student), centered(base), centered(torch.nn.functional.one_hot(y).double())
    distilled, residual = without(s, b), without(b, s)
    found = {
        "fss": r(s, b), "rs_student": r(s, g), "rs_base": r(b, g), "rs_distilled": r(distilled, g),
        "rs_residual": r(residual, g),
    }  # fmt: skip
    if teacher is not None:
        t = centered(teacher)
        only = without(t, g)
        found |= {
            "rs_teacher": r(t, g), "fss_student_teacher": r(s, t), "fss_base_teacher": r(b, t),
            "teacher_distilled": r(distilled, t), "teacher_residual": r(residual, t),
            "teacher_only_distilled": r(distilled, only), "teacher_only_residual": r(residual, only),
        }  # fmt: skip
    return found
