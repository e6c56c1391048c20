"""Notes of a report: sentences about the limits of its numbers."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from captum_kd.attr.checked_call import FEW_INPUTS
from captum_kd.metrics.report.aggregation import Aggregator
from captum_kd.metrics.report.settings import Settings

LITTLE_LEFT = 0.01
"""Below this unique share, hardly any geometry is left to score."""
TIGHT = 0.9
"""At and above this similarity, differences of RS are magnified more than fourfold."""


def cautions(
    rows: Sequence[Mapping[str, Any]],
    *,
    n: int,
    duplicates: int,
    aggregator: Aggregator,
    undefined: Sequence[str],
    maps_use_labels: bool,
    empty_maps: int,
    repeated_by_sampler: int,
    replicas: int,
    noise_by_rank: bool,
) -> list[str]:
    """Cautions about the numbers of this report, which are also raised as warnings."""
    distilled = ("rs_distilled", "rs_distilled_all")
    little = [row for row in rows if row["score"] in distilled and _below(row["unique_share"], LITTLE_LEFT)]
    places = _listed(dict.fromkeys(f"{row['layer']} ({row['student']}, {row['base']})" for row in little))
    found = [
        (
            maps_use_labels,
            "Images were reduced by maps of their own labels, so the features carry the labels: relevance is above 0 even "
            "for untrained models and random labels (RS .12 to .47 in a simulation), and has no p-values. "
            'Pass target="predicted": maps of predictions depend on the image only.',
        ),
        (
            empty_maps,
            f"{empty_maps} maps are constant and do not rank the pixels, so the upper part of those images was kept. "
            "Choose another layer or another explanation.",
        ),
        (n < FEW_INPUTS, f"Only {n} inputs: below {FEW_INPUTS}, scores are mostly noise. A few hundred inputs make them stable."),
        (
            duplicates,
            f"{duplicates} of {n} inputs are copies of others. Copies raise scores, even those of independent features. "
            "Leave them out.",
        ),
        (
            repeated_by_sampler,
            f"The DistributedSampler gave {repeated_by_sampler} inputs a second time, to give all ranks the same number; "
            "they count twice. Give each rank its own torch.utils.data.Subset; the sizes may differ.",
        ),
        (
            replicas > 1,
            f"data is one of {replicas} shards of a DistributedSampler, and the scores describe this shard only. Pass "
            "compute=Compute(process_group=torch.distributed.group.WORLD) to score all shards.",
        ),
        (
            noise_by_rank,
            "A rank's number of inputs was unknown before it was read, so imputed pixels have other noise than in one "
            "process. Pass a DataLoader over a data set of known length, or a list of batches, to get the same noise.",
        ),
        (
            aggregator.left_out,
            f"{aggregator.left_out} mini-batches were left out: they have fewer than 4 inputs, or fewer than two classes with "
            "at least two inputs each and different class embeddings.",
        ),
        (
            aggregator.left_out_of_removal,
            f"{aggregator.left_out_of_removal} mini-batches of 4 inputs were left out of the scores with removal, which need 5.",
        ),
        (
            little,
            f"Less than 1% of the geometry is left after removal at {places}. Distilled and residual scores "
            "there describe almost nothing.",
        ),
        (
            undefined,
            "These scores are set to 0, because one side has no geometry (constant features, or a copy of the removed features): "
            f"{_listed(undefined)}.",
        ),
        (
            aggregator.undefined,
            f"{aggregator.undefined} scores of single mini-batches were left out of the means, because one side has no geometry "
            "there (constant features, or a copy of the removed features).",
        ),
    ]
    return [sentence for applies, sentence in found if applies]


def explanations(rows: Sequence[Mapping[str, Any]], settings: Settings) -> list[str]:
    """Advice for reading this report's numbers."""
    is_biased = settings.estimator == "biased"
    is_pooled, is_unbiased = settings.population == "all", settings.estimator == "unbiased"
    has_removal = any(row["score"] == "rs_distilled" and row["value"] is not None for row in rows)
    inputs = "of the same inputs" if is_pooled else "of the mini-batch; the equation does not hold for means over mini-batches"
    coverage = "" if settings.confidence is None else percent(settings.confidence)
    magnified = _magnified(rows) if is_pooled and is_unbiased else ""
    found = [
        (
            not is_pooled,
            "Scores are means over mini-batches. They depend on the size and order of the batches, and are not comparable with "
            "pooled scores.",
        ),
        (
            not is_unbiased,
            f"Similarity scores (FSS, progression) use the {settings.estimator} estimator; relevance scores use the unbiased one."
            f"{' For few inputs or wide features, the biased estimator tends to 1 for any features.' * is_biased}",
        ),
        (
            has_removal,
            "The difference of distilled and residual follows from that of RS Student and RS Base, so read all four scores "
            "together: distilled - residual = (RS Student - RS Base) sqrt((1 + F) / (1 - F)), where F is the unbiased FSS "
            f"{inputs}.",
        ),
        (magnified, magnified),
        (
            has_removal,
            "A positive distilled score is no evidence of transfer by itself: any second network of equal relevance has a "
            "positive one.",
        ),
        (
            any(row["score"] == "rs_distilled_all" for row in rows),
            "Given all Bases, the span of their representations is removed. The more Bases, the less is left (unique), so "
            "compare such scores only with the same number of Bases, and not with those of pairs. A Base given the other Bases "
            "has such scores too; with three Bases or more, seed control compares Students with it.",
        ),
        (True, "RS depends on the class frequencies, so compare scores on identical inputs only."),
        (
            coverage and is_pooled,
            f"Intervals ({coverage}) and p-values hold for these trained models over inputs like these, not for another "
            "training run.",
        ),
        (
            coverage and not is_pooled and any(row["low"] is not None for row in rows),
            f"Intervals ({coverage}) hold for the mean over such mini-batches and for these trained models, not for another "
            "training run. There are no p-values.",
        ),
    ]
    return [sentence for applies, sentence in found if applies]


def _magnified(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about the largest magnification by similarity, among layers with enough geometry left to score."""
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
    return f"FSS is {similarity:.3f} at {layer}, so a difference of RS is magnified {factor:.1f} times there."


def percent(share: float) -> str:
    """A share as a percentage without rounding: 0.95 as 95%, 0.999 as 99.9%."""
    return f"{100 * share:.10g}%"


def _below(value: Optional[float], bound: float) -> bool:
    return value is not None and value < bound


def _listed(items: Any, most: int = 4) -> str:
    items = list(items)
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
