"""Tables of what was measured on maps."""

from __future__ import annotations

from statistics import mean
from typing import Iterable, Optional

from distillation.outcomes import Record
from distillation.tables.table import Cell, Table, spread

__all__ = ["keep_curves", "localization"]


def keep_curves(record: Record) -> Table:
    rows: list[list[Cell]] = []
    for group in record["plan"]["groups"]:
        found = [each for fold in record["folds"] for each in fold["maps"] if each["group"] == group["name"]]
        for name in found[0]["keep_curves"]:
            areas = [each["keep_curves"][name]["area"] for each in found]
            chance = [each["keep_curves"]["random"]["area"] for each in found]
            rows.append([group["name"], name, len(areas), *spread(areas), mean(areas) - mean(chance)])
    return Table(
        "keep_curves",
        f"Accuracy with 10 to 90 % of the {'pixels' if record['unit'] == 'images' else 'tokens'} kept",
        f"Mean accuracy of the Students on {record['unit']} of which only what a map ranks highest is kept. SD: over Students.",
        ["group", "map", "number", "mean", "SD", "over random"],
        rows,
    )


def localization(record: Record) -> Table:
    rows: list[list[Cell]] = []
    area, number = 0.0, 0
    for group in record["plan"]["groups"]:
        every = [each["localization"] for fold in record["folds"] for each in fold["maps"] if each["group"] == group["name"]]
        found = [each for each in every if each is not None]
        if not found:
            continue
        area, number = found[0]["mask_area"], found[0]["number"]
        for name in found[0]["maps"]:
            energy, hit = (_known(each["maps"][name][score] for each in found) for score in ("energy_share", "pointing_game"))
            empty = sum(each["maps"][name]["empty_maps"] for each in found)
            rows.append([group["name"], name, len(found), *spread(energy), *spread(hit), empty])
        for name in found[0]["differences"]:
            rows.append(
                [group["name"], name, len(found), *spread(_known(each["differences"][name] for each in found)), None, None, None]
            )
    return Table(
        "localization",
        f"Maps on {record['evidence']}",
        f"Share of a map's positive values there, and how often its maximum is there, over {number} {record['unit']}. There "
        f"is {area:.1%} of an input on average. The last column counts maps without positive values, which have no share: they "
        "are left out of the energy, and of its difference between two maps. Means and SD over pairs of a Student and a Base; "
        f"report.json has the standard errors over {record['unit']}.",
        ["group", "map", "pairs", "energy", "energy SD", "maximum", "maximum SD", "maps without positive values"],
        rows,
    )


def _known(estimates: Iterable[tuple[Optional[float], Optional[float]]]) -> list[float]:
    """The means of estimates that have one."""
    return [value for value, _ in estimates if value is not None]
