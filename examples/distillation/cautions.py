"""Cautions that a reader needs before any score: networks at chance, and Teachers and Students no better than Bases."""

from __future__ import annotations

from statistics import mean
from typing import Sequence

from distillation.outcomes import Record, members_of
from distillation.plan import BASE

__all__ = ["cautions", "failures"]

STANDARD_ERRORS = 2.0
"""An accuracy must exceed chance by so many standard errors."""


def failures(record: Record) -> list[str]:
    """Sentences about trainings that failed, after which no score says anything about distillation; none if all learned.

    Networks that are meant to be untrained are left out, and controls, which may learn nothing.
    """
    controls = [group["name"] for group in record["plan"]["groups"] if group["is_control"]]
    trained = _trained(record)
    found = _sentence_on_chance(record, [title for title in trained if title not in controls])
    of_bases = _mean_accuracy(record, trained[BASE])
    n = sum(fold["images"]["held_out"] for fold in record["folds"])
    bound = of_bases - STANDARD_ERRORS * (of_bases * (1 - of_bases) / n) ** 0.5
    worse = [name for name in _teachers(record) if _mean_accuracy(record, [name]) < bound]
    return found + ([_no_better_teacher(record, worse)] if worse else [])


def cautions(record: Record) -> list[str]:
    """Sentences about the accuracies of a run, failures first; none if all networks learned and all techniques helped."""
    trained = _trained(record)
    found = _sentence_on_chance(record, list(trained))
    of_bases = _mean_accuracy(record, trained[BASE])
    if no_better := [name for name in _teachers(record) if _mean_accuracy(record, [name]) <= of_bases]:
        found.append(_no_better_teacher(record, no_better))
    means = {
        group["name"]: _mean_accuracy(record, group["students"]) for group in record["plan"]["groups"] if not group["is_control"]
    }
    no_gain = [f"{name} {accuracy:.3f}" for name, accuracy in means.items() if accuracy <= of_bases]
    if no_gain:
        found.append(
            f"No gain in accuracy: the mean of the Bases is {of_bases:.3f}, that of the Students {', '.join(no_gain)}. What "
            "these Students have and the Bases lack has not made them better at the task."
        )
    return found


def _trained(record: Record) -> dict[str, list[str]]:
    """Names of the networks that are trained, by what they are."""
    untrained = [guide["name"] for guide in record["plan"]["guides"] if not guide["trained"]]
    return {title: names for title, names in members_of(record["plan"]).items() if title not in untrained}


def _teachers(record: Record) -> list[str]:
    """Names of the Teachers from which the Students of a technique learn."""
    return list(dict.fromkeys(group["guide"] for group in record["plan"]["groups"] if not group["is_control"]))


def _sentence_on_chance(record: Record, titles: Sequence[str]) -> list[str]:
    trained = _trained(record)
    at_chance = [text for title in titles for text in _at_chance(record, title, trained[title])]
    if not at_chance:
        return []
    chance = mean(fold["chance"] for fold in record["folds"])
    return [
        f"At chance: {', '.join(at_chance)}. Always naming the most frequent class is right in {chance:.3f} of the held-out "
        f"{record['unit']}, and these networks do not exceed it by two standard errors. Their scores, shares and maps say "
        f"nothing about distillation. Train longer, on more {record['unit']}, or with another learning rate."
    ]


def _no_better_teacher(record: Record, teachers: Sequence[str]) -> str:
    each = ", ".join(f"{name} {_mean_accuracy(record, [name]):.3f}" for name in teachers)
    return (
        f"No better Teacher: the mean accuracy of the Bases is {_mean_accuracy(record, _trained(record)[BASE]):.3f}, that of "
        f"{each}. Such a Teacher has little to give: train it longer, on more {record['unit']}, or take a larger one."
    )


def _at_chance(record: Record, title: str, names: Sequence[str]) -> list[str]:
    """The networks at chance of one kind as one text, with the mean of their accuracies."""
    accuracies = []
    for fold in record["folds"]:
        chance, n = fold["chance"], fold["images"]["held_out"]
        bound = chance + STANDARD_ERRORS * (chance * (1 - chance) / n) ** 0.5
        accuracies += [fold["accuracy"][name] for name in names if fold["accuracy"][name] <= bound]
    if not accuracies:
        return []
    total = len(names) * len(record["folds"])
    number = f"{len(accuracies)} of {total}, " if total > 1 else ""
    return [f"{title} ({number}accuracy {mean(accuracies):.3f})"]


def _mean_accuracy(record: Record, names: Sequence[str]) -> float:
    return float(mean(fold["accuracy"][name] for fold in record["folds"] for name in names))
