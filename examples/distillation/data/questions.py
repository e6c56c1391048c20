"""Texts with labels: a folder of train.tsv and test.tsv, and the tokens of their texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

import torch
from torch import Tensor

from distillation.data.head_nouns import marked_words
from distillation.data.sources import Source
from distillation.settings import Settings
from distillation.task import DataError, Examples, Fold, Inputs, Task, in_turn
from distillation.text import printable

__all__ = ["TREC", "Texts", "Tokens", "questions_task", "read_table"]

TREC = Source(
    "TREC",
    "trec",
    "a folder of train.tsv and test.tsv, each with a first line label<TAB>text and one text a line",
    "TREC's questions (Li & Roth 2002) are at https://cogcomp.seas.upenn.edu/Data/QA/QC/; texts of your own serve as well.",
)

LONGEST = 128
"""Tokens of a text; the rest of a longer one is cut off."""


@dataclass(frozen=True)
class Tokens:
    """Texts that were read, as a tokenizer gives them.

    Attributes:
        ids: (M, T), int64, filled up with the padding token.
        lengths: (M,), int64, tokens of each text, the special ones included.
        pieces: (M,) the tokens of each text in letters.
        special: ids of tokens that are not of the texts, such as [CLS] and [SEP].
        mask: id of the token that stands for a word left out; None if the tokenizer has none.
    """

    ids: Tensor
    lengths: Tensor
    pieces: Sequence[list[str]]
    special: Tensor
    mask: Optional[int]


class Texts(Examples):
    """Labeled texts as tokens. A batch is padded to its longest text.

    Attributes:
        source (Tokens): all texts that were read.
        masks (Tensor): (N, T), bool, true where the evidence is known to be; all false for texts of which it is not known.
    """

    masks: Tensor

    def __init__(self, source: Tokens, labels: Tensor, masks: Tensor, *, rows: Optional[Tensor] = None) -> None:
        super().__init__(source.ids, labels, masks, rows=rows)
        self.source = source

    def __getitem__(self, rows: slice | Tensor) -> "Texts":
        return Texts(self.source, self.labels[rows], self.masks[rows], rows=self.rows[rows])

    def __getitems__(self, rows: Sequence[int]) -> tuple[Inputs, Tensor]:
        """A batch, as torch's loaders ask for it: what the networks take, and labels."""
        chosen = self[torch.as_tensor(rows)]
        return chosen.stored, chosen.labels

    @property
    def lengths(self) -> Tensor:
        """(N,), int64, tokens of each text."""
        return self.source.lengths[self.rows]

    @property
    def tokens(self) -> list[list[str]]:
        """(N,) the tokens of each text in letters, the special ones included."""
        return [self.source.pieces[row] for row in self.rows.tolist()]

    @property
    def stored(self) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, each (N, T), int64, where T are the tokens of the longest of these texts."""
        lengths = self.lengths
        places = torch.arange(int(lengths.max()))
        return {
            "input_ids": self.store[self.rows, : len(places)],
            "attention_mask": (places < lengths[:, None]).long(),
        }


def read_table(path: Path) -> list[tuple[str, str]]:
    """Pairs of label and text of a file with the columns ``label`` and ``text``, separated by a tab.

    Raises:
        DataError: there is no such file, it is not UTF-8, it has other columns, or a line is incomplete.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TREC.error(f"{path} cannot be read ({error}).") from error
    rows = [line.split("\t") for line in lines]
    if not rows or not {"label", "text"} <= set(rows[0]):
        raise TREC.error(f"{path} must begin with a line that names the columns label and text.")
    label, text = rows[0].index("label"), rows[0].index("text")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if row == [""]:
            continue
        if len(row) != len(rows[0]) or not row[label].strip() or not row[text].strip():
            raise TREC.error(
                f"Line {number} of {path} should have {len(rows[0])} fields with a tab between, label and text not empty."
            )
        found.append((row[label].strip(), row[text].strip()))
    return found


def questions_task(given: Optional[Path], tokenizer: Any, settings: Settings) -> Task:
    """An experiment on the texts in a folder: who gets which, and what a reader must know of it.

    All of test.tsv is the test. The reference population is drawn from train.tsv, and no network is trained on it. Texts of the
    training part that are in the test, or that occurred before, are left out; capitals make no difference.

    Args:
        given: the folder that holds train.tsv and test.tsv; None if no folder was named.
        tokenizer: of transformers; all networks share it.
        settings: seed and numbers of texts.

    Raises:
        DataError: files that are missing or laid out otherwise, too few texts, or classes without texts.
    """
    folder = TREC.existing(given)
    parts = {name: read_table(folder / f"{name}.tsv") for name in ("train", "test")}
    classes = sorted({label for label, _ in parts["train"]})
    unknown = sorted({label for label, _ in parts["test"]} - set(classes))
    if unknown:
        raise DataError(f"test.tsv has labels that train.tsv lacks: {', '.join(unknown)}. Add texts of them to train.tsv.")
    known = {text.lower() for _, text in parts["test"]}
    training = []
    for label, text in parts["train"]:
        if text.lower() not in known:
            known.add(text.lower())
            training.append((label, text))
    least = settings.references + len(classes)
    if len(classes) < 2 or len(training) < least or not parts["test"]:
        raise DataError(
            f"{folder} holds {len(training)} different training texts of {len(classes)} classes and {len(parts['test'])} test "
            f"texts. At least two classes are needed, a test text, and {least} training texts, {settings.references} of which "
            "are the reference population (--references)."
        )
    every = _tokenized([*training, *parts["test"]], classes, tokenizer)
    generator = torch.Generator().manual_seed(settings.seed)
    learned, test = every[: len(training)], every[len(training) :]
    # A random choice, so that the reference population and what is left have the same shares of the classes.
    order = torch.randperm(len(learned), generator=generator)
    reference, learned = learned[order[: settings.references]], learned[order[settings.references :]]
    learned = learned[in_turn(learned.labels, generator)]
    test = test[in_turn(test.labels, generator)]
    fold = Fold(learned[: settings.train_images], learned[: settings.teacher_images], reference, test)
    missing = [name for i, name in enumerate(classes) if not (fold.train.labels == i).any()]
    if missing:
        raise DataError(f"Nobody would learn from texts of {', '.join(missing)}. Add texts, or take more --train-questions.")
    dropped = len(parts["train"]) - len(training)
    cut = int((every.lengths == LONGEST).sum())
    return Task(
        name=printable(f"{folder.name}: questions" if folder.name != "trec" else "TREC questions"),
        classes=[printable(each) for each in classes],
        folds=[fold],
        notes=[
            f"{len(every):,} questions of {len(classes)} classes; all {test.count} of test.tsv are held out.",
            f"{dropped} questions of train.tsv are in test.tsv too, or occurred before: left out.",
            *([f"{cut} questions are longer than {LONGEST} tokens: cut."] if cut else []),
            f"{reference.count} questions of train.tsv are UniCAM's reference population; no network is trained on them.",
            f"Teachers learn from {fold.teacher_train.count:,} questions, Students and Bases from {fold.train.count:,}.",
        ],
        unit="questions",
        evidence="question word and head noun of the questions that are marked",
    )


def _tokenized(rows: Sequence[tuple[str, str]], classes: Sequence[str], tokenizer: Any) -> Texts:
    read = tokenizer([text for _, text in rows], truncation=True, max_length=LONGEST, return_offsets_mapping=True)
    ids = read["input_ids"]
    lengths = torch.tensor([len(each) for each in ids])
    special = torch.tensor(sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}))
    store = torch.full((len(ids), int(lengths.max())), tokenizer.pad_token_id)
    for row, each in zip(store, ids):
        row[: len(each)] = torch.tensor(each)
    masks = torch.zeros(store.shape, dtype=torch.bool)
    for mask, (_, text), letters in zip(masks, rows, read["offset_mapping"]):
        for start, end in marked_words(text):
            for place, (first, last) in enumerate(letters):
                mask[place] |= start <= first < last <= end
    pieces = [tokenizer.convert_ids_to_tokens(each) for each in ids]
    source = Tokens(store, lengths, pieces, special, tokenizer.mask_token_id)
    return Texts(source, torch.tensor([classes.index(label) for label, _ in rows]), masks)
