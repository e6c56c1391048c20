"""Seed control of pairs, and of Students given all Bases but one: the scores of both sides, and their rows in the table."""

from statistics import mean

from distillation.outcomes import seed_comparisons
from distillation.tables.controls import seed_control

STUDENTS, BASES = ["Student 1", "Student 2"], ["Base 1", "Base 2", "Base 3"]


def of_pairs(score):
    """Number 10 i + j for a Student i given a Base j, and j for Bases given one another."""
    of_students = [dict(model=s, given=b, value=10 * i + j) for i, s in enumerate(STUDENTS) for j, b in enumerate(BASES)]
    between = [dict(model=a, given=b, value=100 + j) for a in BASES for j, b in enumerate(BASES) if a != b]
    return [{"score": score, "layer": "last", **row} for row in of_students + between]


def left_out(score):
    of_students = [dict(model=s, left_out=b, value=i + 1) for i, s in enumerate(STUDENTS) for b in BASES]
    of_bases = [dict(model=b, left_out=b, value=0.5) for b in BASES]
    return [{"score": score, "layer": "last", **row} for row in of_students + of_bases]


def record():
    tests = [
        dict(score=score, layer="last", group=None, caveats=[], statistic=1.0, p_value=0.1, adjusted_p_value=0.1, decision=None)
        for score in ("rs_distilled", "rs_distilled_all")
    ]
    control = {
        "tests": tests, "groups": [{"bases": BASES}], "pairs": of_pairs("rs_distilled"), "left_out": left_out("rs_distilled_all"),
    }  # fmt: skip
    scores = {"teacher": "Teacher", "whole": {"seed_control": control}}
    plan = {"groups": [{"name": "Student", "students": STUDENTS, "teacher": "Teacher"}]}
    return {"plan": plan, "folds": [{"scores": [scores]}]}


def test_sides_of_a_comparison():
    pairs, joint = seed_comparisons(record())
    assert pairs.students == [0, 1, 2, 10, 11, 12] and sorted(pairs.null) == [100, 100, 101, 101, 102, 102]
    assert joint.students == [1, 1, 1, 2, 2, 2] and joint.null == [0.5, 0.5, 0.5]


def test_scores_given_all_bases_but_one_are_in_the_table():
    table = seed_control(record())
    rows = [dict(zip(table.columns, row)) for row in table.rows]
    assert [row["score"] for row in rows] == ["RS distilled", "RS distilled, given all Bases but one"]
    assert rows[1]["Students"] == mean([1, 1, 1, 2, 2, 2]) and rows[1]["Bases"] == 0.5
