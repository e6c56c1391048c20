"""Options and checked settings of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Callable, Optional, Sequence, Union

import torch
from torch import Tensor

from captum_kd._distributed import as_process_group
from captum_kd._models.feature_transforms import FeatureTransform
from captum_kd._models.logits import OutputTransform
from captum_kd._models.token_layout import LayoutHints, as_layout_hints
from captum_kd._utils.arguments import as_forward_args, check_callable, check_device_ids
from captum_kd._utils.batches import Unpack
from captum_kd._utils.text import name_of
from captum_kd._utils.validation import check_bool, check_choice, check_int, short_repr
from captum_kd._utils.versions import versions
from captum_kd.distance.blockwise import check_block_size
from captum_kd.distance.centering import LEAST_WITH_REMOVAL, Estimator, check_estimator
from captum_kd.metrics.report.explanations import Explanations
from captum_kd.metrics.report.localization import Localization
from captum_kd.metrics.report.positions import TokenPositions
from captum_kd.metrics.report.predictions import Predictions

VERIFIED = 500
"""Inputs of ``Compute(verify=True)``."""
# Settings that may differ between ranks.
_BY_RANK = ("show_progress", "process_group", "memory_limit", "feature_device", "device_ids", "stop_early", "groups_of_inputs")


@dataclass(frozen=True, eq=False)
class ModelOptions:
    """Options for calling the models and reading their layers.

    Args:
        additional_forward_args (Any, optional): Further arguments of all models, the same for every batch.
        attribute_to_layer_input (bool, optional): Use the layers' inputs.
        grid, prefix_tokens, channels_last, tokens: Layout of token and channels-last layers if it cannot be inferred, as for
                    :class:`captum_kd.UniCAM`.
        device_ids (list[int], optional): Device order of DataParallel models.
        token_mask (Callable, optional): From a batch's inputs, as the loader yields them, to its token mask (N, T): True for the
                    tokens that count.
                    Default: None, the models' ``attention_mask``
        stop_early (bool, optional): End forward passes once all layers have run, if that changes nothing else, as for
                    :class:`captum_kd.UniCAM`. Passes whose logits are needed are complete.
                    Default: True
        positions (TokenPositions, optional): Take every token position as one input.
                    Default: None, every sentence is one input

    Raises:
        ValueError: a grid that is not a pair of positive integers, a negative number of prefix tokens, or prefix tokens and
            positions; ``tokens`` that contradict ``channels_last`` or ``grid``.
        TypeError: arguments of the wrong type.

    Example::

        >>> report = compare_transfer(vit_1, vit_2, ["blocks.11"], loader, model_options=ModelOptions(prefix_tokens=1))
    """

    additional_forward_args: Any = None
    attribute_to_layer_input: bool = False
    grid: Optional[tuple[int, int]] = None
    prefix_tokens: Optional[int] = None
    channels_last: Optional[bool] = None
    device_ids: Optional[list[int]] = None
    stop_early: bool = True
    token_mask: Optional[Callable[[Any], Tensor]] = None
    tokens: Optional[bool] = None
    positions: Optional[TokenPositions] = None

    def __post_init__(self) -> None:
        if self.token_mask is not None:
            check_callable(self.token_mask, "token_mask")
        if self.positions is not None:
            check_option(self.positions, TokenPositions, "positions")
            if self.prefix_tokens:
                raise ValueError("prefix_tokens cannot be left out of positions; leave these tokens out of the token mask.")
        check_bool(self.stop_early, "stop_early")
        at_input = check_bool(self.attribute_to_layer_input, "attribute_to_layer_input")
        _set(self, attribute_to_layer_input=at_input, grid=self.hints.grid, prefix_tokens=self.hints.prefix_tokens)
        check_device_ids(self.device_ids)

    @property
    def forward_args(self) -> tuple[Any, ...]:
        return as_forward_args(self.additional_forward_args)

    @property
    def hints(self) -> LayoutHints:
        return as_layout_hints(self.grid, self.prefix_tokens, self.channels_last, self.tokens)


@dataclass(frozen=True)
class Comparisons:
    """Comparisons beyond those of each Student with each Base.

    Args:
        groups (dict, optional): {name: names of Students}. Each group of Students has its own seed control, for example
                    the seeds of one technique. Students without a group are left out of seed control.
                    Default: None, all Students are one group
        shared_seeds (sequence of (str, str), optional): (Student, Base) that were trained from the same seed.
        progression (bool, optional): Also score the similarity of each layer and the model's last layer in ``layers``.
        labels (bool, optional): False for data without labels. The report then has no relevance scores; it has FSS and, with a
                    Teacher, the Teacher's share. Batches are inputs, (inputs,), (inputs, None), or mappings, whose labels
                    are not read.
                    Default: True, a batch without labels is an error

    Raises:
        ValueError: an empty mapping of groups.
        TypeError: groups that are not lists of names, shared seeds that are not pairs of names.

    Example::

        >>> comparisons = Comparisons(groups={"hinton": ["h 1", "h 2"], "hints": ["t 1", "t 2"]})
    """

    groups: Optional[Mapping[str, Sequence[str]]] = None
    shared_seeds: Sequence[tuple[str, str]] = ()
    progression: bool = False
    labels: bool = True

    def __post_init__(self) -> None:
        if self.groups is not None:
            if not isinstance(self.groups, Mapping):
                raise TypeError(
                    "groups must be {name: names of Students}, a list of names for each group, got "
                    f"{short_repr(self.groups)}."
                )
            if not self.groups:
                raise ValueError("groups is an empty mapping; leave it out, or name at least one group of Students.")
            for name, members in self.groups.items():
                if not isinstance(members, (list, tuple)):
                    raise TypeError(f"groups[{name!r}] must be a list of Students' names, got {short_repr(members)}.")
        if not isinstance(self.shared_seeds, (list, tuple)):
            raise TypeError(f"shared_seeds must be a list of pairs (Student, Base), got {short_repr(self.shared_seeds)}.")
        for pair in self.shared_seeds:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"shared_seeds must hold pairs (name of a Student, name of a Base), got {short_repr(pair)}.")
        _set(self, progression=check_bool(self.progression, "progression"), labels=check_bool(self.labels, "labels"))


@dataclass(frozen=True)
class Compute:
    """Ranks, memory and device of a report. They do not change the scores.

    Args:
        process_group (ProcessGroup, optional): Shard the inputs over ranks, for example
                    ``torch.distributed.group.WORLD``. Each rank calls :func:`compare_transfer` with its own shard as ``data``
                    and otherwise the same arguments. Shards may differ in size and may be empty. Every rank gets the
                    report over all shards in the ranks' order (docs/distributed.md).
                    Default: None, ``data`` holds all inputs
        memory_limit (int, optional): Limit in bytes. If all features need more, they go to temporary files; if a layer's
                    distance matrices need more, distances are computed block by block. Each rank has its own limit. None:
                    no limit.
                    Default: 8 GiB
        block_size (int, optional): Compute distances in square blocks of this many inputs and hold no (n, n) matrix.
                    Default: None, matrices up to 4,096 inputs if memory allows, else blocks of 512 (4,096 on a GPU)
        feature_device (str or torch.device, optional): Device on which features are kept and scored.
                    Default: "cpu"
        verify (int or bool, optional): Size of a random sample of the inputs, on which dcor recomputes every correlation; True
                    for 500. The report ends with the largest difference, and begins with a caution if it is above 1e-4, which is
                    more than rounding. dcor takes some seconds to compile, and memory for the sample's distances.
                    Default: 0, no recomputation

    Raises:
        ValueError: a limit or block size that is not a positive integer, an unavailable device, a group that this process
            does not belong to, ``verify`` of 1 to 4 inputs or with a process group.
        TypeError: ``process_group`` is not a process group.

    Example::

        >>> compute = Compute(process_group=torch.distributed.group.WORLD, feature_device="cuda")
    """

    process_group: Any = None
    memory_limit: Optional[int] = 8 * 2**30
    block_size: Optional[int] = None
    feature_device: Union[str, torch.device] = "cpu"
    verify: Union[int, bool] = 0

    def __post_init__(self) -> None:
        as_process_group(self.process_group)
        if isinstance(self.verify, bool):
            _set(self, verify=VERIFIED * self.verify)
        if 0 < check_int(self.verify, "verify", 0) < LEAST_WITH_REMOVAL:
            raise ValueError(f"verify must be 0 or at least {LEAST_WITH_REMOVAL} inputs, got {self.verify}.")
        if self.verify and self.process_group is not None:
            raise ValueError("verify needs all features in one process, but there is a process_group; leave out one of the two.")
        if self.memory_limit is not None:
            check_int(self.memory_limit, "memory_limit (in bytes)", 1, or_none=True)
        check_block_size(self.block_size)
        _check_device(self.feature_device)


@dataclass(frozen=True)
class Settings:
    """The checked arguments of :func:`compare_transfer`, without models, layers and data."""

    class_embeddings: Optional[Tensor]
    localize: Optional[Localization]
    predictions: Optional[Predictions]
    explanations: Optional[Explanations]
    keep: float
    confidence: Optional[float]
    n_permutations: int
    seed: int
    population: str
    estimator: Estimator
    feature_transform: Optional[FeatureTransform]
    unpack: Optional[Unpack]
    output_transform: Optional[OutputTransform]
    show_progress: bool
    model_options: ModelOptions
    comparisons: Comparisons
    compute: Compute
    by_class: bool = False
    groups_of_inputs: Optional[Tensor] = None
    by_input: bool = False
    class_names: Optional[tuple[str, ...]] = None

    def __post_init__(self) -> None:
        check_choice(self.population, "population", ("all", "batch"))
        check_estimator(self.estimator)
        for argument in ("feature_transform", "unpack", "output_transform"):
            if getattr(self, argument) is not None:
                check_callable(getattr(self, argument), argument)
        check_option(self.model_options, ModelOptions, "model_options")
        check_option(self.comparisons, Comparisons, "comparisons")
        if not self.comparisons.labels:
            self._check_without_labels()
        if self.model_options.positions is not None:
            self._check_positions()
        for name in ("predictions", "explanations"):
            if getattr(self, name) is not None and self.localize is not None:
                raise ValueError(f"{name} are those for whole inputs, but localize reduces them; leave out one of the two.")
        self._check_parts()
        if self.population == "batch" and self.compute.verify:
            raise ValueError('verify belongs to population="all", but population is "batch"; leave out verify.')
        if self.population == "batch" and self.compute.block_size is not None:
            raise ValueError(
                'block_size belongs to population="all", but population is "batch", which holds the distances of one mini-batch '
                "only; leave out block_size."
            )

    def _check_without_labels(self) -> None:
        if self.class_embeddings is not None:
            raise ValueError("class_embeddings belong to labels, but Comparisons(labels=False) has none; leave out one of them.")
        if self.maps_use_labels:
            raise ValueError(
                'Localization(target="label") needs labels, but Comparisons(labels=False) has none; pass target="predicted".'
            )
        if self.explanations is not None and self.explanations.target == "label":
            raise ValueError(
                'Explanations(target="label") needs labels, but Comparisons(labels=False) has none; pass target="teacher".'
            )

    def _check_parts(self) -> None:
        asked = {
            "by_class": self.by_class, "groups_of_inputs": self.groups_of_inputs is not None, "by_input": self.by_input,
        }  # fmt: skip
        for name in (name for name, is_asked in asked.items() if is_asked):
            if self.population == "batch":
                raise ValueError(f'{name} needs population="all", but population is "batch"; a mini-batch has too few inputs.')
            if name != "by_class" and self.model_options.positions is not None:
                raise ValueError(f"{name} is about whole inputs, but TokenPositions draws tokens; leave out one of them.")
        if self.by_class and self.groups_of_inputs is not None:
            raise ValueError("by_class takes the labels as groups of inputs; leave out by_class or groups_of_inputs.")
        if self.by_class and not self.comparisons.labels:
            raise ValueError("by_class needs labels, but Comparisons(labels=False) has none; pass groups_of_inputs= instead.")

    def _check_positions(self) -> None:
        without = {
            "feature_transform": self.feature_transform,
            "localize": self.localize,
            "predictions": self.predictions,
            "explanations": self.explanations,
            'population="batch"': None if self.population == "all" else self.population,
            "Compute(process_group=...)": self.compute.process_group,
        }
        given = [name for name, value in without.items() if value is not None]
        if given:
            raise ValueError(f"TokenPositions takes the features of every token, in one process; leave out {given[0]}.")

    @property
    def device(self) -> torch.device:
        return torch.device(self.compute.feature_device)

    @property
    def in_pairs(self) -> bool:
        """True if a model has different features in each pair."""
        return self.localize is not None and self.localize.in_pairs

    @property
    def maps_use_labels(self) -> bool:
        """True if images are reduced by maps of their own labels, so that features carry the labels."""
        return self.localize is not None and self.localize.target == "label"

    def compared(self) -> dict[str, Any]:
        """The settings that must be equal in all ranks, by the argument's name."""
        return {**flat(self), "groups_of_inputs is not None": self.groups_of_inputs is not None}

    def recorded(self) -> dict[str, Any]:
        """The settings that the report's numbers depend on, in plain types."""
        localize = self.localize
        is_tested = self.confidence is not None and self.population == "all" and self.comparisons.labels
        return {
            "population": self.population,
            "estimator": self.estimator,
            "feature_transform": None if self.feature_transform is None else name_of(self.feature_transform),
            "localize": None if localize is None else localize.name,
            "localize_target": None if localize is None else localize.target,
            "localize_layer": None if localize is None else localize.layer,
            "n_steps": None if localize is None else localize.n_steps,
            "keep": None if localize is None else self.keep,
            "noise": None if localize is None else localize.noise,
            "mask_token_id": None if localize is None else localize.mask_tokens,
            "temperature": None if self.predictions is None else self.predictions.temperature,
            "explanations": None if self.explanations is None else self.explanations._recorded(),
            "confidence": self.confidence,
            "n_permutations": self.n_permutations if is_tested else None,
            "seed": self.seed,
            "class_embeddings": None if self.class_embeddings is None else list(self.class_embeddings.shape),
            "attribute_to_layer_input": self.model_options.attribute_to_layer_input,
            "versions": versions(),
        }


def check_option(value: object, kind: type, argument: str) -> None:
    """Raises a TypeError unless an option is an instance of its class."""
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be a captum_kd.metrics.{kind.__name__}, got {short_repr(value)}.")


def _set(option: object, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(option, name, value)


def flat(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass and of its options by name, without those that may differ between ranks."""
    found: dict[str, Any] = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            found |= {f"{each.name}.{name}": inner for name, inner in flat(value).items()}
        elif each.name not in _BY_RANK:
            found[each.name] = value
    return found


def _check_device(device: Union[str, torch.device]) -> None:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"feature_device={short_repr(device)} is no device that torch can use here; pass 'cpu' or another device. ({error})"
        ) from None
    if found.type == "meta":
        raise ValueError("feature_device must be a device that holds numbers, got 'meta'; pass 'cpu' or a GPU.")
