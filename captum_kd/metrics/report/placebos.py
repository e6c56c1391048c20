"""Placebo Teachers in a report: their shares, and the test of this Teacher against them."""

from __future__ import annotations

from statistics import mean
from typing import Any, Mapping, Optional, Sequence

from torch import Tensor

from captum_kd.metrics.inference import holm, placebo_test
from captum_kd.metrics.inference.placebo_tests import LEAST_PLACEBOS
from captum_kd.metrics.inference.verdicts import FIRST_WEIGHTS, short_p
from captum_kd.metrics.report.models import Pair
from captum_kd.metrics.report.settings import Settings
from captum_kd.metrics.scores_table import PLACEBO_SHARES

LEVEL = 0.05


def control_placebos(
    rows: Sequence[Mapping[str, Any]],
    shares: Mapping[str, Sequence[Tensor]],
    pairs: Sequence[Pair],
    placebos: Sequence[str],
    settings: Settings,
) -> Optional[dict[str, Any]]:
    """The tests of the Teacher against placebo Teachers, and the placebos' shares; None without placebos.

    Args:
        rows (sequence of dict): the report's rows.
        shares (mapping): by layer, the placebos' shares for each pair, (scores of PLACEBO_SHARES, placebos).
        pairs (sequence of Pair): the pairs of a Student and a Base, then those of a Student and all Bases, which are not used.
        placebos (sequence of str): the placebos' names, in the order of the shares.
        settings (Settings): the settings, for the groups of Students.
    """
    if not placebos:
        return None
    records = [
        {
            "student": pair.student.of.name,
            "base": pair.base_name,
            "layer": layer,
            "score": score,
            "placebo": name,
            "value": None if value != value else value,
        }
        for layer, of_layer in shares.items()
        for pair, of_pair in zip(pairs, of_layer)  # pairs with one Base come first
        for score, of_score in zip(PLACEBO_SHARES, of_pair.tolist())
        for name, value in zip(placebos, of_score)
    ]
    students = list(dict.fromkeys(pair.student.of.name for pair in pairs))
    groups: Mapping[Optional[str], Sequence[str]] = settings.comparisons.groups or {None: students}  # type: ignore[assignment]
    tests: list[dict[str, Any]] = []
    for group, members in groups.items():
        for score in PLACEBO_SHARES:
            family = []
            for layer in shares:
                key = {"score": score, "layer": layer}
                of_placebos = [_mean([each for each in records if each["placebo"] == name], key, members) for name in placebos]
                family.append({"group": group, **key, **_test(_mean(rows, key, members), of_placebos)})
            tested = [test for test in family if test["p_value"] is not None]
            for test, adjusted in zip(tested, holm([test["p_value"] for test in tested])):
                test |= {"adjusted_p_value": adjusted, "decision": adjusted <= LEVEL}
            tests += [test | _in_words(test, len(tested), len(placebos)) for test in family]
    return {"tests": tests, "shares": records}


def _mean(records: Sequence[Mapping[str, Any]], key: Mapping[str, str], students: Sequence[str]) -> Optional[float]:
    """The mean over the pairs of these Students, None if a pair has no score."""
    values = [each["value"] for each in records if each["student"] in students and key.items() <= each.items()]
    return mean(values) if values and None not in values else None


def _test(share: Optional[float], of_placebos: Sequence[Optional[float]]) -> dict[str, Any]:
    known = [value for value in of_placebos if value is not None]
    found: dict[str, Any] = dict.fromkeys(("statistic", "p_value", "mean", "standard_deviation"))
    if len(known) == len(of_placebos) >= LEAST_PLACEBOS and share is not None:
        found = dict(zip(found, placebo_test(share, known)))
    elif len(known) == len(of_placebos):
        found["mean"] = mean(known)
    return {"share": share, **found, "adjusted_p_value": None, "decision": None}


def _in_words(test: Mapping[str, Any], layers: int, placebos: int) -> dict[str, Any]:
    start = f"{test['layer']}: " if test["group"] is None else f"{test['group']}, {test['layer']}: "
    beyond = " beyond the labels" if test["score"] == "teacher_only_distilled" else ""
    answer = "is not tested" if test["decision"] is None else "is larger than that of another Teacher of its recipe would be"
    if test["decision"] is False:
        answer = "is not shown to be larger than that of another Teacher of its recipe would be"
    numbers, caveats = "", []
    if test["share"] is None or test["mean"] is None:
        caveats = ["Some pairs of models have no score."]
    else:
        numbers = f"{test['share']:.3f}; {placebos} placebo{'s' * (placebos > 1)}: mean {test['mean']:.3f}"
        if test["decision"] is not None:
            corrected = f" after correction over {layers} layers" if layers > 1 else ""
            numbers += f", SD {test['standard_deviation']:.3f}, p = {short_p(test['adjusted_p_value'])}{corrected}"
            caveats = [FIRST_WEIGHTS] * test["decision"]
        elif placebos < LEAST_PLACEBOS:
            caveats = [f"A t test of this Teacher needs at least {LEAST_PLACEBOS} placebo Teachers, got {placebos}."]
        else:
            caveats = ["All placebo Teachers have the same share; are they copies of one network?"]
        numbers = f" ({numbers})"
    return {"sentence": " ".join([f"{start}the share of this Teacher{beyond} {answer}{numbers}.", *caveats]), "caveats": caveats}
