"""Cautions that a reader needs before any score: networks at chance, and Students that are no better than Bases."""

from __future__ import annotations

from statistics import mean
from typing import Sequence

from distillation.outcomes import Record, members_of
from distillation.plan import BASE

__all__ = ["cautions"]

STANDARD_ERRORS = 2.0
"""An accuracy must exceed chance by so many standard errors."""


def cautions(record: Record) -> list[str]:
    """Sentences about the accuracies of a run; none if all networks learned and all techniques helped.

    Networks that are meant to be untrained are left out of the first, and controls out of the second.
    """
    found = []
    untrained = [guide["name"] for guide in record["plan"]["guides"] if not guide["trained"]]
    members = {title: names for title, names in members_of(record["plan"]).items() if title not in untrained}
    at_chance = [text for title, names in members.items() for text in _at_chance(record, title, names)]
    if at_chance:
        chance = mean(fold["chance"] for fold in record["folds"])
        found.append(
            f"At chance: {', '.join(at_chance)}. Always naming the most frequent class is right in {chance:.3f} of the held-out "
            f"{record['unit']}, and these networks do not exceed it by two standard errors. Their scores, shares and maps say "
            f"nothing about distillation. Train longer, on more {record['unit']}, or with another learning rate."
        )
    of_bases = _mean_accuracy(record, members[BASE])
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
