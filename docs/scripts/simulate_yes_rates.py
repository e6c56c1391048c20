"""How often seed control says "yes" where the Teacher taught nothing, and where it did.

Each repetition trains small networks on scikit-learn's digits (see ``small_networks.py``): 4 Bases, 4 Students of every
kind below, Teachers, and 6 placebo Teachers each. A placebo Teacher has the Teacher's recipe and other seeds, and taught
nobody. Features are those of the last hidden layer on images that no network was trained on. The script counts the
repetitions in which these tests say "yes" at the level .05:

- share: the Teacher's share R(P_S|B, P_T), by the exact seed control of the report;
- nearer: the same, if the Students are also more similar to the Teacher than the Bases are (mean FSS);
- placebos: the Teacher's share minus the mean share of the 6 placebo Teachers, by the same seed control;
- one placebo: the Teacher's share minus the share of one placebo Teacher, by the same seed control;
- t test: the Teacher's share against the 6 placebos' shares, as one more draw from a normal distribution;
- RS: the relevance of distilled features, by the same seed control.

::

    python docs/scripts/simulate_yes_rates.py    # about 6 minutes on one core

keeps each repetition in ``build/yes_rates_0.csv`` (0 is the seed) and goes on from there when it starts again; writes the
rates to ``docs/tables/yes_rates.csv`` and ``yes_rates.md``.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence

import torch
from scipy.stats import binomtest
from small_networks import Recipe, digits, outputs, train

from captum_kd.distance import euclidean_distances
from captum_kd.metrics.inference import Products, Score, geometry_products, pair_scores, placebo_test, seed_test

LEVEL = 0.05
MODELS, PLACEBOS = 4, 6
WIDTH, TEACHER_WIDTH, STEPS = 32, 64, 300
IMAGES, HELD_OUT = 300, 400
ALPHA = 0.1
TESTS = {
    "share": "share",
    "nearer": "share, and nearer to T",
    "placebos": "share minus 6 placebos",
    "one_placebo": "share minus one placebo",
    "t_test": "t test against placebos",
    "relevance": "RS distilled",
}
Row = dict[str, Any]


class Case(NamedTuple):
    """Students and Bases, groups of networks, and the Teacher about which the test asks."""

    setting: str
    students: str
    group: str
    teacher: str
    bases: str = "Base"


OWN = Recipe(WIDTH, STEPS, "own")
TEACHERS = {
    "wider": replace(OWN, width=TEACHER_WIDTH),
    "more data": replace(OWN, data="both"),
}
# Teachers that share something with the Students of one case, by setting and by what is shared.
SHARING = {
    "wider, SGD": replace(TEACHERS["wider"], optimizer="SGD"),
    "wider, data": replace(TEACHERS["wider"], data="teacher's"),
    "more data, SGD": replace(TEACHERS["more data"], optimizer="SGD"),
    "more data, pretraining": replace(TEACHERS["more data"], pretrained="pretrained"),
}
STUDENTS = {
    "Base": OWN,
    "short Base": replace(OWN, steps=STEPS // 3),
    "another Base": OWN,
    "three times as long": replace(OWN, steps=3 * STEPS),
    "twice the data": replace(OWN, data="twice"),
    "label smoothing": replace(OWN, technique="label smoothing"),
    "dropout": replace(OWN, technique="dropout"),
    "mixup": replace(OWN, technique="mixup"),
    "SGD for AdamW": replace(OWN, optimizer="SGD"),
    "wider, data": replace(OWN, data="teacher's"),
    "more data, data": replace(OWN, data="both"),
    "more data, pretraining": replace(OWN, pretrained="pretrained"),
    "more data, first weights": replace(OWN, first_weights="more data T"),
    **{
        f"{setting}, KD of {role}": replace(OWN, teacher=f"{setting} {role}", alpha=ALPHA)
        for setting in TEACHERS
        for role in ("T", "another")
    },
}


def cases() -> Iterator[Case]:
    """All cases, in the order of the table."""
    techniques = ("twice the data", "label smoothing", "dropout", "mixup", "SGD for AdamW")
    for setting in TEACHERS:
        yield Case(setting, "another Base", "another Base", setting)
        yield Case(setting, f"three times as long as Bases of {STEPS // 3} steps", "another Base", setting, "short Base")
        yield Case(setting, f"three times as long as Bases of {STEPS} steps", "three times as long", setting)
        for name in techniques:
            yield Case(setting, name, name, setting)
        taught, others = f"{setting}, KD of T", f"{setting}, KD of another"
        yield Case(setting, "KD of another Teacher", others, setting)
        yield Case(setting, "SGD, like T", "SGD for AdamW", f"{setting}, SGD")
        if setting == "wider":
            yield Case(setting, "the data of T", "wider, data", "wider, data")
        else:  # weights can be shared by networks of one shape only
            yield Case(setting, "the data of T", "more data, data", setting)
            yield Case(setting, "the pretraining of T", "more data, pretraining", "more data, pretraining")
            yield Case(setting, "the first weights of T", "more data, first weights", setting)
        yield Case(setting, "KD of T", taught, setting)
        yield Case(setting, "KD of T; Bases: KD of another Teacher", taught, setting, others)


def recipes() -> dict[str, Recipe]:
    """Recipes of all networks of a repetition, by name."""
    found = {"pretrained": replace(OWN, data="rotated")}
    for name, recipe in {**TEACHERS, **SHARING}.items():
        found[f"{name} T"] = recipe
        found.update({f"{name} placebo {i}": recipe for i in range(PLACEBOS)})
    found.update({f"{name} another": recipe for name, recipe in TEACHERS.items()})
    found.update({name: recipe for group, recipe in STUDENTS.items() for name in members(group)})
    return found


def members(group: str) -> list[str]:
    return [f"{group} {i}" for i in range(MODELS)]


def repeat(number: int, seed: int) -> list[Row]:
    """Results of one repetition, independent of all others: one row for each case."""
    draw = torch.Generator().manual_seed(1_000_003 * seed + number)
    data, (images, labels) = digits(draw, IMAGES, HELD_OUT)
    networks = train(recipes(), data, draw)
    accuracies, distances = {}, {"labels": (labels[:, None] != labels).double()}
    for name, network in networks.items():
        features, logits = outputs(network, images)
        distances[name] = euclidean_distances(features.double())
        accuracies[name] = float((logits.argmax(-1) == labels).double().mean())
    products = geometry_products(distances, leave_one_out=False)
    rows = []
    for case in cases():
        row: Row = {"repetition": number, "setting": case.setting, "students": case.students}
        row.update(p_values(products, case))
        roles = {"students": members(case.group), "bases": members(case.bases), "teacher": [f"{case.teacher} T"]}
        for role, names in roles.items():
            row[f"accuracy_{role}"] = mean(accuracies[name] for name in names)
        rows.append(row)
    return rows


def p_values(products: Products, case: Case) -> Row:
    """p-values of all tests, and the mean shares that they compare."""
    students, bases, teacher = members(case.group), members(case.bases), f"{case.teacher} T"
    models = students + bases
    own = pair_scores(products, models, teacher)
    placebos = [pair_scores(products, models, f"{case.teacher} placebo {i}") for i in range(PLACEBOS)]

    def p_value(scores: torch.Tensor) -> float:
        return seed_test(scores, MODELS).p_value

    def share(scores: torch.Tensor) -> float:
        return float(scores[:MODELS, MODELS:].mean())

    def similarity(names: list[str]) -> float:
        return mean(products.score(Score(name, teacher))[0] for name in names)

    shares, p_share = [share(scores) for scores in placebos], p_value(own)
    return {
        "share": p_share,
        "nearer": p_share if similarity(students) > similarity(bases) else 1.0,
        "placebos": p_value(own - torch.stack(placebos).mean(0)),
        "one_placebo": p_value(own - placebos[0]),
        "t_test": placebo_test(share(own), shares).p_value,
        "relevance": p_value(pair_scores(products, models, "labels")),
        "share_of_teacher": share(own),
        "share_of_placebos": mean(shares),
        "share_of_bases": float(own[MODELS:, MODELS:].sum() / (MODELS * (MODELS - 1))),
    }


def finished(path: Path, texts: Sequence[str]) -> list[Row]:
    """Rows of the repetitions in a file of results."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{key: value if key in texts else float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def summarize(rows: list[Row]) -> Iterator[Row]:
    """Rates of "yes" with Wilson's 95 % intervals, one row for each case and test."""
    for case in cases():
        own = [row for row in rows if (row["setting"], row["students"]) == (case.setting, case.students)]
        for test in TESTS:
            yes = sum(row[test] <= LEVEL for row in own)
            interval = binomtest(yes, len(own)).proportion_ci(method="wilson")
            yield {
                "setting": case.setting, "students": case.students, "test": test, "repetitions": len(own), "yes": yes,
                "rate": yes / len(own), "low": interval.low, "high": interval.high,
                **{f"mean_{key}": mean(row[key] for row in own) for key in own[0] if key.startswith(("share_", "accuracy_"))},
            }  # fmt: skip


def markdown(summary: list[Row]) -> str:
    lines = []
    for setting in TEACHERS:
        own = [row for row in summary if row["setting"] == setting]
        lines += [
            f'Setting "{setting}": rates of "yes" at the level {LEVEL} in {own[0]["repetitions"]} repetitions, '
            "with 95 % intervals; accuracy of Students, Bases and T.",
            "",
            "| Students | " + " | ".join(TESTS.values()) + " | accuracy |",
            "|---|" + "--:|" * (len(TESTS) + 1),
        ]
        for start in range(0, len(own), len(TESTS)):
            row = own[start]
            tests = own[start : start + len(TESTS)]
            cells = [f"{short(each['rate'])} [{short(each['low'])}, {short(each['high'])}]" for each in tests]
            accuracy = ", ".join(short(row[f"mean_accuracy_{role}"], 3) for role in ("students", "bases", "teacher"))
            lines.append(f"| {row['students']} | {' | '.join(cells)} | {accuracy} |")
        lines.append("")
    return "\n".join(lines)


def short(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1)


def write(path: Path, rows: list[Row]) -> None:
    """Replaces a table at once, so that a run that is cut off leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def repetitions(
    name: str, repeat: Callable[[int, int], list[Row]], number: int, description: Optional[str],
    arguments: Optional[Sequence[str]], texts: Sequence[str],
) -> tuple[list[Row], Path]:
    """The rows of all repetitions and the folder for the tables, by the command line. Finished repetitions are not run again.

    Args:
        name (str): of the file of results.
        repeat (callable): from the number of a repetition and the seed to its rows.
        number (int): of repetitions by default.
        description (str, optional): for the help of the command line.
        arguments (sequence of str, optional): those of the command line.
        texts (sequence of str): columns that are no numbers.
    """
    root = Path(__file__).parents[2]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=number, help="number of repetitions, finished ones included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=root / "build", help="folder for the results of each repetition")
    parser.add_argument("--output", type=Path, default=root / "docs" / "tables")
    options = parser.parse_args(arguments)
    start = time.time()
    results = options.results / f"{name}_{options.seed}.csv"
    rows = finished(results, texts)
    done = {row["repetition"] for row in rows}
    for place in range(options.repetitions):
        if place not in done:
            rows += repeat(place, options.seed)
            write(results, rows)
            print(f"repetition {place} after {time.time() - start:.0f} s", flush=True)
    return rows, options.output


def main(arguments: Optional[Sequence[str]] = None) -> None:
    rows, output = repetitions("yes_rates", repeat, 50, __doc__, arguments, ("setting", "students"))
    summary = list(summarize(rows))
    write(output / "yes_rates.csv", summary)
    table = markdown(summary)
    (output / "yes_rates.md").write_text(table)
    print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the matrices are small
    main()
