"""The command ``layers``: the layers of a model, and the one to name."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from captum_kd.command.errors import CommandError
from captum_kd.command.layers import last_layer, layer_rows
from captum_kd.command.prepare import load_models

__all__ = ["list_layers"]

SENTENCES = ("a first sentence to look at", "and a second one, of other words")


def list_layers(options: argparse.Namespace) -> None:
    """Prints each layer down to --depth with the shape of what it gives for two inputs."""
    (model,) = load_models([(options.model.name or "model", "student", options.model)], options.text, options)
    if options.text:
        inputs: Any = dict(model.tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    else:
        assert model.preprocessing is not None
        size, channels = model.preprocessing.size, len(model.preprocessing.mean)
        inputs = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    rows = layer_rows(model, inputs)
    try:
        recommended = last_layer(model, inputs)
        hint = f"--layers auto takes {recommended}."
    except CommandError as error:
        recommended, hint = "", str(error)
    shown = [row for row in rows if row.name.count(".") < options.depth or row.name == recommended]
    width = max(len(row.name) for row in shown)
    kinds = max(len(row.kind) for row in shown)
    for row in shown:
        shapes = ", ".join("x".join(map(str, shape[1:])) or "one number" for shape in row.shapes) or "no tensor"
        mark = "  <- auto" if row.name == recommended else ""
        print(f"{row.name:{width}}  {row.kind:{kinds}}  {shapes}{mark}")
    print(f"{len(shown)} of {len(rows)} layers (--depth shows more), in the order in which they end; shapes of one input.")
    print(hint)
