"""Notes of a report: sentences about the limits of its numbers."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

from captum_kd.attr.checked_call import FEW_INPUTS
from captum_kd.metrics.report.aggregation import Aggregator
from captum_kd.metrics.report.duplicates import DuplicateCounter
from captum_kd.metrics.report.settings import Settings

LITTLE_LEFT = 0.01
"""Below this unique share, hardly any geometry is left to score."""
TIGHT = 0.9
"""At and above this similarity, differences of RS are magnified more than fourfold."""
LEAST_PERMUTATIONS = 19
"""With fewer, no p-value can be .05."""


def at_chance(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """The names of networks that do not follow the labels.

    A network is near chance if at no layer its RS is distinguishable from 0: by its p-value or interval, or, without them, if RS
    is at most two standard deviations of RS under permuted labels, sqrt(2 / (n (n - 3))).
    """
    if settings.get("localize_target") == "label":  # features that carry the labels
        return []
    positions = settings.get("positions")
    if positions is not None:  # positions of one sentence are not independent
        rows = [{**row, "n": positions["sentences"]} for row in rows]
    pooled = settings.get("population") == "all"
    has_p_values = (settings.get("n_permutations") or 0) >= LEAST_PERMUTATIONS
    by_model: dict[str, list[bool]] = {}
    for row in rows:
        name = {"rs_student": row["student"], "rs_base": row["base"], "rs_teacher": "the Teacher"}.get(row["score"])
        if name is not None:
            by_model.setdefault(name, []).append(_is_near_chance(row, pooled, has_p_values))
    return [name for name, of_layers in by_model.items() if all(of_layers)]


def near_chance(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """A caution that comes first: networks that do not follow the labels."""
    models = at_chance(rows, settings)
    if not models:
        return []
    return [
        f"Near chance: RS of {_listed(models)} cannot be told from 0 at any layer, so there is no sign that "
        f"{'these networks separate' if len(models) > 1 else 'this network separates'} the classes. Scores that involve "
        f"{'them' if len(models) > 1 else 'it'}, the Teacher's share included, do not show that a task was taught."
    ]


def students_without_gain(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The Students that nowhere follow the labels more closely than Bases do on average."""
    own = [row for row in rows if row["score"] == "rs_student" and row["value"] is not None]
    bases = {layer: _mean(rows, "rs_base", layer) for layer in dict.fromkeys(row["layer"] for row in own)}
    known = [(row["student"], row["value"] - bases[row["layer"]]) for row in own if bases[row["layer"]] is not None]
    gaining = {student for student, gain in known if gain > 0}
    return [student for student in dict.fromkeys(student for student, _ in known) if student not in gaining]


def no_gain(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note that comes first on Students without gain."""
    own = [row for row in rows if row["score"] == "rs_student" and row["value"] is not None]
    layers, students = (list(dict.fromkeys(row[key] for row in own)) for key in ("layer", "student"))
    bases = {layer: _mean(rows, "rs_base", layer) for layer in layers}
    without = students_without_gain(rows)
    if not without:
        return []
    last = [row["value"] for row in own if row["layer"] == layers[-1] and row["student"] in without]
    who = "Students do" if len(without) == len(students) else f"{_listed(without)} {'do' if len(without) > 1 else 'does'}"
    return [
        f"No gain: {who} not follow the labels more closely than Bases at any layer (at {layers[-1]}, mean RS is "
        f"{sum(last) / len(last):.3f} and {bases[layers[-1]]:.3f}). Distilled scores then describe a difference, not an "
        "improvement."
    ]


def _is_near_chance(row: Mapping[str, Any], pooled: bool, has_p_values: bool) -> bool:
    if row["p_value"] is not None and has_p_values:
        return bool(row["p_value"] > 0.05)
    if row["low"] is not None:
        return bool(row["low"] <= 0)
    return pooled and row["value"] is not None and bool(row["value"] <= 2 * (2 / (row["n"] * (row["n"] - 3))) ** 0.5)


def _mean(rows: Sequence[Mapping[str, Any]], score: str, layer: str) -> Optional[float]:
    values = [row["value"] for row in rows if row["score"] == score and row["layer"] == layer and row["value"] is not None]
    return sum(values) / len(values) if values else None


def cautions(
    rows: Sequence[Mapping[str, Any]],
    *,
    n: int,
    duplicates: DuplicateCounter,
    positions: Optional[Mapping[str, Any]],
    aggregator: Aggregator,
    undefined: Sequence[str],
    maps_use_labels: bool,
    empty_maps: int,
    repeated_by_sampler: int,
    replicas: int,
    noise_by_rank: bool,
) -> list[str]:
    """Cautions about the numbers of this report, which are also raised as warnings."""
    distilled = distilled_scores(rows)
    little = [row for row in rows if row["score"] in distilled and _below(row["unique_share"], LITTLE_LEFT)]
    places = _listed(dict.fromkeys(f"{row['layer']} ({row['student']}, {row['base']})" for row in little))
    found = [
        (
            maps_use_labels,
            "Inputs were reduced by maps of their own labels, so the features carry the labels: relevance is above 0 even "
            "for untrained models and random labels (RS .12 to .47 in a simulation), and has no p-values. "
            'Pass target="predicted": maps of predictions depend on the input only.',
        ),
        (
            empty_maps,
            f"{empty_maps} maps are constant and rank no pixels or tokens, so the first ones of those inputs were kept. "
            "Choose another layer or another explanation.",
        ),
        (n < FEW_INPUTS, f"Only {n} inputs: below {FEW_INPUTS}, scores are mostly noise. A few hundred inputs make them stable."),
        (
            duplicates.count,
            f"{duplicates.count} of {n if positions is None else duplicates.seen} inputs are copies of others. Copies raise "
            "scores, even those of independent features. Leave them out.",
        ),
        (positions is not None and max(positions["copies"]), _copied_positions(positions, rows, n)),
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
            "at least two inputs each and different class embeddings."
            if aggregator.counts
            else f"{aggregator.left_out} mini-batches were left out: they have fewer than 4 inputs.",
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


def _copied_positions(positions: Optional[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], n: int) -> str:
    if positions is None:
        return ""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    most, layer = max((count, layer) for count, layer in zip(positions["copies"], layers))
    return (
        f"At {layer}, {most} of {n} token positions have the features of another one in the Student. In a decoder, positions "
        "after the same words do; in an embedding layer, equal tokens do. Copies raise scores, even those of independent "
        "features. Leave out such positions, for example the first ones, by the token mask."
    )


def advice(
    rows: Sequence[Mapping[str, Any]], settings: Settings, positions: Optional[Mapping[str, Any]] = None
) -> list[str]:
    """Advice for reading this report's numbers."""
    is_biased = settings.estimator == "biased"
    is_pooled, is_unbiased = settings.population == "all", settings.estimator == "unbiased"
    scored = {row["score"] for row in rows if row["value"] is not None}
    has_relevance, has_teacher = "rs_distilled" in scored, "teacher_distilled" in scored
    inputs = "of the same inputs" if is_pooled else "of the mini-batch; the equation does not hold for means over mini-batches"
    coverage = "" if settings.confidence is None else percent(settings.confidence)
    magnified = _magnified(rows, "RS" if has_relevance else "FSS with the Teacher") if is_pooled and is_unbiased else ""
    has_labels = settings.comparisons.labels
    found = [
        *((True, sentence) for sentence in no_gain(rows)),
        (positions is not None, of_positions(positions, bool(coverage))),
        (
            not has_labels,
            "Without labels, no score shows whether these networks have learned their task. Compare their accuracy or their loss "
            "first.",
        ),
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
            has_relevance,
            "The difference of distilled and residual follows from RS Student and RS Base: distilled - residual = (RS Student - "
            f"RS Base) sqrt((1 + F) / (1 - F)), where F is the unbiased FSS {inputs}."
            + " That of the Teacher's shares follows in the same way from FSS Student and FSS Base." * has_teacher,
        ),
        (
            has_teacher and not has_relevance,
            "The difference of the Teacher's shares follows from the similarity with the Teacher, so read all four scores "
            "together: distilled - residual = (FSS Student - FSS Base) sqrt((1 + F) / (1 - F)), with the unbiased FSS of Student "
            f"and Teacher, and of Base and Teacher, where F is that of Student and Base {inputs}.",
        ),
        (magnified, magnified),
        (
            has_relevance,
            "A positive distilled score is no evidence of transfer by itself: any second network of equal relevance has a "
            "positive one.",
        ),
        (
            has_teacher,
            "The Teacher's share is a correlation, not a fraction of the gain. A second Base has a positive one too.",
        ),
        (
            any(row["score"] in ("rs_distilled_all", "teacher_distilled_all") for row in rows),
            "Given all Bases: the more Bases, the less is left (unique). Compare such scores only with the same number of Bases.",
        ),
        (has_labels, "RS depends on the class frequencies, so compare scores on identical inputs only."),
        (
            coverage and is_pooled,
            f"Intervals ({coverage}){' and p-values' * has_labels} hold for these trained models over inputs like these, not for "
            "another training run.",
        ),
        (
            coverage and not is_pooled and any(row["low"] is not None for row in rows),
            f"Intervals ({coverage}) hold for the mean over such mini-batches and for these trained models, not for another "
            "training run. There are no p-values.",
        ),
    ]
    return [sentence for applies, sentence in found if applies]


def of_positions(positions: Optional[Mapping[str, Any]], has_intervals: bool) -> str:
    """What to know about scores of token positions; empty for other inputs."""
    if positions is None:
        return ""
    reach = "Intervals treat each sentence as one unit, and labels are not permuted. " * has_intervals
    return (
        f"The inputs are {of_sample(positions)}, the same ones in every model. Positions of one sentence are not independent. "
        f"{reach}Many positions of few sentences bias scores, and no interval shows that (docs/inference.md, inputs that are not "
        "independent), so pass many sentences."
    )


def of_sample(positions: Mapping[str, Any]) -> str:
    """The sample of token positions in words."""
    scored, of, sentences, of_sentences = (positions[key] for key in ("scored", "of", "sentences", "of_sentences"))
    if scored == of:
        return f"all {scored} token positions of {sentences} sentences"
    return f"{scored} of {of} token positions (drawn by seed {positions['seed']}) of {sentences} of {of_sentences} sentences"


def distilled_scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores of distilled features, for pairs and given all Bases: RS, or without labels the Teacher's share."""
    relevance, share = (
        [name for name in (f"{score}_distilled", f"{score}_distilled_all") if any(row["score"] == name for row in rows)]
        for score in ("rs", "teacher")
    )
    return relevance or share


def _magnified(rows: Sequence[Mapping[str, Any]], score: str) -> str:
    """A sentence about the largest magnification by similarity, among layers with enough geometry left to score."""
    left = {(row["student"], row["base"], row["layer"]): row["unique_share"] for row in rows if row["unique_share"] is not None}
    tight = [
        (row["value"], row["layer"])
        for row in rows
        if row["score"] == "fss"
        and row["value"] is not None
        and row["value"] >= TIGHT
        and left.get((row["student"], row["base"], row["layer"]), 0.0) >= LITTLE_LEFT
    ]
    if not tight:
        return ""
    similarity, layer = max(tight)
    factor = ((1 + similarity) / (1 - similarity)) ** 0.5
    where = f"FSS of a pair is up to {similarity:.3f} at {layer}"
    return f"{where}, so a difference of {score} is magnified {factor:.1f} times there."


def percent(share: float) -> str:
    """A share as a percentage without rounding: 0.95 as 95%, 0.999 as 99.9%."""
    return f"{100 * share:.10g}%"


def _below(value: Optional[float], bound: float) -> bool:
    return value is not None and value < bound


def _listed(items: Any, most: int = 4) -> str:
    items = list(items)
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
