"""Texts of a table, and their tokens for each model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Optional, Sequence

import torch
from torch import Tensor

from captum_kd.command.errors import CommandError
from captum_kd.command.images import Batches, balanced, class_order
from captum_kd.command.specs import LoadedModel

__all__ = ["TextData", "read_texts"]

MOST_TOKENS = 512


class TextData:
    """Texts of a table, with the tokens that each model gets.

    Attributes:
        labels (Tensor): (N,), numbers of the classes.
        class_names (list of str): of all labels.
        left_out (list of str): lines without a text.
    """

    def __init__(
        self, texts: Sequence[tuple[str, ...]], labels: Sequence[int], class_names: list[str], left_out: list[str],
        models: Sequence[LoadedModel],
    ) -> None:  # fmt: skip
        self.texts, self.labels, self.class_names = list(texts), torch.tensor(labels), class_names
        self.left_out, self.models = left_out, models

    def __len__(self) -> int:
        return len(self.texts)

    def _encoded(self, model: LoadedModel, places: Sequence[int]) -> dict[str, Tensor]:
        columns = [list(column) for column in zip(*(self.texts[place] for place in places))]
        tokenizer = model.tokenizer
        if tokenizer.pad_token is None:  # as GPT-2's; the mask leaves padding out
            tokenizer.pad_token = tokenizer.eos_token
            setattr(model.module.config, "pad_token_id", tokenizer.pad_token_id)
        found = tokenizer(
            *columns, padding=True, truncation=True, max_length=min(tokenizer.model_max_length, MOST_TOKENS),
            return_special_tokens_mask=True, return_tensors="pt",
        )  # fmt: skip
        return dict(found)

    def inputs(self, places: Sequence[int], device: Optional[torch.device] = None) -> Any:
        """Tensors by the names of the models' arguments, or such mappings by the models' names if tokens differ."""
        found = {each.name: {key: value.to(device) for key, value in self._encoded(each, places).items()} for each in self.models}
        first = found[self.models[0].name]
        if all(
            each.keys() == first.keys() and all(torch.equal(each[key], first[key]) for key in first) for each in found.values()
        ):
            return first
        return {"student": first, **found}

    def shown(self, places: Sequence[int]) -> dict[str, Any]:
        """The first Student's tokens of each text."""
        model = self.models[0]
        ids = self._encoded(model, places)["input_ids"].tolist()
        return {"tokens": [model.tokenizer.convert_ids_to_tokens(row) for row in ids]}

    def batches(self, batch_size: int) -> Batches:
        return Batches(self, batch_size)


def read_texts(
    file: Path, limit: Optional[int], seed: int, class_lists: Sequence[Sequence[str]], models: Sequence[LoadedModel]
) -> TextData:
    """Reads the columns ``label``, ``text`` and perhaps ``text_pair`` (a second sentence), separated by tabs and named in the
    first line.

    Labels that are numbers are the models' outputs, from 0 on.

    Raises:
        CommandError: no such file, other columns, fewer than two classes.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CommandError(f"--data: {file} is not UTF-8 ({error}); save it as UTF-8.") from error
    header = lines[0].split("\t") if lines else []
    if "label" not in header or "text" not in header:
        raise CommandError(f"--data: the first line of {file} must name the columns label and text, separated by a tab.")
    columns = [header.index(name) for name in ("text", "text_pair") if name in header]
    place = header.index("label")
    found: dict[str, list[tuple[str, ...]]] = {}
    left_out = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) < len(header) or not all(cells[column].strip() for column in columns) or not cells[place].strip():
            left_out.append(f"line {number}")
            continue
        found.setdefault(cells[place].strip(), []).append(tuple(cells[column] for column in columns))
    if len(found) < 2:
        raise CommandError(f"--data: {file} has texts of {len(found)} class(es); at least two are needed.")
    if all(name.isascii() and name.isdigit() for name in found):
        class_lists = [*class_lists, [str(number) for number in range(max(map(int, found)) + 1)]]
    order = class_order(list(found), class_lists)
    rng = random.Random(seed)
    queues = {order.index(name): rng.sample(texts, len(texts)) for name, texts in found.items()}
    chosen, _ = balanced(queues, limit, rng, lambda text: True)
    return TextData([text for _, text in chosen], [label for label, _ in chosen], order, left_out, models)
