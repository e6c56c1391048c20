"""compare_transfer: a report on Students, Bases and a Teacher over layers and a loader."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from captum.log import log_usage
from torch import Tensor

from captum_kd._distributed import as_process_group
from captum_kd._models.feature_transforms import FeatureTransform, flatten, global_average_pool
from captum_kd._models.hooks import same_random_state
from captum_kd._models.logits import OutputTransform
from captum_kd._models.token_layout import as_layout_hints
from captum_kd._models.training_mode import Modes, mode_notes, modes_of
from captum_kd._utils.arguments import as_forward_args, as_inputs, as_labels, check_callable, check_device_ids
from captum_kd._utils.batches import Unpack
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd._utils.validation import check_int, check_bool, check_noise, check_float, check_share
from captum_kd._utils.warnings import warn_user
from captum_kd.distance.centering import Estimator, check_estimator
from captum_kd.embeddings import check_class_embeddings
from captum_kd.metrics.report.aggregation import PooledScores, BatchMeanScores, Question
from captum_kd.metrics.report.agreement import check_models, exact_digest, question_of, what_is_called
from captum_kd.metrics.report.choices import as_device, check_choices, check_storage
from captum_kd.metrics.report.collect import FeatureCollector, pairs_of
from captum_kd.metrics.report.memory import HALVING, POOLING, PROJECTING, MemoryLimit
from captum_kd.metrics.report.models import TEACHER, Layers, Model, Models, as_compared_models
from captum_kd.metrics.report.notes import cautions, explanations
from captum_kd.metrics.report.projection import RandomProjection
from captum_kd.metrics.report.reading import read_data
from captum_kd.metrics.report.rows import report_rows
from captum_kd.metrics.report.salient import Localize, Localizer, as_explainer
from captum_kd.metrics.report.scores import ScoreSettings
from captum_kd.metrics.report.seed_groups import as_seed_groups, control_seeds, without_seed_control
from captum_kd.metrics.report.settings import name_of, storage_settings, versions
from captum_kd.metrics.report.sharding import announced_inputs, begin_noise, repeated_by_sampler, sampler_replicas
from captum_kd.metrics.report.transfer_report import TransferReport

__all__ = ["compare_transfer"]

DEFAULT_MEMORY_LIMIT = 8 * 2**30


@log_usage()
def compare_transfer(
    student: Models,
    base: Models,
    layers: Layers,
    data: Iterable[Any],
    *,
    teacher: Optional[Model] = None,
    class_embeddings: Optional[Tensor] = None,
    localize: Localize = None,
    keep: float = 0.5,
    confidence: Optional[float] = None,
    n_permutations: int = 1000,
    seed: int = 0,
    population: str = "all",
    estimator: Estimator = "unbiased",
    feature_transform: FeatureTransform = flatten,
    unpack: Optional[Unpack] = None,
    output_transform: Optional[OutputTransform] = None,
    show_progress: bool = True,
    localize_target: str = "predicted",
    localize_layer: Optional[str] = None,
    reference: Optional[tuple[Any, Any]] = None,
    noise: float = 0.01,
    progression: bool = False,
    groups: Optional[Mapping[str, Sequence[str]]] = None,
    shared_seeds: Sequence[tuple[str, str]] = (),
    additional_forward_args: Any = None,
    memory_limit: Optional[int] = DEFAULT_MEMORY_LIMIT,
    block_size: Optional[int] = None,
    half_precision: bool = False,
    random_projection: Optional[int] = None,
    feature_device: Union[str, torch.device] = "cpu",
    grid: Optional[tuple[int, int]] = None,
    prefix_tokens: Optional[int] = None,
    channels_last: Optional[bool] = None,
    attribute_to_layer_input: bool = False,
    device_ids: Optional[list[int]] = None,
    process_group: Any = None,
) -> TransferReport:
    r"""
    What Students have and Bases lack, and the reverse, layer by layer: FSS, RS of Student and Base, RS of distilled
    and residual features; with a Teacher how much of these is the Teacher's. Intervals and p-values when asked, seed
    control where there are several models, from one pass over the data.

    Scores are pooled over all inputs and unbiased unless told otherwise. The authors' FSS is the biased estimator, of
    unit-length features (``estimator="biased"``, ``feature_transform=flatten_to_unit_length``) or in earlier scripts
    averaged over mini-batches (``population="batch"``); for few inputs it says 1 of unrelated features.

    With ``confidence``, intervals are delete-one jackknife-t intervals; p-values are those of permuted labels for the
    relevance of a whole model and of the jackknife-t test for distilled and residual features. FSS and the Teacher's
    share have none: two networks look at the same inputs, so independence is no null. What speaks about the technique
    rather than about these trained models is seed control: exact p-values over relabelings of the trained models,
    corrected over layers by Holm.

    Source: Adhane et al., WACV 2025; Szekely & Rizzo 2014; the Teacher's share: docs/report.md; inference:
    docs/inference.md.

    Args:

        student (Callable or dict): The Student, or several by name: seeds, techniques, an assistant.
        base (Callable or dict): The Base model, or several by name.
        layers (str, list of str or dict): Dotted names of layers that all models have; or {label: name}; or
                    {label: {model name: layer}} where architectures differ, in which "student", "base" and "teacher"
                    stand for all models of that role and layers may be modules.
        data (Iterable): DataLoader or other iterable of batches; read once.
        teacher (Callable, optional): The Teacher. Called "teacher" in ``layers``.
        class_embeddings (Tensor, optional): (num_classes, e).
                    Default: None, one-hot. With two classes every table gives the same scores.
        localize (str or Callable, optional): Take features on each model's images reduced to their salient part, by
                    "gradcam", "hirescam" (of the softmax output, as the authors' scores), "unicam" (distilled map for
                    the Student, residual map for the Base; needs ``reference``; the Teacher by Grad-CAM), or a function
                    (model, layer module, inputs, classes) -> maps (N, 1, h, w), the classes being those of
                    ``localize_target``.
                    Default: None, whole images
        keep (float, optional): Share of the pixels that stay, in (0, 1).
        confidence (float, optional): Coverage of intervals, 0.95 say. None: no intervals, no p-values.
        n_permutations (int, optional): Permutations of the labels; 0: none.
        seed (int, optional): Of permutations and of the imputation's noise.
        population (str, optional): "all" pools all inputs; "batch" averages scores over the loader's own batches.
        estimator (str, optional): "unbiased" or "biased", of the similarity scores. Relevance scores are always
                    unbiased, as in the authors' code: removal is defined for U-centered distances.
        feature_transform (Callable, optional): From (N, C, ...) to (N, d).
                    Default: :func:`captum_kd.flatten`
        unpack (Callable, optional): From a batch to (inputs, labels).
                    Default: pairs, or mappings with ``pixel_values`` and ``labels``
        output_transform (Callable, optional): From a model's output to logits (N, classes), for ``localize``.
                    Default: ``.logits`` if there is one
        show_progress (bool, optional): Show a progress bar over the batches.
        localize_target (str, optional): The class that maps explain: "predicted", each model's own prediction, or
                    "label", as the authors do. Maps of an input's own label carry the label into the features:
                    relevance is then above 0 even for untrained models and random labels, and gets no p-values.
        localize_layer (str, optional): One of the layers, whose map serves all of them.
                    Default: None, each layer its own map
        reference (tuple, optional): (inputs, labels), the fixed population of ``localize="unicam"``.
        noise (float, optional): Standard deviation of the imputed pixels' noise, in input units.
        progression (bool, optional): Also score each layer against the model's last one among ``layers``.
        groups (dict, optional): {name: names of Students}: seed control for each group of Students by itself (a
                    technique's seeds, say). Students in no group take no part in it.
                    Default: None, all Students are one group
        shared_seeds (sequence of (str, str), optional): (Student, Base) that were trained from the same seed.
        additional_forward_args (Any, optional): Further arguments of all models, the same for every batch.
        memory_limit (int, optional): Bytes that features and distances may take, estimated after the first batch.
                    Features that do not fit go to a temporary file, which is gone afterwards whatever happens, and
                    distances that do not are computed block by block: same scores, more time. None: no limit.
                    Default: 8 GiB
        block_size (int, optional): Compute distances in blocks of this many inputs a side and hold no (n, n) matrix.
                    Default: None, matrices up to 4,096 inputs where memory allows, else blocks of 512, on a GPU of
                    4,096
        half_precision (bool, optional): Keep features in float16, each input's in a unit of its own: half of the space,
                    and 11 bits of every number.
        random_projection (int, optional): Project wider features to this many numbers by random signs. Distances then
                    have a relative standard error of at most about sqrt(0.5 / this number), 1.1 % for 4,096, which
                    the report's settings state.
        feature_device (str or torch.device, optional): Where features are kept and scored.
                    Default: "cpu"
        grid, prefix_tokens, channels_last: Layout of token and channels-last layers where it cannot be found, as for
                    :class:`captum_kd.UniCAM`.
        attribute_to_layer_input (bool, optional): Use the layers' inputs.
        device_ids (list[int], optional): Device order of DataParallel models.
        process_group (ProcessGroup, optional): Several processes share the inputs, ``torch.distributed.group.WORLD``
                    say: each calls this with the same arguments but for ``data``, its own share, which may be of
                    any size and even empty, and gets the report over all shares, in the processes' order.
                    Features go from process to process a block at a time (docs/distributed.md).
                    Default: None, ``data`` is all there is

    Returns:
        TransferReport: rows (Student x Base x layer x score), seed control, notes, settings.

    Raises:
        ValueError: unknown or missing layers, names used twice, no batches, too few inputs, labels without geometry,
                    features that are not finite, a ``memory_limit`` below what one block of distances needs or a
                    disk that cannot hold the features above it, arguments out of range.
        TypeError: models that cannot be called, batches without labels, arguments of the wrong type.
        RuntimeError: another process failed (with its number and error), or ended without a word.

    Examples::

        >>> report = compare_transfer(
        ...     {"kd 1": student_1, "kd 2": student_2}, {"base 1": base_1, "base 2": base_2},
        ...     ["layer3", "layer4"], loader, teacher=teacher, confidence=0.95)
        >>> print(report)
        >>> report.plot().savefig("layers.png")
    """
    processes = as_process_group(process_group)
    with processes.raise_together("checking its arguments"):
        check_choices(population, localize, localize_target, localize_layer, reference)
        keep, noise = check_share(keep), check_noise(noise)
        if confidence is not None:
            confidence = check_float(confidence, "confidence", "between 0 and 1 (say 0.95) or None", 0, 1)
        n_permutations, seed = check_int(n_permutations, "n_permutations"), check_int(seed, "seed")
        progression, show_progress = check_bool(progression, "progression"), check_bool(show_progress, "show_progress")
        attribute_to_layer_input = check_bool(attribute_to_layer_input, "attribute_to_layer_input")
        half_precision = check_bool(half_precision, "half_precision")
        check_storage(population, block_size, half_precision, random_projection)
        check_estimator(estimator)
        check_callable(feature_transform, "feature_transform")
        for argument, function in (("unpack", unpack), ("output_transform", output_transform)):
            if function is not None:
                check_callable(function, argument)
        hints = as_layout_hints(grid, prefix_tokens, channels_last)
        check_device_ids(device_ids)
        embeddings = check_class_embeddings(class_embeddings)
        labels, subjects = as_compared_models(student, base, teacher, layers)
        check_models(subjects, processes)
        if localize_layer is not None and localize_layer not in labels:
            raise ValueError(f"localize_layer={localize_layer!r} is none of the layers; pass one of {labels}.")
        localizer = None
        if localize is not None:
            explain = as_explainer(
                localize,
                output_transform=output_transform,
                reference=reference,
                class_embeddings=embeddings,
                hints=hints,
                at_input=attribute_to_layer_input,
                device_ids=device_ids,
            )
            place = None if localize_layer is None else labels.index(localize_layer)
            localizer = Localizer(explain, localize_target, place, len(labels), keep, noise, seed)
        explained_by = localize if localize is None or isinstance(localize, str) else name_of(localize)
        maps_know_labels = localizer is not None and localize_target == "label"
        in_pairs = localize == "unicam"
        pairs = pairs_of(subjects, explained_in_pairs=in_pairs)
        seed_groups = as_seed_groups(subjects, groups, shared_seeds, explained_in_pairs=in_pairs)
        collector = FeatureCollector(
            subjects,
            pairs,
            hints,
            {"feature_transform": feature_transform, "device_ids": device_ids},
            localizer,
            as_forward_args(additional_forward_args),
            attribute_to_layer_input,
        )
        question = Question(
            labels=labels,
            pairs=pairs,
            views=collector.views,
            compared=[each.key for each in subjects if each.role != TEACHER] if seed_groups else [],
            progression=progression,
            settings=ScoreSettings(estimator, confidence, n_permutations, seed, embeddings, maps_know_labels),
        )
        device = as_device(feature_device)
        taken = [
            way
            for way, is_taken in (
                (POOLING, feature_transform is global_average_pool),
                (HALVING, half_precision),
                (PROJECTING, random_projection is not None),
            )
            if is_taken
        ]
        limit = MemoryLimit(memory_limit, data, len(collector.views), progression, block_size, processes.size, device, taken)
        projection = None if random_projection is None else RandomProjection(random_projection, seed)
        aggregator: Union[PooledScores, BatchMeanScores] = (
            PooledScores(limit.place, device, half_precision, projection, processes, feature_transform)
            if population == "all"
            else BatchMeanScores(question, processes)
        )
        modes = {str(each): modes_of(each.model) for each in subjects}
        announced = announced_inputs(data, unpack) if localizer is not None and processes.size > 1 else None
        alike: dict[str, object] = {}
        if process_group is not None:
            alike = question_of(
                subjects,
                labels,
                embeddings,
                {
                    "localize": localize if isinstance(localize, str) else what_is_called(localize),
                    "localize_target": localize_target,
                    "localize_layer": localize_layer,
                    "reference": None if reference is None else _digest_of_reference(reference),
                    "keep": keep,
                    "noise": noise,
                    "confidence": confidence,
                    "n_permutations": n_permutations,
                    "seed": seed,
                    "population": population,
                    "estimator": estimator,
                    "feature_transform": what_is_called(feature_transform),
                    "unpack": what_is_called(unpack),
                    "output_transform": what_is_called(output_transform),
                    "additional_forward_args": exact_digest(additional_forward_args),
                    "grid, prefix_tokens, channels_last": tuple(hints),
                    "progression": progression,
                    "groups": None if groups is None else {name: list(members) for name, members in groups.items()},
                    "shared_seeds": [tuple(each) for each in shared_seeds],
                    "block_size": block_size,
                    "half_precision": half_precision,
                    "random_projection": random_projection,
                    "attribute_to_layer_input": attribute_to_layer_input,
                },
            )
    processes.check_equal(alike)
    noise_by_process = localizer is not None and not begin_noise(localizer, processes, announced)
    try:
        # A loader draws from the global stream, even an unshuffled one.
        with processes.raise_together("reading its data"), changed_state(same_random_state(())), interruptible():
            copies = read_data(data, aggregator, collector, unpack, embeddings, show_progress and processes.rank == 0)
        own = copies.seen
        copies.share(processes)
        if copies.seen == 0:
            raise ValueError("data yielded no batches; pass a loader with inputs (an iterator that was used up is empty).")
        rows, matrices, undefined = report_rows(question, aggregator)
    finally:
        if isinstance(aggregator, PooledScores):
            aggregator.close()
    n = sum(aggregator.counts.values())
    everyone = processes.gather(
        _Seen(own, modes, 0 if localizer is None else localizer.empty, repeated_by_sampler(data), announced in (own, None))
    )
    modes = {name: Modes(*map(any, zip(*(each.modes[name] for each in everyone)))) for name in modes}
    control = control_seeds(matrices, seed_groups, question.compared)
    doubts = cautions(
        rows,
        n=n,
        repeated=copies.count,
        left_out=aggregator.left_out,
        left_out_of_removal=aggregator.left_out_of_removal,
        undefined=undefined,
        undefined_in_batches=aggregator.undefined,
        modes=mode_notes(modes),
        maps_know_labels=maps_know_labels,
        empty_maps=sum(each.empty_maps for each in everyone),
        repeated_by_sampler=max(each.repeated for each in everyone) if processes.size > 1 else 0,
        shares=sampler_replicas(data) if process_group is None else 1,
        noise_by_process=noise_by_process or not all(each.as_announced for each in everyone),
    )
    for doubt in doubts if processes.rank == 0 else []:
        warn_user(doubt)
    notes = [*doubts, *explanations(rows, population=population, estimator=estimator, confidence=confidence)]
    if control is None:
        notes.append(without_seed_control(subjects, in_pairs))
    settings = {
        "n": n,
        "class_counts": {str(label): aggregator.counts[label] for label in sorted(aggregator.counts)},
        "population": population,
        "batches": (
            {"used": aggregator.used, "left_out": aggregator.left_out} if isinstance(aggregator, BatchMeanScores) else None
        ),
        "estimator": estimator,
        "feature_transform": name_of(feature_transform),
        "localize": explained_by,
        "localize_target": None if localize is None else localize_target,
        "localize_layer": localize_layer,
        "keep": None if localize is None else keep,
        "noise": None if localize is None else noise,
        "confidence": confidence,
        "n_permutations": n_permutations if confidence is not None and population == "all" else None,
        "seed": seed,
        "class_embeddings": None if embeddings is None else list(embeddings.shape),
        "attribute_to_layer_input": attribute_to_layer_input,
        "features": storage_settings(aggregator, half_precision, random_projection),
        "models": {each.name: each.role for each in subjects},
        "training_mode": [name for name, of_model in modes.items() if of_model.is_training],
        "layers": {
            label: {each.name: each.layers[place].name or type(each.layers[place].module).__name__ for each in subjects}
            for place, label in enumerate(labels)
        },
        "processes": None if process_group is None else [each.inputs for each in everyone],
        "versions": versions(),
    }
    return TransferReport(rows, control, notes, settings)


def _digest_of_reference(reference: tuple[Any, Any]) -> Any:
    inputs = as_inputs(reference[0], "reference[0]")
    return exact_digest((inputs, as_labels(reference[1], inputs[0].shape[0])))


class _Seen(NamedTuple):
    """What one process has seen.

    Attributes:
        inputs (int): their number.
        modes (dict): what each model does in the mode that it is in.
        empty_maps (int): constant maps.
        repeated (int): inputs that its sampler gives a second time, to all processes together.
        as_announced (bool): whether there were as many inputs as it had told the others.
    """

    inputs: int
    modes: dict[str, Modes]
    empty_maps: int
    repeated: int
    as_announced: bool
