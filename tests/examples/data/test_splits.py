"""Splits: no image and its copy on both sides, classes in equal shares, the same for the same seed."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distillation.data.pool import Pool
from distillation.data.splits import assign, folds_of, split_notes
from distillation.settings import Settings
from distillation.task import DataError, Examples
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

SETTINGS = Settings(
    output=Path("x"), seed=0, seeds=1, folds=1, techniques=("response",), controls=(), teacher="resnet-m",
    student="resnet-s", weights="none", image_size=8, test_share=0.2, teacher_images=10_000, train_images=10_000,
    test_images=100, map_images=20, map_pairs=1, references=5, rows=1, placebos=0, random_placebos=0, teacher_epochs=1, epochs=1,
    batch_size=8, optimizer="adamw", teacher_learning_rate=1e-2, hidden_weight=1.0,
    learning_rate=1e-2, augmentation="none", temperature=4.0, alpha=0.1, attention_weight=1.0, hint_weight=1.0,
    threads=1, accelerator="cpu", devices="1", strategy="auto", precision="32-true",
)  # fmt: skip


def pool_of(labels, copies=None, is_test=None):
    labels = torch.tensor(labels)
    copies = torch.arange(len(labels)) if copies is None else torch.tensor(copies)
    store = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    classes = [f"class {label}" for label in range(int(labels.max()) + 1)]
    return Pool("made", Examples(store, labels), classes, copies, is_test, [])


def sides(fold):
    """Rows of the pool in training and held out."""
    training = torch.cat([fold.train.rows, fold.teacher_train.rows]).unique()
    return training, torch.cat([fold.reference.rows, fold.test.rows])


POOLS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=30, max_size=80)
"""Groups of copies: their class and size."""


def grouped(drawn):
    drawn = [(label, 1) for label in (0, 1, 2) for _ in range(4)] + drawn
    labels = [label for label, size in drawn for _ in range(size)]
    copies = [number for number, (_, size) in enumerate(drawn) for _ in range(size)]
    return pool_of(labels, copies)


@given(POOLS, st.integers(0, 99), st.sampled_from([[0.8, 0.2], [0.65, 0.35], [0.5, 0.5], [1 / 3] * 3, [1 / 4] * 4]))
@hypothesis_settings(deadline=None, max_examples=20)
def test_parts_have_their_shares_of_each_class_and_divide_no_group(drawn, seed, shares):
    pool = grouped(drawn)
    labels = pool.examples.labels
    parts = assign(labels, pool.copies, shares, seed)
    for number in pool.copies.unique():
        assert len(parts[pool.copies == number].unique()) == 1
    for part, share in enumerate(shares):
        counts = labels[parts == part].bincount(minlength=3)
        # Four single images of each class, at least, make up for larger groups.
        assert ((counts - share * labels.bincount()).abs() <= 2).all()


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_each_image_is_on_one_side_with_its_copies(folds, seed):
    pool = grouped([(i % 3, 1 + i % 4) for i in range(40)])
    every = list(range(len(pool.copies)))
    held_out = []
    for fold in folds_of(pool, replace(SETTINGS, seed=seed, folds=folds)):
        training, kept = sides(fold)
        assert sorted([*training.tolist(), *kept.tolist()]) == every
        assert not set(pool.copies[training].tolist()) & set(pool.copies[kept].tolist())
        held_out += kept.tolist()
    assert len(set(held_out)) == len(held_out)
    assert folds == 1 or sorted(held_out) == every


@pytest.mark.parametrize("folds", [1, 3])
def test_same_seed_same_split(folds):
    pool = pool_of([i % 3 for i in range(90)], [i // 3 * 3 + i % 3 for i in range(90)])
    settings = replace(SETTINGS, folds=folds)
    first, again, other = (folds_of(pool, replace(settings, seed=seed)) for seed in (4, 4, 5))
    for one, two, three in zip(first, again, other):
        assert torch.equal(one.train.rows, two.train.rows) and torch.equal(one.test.rows, two.test.rows)
        assert torch.equal(one.reference.rows, two.reference.rows)
        assert not torch.equal(one.train.rows, three.train.rows)


def test_large_groups_are_on_both_sides_in_their_share():
    # 40 groups of 5 copies, 200 single images.
    copies = [i // 5 for i in range(200)] + list(range(40, 240))
    parts = assign(torch.zeros(400, dtype=torch.int64), torch.tensor(copies), [0.8, 0.2], seed=0)
    assert int(parts.sum()) == 80
    assert 6 <= int(parts[:200].sum()) / 5 <= 10


def test_every_image_is_held_out_as_often_as_others_over_seeds():
    times = torch.zeros(20)
    for seed in range(100):
        times += assign(torch.zeros(20, dtype=torch.int64), torch.arange(20), [0.75, 0.25], seed)
    assert times.sum() == 100 * 5
    assert times.min() > 25 - 18 and times.max() < 25 + 18  # more than 4 standard deviations


def test_training_images_are_limited_one_among_the_other():
    (fold,) = folds_of(pool_of([i % 3 for i in range(120)]), replace(SETTINGS, teacher_images=60, train_images=30))
    assert len(fold.teacher_train) == 60 and len(fold.train) == 30
    assert set(fold.train.rows.tolist()) < set(fold.teacher_train.rows.tolist())
    assert fold.train.labels.bincount().tolist() == [10, 10, 10]
    assert len(fold.reference) == 5 and len(fold.test) == 19


def test_limits_of_training_do_not_change_what_is_held_out():
    pool = pool_of([i % 3 for i in range(120)])
    (one,), (two,) = (folds_of(pool, replace(SETTINGS, train_images=count)) for count in (30, 60))
    assert torch.equal(one.test.rows, two.test.rows) and torch.equal(one.reference.rows, two.reference.rows)


def test_the_official_test_part_is_held_out_and_its_copies_dropped():
    labels = [i % 2 for i in range(60)]
    copies = list(range(60))
    copies[3] = copies[41] = 3  # a training image and a test image
    copies[4] = copies[6] = 4  # two training images
    is_test = torch.arange(60) >= 40
    pool = pool_of(labels, copies, is_test)
    (fold,) = folds_of(pool, SETTINGS)
    training, held_out = sides(fold)
    assert sorted(held_out.tolist()) == list(range(40, 60))
    assert sorted(training.tolist()) == [i for i in range(40) if i != 3]
    assert split_notes(pool, SETTINGS)[1].startswith("1 training image is a copy of a test image")


def test_several_folds_hold_out_the_official_test_part_in_parts():
    pool = pool_of([i % 2 for i in range(60)], is_test=torch.arange(60) >= 40)
    folds = folds_of(pool, replace(SETTINGS, folds=3))
    assert sorted(torch.cat([sides(fold)[1] for fold in folds]).tolist()) == list(range(60))


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ([0, 1] * 20, {"references": 20}, "8 held-out images are too few: 20 are set apart"),
        ([0, 1] * 20 + [2], {}, r"class 2 \(1\)"),
        ([0, 1] * 20 + [2] * 3, {"folds": 4}, r"--folds 4 is too many.*class 2 \(3\)"),
        ([0, 1] * 40 + [2, 2], {}, "held-out images would hold none of class 2"),
        ([0, 1, 2] * 20, {"train_images": 2}, "2 training images .* cannot hold all 3 classes"),
    ],
)
def test_splits_that_cannot_be_are_refused(labels, changes, message):
    with pytest.raises(DataError, match=message):
        folds_of(pool_of(labels), replace(SETTINGS, **changes))


def suggested(pool, settings):
    """The settings changed as the refusal says."""
    with pytest.raises(DataError, match="These options fit the data") as error:
        folds_of(pool, settings)
    options = str(error.value).partition("fit the data: ")[2].partition(". Scores")[0].split()
    changes = {name[2:].replace("-", "_"): value for name, value in zip(options[::2], options[1::2])}
    return replace(settings, **{name: type(getattr(settings, name))(value) for name, value in changes.items()})


@pytest.mark.parametrize(
    ("pool", "changes", "expected"),
    [
        (pool_of([*range(10)] * 20), {"references": 64}, {"test_share": 0.5, "references": 30}),  # 200 images
        (pool_of([0, 1, 2] * 48), {"references": 64}, {"test_share": 0.5, "references": 20}),
        (pool_of([0, 1] * 150), {"references": 64}, {"test_share": 0.3, "references": 30}),
        (pool_of([0, 1] * 1000), {"references": 1000}, {"references": 130}),
        (pool_of([0, 1] * 9), {"references": 30}, {"test_share": 0.5, "references": 4}),
        (pool_of([0, 1] * 40, is_test=torch.arange(80) < 30), {"references": 64}, {"references": 10}),
        (pool_of([0, 1] * 50), {"references": 64, "folds": 5}, {"folds": 2, "references": 10}),
    ],
)
def test_the_suggested_options_divide_the_data(pool, changes, expected):
    before = replace(SETTINGS, batch_size=32, **changes)
    after = suggested(pool, before)
    assert {name: getattr(after, name) for name in expected} == expected
    for fold in folds_of(pool, after):
        assert len(fold.test) >= 5 and len(fold.reference) == after.references
    few = len(pool.copies) < 900  # training images decide
    assert (after.batch_size, after.epochs, after.teacher_epochs) == ((16, 40, 40) if few else (32, 1, 1))


@pytest.mark.parametrize("labels", [[0, 1] * 5, [0] * 10 + [1] * 2])
def test_too_few_images_for_any_options_get_a_number_and_no_options(labels):
    with pytest.raises(DataError, match="hold out at least 9") as error:
        folds_of(pool_of(labels), replace(SETTINGS, references=30))
    assert "--test-share" not in str(error.value)


def test_a_class_whose_images_are_all_copies_cannot_be_divided():
    with pytest.raises(DataError, match=r"copies counted once.*class 1 \(1\)"):
        folds_of(pool_of([0] * 40 + [1] * 5, [*range(40), *[40] * 5]), SETTINGS)


def test_a_class_known_only_from_copies_of_test_images_is_missed():
    copies = [*range(30), *range(30, 40), *range(30, 40)]
    labels = [0] * 30 + [1] * 20
    is_test = torch.tensor([i % 3 == 0 for i in range(30)] + [False] * 10 + [True] * 10)
    with pytest.raises(DataError, match="training images would hold none of class 1"):
        folds_of(pool_of(labels, copies, is_test), SETTINGS)


def test_many_groups_of_many_classes_take_little_memory():
    """A table of all groups and classes would take 72 MB."""
    labels = torch.arange(6000) % 1500
    tracemalloc.start()
    parts = assign(labels, torch.arange(6000), [0.75, 0.25], seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 and (labels[parts == 1].bincount(minlength=1500) == 1).all()
