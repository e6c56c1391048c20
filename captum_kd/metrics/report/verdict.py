"""The verdict of a report: at most five points in plain words, from the report's own tests and means."""

from __future__ import annotations

from statistics import mean
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from captum_kd.attr.checked_call import FEW_INPUTS
from captum_kd.metrics.inference.verdicts import enough_seeds, short_p
from captum_kd.metrics.report.notes import at_chance, students_without_gain
from captum_kd.metrics.report.nulls import NULL, mean_nulls
from captum_kd.metrics.report.verification import ROUNDING
from captum_kd.metrics.scores_table import BY_NAME, PREDICTIONS_LAYER

__all__ = ["verdict"]

LEVEL = 0.05
MOST_NAMED = 2
"""With more groups of Students, only those with a yes are named; the others are counted."""
ACCURACY, GAIN, SHARE, GEOMETRY = "accuracy_over_base", "rs_distilled", "teacher_distilled", "fss"
AGREEMENT = "agreement_over_base"
SUBJECTS = {
    ACCURACY: "higher accuracy than that of Bases",
    AGREEMENT: "more agreement with the Teacher's predictions than that of Bases",
    GAIN: "a gain in relevance over other seeds of the Base",
    SHARE: "a larger Teacher's share than between two Bases",
    GEOMETRY: "less similarity to Bases than between two Bases",
}
COMPARED = {
    GAIN: "the two numbers are RS of the part that Students have and Bases lack, and RS of the part that one Base has and "
    "another lacks",
    SHARE: "the two numbers say how closely the part that Students have and Bases lack follows the Teacher, and how closely "
    "the part that one Base has and another lacks follows it",
    GEOMETRY: "the two numbers are FSS of a Student and a Base, and of two Bases",
}
"""What "0.335 against 0.135" compares."""
OVER_PLACEBOS = "a larger share of this Teacher than of placebo Teachers (networks of its recipe that taught nobody)"
AGREEMENT_OVER_PLACEBOS = "a larger gain in agreement with this Teacher than with placebo Teachers"
TOPICS = {
    ACCURACY: "accuracy", AGREEMENT: "agreement", GAIN: "the gain", SHARE: "the Teacher's share",
    GEOMETRY: "the similarity",
}  # fmt: skip
ACCURATE = "more accurate networks agree more with any Teacher"
ANY_RECIPE = "any change of the training can cause this, also without a Teacher"
NEEDS_PLACEBOS = (
    "the Teacher's share alone does not show transfer from this Teacher, since longer training or another Teacher raises it as "
    "well. Only placebo Teachers can exclude these causes"
)
FIRST_WEIGHTS = "Students that start from the Teacher's weights show this without distillation as well"
MANY_GROUPS = "p-values are corrected over layers, not over groups, so a single yes among many groups may be chance"
SHOWN, NOT_SHOWN, UNDECIDED = "shown", "not shown", "undecided"
NO_GAIN = "no gain in RS"
Test = Mapping[str, Any]


class _Group(NamedTuple):
    """Students of one technique: their name in sentences, the group's name in the tests, and their own names."""

    who: str
    key: Optional[str]
    students: Sequence[str]


class _Answer(NamedTuple):
    """The answer to one question for one group: SHOWN, NOT_SHOWN or UNDECIDED, for whom, and its numbers."""

    answer: str
    words: str


def verdict(report: Mapping[str, Any]) -> list[str]:
    """At most five points on a report, given as ``report.to_dict()``. A point is one sentence or a few.

    Their order: cautions that make the rest unsafe; accuracy; the gain over other seeds of the Base; the Teacher's part in it;
    and the limits of the tests: many groups, and the number of seeds that could decide what stays undecided. If nobody gained,
    that comes before accuracy.
    """
    of = _Sentences(report)
    order = [of.cautions(), of.accuracy(), of.gain(), of.teacher(), of.limits()]
    if order[2] and order[2][0].startswith(NO_GAIN):
        order[1], order[2] = order[2], order[1]
    return [" ".join(f"{each[0].upper()}{each[1:]}." for each in point) for point in order if point]


class _Sentences:
    """The parts of a report that sentences need, and a method for the sentences of each point."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.rows: Sequence[Mapping[str, Any]] = report["rows"]
        self.settings: Mapping[str, Any] = report["settings"]
        control, placebos = report.get("seed_control"), report.get("placebos")
        self.has_control = control is not None
        self.tests: Sequence[Test] = [] if control is None else control["tests"]
        self.placebo_tests: Sequence[Test] = [] if placebos is None else placebos["tests"]
        self.nulls = mean_nulls(control).get(NULL, {})
        in_pairs = [row for row in self.rows if not BY_NAME[row["score"]].needs_all_bases]
        self.students, self.bases = (list(dict.fromkeys(row[key] for row in in_pairs)) for key in ("student", "base"))
        recorded = () if control is None else control.get("groups", ())
        named = {each["group"]: each["students"] for each in recorded} or {None: self.students}
        self.groups = [_Group(_who("Student", of) if name is None else name, name, of) for name, of in named.items()]
        self.is_crowded = len(self.groups) > MOST_NAMED
        none = set(students_without_gain(self.rows))
        self.without_gain = [each for each in self.groups if none.issuperset(each.students)]

    def cautions(self) -> list[str]:
        """What makes all other sentences unsafe."""
        settings, found = self.settings, []
        check = settings.get("verification")
        if check is not None and check["largest_difference"] > ROUNDING:
            found.append(f"do not use this report, since dcor differs from it by up to {check['largest_difference']:.2g}")
        if settings.get("localize_target") == "label":
            found.append("inputs were reduced by maps of their own labels, so relevance is above 0 even for untrained networks")
        known = {*at_chance(self.rows, settings), *self._inaccurate()}
        if near := [name for name in (*self.students, *self.bases, "the Teacher") if name in known]:
            names = _joined(near[:4] + [f"{len(near) - 4} more"] * (len(near) > 4))
            these, them = ("these networks", "them") if len(near) > 1 else ("this network", "it")
            found.append(f"{these} cannot be told from chance: {names}")
            found.append(f"scores that involve {them} do not show that a task was taught")
        if settings.get("n", FEW_INPUTS) < FEW_INPUTS:
            found.append(f"scores of {settings['n']} inputs are mostly noise (use at least {FEW_INPUTS}, better a few hundred)")
        return [f"caution: {found[0]}", *found[1:]] if found else []

    def accuracy(self) -> list[str]:
        """The accuracy of Students, Bases and Teacher; without labels, their agreement with the Teacher."""
        has_labels = bool(self.settings["class_counts"])
        names = {f"accuracy_{role}": role for role in ("student", "base", "teacher")}
        if not has_labels:
            names = {f"agreement_{role}_teacher": role for role in ("student", "base")}
        values = []
        for score, role in names.items():
            of_role = [("the Teacher" if role == "teacher" else _who("Base", self.bases), None)]
            for who, students in [(each.who, each.students) for each in self.groups] if role == "student" else of_role:
                value = self._mean(score, PREDICTIONS_LAYER, students)
                values += [] if value is None else [f"{value:.3f} for {who}"]
            if role == "student" and self.is_crowded and values:
                low, *_, high = sorted(value.split()[0] for value in values)
                values = [f"{low} to {high} for {len(values)} groups of Students"]
        if not has_labels:
            start = "without labels, this report cannot show whether these networks have learned their task"
            return [start, f"the rate of agreement with the Teacher's predictions is {_joined(values)}"] if values else [start]
        if not values:
            return []
        start = f"accuracy on {self.settings['n']} inputs is"
        chance = f" ({self._chance():.3f} by always naming the most frequent class)" * bool(self._inaccurate())
        return [f"{start} {_joined(values)}{chance}", *self._of_seeds(ACCURACY), *self._agreement()]

    def gain(self) -> list[str]:
        """Relevance that Students have and Bases lack; without labels and a Teacher, their similarity."""
        score = GAIN if self._layers(GAIN) else GEOMETRY
        if score not in self._asked():
            return []
        gaining, found = [each for each in self.groups if each not in self.without_gain], []
        is_counted = self.is_crowded and bool(gaining)  # groups without a gain are then among those that are not shown
        bases = _who("Base", self.bases)
        if gaining and self.has_control:
            found += self._of_seeds(score, self.groups if is_counted else gaining)
        elif gaining:
            layer, students = self._layers(GAIN)[-1], _who("Student", self.students)
            numbers = (_number(self._mean(each, layer)) for each in ("rs_student", "rs_base", GAIN, "rs_residual"))
            own, of_bases, distilled, residual = numbers
            found += [
                f"at {layer}, RS is {own} for {students} and {of_bases} for {bases}",
                f"RS of the part that only {students} {_have(self.students)} is {distilled}, "
                f"and RS of the part that only {bases} {_have(self.bases)} is {residual}",
                "two seeds of the Base would have such parts as well",
            ]
        if self.without_gain and not is_counted:
            layer = self._layers("rs_student")[-1]
            own = _joined(_number(self._mean("rs_student", layer, each.students)) for each in self.without_gain)
            found.append(
                f"{NO_GAIN}: RS of {_joined(each.who for each in self.without_gain)} is not above that of {bases} at any layer "
                f"(at {layer}: {own} against {_number(self._mean('rs_base', layer))})"
            )
        return found

    def teacher(self) -> list[str]:
        """The Teacher's part: by placebo Teachers if there are any, else over the seeds of the Base."""
        if not self._layers(SHARE):
            has_teacher = "teacher" in self.settings.get("models", {}).values()
            none = "there is no Teacher in this report, so it cannot show whether anything was transferred"
            return [] if has_teacher else [none]
        if self.placebo_tests:
            answers = [self._of_placebos(each) for each in self.groups]
            other = [FIRST_WEIGHTS] * any(each.answer == SHOWN for each in answers)
            return [*self._listed(OVER_PLACEBOS, answers), *other]
        if self.has_control:
            found = self._of_seeds(SHARE)
            return sorted(found, key=lambda each: each != NEEDS_PLACEBOS)  # the limit comes before a yes
        layer = self._layers(SHARE)[-1]
        own, reverse = (_number(self._mean(each, layer)) for each in (SHARE, "teacher_residual"))
        students, bases = _who("Student", self.students), _who("Base", self.bases)
        return [
            f"at {layer}, the Teacher's share of the part that only {students} {_have(self.students)} is {own}",
            f"the Teacher's share of the part that only {bases} {_have(self.bases)} is {reverse}",
            "only other seeds of the Base and placebo Teachers can show whether the difference comes from this Teacher",
        ]

    def limits(self) -> list[str]:
        """What the tests cannot exclude with several groups of Students, and what they cannot decide."""
        is_yes = any(test["decision"] for test in [*self.tests, *self.placebo_tests])
        many = [MANY_GROUPS] * (self.is_crowded and is_yes)
        return [*many, *self._missing_seeds()]

    def _missing_seeds(self) -> list[str]:
        """The number of seeds that could decide what the tests over seeds cannot."""
        no_gain = [group.key for group in self.without_gain]
        missing = [
            test
            for test in self.tests
            if test["score"] in self._asked()
            and (test["decision"], test["statistic"] is None) == (None, False)
            and not (test["score"] == GAIN and test["group"] in no_gain)
        ]
        if missing:
            worst = max(missing, key=lambda test: float(test["smallest_adjusted_p_value"]))["caveats"][0]
            topics = _joined(dict.fromkeys(TOPICS[test["score"]] for test in missing))
            return [f"more seeds are needed to decide on {topics}: {_inner(worst)}"]
        if self.has_control:
            return []
        if len(self.bases) > 1:
            return ['there is no test over seeds, since the features of a model differ between pairs with localize="unicam"']
        enough = enough_seeds(len(self.students), 1, 0, len(self._layers(GEOMETRY)), LEVEL)
        more = f": {enough[0]} Students and {enough[1]} Bases could decide" if enough else ""
        return ["another seed of the Base may differ from this Base as much", f"a decision needs more seeds{more}"]

    def _asked(self) -> list[str]:
        """The questions to seed control that sentences are about."""
        has_share = bool(self._layers(SHARE))
        relevance = [GAIN] if self._layers(GAIN) else [GEOMETRY] * (self.has_control and not has_share)
        agreement = [AGREEMENT] * (not self._has_placebo_test(AGREEMENT))
        return [ACCURACY, *agreement, *relevance, *[SHARE] * (has_share and not self.placebo_tests)]

    def _agreement(self) -> list[str]:
        """Whether Students agree with the Teacher more than Bases do: by placebo Teachers if there are any."""
        if self._has_placebo_test(AGREEMENT):
            return self._listed(AGREEMENT_OVER_PLACEBOS, [self._of_placebos(each, AGREEMENT) for each in self.groups])
        return self._of_seeds(AGREEMENT)

    def _has_placebo_test(self, score: str) -> bool:
        return any(test["score"] == score for test in self.placebo_tests)

    def _of_seeds(self, score: str, groups: Optional[Sequence[_Group]] = None) -> list[str]:
        """The answers of seed control to one question, and what else can explain a yes."""
        answers = [self._seed_answer(score, group) for group in (self.groups if groups is None else groups)]
        found = [answer for answer in answers if answer is not None]
        other = {AGREEMENT: ACCURATE, GAIN: ANY_RECIPE, GEOMETRY: ANY_RECIPE, SHARE: NEEDS_PLACEBOS}.get(score, "")
        is_shown = any(each.answer == SHOWN for each in found)
        listed = self._listed(SUBJECTS[score], found)
        compared = [COMPARED[score] for each in listed if score in COMPARED and " against " in each]
        return listed + compared + [other] * bool(is_shown and other)

    def _seed_answer(self, score: str, group: _Group) -> Optional[_Answer]:
        family = [test for test in self.tests if test["score"] == score and test["group"] == group.key]
        known = [test for test in family if test["statistic"] is not None]
        if not known:
            return _Answer(UNDECIDED, f"{group.who} (some pairs of models have no score)") if family else None
        yes = [test for test in known if test["decision"]]
        if score == GAIN:  # the part that Bases lack can follow the labels although the Student as a whole does so less
            yes = [test for test in yes if self._follows_more(test["layer"], group)]
        if yes or any(test["decision"] is not None for test in known):
            answer = SHOWN if yes else NOT_SHOWN
        else:
            answer = UNDECIDED
        best = min(yes or known, key=lambda test: (test["adjusted_p_value"], -test["statistic"]))
        own, null = self._mean(score, best["layer"], group.students), self.nulls.get((score, best["layer"]))
        numbers = f"difference {best['statistic']:+.3f}"
        if own is not None and null is not None:
            numbers = f"{own:.3f} against {null:.3f}"
        elif score == ACCURACY and self.is_crowded:
            numbers = _number(self._mean("accuracy_student", best["layer"], group.students))
        if answer != UNDECIDED:
            numbers += f", p = {short_p(best['adjusted_p_value'])}"
        if answer == NOT_SHOWN and best["adjusted_p_value"] <= LEVEL:
            reason = "follow the labels no more closely there" if score == GAIN else "are no more similar to the Teacher"
            numbers += f", but Students {reason} than Bases"
        return _Answer(answer, f"{group.who}{self._where(yes, family)} ({_at(best, yes, family)}{numbers})")

    def _of_placebos(self, group: _Group, score: str = SHARE) -> _Answer:
        """The t test of this Teacher. A yes also needs that seed control of the same difference does not say no."""
        family = [test for test in self.placebo_tests if test["score"] == score and test["group"] == group.key]
        over_placebos = f"{score.removesuffix('_over_base')}_over_placebos"
        refused = {
            test["layer"]
            for test in self.tests
            if (test["score"], test["group"], test["decision"]) == (over_placebos, group.key, False)
        }
        known = [test for test in family if test["share"] is not None and test["mean"] is not None]
        if not known:
            return _Answer(UNDECIDED, f"{group.who} (some pairs of models have no score)")
        yes = [test for test in known if test["decision"] and test["layer"] not in refused]
        decided = [test for test in known if test["decision"] is not None]
        difference = {test["layer"]: float(test["share"] - test["mean"]) for test in known}
        if not decided:
            best = max(known, key=lambda test: difference[test["layer"]])
            numbers = f"{_at(best, yes, family)}{best['share']:.3f} against {best['mean']:.3f}"
            return _Answer(UNDECIDED, f"{group.who} ({numbers}: {_inner(best['caveats'][0])})")
        best = min(yes or decided, key=lambda test: (test["adjusted_p_value"], -difference[test["layer"]]))
        numbers = f"{_at(best, yes, family)}{best['share']:.3f} against {best['mean']:.3f}"
        numbers += f", p = {short_p(best['adjusted_p_value'])}"
        if not yes and best["adjusted_p_value"] <= LEVEL:
            of_seeds, of_likeness = "two Bases differ as much", "Students are no more similar to the Teacher than Bases"
            numbers += f", but {of_seeds if best['decision'] else of_likeness}"
        return _Answer(SHOWN if yes else NOT_SHOWN, f"{group.who}{self._where(yes, family)} ({numbers})")

    def _listed(self, subject: str, answers: Sequence[_Answer]) -> list[str]:
        """One sentence on a question: for whom it is shown, not shown and undecided."""
        parts = []
        for answer in (SHOWN, NOT_SHOWN, UNDECIDED):
            words = [each.words for each in answers if each.answer == answer]
            if words and self.is_crowded and answer != SHOWN:
                words = [f"{len(words)} of {len(answers)} groups"]
            if words:
                parts.append(f"{answer} for {_joined(words)}")
        return [f"{subject} is {_joined(parts)}"] if parts else []

    def _where(self, yes: Sequence[Test], family: Sequence[Test]) -> str:
        if not yes or yes[0]["layer"] == PREDICTIONS_LAYER:
            return ""
        if self.is_crowded and len(yes) > 1:
            return f" at {len(yes)} of {len(family)} layers"
        if len(yes) == len(family) > 1:
            return f" at {'both' if len(family) == 2 else f'all {len(family)}'} layers"
        return f" at {_joined(test['layer'] for test in yes)}" + (f" of {len(family)} layers" if len(family) > len(yes) else "")

    def _follows_more(self, layer: str, group: _Group) -> bool:
        own, of_bases = self._mean("rs_student", layer, group.students), self._mean("rs_base", layer)
        return own is not None and of_bases is not None and own > of_bases

    def _inaccurate(self) -> list[str]:
        """Models whose accuracy is within two standard errors of that of naming the most frequent class."""
        names = {"accuracy_student": "student", "accuracy_base": "base"}
        found = {
            row[names[row["score"]]] if row["score"] in names else "the Teacher": row["value"]
            for row in self.rows
            if row["score"] in (*names, "accuracy_teacher") and row["value"] is not None
        }
        chance = self._chance()
        error = (chance * (1 - chance) / max(1, sum(self.settings["class_counts"].values()))) ** 0.5
        return [name for name, value in found.items() if value <= chance + 2 * error]

    def _chance(self) -> float:
        """The accuracy of always naming the most frequent class."""
        counts = self.settings["class_counts"].values()
        return float(max(counts) / sum(counts)) if counts else 0.0

    def _layers(self, score: str) -> list[str]:
        return list(dict.fromkeys(row["layer"] for row in self.rows if row["score"] == score and row["value"] is not None))

    def _mean(self, score: str, layer: str, students: Optional[Sequence[str]] = None) -> Optional[float]:
        values = [
            row["value"]
            for row in self.rows
            if (row["score"], row["layer"]) == (score, layer)
            and row["value"] is not None
            and (students is None or row["student"] in students)
        ]
        return mean(values) if values else None


def _joined(items: Iterable[str]) -> str:
    """A list in words."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def _who(role: str, names: Sequence[str]) -> str:
    return f"{role}s" if len(names) > 1 else f"the {role}"


def _have(subjects: Sequence[str]) -> str:
    return "have" if len(subjects) > 1 else "has"


def _number(value: Optional[float]) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _at(test: Test, yes: Sequence[Test], family: Sequence[Test]) -> str:
    """The layer of the numbers, unless the sentence has named it. It is chosen by the smallest p-value."""
    if test["layer"] == PREDICTIONS_LAYER or len(yes) == 1:
        return ""
    return f"{'clearest ' if len(family) > 1 else ''}at {test['layer']}: "


def _inner(sentence: str) -> str:
    """A sentence as a part of another one."""
    return f"{sentence[0].lower()}{sentence[1:]}".removesuffix(".")
