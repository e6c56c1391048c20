"""A run's numbers as tables: means over networks, pairs or folds with their spread."""

from __future__ import annotations

from typing import Sequence

from distillation.measuring import Measurements
from distillation.outcomes import Record
from distillation.tables.classes import classes
from distillation.tables.controls import placebos, random_placebos, second_teacher, seed_control
from distillation.tables.explanations import explanations
from distillation.tables.inputs import input_reliability, inputs
from distillation.tables.layers import layer_matches
from distillation.tables.maps import keep_curves, localization
from distillation.tables.predictions import prediction_tests, predictions
from distillation.tables.scores import VIEWS, accuracy, paper_scores, teacher_shares
from distillation.tables.table import Table

__all__ = ["TABLES", "Table", "tables_of"]

TABLES = (
    "accuracy", "predictions", "prediction_tests", *(f"{kind}_{view}" for kind in ("scores", "teacher_share") for view in VIEWS),
    "seed_control", "placebos", "random_placebos", "second_teacher", "keep_curves", "localization", "classes", "inputs",
    "input_reliability", "explanations", "layer_matches",
)  # fmt: skip
"""Names of all tables that a run can have."""


def tables_of(record: Record, measured: Sequence[Measurements]) -> list[Table]:
    """All tables of a run, in the order of reading."""
    found = (
        accuracy(record), predictions(record), prediction_tests(record), *paper_scores(record), *teacher_shares(record),
        seed_control(record), placebos(record), random_placebos(record), second_teacher(record), keep_curves(record),
        localization(record), classes(record), inputs(record, measured), input_reliability(record), explanations(record),
        layer_matches(record),
    )  # fmt: skip
    return [table for table in found if table.rows]
