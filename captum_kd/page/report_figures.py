"""The figures of a report on its page."""

from __future__ import annotations

from statistics import mean
from typing import Any, Mapping, Optional

from captum_kd.metrics.scores_table import BY_NAME, PREDICTIONS_LAYER, PROGRESSION
from captum_kd.page.content import Picture
from captum_kd.page.report_tables import groups_of
from captum_kd.visualization import (
    plot_classes,
    plot_keep_curve,
    plot_layer_scores,
    plot_models,
    plot_predictions,
    plot_seed_control,
)

__all__ = ["kinds_of_figures", "report_figures"]

MOST_STUDENTS = 4
"""Students with panels of their own."""


def report_figures(content: Mapping[str, Any], curves: Optional[Mapping[str, Any]]) -> list[Picture]:
    """Scores over layers, seed control, predictions, classes, models and keep curves, as far as there are any."""
    kinds = kinds_of_figures(content)
    found = []
    if "layers" in kinds:
        found.append(_layers(content))
    if "seeds" in kinds:
        caption = "Seed control: the score of each Student given the Bases, beside the null, each Base given the other Bases."
        found.append(Picture(plot_seed_control(content), caption))
    if "predictions" in kinds:
        found.append(Picture(plot_predictions(content), "Predictions: one dot for each network; see the axis of each panel."))
    if "classes" in kinds:
        word = content["classes"]["of"]
        caption = f"RS of distilled features of each {word}, one against the rest, at the last layer."
        found.append(Picture(plot_classes(content), caption))
    if "models" in kinds and len(content["similarities"]["models"]) > 2:
        caption = "All models as points: near models have similar representations (FSS)."
        found.append(Picture(plot_models(content), caption))
    if curves:
        caption = "Keep curves: accuracy on inputs of which only what a map ranks highest is kept. Bands: one standard error."
        found.append(Picture(plot_keep_curve(curves), caption))
    return found


def kinds_of_figures(content: Mapping[str, Any]) -> list[str]:
    """The figures of ``report.plot`` for which a report has scores."""
    rows, control, classes, similarities = (content[part] for part in ("rows", "seed_control", "classes", "similarities"))
    has = {
        "layers": any(row["layer"] != PREDICTIONS_LAYER and row["value"] is not None for row in rows),
        "seeds": control is not None
        and any(row["score"] in ("rs_distilled", "teacher_distilled") for row in control["pairs"]),
        "predictions": any(row["layer"] == PREDICTIONS_LAYER for row in rows),
        "classes": classes is not None and any(row["score"] == "rs_distilled" for row in classes["rows"]),
        "models": similarities is not None,
    }
    return [kind for kind, is_there in has.items() if is_there]


def _layers(content: Mapping[str, Any]) -> Picture:
    """Scores over layers. Students of a group become one: their means, without intervals."""
    groups = groups_of(content, MOST_STUDENTS)
    of_student = {name: group for group, names in groups.items() for name in names}
    caption = "Scores over the layers; bars are intervals over inputs, if the report has them."
    if any(len(names) > 1 for names in groups.values()):
        caption = "Scores over the layers: means over the Students of a group, one thin line for each Base."
    by_key: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in content["rows"]:
        if row["student"] in of_student and row["value"] is not None and BY_NAME[row["score"]].kind != PROGRESSION:
            key = (of_student[row["student"]], row["base"], row["layer"], row["score"])
            by_key.setdefault(key, []).append(row)
    rows = [
        {**rows[0], "student": key[0]} if len(rows) == 1 else
        {**dict(zip(("student", "base", "layer", "score"), key)), "value": mean(row["value"] for row in rows)}
        for key, rows in by_key.items()
    ]  # fmt: skip
    return Picture(plot_layer_scores({"rows": rows, "seed_control": content["seed_control"]}), caption)
