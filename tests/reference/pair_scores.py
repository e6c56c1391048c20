"""The scores of a Student and a Base, formula by formula, in float64."""

from typing import Optional

import torch
from reference.literal import r
from reference.several_bases import centered, left_of
from torch import Tensor


def pair_scores(student: Tensor, base: Tensor, labels: Optional[Tensor], teacher: Tensor) -> dict[str, float]:
    """All from features (n, ...); without labels, the scores that need none."""
    s, b, t = (centered(each) for each in (student, base, teacher))
    distilled, residual = left_of(s, [b]), left_of(b, [s])
    found = {
        "fss": r(s, b), "fss_student_teacher": r(s, t), "fss_base_teacher": r(b, t),
        "teacher_distilled": r(distilled, t), "teacher_residual": r(residual, t),
    }  # fmt: skip
    if labels is not None:
        g = centered(torch.nn.functional.one_hot(labels))
        beyond = left_of(t, [g])
        found |= {
            "rs_student": r(s, g), "rs_base": r(b, g), "rs_teacher": r(t, g), "rs_distilled": r(distilled, g),
            "rs_residual": r(residual, g), "teacher_only_distilled": r(distilled, beyond),
            "teacher_only_residual": r(residual, beyond),
        }  # fmt: skip
    return {name: float(value) for name, value in found.items()}
