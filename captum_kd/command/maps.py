"""Maps of some inputs, as files and for the page."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, Optional

import torch
from matplotlib.figure import Figure

from captum_kd.attr import InputMaps, explain_transfer
from captum_kd.command.errors import CommandError, first_line
from captum_kd.command.prepare import Prepared

__all__ = ["MAPS_FILE", "chosen_places", "draw_maps", "explained", "load_maps", "save_maps"]

MAPS_FILE = "maps.pt"
FEWEST_REFERENCES, MOST_REFERENCES = 64, 256
DRAWN = 8
"""Inputs of the picture."""
FEWEST_POSITIONS = 16
"""Of a map that shows places."""


def chosen_places(prepared: Prepared, count: int) -> tuple[list[int], list[int]]:
    """The inputs to show, of all classes in turn, and the reference population among the others.

    Raises:
        CommandError: too few inputs for both.
    """
    n = len(prepared.data)
    if n < count + FEWEST_REFERENCES:
        raise CommandError(
            f"--maps {count} needs {count + FEWEST_REFERENCES} inputs: these and {FEWEST_REFERENCES} to compare them with; "
            f"the data have {n}. Use --maps {max(0, n - FEWEST_REFERENCES)} or more data."
        )
    # The data are in turns of all classes already, so their beginning and their rest are balanced.
    return list(range(count)), list(range(count, min(n, count + MOST_REFERENCES)))


def explained(prepared: Prepared, options: argparse.Namespace) -> Optional[InputMaps]:
    """The maps of ``--maps`` inputs; None for 0."""
    if options.maps == 0:
        return None
    shown, known = chosen_places(prepared, options.maps)
    data, device = prepared.data, prepared.device
    teacher = prepared.of("teacher").get("teacher")
    names = {each.name for each in prepared.models if each.role != "placebo"}

    def own(inputs: Any) -> Any:
        if isinstance(inputs, dict) and "student" in inputs:
            return {name: value for name, value in inputs.items() if name in names or name == "student"}
        return inputs

    found = explain_transfer(
        prepared.of("student"),
        prepared.of("base"),
        {label: {name: layer for name, layer in own_layers.items() if name in names}
         for label, own_layers in prepared.layers.items()},
        own(data.inputs(shown, device)),
        data.labels[shown],
        reference_inputs=own(data.inputs(known, device)),
        reference_labels=data.labels[known],
        teacher=teacher,
        target=None if prepared.has_classes else data.labels[shown],
        class_names=data.class_names,
        indices=torch.tensor(shown),
        internal_batch_size=options.batch_size,
        show_progress=not options.no_progress,
        **data.shown(shown),
    )  # fmt: skip
    _say_coarse(found)
    return found


def _say_coarse(maps: InputMaps) -> None:
    """Names layers whose maps have too few positions to show where something is."""
    if maps.images is None:
        return
    for layer, pairs in maps.maps.items():
        height, width = next(iter(next(iter(pairs.values())).values())).shape[-2:]
        if height * width < FEWEST_POSITIONS:
            print(
                f"Maps of {layer} have only {height} x {width} positions, however smooth they look. An earlier layer shows "
                "places better: captum-kd layers lists sizes (with --image-size), --layers chooses."
            )


def save_maps(maps: InputMaps, path: Path) -> None:
    """Saves maps as plain tensors and texts, for ``torch.load(path)`` and the command ``report``."""
    torch.save({each.name: getattr(maps, each.name) for each in fields(maps)}, path)


def load_maps(path: Path) -> InputMaps:
    """The maps that :func:`save_maps` wrote.

    Raises:
        CommandError: another file.
    """
    try:
        return InputMaps(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged files raise nearly every kind of error
        reason = first_line(error)[:150]
        raise CommandError(f"{path} holds no saved maps ({reason}). Make them again, or delete it.") from error


def draw_maps(maps: InputMaps, path: Path) -> None:
    """A picture of the first inputs, for the first layer and the first pair of models."""
    from captum_kd.visualization import visualize_tokens, visualize_transfer

    layer, pairs = next(iter(maps.maps.items()))
    (student, base), own = next(iter(pairs.items()))
    count = min(DRAWN, len(maps))
    columns = {title: values[:count] for title, values in own.items()}
    scale = [[title for title in group if title in columns] for group in maps.same_scale]
    title = f"{student} given {base}, {layer}"
    units = {name: unit for name, unit in (maps.units or {}).items() if name in columns}
    labels = [] if maps.labels is None else maps.labels[:count].tolist()
    names = [str(label) if maps.class_names is None else maps.class_names[label] for label in labels] or None
    if maps.images is not None:
        figure: Figure = visualize_transfer(
            maps.images[:count], columns, row_labels=names, scale=[each for each in scale if each],
            sign="all", units=units, title=title,
        )  # fmt: skip
    else:
        assert maps.tokens is not None
        mask = None if maps.token_mask is None else maps.token_mask[:count]
        figure = visualize_tokens(
            maps.tokens[:count], columns, token_mask=mask, sentence_titles=names,
            scale=[each for each in scale if each], units=units, title=title,
        )  # fmt: skip
    figure.savefig(path, dpi=150, bbox_inches="tight")
