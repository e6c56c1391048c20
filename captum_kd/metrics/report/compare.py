"""compare_transfer: a report on Students, Bases and a Teacher over layers and a loader."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Optional, Sequence, Union

from captum.log import log_usage
from torch import Tensor

from captum_kd._distributed import as_process_group
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.hooks import same_random_state
from captum_kd._models.logits import OutputTransform
from captum_kd._models.training_mode import Modes, mode_notes, modes_of
from captum_kd._utils.batches import Unpack
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_bool, check_float, check_int, check_share
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.centering import Estimator
from captum_kd.embeddings import check_class_embeddings
from captum_kd.metrics.report.aggregation import Aggregator, BatchMeanScores, PooledScores, ReportPlan
from captum_kd.metrics.report.agreement import check_models, shared_arguments
from captum_kd.metrics.report.class_names import check_class_names, names_of_data
from captum_kd.metrics.report.collect import FeatureCollector, read_data
from captum_kd.metrics.report.explanation_scores import ExplanationScores
from captum_kd.metrics.report.explanations import Explanations, as_explanations
from captum_kd.metrics.report.input_groups import as_groups_of_inputs, check_length, check_order, shuffles
from captum_kd.metrics.report.inputs import OF_SHUFFLED_INPUTS, PARTS_OF_INPUTS
from captum_kd.metrics.report.localization import Localization, as_localization
from captum_kd.metrics.report.models import Layers, Model, Models, as_compared_models, feature_sets_of, pairs_of
from captum_kd.metrics.report.notes import advice, cautions, near_chance
from captum_kd.metrics.report.predictions import Predictions, PredictionScores, as_predictions
from captum_kd.metrics.report.placebos import control_placebos, copied_teachers, relevance_of_placebos
from captum_kd.metrics.report.rows import report_rows
from captum_kd.metrics.report.salient import Localizer
from captum_kd.metrics.report.seed_groups import as_seed_groups, control_seeds, without_seed_control
from captum_kd.metrics.report.settings import (
    Comparisons,
    Compute,
    ModelOptions,
    Settings,
    check_option,
)
from captum_kd.metrics.report.sharding import announced_inputs, begin_noise, repeated_by_sampler, sampler_replicas
from captum_kd.metrics.report.transfer_report import TransferReport
from captum_kd.metrics.report.verification import failed_check, foot
from captum_kd.metrics.scores_table import BASE, PLACEBO, STUDENT

COVERAGE = "between 0 and 1 (for example 0.95) or None"


@log_usage()
def compare_transfer(
    student: Models,
    base: Models,
    layers: Layers,
    data: Iterable[Any],
    *,
    teacher: Optional[Model] = None,
    placebo_teachers: Optional[Mapping[str, Model]] = None,
    class_embeddings: Optional[Tensor] = None,
    class_names: Optional[Sequence[str]] = None,
    localize: Union[None, str, Callable[..., Tensor], Localization] = None,
    keep: float = 0.5,
    predictions: Union[bool, Predictions] = False,
    explanations: Union[None, str, Callable[..., Tensor], Explanations] = None,
    by_class: bool = False,
    groups_of_inputs: Union[None, Tensor, Sequence[int]] = None,
    by_input: bool = False,
    confidence: Optional[float] = None,
    n_permutations: int = 1000,
    seed: int = 0,
    population: str = "all",
    estimator: Estimator = "unbiased",
    feature_transform: Optional[FeatureTransform] = None,
    unpack: Optional[Unpack] = None,
    output_transform: Optional[OutputTransform] = None,
    show_progress: bool = True,
    model_options: ModelOptions = ModelOptions(),
    comparisons: Comparisons = Comparisons(),
    compute: Compute = Compute(),
) -> TransferReport:
    r"""
    Compares the features of Students and Bases layer by layer, in one pass over the data. The report has FSS, RS of Student
    and Base, and RS of distilled and residual features. With a Teacher it also has the Teacher's share of distilled and residual
    features. Intervals and p-values are optional; with several models the report includes seed control.

    By default, scores are pooled over all inputs and unbiased. The authors' FSS is the biased estimator of unit-length
    features (``estimator="biased"``, ``feature_transform=flatten_to_unit_length``). Their earlier scripts average it over
    mini-batches (``population="batch"``). For few inputs the biased FSS is close to 1 even for unrelated features.

    With ``confidence``, intervals are delete-one jackknife-t intervals, of proportions Wilson's. p-values come from permuted
    labels for the relevance of a whole model, and from the jackknife-t test for distilled and residual features. FSS and the
    Teacher's share have no p-values: features of the same inputs are never independent, so independence is not a useful null
    hypothesis. Seed control tests the technique rather than these trained models. Its exact p-values come from relabelings of the
    trained models and are corrected over layers by Holm's method.

    A Teacher's share above that of other seeds need not be this Teacher's: longer training or another Teacher can raise it too.
    Placebo Teachers are networks of the Teacher's recipe, from other seeds, that taught no Student. With them, the report has the
    Teacher's share minus the mean of their shares, its seed control, and with at least 4 of them a t test of this Teacher.

    Source: Adhane et al., WACV 2025; Szekely & Rizzo 2014; the Teacher's share: docs/scores.md; inference:
    docs/inference.md.

    Args:

        student (Callable or dict): The Student, or several by name (seeds, techniques, an assistant).
        base (Callable or dict): The Base model, or several by name.
        layers (str, list of str or dict): Dotted names of layers that all models have; or {label: name}; or
                    {label: {model name: layer}} if architectures differ. In the last form, "student", "base" and "teacher"
                    stand for all models of that role, and layers may be modules. Placebo Teachers without a
                    layer of their own have the Teacher's.
        data (Iterable): DataLoader or other iterable of batches; read once.
        teacher (Callable, optional): The Teacher. Called "teacher" in ``layers``.
        placebo_teachers (dict, optional): {name: model}, networks of the Teacher's recipe that taught nobody. Needs
                    ``teacher``; 4 or more allow the t test.
        class_embeddings (Tensor, optional): (num_classes, e).
                    Default: None, one-hot. With two classes, all embeddings give the same scores.
        class_names (list of str, optional): The name of each class, for tables and figures.
                    Default: None, the names in ``data.dataset.classes`` if the data set has them and they fit the labels;
                    not with ``unpack`` or a ``target_transform``, whose labels may be others
        localize (str, Callable or Localization, optional): Take features on each model's inputs reduced to their salient
                    part. "gradcam", "hirescam" or a function (model, layer module, inputs, classes) -> maps stand for a
                    :class:`Localization` with its defaults. "unicam" needs ``Localization("unicam", reference=...)``.
                    Default: None, whole inputs
        keep (float, optional): Share of the pixels or tokens that are kept, in (0, 1). Needs ``localize``.
        predictions (bool or Predictions, optional): Also compare the predictions of all models, from the logits of the same
                    passes: accuracy and calibration, agreement with the Teacher, divergences, errors and right answers that the
                    Student shares with the Teacher and not with the Base. All models need the same classes.
                    Default: False
        explanations (str, Callable or Explanations, optional): Also compare the maps of Students and Bases with the Teacher's, at
                    every layer: whether Students look where the Teacher looks, more than Bases do. "gradcam", "hirescam" or
                    a function as for ``localize`` stand for an :class:`Explanations` with its defaults. Needs ``teacher``.
                    Default: None
        by_class (bool, optional): Also score each class: its relevance (the class against the rest), the Teacher's share within
                    its rows, and the means of predictions over its inputs, in ``report.classes``. Classes of fewer than 5 inputs
                    have no scores.
                    Default: False
        groups_of_inputs (Tensor or sequence of int, optional): The same for other groups: a non-negative integer for each
                    input, in the data's order, so ``data`` must not be shuffled. Each rank passes the groups of its own shard.
        by_input (bool, optional): Also split the scores into the parts of single inputs, in ``report.inputs``, with their
                    agreement between seeds.
                    Default: False
        confidence (float, optional): Coverage of intervals, for example 0.95.
                    Default: None, neither intervals nor p-values
        n_permutations (int, optional): Permutations of the labels for p-values; 0 for none.
        seed (int, optional): Seed of the permutations and of the imputation's noise.
        population (str, optional): "all" pools all inputs; "batch" averages scores over the loader's own batches.
        estimator (str, optional): Estimator of the similarity scores, "unbiased" or "biased". Relevance scores are always
                    unbiased, as in the authors' code, since removal is defined for U-centered distances.
        feature_transform (Callable, optional): From (N, C, ...) to (N, d).
                    Default: :func:`captum_kd.flatten`; for text (ids or a token mask) :func:`captum_kd.global_average_pool`
        unpack (Callable, optional): From a batch to (inputs, labels), or to (inputs, None) if ``comparisons`` say that there
                    are no labels.
                    Default: pairs, or mappings with ``labels``, of which all else are the models' inputs by name, or
                    ``pixel_values`` alone
        output_transform (Callable, optional): From a model's output to logits (N, classes), for ``localize``,
                    ``predictions`` and ``explanations``.
                    Default: the output's ``.logits`` if it has them, else the output
        show_progress (bool, optional): Show a progress bar over the batches.
        model_options (ModelOptions, optional): Further arguments of the models, and the layouts of their layers.
        comparisons (Comparisons, optional): Groups of seeds, shared seeds, progression over the layers, data without labels.
        compute (Compute, optional): Ranks, memory and device.

    Returns:
        TransferReport: rows (one for each Student, Base, layer and score), seed control, notes, settings.

    Raises:
        ValueError: unknown or missing layers, names used twice, no batches, too few inputs, labels without geometry,
                    non-finite features, arguments out of range; predictions of models with other numbers of classes.
        TypeError: models that cannot be called, batches without labels, arguments of the wrong type.
        OSError: the disk has no room for the features above ``memory_limit``.
        RuntimeError: another rank failed (the message has its number and error) or exited without an error.

    Examples::

        >>> report = compare_transfer(
        ...     {"kd 1": student_1, "kd 2": student_2}, {"base 1": base_1, "base 2": base_2},
        ...     ["layer3", "layer4"], loader, teacher=teacher, confidence=0.95)
        >>> print(report)
        >>> report.plot().savefig("layers.png")
    """
    check_option(compute, Compute, "compute")
    group = as_process_group(compute.process_group)
    with group.raise_together("checking its arguments"):
        settings = Settings(
            class_embeddings=check_class_embeddings(class_embeddings),
            class_names=check_class_names(class_names),
            localize=as_localization(localize),
            keep=check_share(keep),
            predictions=as_predictions(predictions),
            explanations=as_explanations(explanations),
            confidence=None if confidence is None else check_float(confidence, "confidence", COVERAGE, 0, 1),
            n_permutations=check_int(n_permutations, "n_permutations"),
            seed=check_int(seed, "seed"),
            population=population,
            estimator=estimator,
            feature_transform=feature_transform,
            unpack=unpack,
            output_transform=output_transform,
            show_progress=check_bool(show_progress, "show_progress"),
            model_options=model_options,
            comparisons=comparisons,
            compute=compute,
            by_class=check_bool(by_class, "by_class"),
            groups_of_inputs=as_groups_of_inputs(groups_of_inputs),
            by_input=check_bool(by_input, "by_input"),
        )
        labels, models = as_compared_models(student, base, teacher, placebo_teachers, layers)
        check_models(models, group)
        localizer = None if settings.localize is None else Localizer(settings.localize, settings, labels)
        are_counted = settings.groups_of_inputs is not None or (localizer is not None and group.size > 1)
        check_order(settings.groups_of_inputs, data)
        announced = announced_inputs(data, unpack, comparisons.labels) if are_counted else None
        check_length(settings.groups_of_inputs, announced)
        pairs = pairs_of(models, explained_in_pairs=settings.in_pairs)
        seed_groups = as_seed_groups(models, settings)
        compared = [each.key for each in models if each.role in (STUDENT, BASE)] if seed_groups else []
        plan = ReportPlan(labels, pairs, feature_sets_of(models, pairs), compared, seed_groups, settings)
        of_predictions = (
            None
            if settings.predictions is None
            else PredictionScores(models, settings.predictions, comparisons.labels, labels)
        )
        explained = (
            None if settings.explanations is None else ExplanationScores(models, labels, settings.explanations, settings)
        )
        collector = FeatureCollector(
            plan.sets, localizer, model_options, feature_transform, output_transform, of_predictions, explained
        )
        aggregator: Aggregator = (PooledScores if population == "all" else BatchMeanScores)(plan, group)
        modes = {str(each): modes_of(each.model) for each in models}
        shared = {} if settings.compute.process_group is None else shared_arguments(models, labels, settings.compared())
    group.check_equal(shared)
    noise_by_rank = localizer is not None and not begin_noise(localizer, group, announced)
    try:
        # Even an unshuffled loader draws from the global random generator.
        with group.raise_together("reading its data"), changed_state(same_random_state(())), interruptible():
            duplicates, sample = read_data(data, aggregator, collector, settings, settings.show_progress and group.rank == 0)
            check_length(settings.groups_of_inputs, duplicates.seen)
        own_inputs = duplicates.seen
        duplicates.all_reduce(group)
        if duplicates.seen == 0:
            raise ValueError("data yielded no batches; pass a loader with inputs (an iterator that was used up is empty).")
        for of_inputs in (of_predictions, explained):
            if of_inputs is not None:
                of_inputs.gather(group)
        rows, matrices, undefined, placebo_shares, gains, classes, inputs, similarities = report_rows(
            plan, aggregator, of_predictions, explained
        )
    finally:
        aggregator.close()
    empty_maps = 0 if localizer is None else localizer.empty
    is_as_announced = announced in (own_inputs, None)
    names = names_of_data(data) if unpack is None and settings.class_names is None else settings.class_names
    of_rank = own_inputs, modes, empty_maps, repeated_by_sampler(data), is_as_announced, collector.transform, names
    own_counts, modes_of_ranks, empty, repeated, as_announced, transforms, names_of_ranks = zip(*group.gather(of_rank))
    names = next((each for each in names_of_ranks if each is not None), None)
    modes = {name: Modes(*map(any, zip(*(each[name] for each in modes_of_ranks)))) for name in modes}
    n, positions = aggregator.n, None if sample is None else sample.recorded()
    placebos = [each.name for each in models if each.role == PLACEBO]
    verification = None if aggregator.verification is None else aggregator.verification._asdict()
    warnings = [
        *failed_check(verification),
        *near_chance(rows, {**settings.recorded(), "positions": positions}),
        *copied_teachers(placebo_shares, placebos),
        *mode_notes(modes),
        *cautions(
            rows,
            n=n,
            duplicates=duplicates,
            positions=positions,
            aggregator=aggregator,
            undefined=undefined,
            maps_use_labels=settings.maps_use_labels,
            empty_maps=sum(empty),
            repeated_by_sampler=max(repeated) if group.size > 1 else 0,
            replicas=sampler_replicas(data) if settings.compute.process_group is None else 1,
            noise_by_rank=noise_by_rank or not all(as_announced),
        ),
        *(explained.constant_maps() if explained is not None else []),
    ]
    for warning in warnings if group.rank == 0 else []:
        warn_user(warning)
    control = control_seeds(matrices, seed_groups, compared, rows, bool(placebos))
    notes = [*warnings, *advice(rows, settings, positions)]
    for of_inputs in (of_predictions, explained):
        if of_inputs is not None:
            notes += of_inputs.notes()
    if placebos and settings.comparisons.labels:
        notes.append(relevance_of_placebos(placebo_shares))
    if aggregator.input_groups is not None:
        notes += aggregator.input_groups.notes()
    if inputs is not None:
        notes += [PARTS_OF_INPUTS] + [OF_SHUFFLED_INPUTS] * shuffles(data)
    if control is None:
        notes.append(without_seed_control(models, settings.in_pairs))
    if verification is not None:
        notes.append(foot(verification, n))
    recorded = {
        "n": n,
        "cautions": len(warnings),
        "positions": positions,
        "class_counts": {str(label): aggregator.counts[label] for label in sorted(aggregator.counts)},
        "class_names": list(names) if names is not None and max(aggregator.counts, default=len(names)) < len(names) else None,
        **aggregator.recorded(),
        "models": {each.name: each.role for each in models},
        "training_mode": [name for name, of_model in modes.items() if of_model.is_training],
        "layers": {
            label: {each.name: each.layers[place].name or type(each.layers[place].module).__name__ for each in models}
            for place, label in enumerate(labels)
        },
        "verification": verification,
        "processes": None if settings.compute.process_group is None else list(own_counts),
        **settings.recorded(),
        "feature_transform": next((each for each in transforms if each is not None), None),  # None at ranks without inputs
    }
    of_placebos = control_placebos(rows, placebo_shares, gains, plan.pairs, placebos, settings)
    return TransferReport(rows, control, notes, recorded, of_placebos, classes, inputs, similarities)
