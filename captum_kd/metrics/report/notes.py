"""Notes of a report: sentences on the limits of its numbers."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from captum_kd.attr.population import FEW_INPUTS
from captum_kd.metrics.report.aggregation import Aggregator
from captum_kd.metrics.report.settings import Settings

LITTLE_LEFT = 0.01
"""Unique shares below this leave hardly any geometry to score."""
TIGHT = 0.9
"""From this similarity on differences of the whole scores are magnified more than fourfold."""


def cautions(
    rows: Sequence[Mapping[str, Any]],
    *,
    n: int,
    copies: int,
    aggregator: Aggregator,
    undefined: Sequence[str],
    maps_know_labels: bool,
    empty_maps: int,
    repeated_by_sampler: int,
    replicas: int,
    noise_by_rank: bool,
) -> list[str]:
    """Reasons for doubt that this report's own numbers give."""
    little = [row for row in rows if row["score"] == "rs_distilled" and _below(row["unique_share"], LITTLE_LEFT)]
    places = _listed(dict.fromkeys(f"{row['layer']} ({row['student']}, {row['base']})" for row in little))
    found = [
        (
            maps_know_labels,
            "Images were reduced by maps of their own labels, so the features carry the labels: relevance is above 0 even "
            "of untrained models and random labels (RS .12 to .47 in a simulation), and has no p-values. "
            'target="predicted" explains the prediction, which depends on nothing but the image.',
        ),
        (
            empty_maps,
            f"{empty_maps} maps are constant and do not rank the pixels: of those images the upper part stayed. "
            "Choose another layer or another explanation.",
        ),
        (n < FEW_INPUTS, f"Only {n} inputs: below {FEW_INPUTS} scores follow chance. A few hundred make them stable."),
        (
            copies,
            f"{copies} of {n} inputs are copies of others: copies push scores up, even of independent features. "
            "Leave them out.",
        ),
        (
            repeated_by_sampler,
            f"The DistributedSampler gave {repeated_by_sampler} inputs a second time, so that all processes get as many: they "
            "count twice. Give each process a torch.utils.data.Subset of its own; shares may be uneven.",
        ),
        (
            replicas > 1,
            f"data is one of {replicas} shares that a DistributedSampler makes, and these scores are of this share alone. Pass "
            "compute=Compute(process_group=torch.distributed.group.WORLD) for those of all.",
        ),
        (
            noise_by_rank,
            "The processes could not know how many inputs the others would read, so imputed pixels have other noise than in "
            "one process. A DataLoader over a data set of known length, or a list of batches, gives the same.",
        ),
        (
            aggregator.left_out,
            f"{aggregator.left_out} mini-batches were left out: they have fewer than 4 inputs, or fewer than two classes with "
            "two inputs each that are apart in the class embeddings.",
        ),
        (
            aggregator.left_out_of_removal,
            f"{aggregator.left_out_of_removal} mini-batches of 4 inputs were left out of the scores with removal, which need 5.",
        ),
        (
            little,
            f"Less than 1% of the geometry is left after removal at {places}: distilled and residual scores "
            "there describe almost nothing.",
        ),
        (
            undefined,
            "Set to 0, because one side has no geometry (constant features, or a copy of what is removed): "
            f"{_listed(undefined)}.",
        ),
        (
            aggregator.undefined,
            f"{aggregator.undefined} scores of single mini-batches are in no mean, because one side has no geometry there "
            "(constant features, or a copy of what is removed).",
        ),
    ]
    return [sentence for applies, sentence in found if applies]


def explanations(rows: Sequence[Mapping[str, Any]], settings: Settings) -> list[str]:
    """Advice for reading this report's numbers."""
    is_biased = settings.estimator == "biased"
    is_pooled, is_unbiased = settings.population == "all", settings.estimator == "unbiased"
    has_removal = any(row["score"] == "rs_distilled" and row["value"] is not None for row in rows)
    where = "of the same inputs" if is_pooled else "within each mini-batch, not for means over them"
    coverage = "" if settings.confidence is None else percent(settings.confidence)
    magnified = _magnified(rows) if is_pooled and is_unbiased else ""
    found = [
        (
            not is_pooled,
            "Scores are means over mini-batches: they depend on the batches' size and order and are not comparable with "
            "pooled ones.",
        ),
        (
            not is_unbiased,
            f"Similarity scores (FSS, progression) use the {settings.estimator} estimator, relevance scores the unbiased one."
            f"{' For few inputs or wide features the biased one tends to 1 whatever the features.' * is_biased}",
        ),
        (
            has_removal,
            "Distilled against residual says no more than RS of Student against RS of Base, read all four together: "
            f"distilled - residual = (RS Student - RS Base) sqrt((1 + F) / (1 - F)), F the unbiased FSS {where}.",
        ),
        (magnified, magnified),
        (
            has_removal,
            "A positive distilled score is no evidence of transfer by itself: any second network of equal relevance has one.",
        ),
        (True, "RS depends on the classes' shares: compare scores on identical inputs only."),
        (
            coverage and is_pooled,
            f"Intervals ({coverage}) and p-values hold for these trained models over inputs like these, not for another "
            "training run.",
        ),
        (
            coverage and not is_pooled and any(row["low"] is not None for row in rows),
            f"Intervals ({coverage}) are those of the mean over such mini-batches for these trained models, not for another "
            "training run; there are no p-values.",
        ),
    ]
    return [sentence for applies, sentence in found if applies]


def _magnified(rows: Sequence[Mapping[str, Any]]) -> str:
    """The largest magnification by similarity, among layers where enough is left to score."""
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
        return ""
    similarity, layer = max(tight)
    factor = ((1 + similarity) / (1 - similarity)) ** 0.5
    return f"Magnified by similarity: at {layer}, FSS {similarity:.3f}, a difference of RS is magnified {factor:.1f} times."


def percent(share: float) -> str:
    """0.95 as 95%, 0.999 as 99.9%: no digit is rounded away."""
    return f"{100 * share:.10g}%"


def _below(value: Optional[float], bound: float) -> bool:
    return value is not None and value < bound


def _listed(items: Any, most: int = 4) -> str:
    items = list(items)
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
