"""The examples that a run's pictures show."""

from __future__ import annotations

import torch
from distillation.task import first_of_each_class, in_turn


def test_the_first_example_of_each_class_comes_first() -> None:
    labels = torch.tensor([2, 2, 0, 1, 0, 1, 2])
    assert first_of_each_class(labels, 3).tolist() == [2, 3, 0]
    assert first_of_each_class(labels, 2).tolist() == [2, 3]


def test_few_classes_take_turns() -> None:
    labels = torch.tensor([1, 1, 1, 0, 0, 1])
    assert first_of_each_class(labels, 4).tolist() == [3, 0, 4, 1]
    assert first_of_each_class(labels, 9).tolist() == [3, 0, 4, 1, 2, 5]  # after the smaller class has run out


def test_any_first_part_of_a_random_order_holds_the_classes_in_equal_shares() -> None:
    labels = torch.tensor([0] * 40 + [1] * 7 + [2] * 12)
    order = in_turn(labels, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(59))
    assert labels[order[:21]].bincount().tolist() == [7, 7, 7]
    assert not torch.equal(order, in_turn(labels, torch.Generator().manual_seed(4)))
