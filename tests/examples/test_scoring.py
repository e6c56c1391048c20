"""The published formula's mini-batches."""

import torch
from distillation.scoring import pairs_of_classes
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(0, 30), min_size=2, max_size=6), st.integers(0, 2**31))
def test_every_mini_batch_has_two_classes_of_two_or_more_images(counts, seed):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)]).long()
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    batches = pairs_of_classes(labels, seed)
    for batch in batches:
        assert sorted(labels[batch].unique(return_counts=True)[1].tolist()) == [2, 3]
    assert len(batches.flatten().unique()) == batches.numel()


def test_mini_batches_use_almost_all_images():
    labels = torch.arange(100) % 5
    assert len(pairs_of_classes(labels, 0)) >= 17


def test_mini_batches_repeat_with_the_seed():
    labels = torch.arange(100) % 4
    assert torch.equal(pairs_of_classes(labels, 3), pairs_of_classes(labels, 3))
    assert not torch.equal(pairs_of_classes(labels, 3), pairs_of_classes(labels, 4))


def test_one_class_has_no_mini_batch():
    assert pairs_of_classes(torch.zeros(50, dtype=torch.long), 0).shape == (0, 5)
