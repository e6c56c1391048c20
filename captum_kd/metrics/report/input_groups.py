"""Classes or other groups of inputs, whose scores a report has."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Iterable, Optional

import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from captum_kd._distributed import ProcessGroup
from captum_kd._utils.validation import short_repr
from captum_kd.metrics.inference.class_products import one_hot

LEAST_IN_GROUP = 5
"""Smaller groups have no scores. With 5 inputs or more the nominal .95 intervals of docs/scripts/simulate_classes.py cover .92 or
more; with 2 or 3 inputs some cover .87, and relevance without one of two inputs is not defined. Proportions are
covered as well (.91 or more), mean divergences of 5 inputs less (.83; docs/inference.md)."""

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class InputGroups:
    """The groups of all inputs.

    Attributes:
        of_inputs (Tensor): (n,) integers, the group of each input.
        word (str): "class" or "group", for texts.
        sizes (dict): the number of inputs of each group, in ascending order of the groups.
        large (list of int): the groups that are large enough to be scored.

    Args:
        of_inputs (Tensor): as above.
        is_class (bool): True if the groups are the labels.
    """

    def __init__(self, of_inputs: Tensor, is_class: bool) -> None:
        names, counts = torch.unique(of_inputs, return_counts=True)
        self.of_inputs = of_inputs
        self.word = "class" if is_class else "group"
        self.sizes: dict[int, int] = dict(zip(names.tolist(), counts.tolist()))
        self.large = [name for name, size in self.sizes.items() if size >= LEAST_IN_GROUP]

    @property
    def plural(self) -> str:
        return "classes" if self.word == "class" else "groups"

    def columns(self, device: torch.device) -> Tensor:
        """(n, C) float64, 1 for the members of each large group."""
        return one_hot(self.of_inputs, torch.tensor(self.large, device=self.of_inputs.device)).to(device)

    def members(self, name: int) -> Tensor:
        """(n,) booleans."""
        return self.of_inputs == name

    def has_rest(self, name: int) -> bool:
        """Whether enough inputs are outside a group to compare it with the rest."""
        return len(self.of_inputs) - self.sizes[name] >= LEAST_IN_GROUP

    def note_of(self, name: int) -> Optional[str]:
        """Why a group lacks scores; None if it has them."""
        if name not in self.large:
            return f"fewer than {LEAST_IN_GROUP} inputs, so there are no scores"
        if not self.has_rest(name):
            return f"fewer than {LEAST_IN_GROUP} inputs outside it, so there is no relevance"
        return None

    def notes(self) -> list[str]:
        """Sentences for the report's notes."""
        found = [
            f"Relevance of a {self.word} grows with its share of the inputs. So compare models within a {self.word}, and only "
            f"{self.plural} of equal size with each other."
        ]
        without = [name for name in self.sizes if self.note_of(name) is not None]
        if without:
            listed = ", ".join(f"{name} ({self.sizes[name]} inputs)" for name in without[:10])
            more = f" and {len(without) - 10} more" if len(without) > 10 else ""
            found.append(
                f"Without scores, or without relevance: {self.word} {listed}{more}. A score needs at least {LEAST_IN_GROUP} "
                "inputs inside, and relevance as many outside."
            )
        return found


def as_groups_of_inputs(groups: Any) -> Optional[Tensor]:
    """The argument ``groups_of_inputs`` as a tensor (n,) on the CPU.

    Args:
        groups (Tensor or sequence of int, optional): the user's groups.

    Raises:
        TypeError: no integers.
        ValueError: another shape, or negative integers.
    """
    if groups is None:
        return None
    wanted = "one non-negative integer for each input, in the data's order"
    if not isinstance(groups, Tensor):
        # A set or a mapping has an order of its own.
        is_list = isinstance(groups, Iterable) and not isinstance(groups, (str, bytes, Set, Mapping))
        listed = groups.tolist() if hasattr(groups, "tolist") else list(groups) if is_list else None
        if not isinstance(listed, list) or not all(type(each) is int for each in listed):
            raise TypeError(f"groups_of_inputs must hold {wanted}, got {short_repr(groups)}.")
        groups = torch.tensor(listed, dtype=torch.long, device="cpu")
    if groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool:
        raise TypeError(f"groups_of_inputs must hold {wanted}, got {groups.dtype}.")
    if groups.dim() != 1:
        raise ValueError(f"groups_of_inputs must be of shape (n,), {wanted}, got shape {tuple(groups.shape)}.")
    if bool((groups < 0).any()):
        raise ValueError(f"groups_of_inputs must hold {wanted}, got {int(groups.min())}.")
    found: Tensor = groups.detach().to("cpu", torch.long)
    return found


def check_length(groups: Optional[Tensor], inputs: Optional[int]) -> None:
    """Raises a ValueError if there are groups of another number of inputs; None if that is unknown."""
    if groups is not None and inputs is not None and len(groups) != inputs:
        raise ValueError(
            f"groups_of_inputs has {len(groups)} integers, but the data hold {inputs} inputs; pass one integer for each "
            "input, in the order in which the loader yields them. Do not shuffle it. With several processes, each rank passes "
            "the integers of its own shard."
        )


def shuffles(data: object) -> bool:
    """True for a DataLoader whose order differs from pass to pass, so that nobody knows it beforehand."""
    samplers = [getattr(each, "sampler", None) for each in (data, getattr(data, "batch_sampler", None))]
    return any(isinstance(each, _RANDOM) and each.generator is None for each in samplers)


def check_order(groups: Optional[Tensor], data: object) -> None:
    """Raises a ValueError if there are groups of inputs whose order is drawn at random."""
    if groups is not None and shuffles(data):
        raise ValueError(
            "groups_of_inputs are in the data's order, but this DataLoader shuffles its inputs, so that groups would go to other "
            "inputs. Pass a loader with shuffle=False and no random sampler."
        )


def gathered_groups(
    own: Optional[Tensor], labels: Optional[Tensor], by_class: bool, group: ProcessGroup
) -> Optional[InputGroups]:
    """The groups of the inputs of all ranks, None without ``by_class`` and ``groups_of_inputs``.

    Args:
        own (Tensor, optional): the groups of this rank's inputs.
        labels (Tensor, optional): (n,) labels of all ranks' inputs.
        by_class (bool): take the labels as groups.
        group (ProcessGroup): the group of all ranks.
    """
    if by_class:
        assert labels is not None
        return InputGroups(labels.cpu(), True)
    return None if own is None else InputGroups(torch.cat(group.gather(own)), False)
