"""Who gets which images: training, reference and test, never with an image and its copy on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distillation.data.pool import Pool
from distillation.settings import Settings
from distillation.task import DataError, Fold, in_turn

__all__ = ["LEAST_TEST", "assign", "folds_of", "split_notes"]

LEAST_TEST = 5
"""Images that must be left to be explained: the least for scores with removal."""

LEAST_REFERENCES = 4

STEADY = 30
"""References from which UniCAM gives no warning; fewer are suggested only where half of the images cannot give so many."""

SMALL = 500
"""Training images below which smaller batches and more epochs are suggested, those of the profile of plant_disease."""

Counts = npt.NDArray[np.int64]


def assign(labels: Tensor, groups: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """Divides images into parts of given shares, stratified, groups undivided.

    The largest groups go first, in a random order among groups of equal size, each to the part where that leaves the
    counts of the classes nearest to the shares. scikit-learn's StratifiedGroupKFold is alike, but knows only parts of
    equal size, and takes half a minute for the 54,000 groups of a large data set.

    Args:
        labels: (N,), int64.
        groups: (N,), int64.
        shares: of the parts; their sum is 1.
        seed: of the order of the groups.

    Returns:
        (N,), int64, numbers of parts.
    """
    members = groups.unique(return_inverse=True)[1]
    sizes: Counts = members.bincount().numpy()
    # The counts of one group at a time: a table of all groups and classes may be larger than the memory.
    of_group = np.split(labels[members.argsort()].numpy(), sizes.cumsum()[:-1])
    of_class: Counts = labels.bincount().numpy()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    # What each part still wants of each class.
    wanted = np.outer(shares, of_class)
    chosen = np.empty(len(sizes), dtype=np.int64)
    for group in order:
        # What the choice takes off the sum of squares of what parts want, each weighed by one over its share.
        size = np.bincount(of_group[group], minlength=len(of_class))
        gain = (2 * wanted @ size - size @ size) / np.asarray(shares)
        best = np.flatnonzero(gain >= gain.max() - 1e-9)
        chosen[group] = best[generator.integers(len(best))]
        wanted[chosen[group]] -= size
    return torch.from_numpy(chosen)[members]


def folds_of(pool: Pool, settings: Settings) -> list[Fold]:
    """Divides a pool as the settings say; the same seed, the same division.

    One fold: the official test part is held out, or ``test_share`` of the images where there is none; training copies
    of official test images are dropped. Several folds: parts of all images take turns at being held out. An image and
    its copies are on the same side. Held-out images are divided into the reference, ``references`` of them, and the
    test images. Of the training images, Teachers get ``teacher_images`` and the others ``train_images`` at most, the
    one among the other. Classes take turns in all of them, so that any first part holds them in equal shares.

    Raises:
        DataError: too few images held out, or a class that would be missing on one side.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    folds = []
    for number, (training, held_out) in enumerate(_sides(pool, settings), start=1):
        _check(pool, settings, training, held_out, f" of fold {number}" if settings.folds > 1 else "")
        learned, kept = pool.examples[training], pool.examples[held_out]
        learned = learned[in_turn(learned.labels, generator)]
        kept = kept[in_turn(kept.labels, generator)]
        folds.append(
            Fold(
                train=learned[: settings.train_images],
                teacher_train=learned[: settings.teacher_images],
                reference=kept[: settings.references],
                test=kept[settings.references :],
            )
        )
    return folds


def split_notes(pool: Pool, settings: Settings) -> list[str]:
    """How ``folds_of`` divides the pool, for readers of a report."""
    if settings.folds > 1:
        return [
            f"Cross-validation in {settings.folds} stratified folds; an image and its copies are in the same fold."
        ]
    if pool.is_test is None:
        ((_, held_out),) = _sides(pool, settings)
        share = len(held_out) / len(pool.copies)
        return [
            f"{len(held_out):,} images ({share:.1%}) are held out, stratified; an image and its copies are on the same side."
        ]
    dropped = int(_copied(pool).sum())
    notes = [f"The official test part, {int(pool.is_test.sum()):,} images, is held out."]
    if dropped:
        one = dropped == 1
        told = "1 training image is a copy of a test image" if one else f"{dropped:,} training images are copies of test images"
        notes.append(f"{told}: dropped from training.")
    return notes


def _sides(pool: Pool, settings: Settings) -> list[tuple[Tensor, Tensor]]:
    """Rows of the training and of the held-out images, for each fold."""
    labels = pool.examples.labels
    if settings.folds > 1:
        _check_groups(pool, settings.folds, f"--folds {settings.folds} is too many")
        parts = assign(labels, pool.copies, [1 / settings.folds] * settings.folds, settings.seed)
        return [((parts != fold).nonzero()[:, 0], (parts == fold).nonzero()[:, 0]) for fold in range(settings.folds)]
    if pool.is_test is not None:
        training = ~pool.is_test & ~_copied(pool)
        return [(training.nonzero()[:, 0], pool.is_test.nonzero()[:, 0])]
    _check_groups(pool, 2, "The data cannot be divided")
    parts = assign(labels, pool.copies, [1 - settings.test_share, settings.test_share], settings.seed)
    return [((parts == 0).nonzero()[:, 0], (parts == 1).nonzero()[:, 0])]


def _copied(pool: Pool) -> Tensor:
    """(N,), bool: images outside the test part that are copies of images in it."""
    assert pool.is_test is not None
    return torch.isin(pool.copies, pool.copies[pool.is_test]) & ~pool.is_test


def _check_groups(pool: Pool, least: int, complaint: str) -> None:
    pairs = torch.stack([pool.examples.labels, pool.copies]).unique(dim=1)
    counts = pairs[0].bincount(minlength=len(pool.classes))
    few = [f"{name} ({count})" for name, count in zip(pool.classes, counts.tolist()) if count < least]
    if few:
        raise DataError(
            f"{complaint}: at least {least} different images of each class are needed, copies counted once, and there "
            f"are fewer of {', '.join(few)}. Add images, or leave the class out."
        )


def _advice(pool: Pool, settings: Settings) -> str:
    """Options with which the pool can be divided, or how many images that takes."""
    chosen = _fitting(pool, settings)
    if chosen is None:
        return f"So few images cannot be divided in any way: hold out at least {LEAST_REFERENCES + LEAST_TEST}, better 100."
    if len(pool.copies) * (1 - chosen.test_share) < SMALL:
        longer = {name: max(getattr(chosen, name), 40) for name in ("teacher_epochs", "epochs")}
        chosen = replace(chosen, batch_size=min(chosen.batch_size, 16), **longer)
    names = ("test_share", "folds", "references", "batch_size", "teacher_epochs", "epochs")
    changed = [name for name in names if getattr(chosen, name) != getattr(settings, name)]
    options = " ".join(f"--{name.replace('_', '-')} {getattr(chosen, name)}" for name in changed)
    return f"These options fit the data: {options}. Scores of few images are uncertain: add images if you can."


def _fitting(pool: Pool, settings: Settings) -> Optional[Settings]:
    """The settings with as many images held out as the references need, up to half of them; None if that is not enough.

    A third of the held-out images become references, in whole tens where there are more than ten."""
    if settings.folds > 1:
        tries = [replace(settings, folds=folds) for folds in (settings.folds, 2)]
    elif pool.is_test is not None:
        tries = [settings]
    else:
        tries = [replace(settings, test_share=share) for share in (settings.test_share, 0.3, 0.5) if share >= settings.test_share]
    found = None
    for each in tries:
        sides = _sides(pool, each)
        held_out = min(len(rows) for _, rows in sides)
        references = min(max(held_out // 3, LEAST_REFERENCES), settings.references)
        references -= references % 10 if references > 10 else 0
        if held_out < references + LEAST_TEST:
            continue
        candidate = replace(each, references=references)
        try:
            for training, rows in sides:
                _check(pool, candidate, training, rows, "")
        except DataError:  # a class would be missing
            continue
        found = candidate
        if references >= STEADY:
            break
    return found


def _check(pool: Pool, settings: Settings, training: Tensor, held_out: Tensor, where: str) -> None:
    if len(held_out) < settings.references + LEAST_TEST:
        raise DataError(
            f"{len(held_out)} held-out images{where} are too few: {settings.references} are set apart as the reference "
            f"population (--references) and at least {LEAST_TEST} must remain to be explained. {_advice(pool, settings)}"
        )
    for rows, side in ((training, "training"), (held_out, "held-out")):
        present = set(pool.examples.labels[rows].tolist())
        missing = [name for label, name in enumerate(pool.classes) if label not in present]
        if missing:
            raise DataError(
                f"The {side} images{where} would hold none of {', '.join(missing)}. Add images of these classes, change "
                "--test-share or --folds, or leave the classes out."
            )
    least = min(settings.train_images, settings.teacher_images)
    if least < len(pool.classes):
        raise DataError(
            f"{least} training images (--train-images, --teacher-images) cannot hold all {len(pool.classes)} classes."
        )
