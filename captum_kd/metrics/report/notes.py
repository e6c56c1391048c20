"""Notes of a report: what limits its numbers, in sentences."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from captum_kd.attr.population import FEW_INPUTS

__all__ = ["LITTLE_LEFT", "cautions", "explanations", "percent"]

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
    undefined_in_batches: int,
    modes: Sequence[str],
    maps_know_labels: bool,
    empty_maps: int,
    repeated_by_sampler: int = 0,
    shares: int = 1,
    noise_by_process: bool = False,
) -> list[str]:
    """Reasons for doubt that this report's own numbers give.

    Args:
        rows (sequence of mappings): the report's rows.
        n (int): number of inputs.
        repeated (int): inputs that are bitwise copies of others.
        left_out, left_out_of_removal (int): mini-batches that were not used, at all or for scores with removal.
        undefined (sequence of str): scores that are 0 because a side has no geometry, in words.
        undefined_in_batches (int): scores of single mini-batches left out of the means because a side has no geometry.
        modes (sequence of str): what models do in the modes that they are in, in words.
        maps_know_labels (bool): whether features were localized by maps of the inputs' own labels.
        empty_maps (int): constant maps that images were reduced by.
        repeated_by_sampler (int): inputs that a DistributedSampler gave a second time.
        shares (int): that a DistributedSampler makes of the data, of which this report has seen one.
        noise_by_process (bool): whether imputed pixels' noise depends on which process had an input.
    """
    found = [*modes]
    if maps_know_labels:
        found.append(
            "Images were reduced by maps of their own labels, so the features carry the labels: relevance is above 0 even "
            "of untrained models and random labels (RS .12 to .47 in a simulation), and has no p-values. "
            'localize_target="predicted" looks at nothing but the image.'
        )
    if empty_maps:
        found.append(
            f"{empty_maps} maps are constant and say nothing about what to keep: of those images the upper part stayed. "
            "Choose another layer or another explanation."
        )
    if n < FEW_INPUTS:
        found.append(f"Only {n} inputs: below {FEW_INPUTS} scores follow chance. A few hundred make them stable.")
    if repeated:
        found.append(
            f"{repeated} of {n} inputs are copies of others: copies push scores up, even of independent features. "
            "Leave them out."
        )
    if repeated_by_sampler:
        found.append(
            f"The DistributedSampler gave {repeated_by_sampler} inputs a second time, so that all processes get as many: they "
            "count twice. Give each process a torch.utils.data.Subset of its own; shares may be uneven."
        )
    if shares > 1:
        found.append(
            f"data is one of {shares} shares that a DistributedSampler makes, and these scores are of this share alone. Pass "
            "process_group=torch.distributed.group.WORLD for those of all."
        )
    if noise_by_process:
        found.append(
            "The processes could not know how many inputs the others would read, so imputed pixels have other noise than in "
            "one process. A DataLoader over a data set of known length, or a list of batches, gives the same."
        )
    if left_out:
        found.append(
            f"{left_out} mini-batches were left out: they have fewer than 4 inputs, or fewer than two classes with two "
            "inputs each that are apart in the class embeddings."
        )
    if left_out_of_removal:
        found.append(
            f"{left_out_of_removal} mini-batches of 4 inputs were left out of the scores with removal, which need 5."
        )
    little = [row for row in rows if row["score"] == "rs_distilled" and _below(row["unique_share"], LITTLE_LEFT)]
    if little:
        places = _listed(dict.fromkeys(f"{row['layer']} ({row['student']}, {row['base']})" for row in little))
        found.append(
            f"Less than 1% of the geometry is left after removal at {places}: distilled and residual scores "
            "there speak of next to nothing."
        )
    if undefined:
        found.append(
            f"Set to 0, because one side has no geometry (constant features, or a copy of what is removed): "
            f"{_listed(undefined)}."
        )
    if undefined_in_batches:
        found.append(
            f"{undefined_in_batches} scores of single mini-batches are in no mean, because one side has no geometry there "
            "(constant features, or a copy of what is removed)."
        )
    return found


def explanations(
    rows: Sequence[Mapping[str, Any]], *, population: str, estimator: str, confidence: Optional[float]
) -> list[str]:
    """How this report's numbers are to be read."""
    told = []
    if population == "batch":
        told.append(
            "Scores are means over mini-batches: they depend on the batches' size and order and are not comparable with "
            "pooled ones."
        )
    if estimator == "biased":
        told.append(
            "Similarity scores (FSS, progression) use the biased estimator: for few inputs or wide features it tends to 1 "
            "whatever the features. Relevance scores are unbiased."
        )
    has_removal = any(row["score"] == "rs_distilled" and row["value"] is not None for row in rows)
    if has_removal:
        where = "of the same inputs" if population == "all" else "within each mini-batch, not for means over them"
        told.append(
            "Distilled against residual says no more than RS of Student against RS of Base, read all four together: "
            f"distilled - residual = (RS Student - RS Base) sqrt((1 + F) / (1 - F)), F the unbiased FSS {where}."
        )
    if population == "all" and estimator == "unbiased":
        told += _magnified(rows)
    if has_removal:
        told.append(
            "A positive distilled score is no evidence of transfer by itself: any second network of equal relevance has one."
        )
    told.append("RS depends on the classes' shares: compare scores on identical inputs only.")
    if confidence is not None and population == "all":
        told.append(
            f"Intervals ({percent(confidence)}) and p-values hold for these trained models over inputs like these, not for "
            "another training run."
        )
    elif confidence is not None and any(row["low"] is not None for row in rows):
        told.append(
            f"Intervals ({percent(confidence)}) are those of the mean over such mini-batches for these trained models, not for "
            "another training run; there are no p-values."
        )
    return told


def _magnified(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where similarity magnifies a difference of whole scores most, among layers where enough is left to score."""
    left = {
        (row["student"], row["base"], row["layer"]): row["unique_share"] for row in rows if row["score"] == "rs_distilled"
    }
    tight = [
        (row["value"], row["layer"])
        for row in rows
        if row["score"] == "fss"
        and row["value"] is not None
        and row["value"] >= TIGHT
        and (left[row["student"], row["base"], row["layer"]] or 0.0) >= LITTLE_LEFT
    ]
    if not tight:
        return []
    similarity, layer = max(tight)
    factor = ((1 + similarity) / (1 - similarity)) ** 0.5
    return [f"Magnified by similarity: at {layer}, FSS {similarity:.3f}, a difference of RS is magnified {factor:.1f} times."]


def percent(share: float) -> str:
    """0.95 as 95%, 0.999 as 99.9%: no digit is rounded away."""
    return f"{100 * share:.10g}%"


def _below(value: Optional[float], bound: float) -> bool:
    return value is not None and value < bound


def _listed(items: Any, most: int = 4) -> str:
    items = list(items)
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
