"""Table of a report's scores: their geometries, tests, questions, and names in texts and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional

STUDENT, BASE, TEACHER, LABELS, PLACEBO = "student", "base", "teacher", "labels", "placebo"
BASES = "bases"
"""The span of all Bases."""
ALL_BASES = "all Bases"
"""The Base in the rows of scores given all Bases. Their names tell them apart, even from a model of this name."""
LAST_LAYER = "last layer"

SIMILARITY = "Feature similarity (FSS)"
RELEVANCE = "Relevance (RS)"
TEACHERS_SHARE = "Teacher's share"
OVER_PLACEBOS = "Share over placebos"
PROGRESSION = "Progression"

_SYMBOLS = {
    STUDENT: "S", BASE: "B", BASES: "all B", TEACHER: "T", LABELS: "G", PLACEBO: "T'", LAST_LAYER: "last layer",
}  # fmt: skip


class Question(NamedTuple):
    """A yes-or-no question that seed control answers.

    Attributes:
        larger (bool): True if Student-Base scores are expected to be larger than Base-Base scores.
        yes (str): the statement if the answer is yes.
        no (str): the statement if the seeds give no evidence for it.
    """

    larger: bool
    yes: str
    no: str


def _question(subject: str, than: str, larger: bool = True) -> Question:
    return Question(larger, f"{subject} {than}", f"no evidence that {subject} {than}")


@dataclass(frozen=True)
class ReportScore:
    """One score of a report.

    Attributes:
        name (str): the name in the rows.
        x, y (tuple of str): the two sides: a geometry, followed by the geometries that are removed from it.
        kind (str): the kind of score. Scores of one kind share a panel of a figure.
        heading (str): the column heading in a printed table.
        label (str): the name in a figure's legend.
        description (str): one line for the documentation.
        test (str, optional): "permutation" of the labels or "jackknife". None for scores of two models: features of the same
            inputs are never independent, so 0 is not a null hypothesis.
        question (Question, optional): the question of seed control that the score answers.
        share (str, optional): the Teacher's share from which the mean share of the placebo Teachers is subtracted; None for a
            score that is one correlation.
    """

    name: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    kind: str
    heading: str
    label: str
    description: str
    test: Optional[str] = None
    question: Optional[Question] = None
    share: Optional[str] = None

    @property
    def needs_teacher(self) -> bool:
        return TEACHER in self.x + self.y

    @property
    def needs_labels(self) -> bool:
        return LABELS in self.x + self.y

    @property
    def has_removal(self) -> bool:
        """True for scores of distilled or residual features."""
        return len(self.x) > 1

    @property
    def needs_all_bases(self) -> bool:
        """True for scores of a Student given all Bases at once."""
        return BASES in self.x

    @property
    def formula(self) -> str:
        """The formula as in the documentation, for example R(S|B, G)."""
        x, y = ("|".join(_SYMBOLS[name] for name in side) for side in (self.x, self.y))
        mean_of_placebos = f" - mean R({x}, {y.replace(_SYMBOLS[TEACHER], _SYMBOLS[PLACEBO])})"
        return f"R({x}, {y})" + (mean_of_placebos if self.share else "")


_UNIQUE_PART = "the part that Students have and Bases lack"
_THAN_BETWEEN_BASES = "than the part that one Base has and another lacks"
_BEYOND_BASES = "the part that Students have and all Bases but one lack"
_THAN_LEFT_OUT = "than the part that the Base left out has and the others lack"
_AS_TEACHER = "is arranged as the Teacher arranges it"
_AS_THIS_TEACHER = f"{_UNIQUE_PART} is arranged as this Teacher, rather than these placebo Teachers, arranges it"

SCORES = (
    ReportScore(
        "fss", (STUDENT,), (BASE,), SIMILARITY, "FSS", "Student and Base",
        "how similar the representations of Student and Base are",
        question=_question(
            "Students differ from Bases in geometry", "more than a Base differs from a Base of another seed", larger=False
        ),
    ),
    ReportScore(
        "rs_student", (STUDENT,), (LABELS,), RELEVANCE, "RS Student", "Student",
        "how well the Student's representation follows the labels", "permutation",
    ),
    ReportScore(
        "rs_base", (BASE,), (LABELS,), RELEVANCE, "RS Base", "Base",
        "how well the Base's representation follows the labels", "permutation",
    ),
    ReportScore(
        "rs_distilled", (STUDENT, BASE), (LABELS,), RELEVANCE, "distilled", "distilled (Student given Base)",
        "how well the part that only the Student has follows the labels", "jackknife",
        _question(f"{_UNIQUE_PART} follows the labels", f"more closely {_THAN_BETWEEN_BASES}"),
    ),
    ReportScore(
        "rs_residual", (BASE, STUDENT), (LABELS,), RELEVANCE, "residual", "residual (Base given Student)",
        "how well the part that only the Base has follows the labels", "jackknife",
    ),
    ReportScore(
        "rs_teacher", (TEACHER,), (LABELS,), RELEVANCE, "RS Teacher", "Teacher",
        "how well the Teacher's representation follows the labels", "permutation",
    ),
    ReportScore(
        "fss_student_teacher", (STUDENT,), (TEACHER,), SIMILARITY, "FSS Student", "Student and Teacher",
        "how similar the representations of Student and Teacher are",
    ),
    ReportScore(
        "fss_base_teacher", (BASE,), (TEACHER,), SIMILARITY, "FSS Base", "Base and Teacher",
        "how similar the representations of Base and Teacher are",
    ),
    ReportScore(
        "teacher_distilled", (STUDENT, BASE), (TEACHER,), TEACHERS_SHARE, "distilled", "distilled",
        "the Teacher's share of the gain: how well the part that only the Student has follows the Teacher",
        question=_question(f"{_UNIQUE_PART} {_AS_TEACHER}", f"more {_THAN_BETWEEN_BASES}"),
    ),
    ReportScore(
        "teacher_residual", (BASE, STUDENT), (TEACHER,), TEACHERS_SHARE, "residual", "residual",
        "the Teacher's share of the part that only the Base has",
    ),
    ReportScore(
        "teacher_only_distilled", (STUDENT, BASE), (TEACHER, LABELS), TEACHERS_SHARE, "d. beyond", "distilled, beyond the labels",
        "the Teacher's share of the gain beyond the labels, which are removed from the Teacher first",
        question=_question(f"{_UNIQUE_PART} {_AS_TEACHER} beyond the labels", f"more {_THAN_BETWEEN_BASES}"),
    ),
    ReportScore(
        "teacher_only_residual", (BASE, STUDENT), (TEACHER, LABELS), TEACHERS_SHARE, "r. beyond", "residual, beyond the labels",
        "the same share of the part that only the Base has",
    ),
    ReportScore(
        "teacher_distilled_over_placebos", (STUDENT, BASE), (TEACHER,), OVER_PLACEBOS, "distilled", "distilled",
        "the Teacher's share of the gain, minus the mean share of the placebo Teachers",
        question=_question(_AS_THIS_TEACHER, f"more {_THAN_BETWEEN_BASES}"), share="teacher_distilled",
    ),
    ReportScore(
        "teacher_residual_over_placebos", (BASE, STUDENT), (TEACHER,), OVER_PLACEBOS, "residual", "residual",
        "the same difference for the part that only the Base has", share="teacher_residual",
    ),
    ReportScore(
        "teacher_only_distilled_over_placebos", (STUDENT, BASE), (TEACHER, LABELS), OVER_PLACEBOS, "d. beyond",
        "distilled, beyond the labels",
        "the same difference for the share of the gain beyond the labels, which are removed from each Teacher",
        question=_question(f"{_AS_THIS_TEACHER} beyond the labels", f"more {_THAN_BETWEEN_BASES}"),
        share="teacher_only_distilled",
    ),
    ReportScore(
        "teacher_only_residual_over_placebos", (BASE, STUDENT), (TEACHER, LABELS), OVER_PLACEBOS, "r. beyond",
        "residual, beyond the labels", "the same difference for the share of the part that only the Base has, beyond the labels",
        share="teacher_only_residual",
    ),
    ReportScore(
        "rs_distilled_all", (STUDENT, BASES), (LABELS,), RELEVANCE, "distilled", "distilled, given all Bases",
        "how well the part that the Student has and no Base has follows the labels", "jackknife",
        _question(f"{_BEYOND_BASES} follows the labels", f"more closely {_THAN_LEFT_OUT}"),
    ),
    ReportScore(
        "teacher_distilled_all", (STUDENT, BASES), (TEACHER,), TEACHERS_SHARE, "T. share", "distilled, given all Bases",
        "the Teacher's share of the part that the Student has and no Base has",
        question=_question(f"{_BEYOND_BASES} {_AS_TEACHER}", f"more {_THAN_LEFT_OUT}"),
    ),
    ReportScore(
        "teacher_only_distilled_all", (STUDENT, BASES), (TEACHER, LABELS), TEACHERS_SHARE, "beyond",
        "given all Bases, beyond the labels", "the same share beyond the labels, which are removed from the Teacher first",
        question=_question(f"{_BEYOND_BASES} {_AS_TEACHER} beyond the labels", f"more {_THAN_LEFT_OUT}"),
    ),
    *(
        ReportScore(
            f"progression_{role}", (role,), (LAST_LAYER,), PROGRESSION, role.capitalize(), role.capitalize(),
            f"how similar the {role.capitalize()}'s layer is to its last layer (on request)",
        )
        for role in (STUDENT, BASE, TEACHER)
    ),
)  # fmt: skip
"""All scores, in the order of the rows."""

BY_NAME = {score.name: score for score in SCORES}


def scores_of_pair(
    has_teacher: bool, has_placebos: bool = False, all_bases: bool = False, has_labels: bool = True
) -> list[ReportScore]:
    """The scores of a Student and a Base, or of a Student and all Bases, at one layer, without progression."""
    of_pair = [score for score in SCORES if score.kind != PROGRESSION and (has_placebos or not score.share)]
    of_pair = [score for score in of_pair if has_labels or not score.needs_labels]
    return [score for score in of_pair if score.needs_all_bases == all_bases and (has_teacher or not score.needs_teacher)]


def placebo_shares_of(has_labels: bool) -> list[str]:
    """The Teacher's shares that are compared with those of the placebo Teachers by seed control and by a t test."""
    of_pair = scores_of_pair(has_teacher=True, has_placebos=True, has_labels=has_labels)
    return [score.share for score in of_pair if score.share and score.question]
