"""What a reader has to know before trusting a report's numbers, in sentences."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

__all__ = ["FEW_INPUTS", "LITTLE_LEFT", "cautions", "explanations"]

FEW_INPUTS = 30
LITTLE_LEFT = 0.01
"""Unique shares below this leave hardly any geometry to score."""
TIGHT = 0.9
"""From this similarity on differences of the whole scores are magnified more than fourfold."""


def cautions(
    rows: Sequence[Mapping[str, Any]],
    *,
    n: int,
    repeated: int,
    left_out: int,
    left_out_of_removal: int,
    undefined: Sequence[str],
) -> list[str]:
    """Reasons for doubt that this report's own numbers give.

    Args:
        rows (sequence of mappings): the report's rows.
        n (int): number of inputs.
        repeated (int): inputs that no model tells from another one.
        left_out, left_out_of_removal (int): mini-batches that were not used, at all or for scores with removal.
        undefined (sequence of str): scores that are 0 for want of a geometry, in words.
    """
    found = []
    if n < FEW_INPUTS:
        found.append(f"Only {n} inputs: below {FEW_INPUTS} scores follow chance. A few hundred make them stable.")
    if repeated:
        found.append(
            f"{repeated} of {n} inputs are copies of others (no model tells them apart): copies push scores up, even "
            "of independent features. Leave them out."
        )
    if left_out:
        found.append(
            f"{left_out} mini-batches were left out: they have fewer than 4 inputs, or fewer than two classes with two "
            "inputs each."
        )
    if left_out_of_removal:
        found.append(
            f"{left_out_of_removal} mini-batches of 4 inputs were left out of the scores with removal, which need 5."
        )
    little = [row for row in rows if row["score"] == "rs_distilled" and _below(row["unique_share"], LITTLE_LEFT)]
    if little:
        places = _listed(dict.fromkeys(f"{row['layer']} ({row['student']}, {row['base']})" for row in little))
        found.append(
            f"Less than {LITTLE_LEFT:.0%} of the geometry is left after removal at {places}: distilled and residual scores "
            "there speak of next to nothing."
        )
    if undefined:
        found.append(
            f"Set to 0, because one side has no geometry (constant features, or a copy of what is removed): "
            f"{_listed(undefined)}."
        )
    return found


def explanations(
    rows: Sequence[Mapping[str, Any]], *, population: str, estimator: str, confidence: Optional[float]
) -> list[str]:
    """How this report's numbers are to be read."""
    told = []
    if population == "batch":
        told.append(
            "Scores are means over mini-batches, the published way: they depend on the batches' size and order and are "
            "not comparable with pooled ones."
        )
    if estimator == "biased":
        told.append(
            "Similarity scores use the biased estimator, the published way: for few inputs or wide features it tends to "
            "1 whatever the features. Relevance scores are unbiased."
        )
    identity = population == "all" and estimator == "unbiased"
    similar = [row["value"] for row in rows if row["score"] == "fss" and row["value"] is not None]
    told.append(
        "Distilled against residual says no more than RS of Student against RS of Base, read all four together: "
        "distilled - residual = (RS Student - RS Base) sqrt((1 + F) / (1 - F)), F the unbiased FSS of the same inputs."
    )
    if identity and similar and TIGHT <= max(similar) < 1:
        factor = ((1 + max(similar)) / (1 - max(similar))) ** 0.5
        told.append(f"Magnified by similarity: at FSS {max(similar):.3f} a difference of RS is magnified {factor:.1f} times.")
    told.append(
        "A positive distilled score is no evidence of transfer by itself: any second network of equal relevance has one."
    )
    told.append("RS depends on the classes' shares: compare scores on identical inputs only.")
    if confidence is not None and population == "all":
        told.append(
            f"Intervals ({confidence:.0%}) and p-values hold for these trained models over inputs like these, not for "
            "another training run."
        )
    elif confidence is not None:
        told.append(
            f"Intervals ({confidence:.0%}) are those of the mean over such mini-batches for these trained models, not for "
            "another training run; there are no p-values."
        )
    return told


def _below(value: Optional[float], bound: float) -> bool:
    return value is not None and value < bound


def _listed(items: Any, most: int = 4) -> str:
    items = list(items)
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
