"""Placebo Teachers in a report: their shares and gains in agreement, and the test of this Teacher against them."""

from __future__ import annotations

from statistics import mean
from itertools import combinations
from typing import Any, Mapping, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.metrics.inference import holm, placebo_test
from captum_kd.metrics.inference.placebo_tests import LEAST_PLACEBOS
from captum_kd.metrics.inference.verdicts import FIRST_WEIGHTS, LIKENESS, short_p
from captum_kd.metrics.report.models import Pair
from captum_kd.metrics.report.seed_groups import mean_likeness
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import BY_NAME, placebo_shares_of

LEVEL = 0.05
_SAME = 1e-9
"""Scores of copies of one network differ by rounding."""
_SUBJECTS = {
    "teacher_distilled": ("share of this Teacher", "of"),
    "teacher_only_distilled": ("share of this Teacher beyond the labels", "of"),
    "agreement_over_base": ("gain in agreement with this Teacher's predictions", "with those of"),
    "explanation_over_base": ("gain in agreement with this Teacher's maps", "with those of"),
}
"""Words for each score that is tested. A gain is the Students' agreement minus the Bases'."""


def copied_teachers(shares: Mapping[str, Sequence[Tensor]], placebos: Sequence[str]) -> list[str]:
    """A caution for each two of the Teacher and the placebo Teachers with the same scores everywhere. Arguments as below."""
    if not placebos:
        return []
    columns = torch.cat([of_pair for of_layer in shares.values() for of_pair in of_layer]).T
    found = []
    for (name, one), (placebo, other) in combinations(zip(("", *placebos), columns), 2):
        if bool(one.isfinite().any()) and torch.allclose(one, other, rtol=0, atol=_SAME, equal_nan=True):
            whom = f"placebo Teacher {name}" if name else "the Teacher"
            found.append(
                f"Placebo Teacher {placebo} has the scores of {whom} everywhere, as a copy would. Leave it out: the t test "
                "and the difference from the placebos need networks that were trained from other seeds."
            )
    return found


def relevance_of_placebos(shares: Mapping[str, Sequence[Tensor]]) -> str:
    """A note on RS of the Teacher and of the placebo Teachers at the last layer. Arguments as below."""
    layer = list(shares)[-1]
    teacher, *others = shares[layer][0][-1].tolist()
    return (
        f"RS at {layer} is {_shown(teacher)} for the Teacher and {', '.join(map(_shown, others))} for the placebo Teachers. "
        "Networks that follow the labels less than the Teacher does are no control of it."
    )


def _shown(value: float) -> str:
    return "undefined" if value != value else f"{value:.3f}"


def control_placebos(
    rows: Sequence[Mapping[str, Any]],
    shares: Mapping[str, Sequence[Tensor]],
    gains: Mapping[tuple[str, str], Sequence[Tensor]],
    pairs: Sequence[Pair],
    placebos: Sequence[str],
    settings: Settings,
) -> Optional[dict[str, Any]]:
    """The tests of the Teacher against placebo Teachers, and the placebos' shares and gains; None without placebos.

    Args:
        rows (sequence of dict): the report's rows.
        shares (mapping): by layer, the shares of the Teacher and of the placebos for each pair with one Base, as
            :meth:`LayerScores.placebo_shares` returns them.
        gains (mapping): by score and layer, the gains in agreement with each of them for each pair with one Base.
        pairs (sequence of Pair): the pairs of a Student and a Base, then those of a Student and all Bases, which are not used.
        placebos (sequence of str): the placebos' names, in the order of the shares.
        settings (Settings): the settings, for the groups of Students.
    """
    if not placebos:
        return None
    values: dict[str, dict[str, Sequence[Tensor]]] = {}
    for place, score in enumerate(placebo_shares_of(settings.comparisons.labels)):
        values[score] = {layer: [of_pair[place] for of_pair in of_layer] for layer, of_layer in shares.items()}
    for (score, layer), of_layer in gains.items():
        values.setdefault(score, {})[layer] = of_layer
    records = [
        {
            "student": pair.student.of.name,
            "base": pair.base_name,
            "layer": layer,
            "score": score,
            "placebo": name,  # None for the Teacher
            "value": None if value != value else value,
        }
        for score, by_layer in values.items()
        for layer, of_layer in by_layer.items()
        for pair, of_pair in zip(pairs, of_layer)  # pairs with one Base come first
        for name, value in zip((None, *placebos), of_pair.tolist())
    ]
    students = list(dict.fromkeys(pair.student.of.name for pair in pairs))
    groups: Mapping[Optional[str], Sequence[str]] = settings.comparisons.groups or {None: students}  # type: ignore[assignment]
    is_copied = bool(copied_teachers(shares, placebos))
    tests: list[dict[str, Any]] = []
    for group, members in groups.items():
        for score, by_layer in values.items():
            family = []
            for layer in by_layer:
                key = {"score": score, "layer": layer}
                own, *others = (
                    _mean([each for each in records if each["placebo"] == name], key, members) for name in (None, *placebos)
                )
                likeness = mean_likeness(rows, BY_NAME[score], {"layer": layer}, members)
                family.append({"group": group, **key, "likeness": list(likeness), **_test(own, others, is_copied)})
            tested = [test for test in family if test["p_value"] is not None]
            for test, adjusted in zip(tested, holm([test["p_value"] for test in tested])):
                of_students, of_bases = test["likeness"]
                # A value can be large among placebos' although Students are no more similar to the Teacher than Bases are.
                test |= {"adjusted_p_value": adjusted, "decision": adjusted <= LEVEL and of_students > of_bases}
            tests += [test | _in_words(test, len(tested), len(placebos), is_copied) for test in family]
    return {"tests": tests, "shares": [each for each in records if each["placebo"] is not None]}


def _mean(records: Sequence[Mapping[str, Any]], key: Mapping[str, str], students: Sequence[str]) -> Optional[float]:
    """The mean over the pairs of these Students, None if a pair has no score."""
    values = [each["value"] for each in records if each["student"] in students and key.items() <= each.items()]
    return mean(values) if values and None not in values else None


def _test(share: Optional[float], of_placebos: Sequence[Optional[float]], is_copied: bool) -> dict[str, Any]:
    known = [value for value in of_placebos if value is not None]
    found: dict[str, Any] = dict.fromkeys(("statistic", "p_value", "mean", "standard_deviation"))
    if len(known) == len(of_placebos) >= LEAST_PLACEBOS and share is not None and not is_copied:
        found = dict(zip(found, placebo_test(share, known)))
    elif len(known) == len(of_placebos):
        found["mean"] = mean(known)
    return {"share": share, **found, "adjusted_p_value": None, "decision": None}


def _in_words(test: Mapping[str, Any], layers: int, placebos: int, is_copied: bool) -> dict[str, Any]:
    start = f"{test['layer']}: " if test["group"] is None else f"{test['group']}, {test['layer']}: "
    subject, other = _SUBJECTS[test["score"]]
    is_larger = test["decision"] is not None and test["adjusted_p_value"] <= LEVEL
    answer = "is larger" if is_larger else "is not shown to be larger"
    answer = "is not tested" if test["decision"] is None else f"{answer} than that {other} another Teacher of its recipe would be"
    numbers, caveats, end = "", [], "."
    if test["share"] is None or test["mean"] is None:
        caveats = ["Some pairs of models have no score."]
    else:
        numbers = f"{test['share']:.3f}; {placebos} placebo{'s' * (placebos > 1)}: mean {test['mean']:.3f}"
        if test["decision"] is not None:
            corrected = f" after correction over {layers} layers" if layers > 1 else ""
            numbers += f", SD {test['standard_deviation']:.3f}, p = {short_p(test['adjusted_p_value'])}{corrected}"
            caveats = [FIRST_WEIGHTS] * test["decision"]
            if is_larger and not test["decision"]:
                of_students, of_bases = test["likeness"]
                end = (
                    f", but Students are not more similar to the Teacher than Bases are ({LIKENESS[BY_NAME[test['score']].kind]} "
                    f"{of_students:.3f} and {of_bases:.3f})."
                )
        elif is_copied:
            caveats = ["There is no t test of this Teacher, because some placebo Teachers are copies."]
        elif placebos < LEAST_PLACEBOS:
            caveats = [f"A t test of this Teacher needs at least {LEAST_PLACEBOS} placebo Teachers, got {placebos}."]
        else:
            caveats = ["All placebo Teachers have the same value there, so there is no spread to test against."]
        numbers = f" ({numbers})"
    sentence = f"{start}the {subject} {answer}{numbers}{end}"
    return {"sentence": " ".join([sentence, *caveats]), "caveats": caveats}
