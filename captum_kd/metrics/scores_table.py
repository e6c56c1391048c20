"""Table of a report's scores: their geometries, tests, questions, and names in texts and figures."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
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
PREDICTIONS = "Predictions"
DIVERGENCE = "Divergence (nats)"
OF_PREDICTIONS = (PREDICTIONS, DIVERGENCE)
"""Kinds of scores of predicted classes and probabilities, which belong to no layer."""
PREDICTIONS_LAYER = "predictions"
"""The layer in the rows of these scores."""
EXPLANATIONS = "Agreement of maps"

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
        test (str, optional): "permutation" of the labels, "jackknife", or "mean", the t test of a mean difference. None for
            scores of two models: features of the same inputs are never independent, so 0 is not a null hypothesis.
        question (Question, optional): the question of seed control that the score answers.
        share (str, optional): for scores over placebo Teachers, the score of the Teacher from which its mean over the placebo
            Teachers is subtracted.
        written (str, optional): the formula of a score that is no correlation. c(S) is the class that the Student predicts, p(S)
            its probabilities, m(S) its map, a the agreement of two maps, y the label, [...] is 1 if a condition holds and else 0.
            For these scores, ``x`` and ``y`` are the models and labels that the score needs.
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
    written: Optional[str] = None

    @property
    def is_geometric(self) -> bool:
        """True for correlations of distances."""
        return self.written is None

    @property
    def needs_teacher(self) -> bool:
        return TEACHER in self.x + self.y

    @property
    def needs_labels(self) -> bool:
        return LABELS in self.x + self.y

    @property
    def needs_likeness(self) -> bool:
        """True for scores that can be large although Students are no more similar to the Teacher than Bases are."""
        return self.kind == TEACHERS_SHARE or self.share is not None

    @property
    def likeness(self) -> tuple[str, str]:
        """The scores of Student and Teacher, and of Base and Teacher, of which the first must then be larger."""
        measure = "fss" if self.is_geometric else self.name.partition("_")[0]
        return f"{measure}_student_teacher", f"{measure}_base_teacher"

    @property
    def has_removal(self) -> bool:
        """True for scores of distilled or residual features."""
        return self.is_geometric and len(self.x) > 1

    @property
    def needs_all_bases(self) -> bool:
        """True for scores of a Student given all Bases at once."""
        return BASES in self.x

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        if self.is_geometric:
            return (-2.0, 2.0) if self.share else (-1.0, 1.0)
        if self.kind == EXPLANATIONS:
            most = 4.0 if PLACEBO in self.y else 2.0 if self.test else 1.0
            return -most, most
        high = inf if self.kind == DIVERGENCE else 2.0 if PLACEBO in self.y else 1.0
        return (-high if self.test else 0.0), high

    @property
    def formula(self) -> str:
        """The formula as in the documentation, for example R(S|B, G)."""
        if self.written is not None:
            return self.written
        x, y = ("|".join(_SYMBOLS[name] for name in side) for side in (self.x, self.y))
        mean_of_placebos = f" - mean R({x}, {y.replace(_SYMBOLS[TEACHER], _SYMBOLS[PLACEBO])})"
        return f"R({x}, {y})" + (mean_of_placebos if self.share else "")


_UNIQUE_PART = "the part that Students have and Bases lack"
_THAN_BETWEEN_BASES = "than the part that one Base has and another lacks"
_BEYOND_BASES = "the part that Students have and all Bases but one lack"
_THAN_LEFT_OUT = "than the part that the Base left out has and the others lack"
_THAN_BASES = "than another Base does"
_AS_TEACHER = "is arranged as the Teacher arranges it"
_AS_THIS_TEACHER = f"{_UNIQUE_PART} is arranged as this Teacher, rather than these placebo Teachers, arranges it"


def _of_two_models(name: str, kind: str, title: str, description: str, written: str) -> list[ReportScore]:
    """A score of Student and Teacher, of Base and Teacher, and of Student and Base."""
    pairs = {f"{name}_student_teacher": (STUDENT, TEACHER), f"{name}_base_teacher": (BASE, TEACHER), name: (STUDENT, BASE)}
    found = []
    for of_pair, (x, y) in pairs.items():
        who, symbols = f"{x.capitalize()} and {y.capitalize()}", (_SYMBOLS[x], _SYMBOLS[y])
        heading = f"{title[:5]}{'.' * (len(title) > 5)} {', '.join(symbols)}"
        found.append(
            ReportScore(
                of_pair, (x,), (y,), kind, heading, f"{title}, {who}", description.format(who), written=written.format(*symbols)
            )
        )
    return found


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
    *(
        ReportScore(
            f"accuracy_{role}", (role,), (LABELS,), PREDICTIONS, f"acc. {_SYMBOLS[role]}", f"accuracy, {role.capitalize()}",
            f"the share of inputs whose class the {role.capitalize()} predicts", written=f"mean [c({_SYMBOLS[role]}) = y]",
        )
        for role in (STUDENT, BASE, TEACHER)
    ),
    ReportScore(
        "accuracy_over_base", (STUDENT, BASE), (LABELS,), PREDICTIONS, "over Base", "accuracy, Student - Base",
        "how much more often the Student is right than the Base", "mean",
        _question("Students are right", "more often than Bases"), written="mean [c(S) = y] - [c(B) = y]",
    ),
    *(
        ReportScore(
            f"ece_{role}", (role,), (LABELS,), PREDICTIONS, f"ECE {_SYMBOLS[role]}",
            f"calibration error, {role.capitalize()}",
            f"the expected calibration error of the {role.capitalize()}: how far confidence is from accuracy, mean over 15 "
            "bins of confidence", written=f"sum over bins b of n_b / n |accuracy_b - confidence_b|, of {_SYMBOLS[role]}",
        )
        for role in (STUDENT, BASE, TEACHER)
    ),
    *_of_two_models(
        "agreement", PREDICTIONS, "agreement", "the share of inputs for which {} predict the same class",
        "mean [c({}) = c({})]",
    ),
    ReportScore(
        "agreement_over_base", (STUDENT, BASE), (TEACHER,), PREDICTIONS, "over Base",
        "agreement with the Teacher, Student - Base",
        "how much more often the Student agrees with the Teacher than the Base does", "mean",
        _question("Students predict the Teacher's class", "more often than Bases do"),
        written="mean [c(S) = c(T)] - [c(B) = c(T)]",
    ),
    ReportScore(
        "agreement_over_placebos", (STUDENT, BASE), (TEACHER, PLACEBO), PREDICTIONS, "over plac.",
        "agreement with the Teacher, Student - Base, over placebos",
        "the same difference, minus its mean over the placebo Teachers", "mean",
        _question("Students agree with this Teacher, rather than these placebo Teachers,", "more often than Bases do"),
        share="agreement_over_base",
        written="mean [c(S) = c(T)] - [c(B) = c(T)] - mean over T' of ([c(S) = c(T')] - [c(B) = c(T')])",
    ),
    ReportScore(
        "shared_errors", (STUDENT, BASE), (TEACHER, LABELS), PREDICTIONS, "same errors",
        "errors shared with the Teacher, not the Base",
        "the share of inputs with an error that Student and Teacher make alike where the Base is right (negative transfer)",
        question=_question("Students repeat errors of the Teacher where Bases are right", f"more often {_THAN_BASES}"),
        written="mean [c(S) = c(T), c(T) != y, c(B) = y]",
    ),
    ReportScore(
        "shared_right_answers", (STUDENT, BASE), (TEACHER, LABELS), PREDICTIONS, "same right",
        "right answers shared with the Teacher, not the Base",
        "the share of inputs for which Student and Teacher are right where the Base is wrong",
        question=_question("Students share right answers of the Teacher where Bases are wrong", f"more often {_THAN_BASES}"),
        written="mean [c(S) = c(T), c(T) = y, c(B) != y]",
    ),
    *_of_two_models(
        "kl", DIVERGENCE, "KL", "mean Kullback-Leibler divergence of the predictions of {}", "mean KL(p({1}) || p({0}))",
    ),
    ReportScore(
        "kl_over_base", (STUDENT, BASE), (TEACHER,), DIVERGENCE, "over Base", "KL from the Teacher, Student - Base",
        "how much further the Student's predictions are from the Teacher's than the Base's are; negative if they are closer",
        "mean",
        _question("Students' predictions are", "closer to the Teacher's than Bases' are, by KL", larger=False),
        written="mean KL(p(T) || p(S)) - KL(p(T) || p(B))",
    ),
    *_of_two_models(
        "js", DIVERGENCE, "JS", "mean Jensen-Shannon divergence of the predictions of {}", "mean JS(p({1}), p({0}))",
    ),
    ReportScore(
        "js_over_base", (STUDENT, BASE), (TEACHER,), DIVERGENCE, "over Base", "JS from the Teacher, Student - Base",
        "the same difference of Jensen-Shannon divergences", "mean",
        _question("Students' predictions are", "closer to the Teacher's than Bases' are, by JS", larger=False),
        written="mean JS(p(T), p(S)) - JS(p(T), p(B))",
    ),
    *(
        ReportScore(
            f"explanation_{role}_teacher", (role,), (TEACHER,), EXPLANATIONS, f"{role.capitalize()}, T",
            f"{role.capitalize()} and Teacher", f"how well the {role.capitalize()}'s maps agree with the Teacher's",
            written=f"mean a(m({_SYMBOLS[role]}), m(T))",
        )
        for role in (STUDENT, BASE)
    ),
    ReportScore(
        "explanation_over_base", (STUDENT, BASE), (TEACHER,), EXPLANATIONS, "over Base", "Student - Base",
        "how much better the Student's maps agree with the Teacher's than the Base's do", "mean",
        _question("Students look where the Teacher looks,", "more than Bases do"), written="mean a(m(S), m(T)) - a(m(B), m(T))",
    ),
    ReportScore(
        "explanation_over_placebos", (STUDENT, BASE), (TEACHER, PLACEBO), EXPLANATIONS, "over plac.",
        "Student - Base, over placebos", "the same difference, minus its mean over the placebo Teachers", "mean",
        _question("Students look where this Teacher, rather than these placebo Teachers, looks,", "more than Bases do"),
        share="explanation_over_base",
        written="mean a(m(S), m(T)) - a(m(B), m(T)) - mean over T' of (a(m(S), m(T')) - a(m(B), m(T')))",
    ),
)  # fmt: skip
"""All scores, in the order of the rows."""

BY_NAME = {score.name: score for score in SCORES}


def scores_of_pair(
    has_teacher: bool, has_placebos: bool = False, all_bases: bool = False, has_labels: bool = True
) -> list[ReportScore]:
    """The correlations of a Student and a Base, or of a Student and all Bases, at one layer, without progression."""
    of_pair = [score for score in SCORES if score.is_geometric and score.kind != PROGRESSION]
    of_pair = [score for score in of_pair if has_placebos or not score.share]
    of_pair = [score for score in of_pair if has_labels or not score.needs_labels]
    return [score for score in of_pair if score.needs_all_bases == all_bases and (has_teacher or not score.needs_teacher)]


def prediction_scores(
    has_base: bool = True, has_teacher: bool = True, has_placebos: bool = False, has_labels: bool = True
) -> list[ReportScore]:
    """The scores of predictions that are defined for these models and labels."""
    given = {BASE: has_base, TEACHER: has_teacher, PLACEBO: has_placebos, LABELS: has_labels}
    of_predictions = [score for score in SCORES if score.kind in OF_PREDICTIONS]
    return [score for score in of_predictions if all(given.get(each, True) for each in score.x + score.y)]


def explanation_scores(has_placebos: bool = False) -> list[ReportScore]:
    """The scores of the agreement of maps, with a Teacher."""
    return [score for score in SCORES if score.kind == EXPLANATIONS and (has_placebos or PLACEBO not in score.y)]


def placebo_shares_of(has_labels: bool) -> list[str]:
    """The Teacher's shares that are compared with those of the placebo Teachers by seed control and by a t test."""
    of_pair = scores_of_pair(has_teacher=True, has_placebos=True, has_labels=has_labels)
    return [score.share for score in of_pair if score.share and score.question]
