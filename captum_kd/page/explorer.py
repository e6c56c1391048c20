"""The explorer of maps: a reader chooses input, layer, Student, Base and maps, and reads values off them."""

from __future__ import annotations

import json
from base64 import b64encode
from html import escape
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from captum_kd._utils.maps import as_maps
from captum_kd._utils.text import one_line, printable
from captum_kd.visualization._sentences import Sentences, read_sentences
from captum_kd.visualization._token_html import sentence_rows, shades
from captum_kd.visualization.transfer import visualize_transfer

if TYPE_CHECKING:
    from captum_kd.attr import InputMaps

__all__ = ["SCRIPTS", "STYLES", "explorer"]

SCRIPTS, STYLES = ("map_drawing.js", "explorer_inputs.js", "explorer.js"), ("explorer.css",)
"""Files beside this one that a page with the explorer must hold, in this order."""

ROOM = 3_000_000
"""Bytes of images and maps, above which large maps are reduced."""
REDUCED_SIDES = (16, 8)
IMAGE_SIDE, OUTLINE_SIDE = 160, 96
"""The most pixels of the longer side of images and of the shorter side of masks."""
STATIC = 6
"""Inputs that are shown without JavaScript."""
OUTLIER_PERCENT = 2.0
"""As in ``visualize_transfer``: the largest values, which sum to this share of all values, have the last color."""
ORDERS = {
    "distilled": "part in distilled",
    "residual": "part in residual",
    "teacher_distilled": "part in the Teacher's share of distilled",
    "teacher_residual": "part in the Teacher's share of residual",
}
"""Columns of ``report.inputs`` by which a reader can sort."""


class _Map(NamedTuple):
    """The maps of all inputs with one title, for one pair at one layer."""

    layer: str
    pair: tuple[str, str]
    title: str
    values: Tensor
    """(N, h, w); of texts (N, 1, number of words)."""


def explorer(maps: "InputMaps", inputs: Optional[Mapping[str, Any]] = None) -> tuple[str, str]:
    """HTML that is readable without JavaScript, and the data from which ``explorer.js`` makes the explorer.

    The HTML has an element with the id "explorer", whose content the script replaces. The page must hold the data in
    ``<script type="application/json" id="explorer-data">``.

    Images become WebP files of at most 160 pixels. Maps become levels of 8 bits: an error of at most 1/254 of the map's largest
    value. Equal maps are kept once. If images and maps would need more than 3 MB, maps become means over at most 16 x 16 blocks,
    then 8 x 8, and the explorer says so.

    Args:
        maps (InputMaps): images or texts and their maps.
        inputs (mapping, optional): ``report.inputs``, to sort inputs by their part in the scores; needs ``maps.indices``.

    Returns:
        *tuple of (str, str)*: HTML, and JSON without the character "<". The page also needs ``SCRIPTS`` and ``STYLES``.

    Raises:
        TypeError, ValueError: images outside [0, 1], maps larger than their images or with several channels, tokens and
            maps of different lengths, a title that is in two groups of ``same_scale``.
    """
    sentences = None if maps.tokens is None else _sentences(maps)
    found = _map_list(maps, sentences)
    units = maps.units or {}
    layers = list(dict.fromkeys(each.layer for each in found))
    titles = list(dict.fromkeys(each.title for each in found))
    groups = {title: next((group for group in maps.same_scale if title in group), [title]) for title in titles}
    static = _static(maps, found[0], groups, units)
    pictures = [] if maps.images is None else _pictures(maps.images)
    sides = [None, *REDUCED_SIDES] if sentences is None else [None]
    data: dict[str, Any] = {
        "layers": [printable(layer) for layer in layers],
        "titles": [printable(title) for title in titles],
        "scales": [titles.index(next(each for each in groups[title] if each in titles)) for title in titles],
        "units": [units.get(title, "") for title in titles],
        "outlier_percent": OUTLIER_PERCENT if sentences is None else 0.0,
        "colors": dict(zip(("light", "dark"), zip(*(shades(step / 5) for step in range(-5, 6))))),
        "labels": None if maps.labels is None else maps.labels.tolist(),
        "classes": _class_texts(maps),
        "predictions": [[printable(name), classes.tolist()] for name, classes in (maps.predictions or {}).items()],
        "orders": _orders(maps, layers, inputs),
        "outlines": _outlines(maps.masks),
        "images": pictures,
        "words": [] if sentences is None else _words(sentences),
    }
    data.update(_encoded(found, titles, sides, ROOM - sum(map(len, pictures))))
    return static, json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


# ----------------------------------------------------------------------------- maps


def _sentences(maps: "InputMaps") -> Sentences:
    """The texts as words, with all maps under their places in the mapping."""
    named = {
        f"{layer}, {student}, {base}, {title}": values
        for layer, pairs in maps.maps.items()
        for (student, base), of_pair in pairs.items()
        for title, values in of_pair.items()
    }
    return read_sentences(maps.tokens, named, maps.token_mask, "map", None, True)


def _map_list(maps: "InputMaps", sentences: Optional[Sentences]) -> list[_Map]:
    found = []
    for layer, pairs in maps.maps.items():
        for pair, of_pair in pairs.items():
            for title, given in of_pair.items():
                if sentences is None:
                    values = as_maps(given, f"maps[{layer!r}][{pair!r}][{title!r}]", len(maps))[:, 0]
                else:
                    values = _word_values(sentences, f"{layer}, {pair[0]}, {pair[1]}, {title}")
                found.append(_Map(layer, pair, title, values))
    return found


def _word_values(sentences: Sentences, name: str) -> Tensor:
    values = torch.zeros(len(sentences.words), 1, max(1, *map(len, sentences.words)), dtype=torch.float64)
    for i, words in enumerate(sentences.words):
        values[i, 0, : len(words)] = torch.tensor(sentences.values(name, i), dtype=torch.float64)
    return values


def _encoded(found: Sequence[_Map], titles: list[str], sides: Sequence[Optional[int]], room: int) -> dict[str, Any]:
    """Maps at the first of these sizes that fits the room, else at the last."""
    for side in sides:
        stored: dict[tuple[str, ...], int] = {}
        layers = []
        for _, of_layer in groupby(found, lambda each: each.layer):
            pairs = []
            for pair, of_pair in groupby(of_layer, lambda each: each.pair):
                places: list[Optional[int]] = [None] * len(titles)
                for each in of_pair:
                    places[titles.index(each.title)] = stored.setdefault(_levels(each.values, side), len(stored))
                pairs.append([*map(printable, pair), places])
            layers.append(pairs)
        if sum(len(text) for texts in stored for text in texts) <= room:
            break
    largest = max(max(each.values.shape[1:]) for each in found)
    note = ""
    if side is not None and largest > side:
        note = (
            f"Maps of more than {side} \u00d7 {side} positions are shown as means over neighboring positions, so that this page "
            "stays small."
        )
    return {"pairs": layers, "maps": [dict(zip(("height", "width", "tops", "levels"), each)) for each in stored], "note": note}


def _levels(values: Tensor, side: Optional[int]) -> tuple[str, ...]:
    """Height and width, the largest absolute value of each map, and all values in 127ths of it."""
    wide = values.detach().cpu().double()
    if side is not None and max(wide.shape[1:]) > side:
        wide = adaptive_avg_pool2d(wide[:, None], (min(wide.shape[1], side), min(wide.shape[2], side)))[:, 0]
    tops = wide.abs().amax((1, 2), keepdim=True).clamp(max=torch.finfo(torch.float32).max).float()
    levels = (wide / torch.where(tops > 0, tops, 1.0) * 127).round().clamp(-127, 127)
    numbers = (tops.numpy().astype("<f4"), levels.numpy().astype(np.int8))
    return (*map(str, wide.shape[1:]), *map(_base64, numbers))


def _base64(numbers: npt.NDArray[Any]) -> str:
    return b64encode(numbers.tobytes()).decode()


# ----------------------------------------------------------------------------- inputs


def _pictures(images: Tensor) -> list[str]:
    """The images as WebP files; small ones without loss, since their few pixels are seen large."""
    values = images.detach().float().cpu()
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-3 and high <= 1.0 + 1e-3):
        raise ValueError(
            f"images must be finite and between 0 and 1, got values from {low:.3g} to {high:.3g}. Undo the normalization, or "
            "divide by 255."
        )
    pictures = []
    for pixels in (values.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy():
        picture, file = Image.fromarray(np.ascontiguousarray(pixels)), BytesIO()
        picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
        picture.save(file, "WEBP", quality=75, lossless=max(picture.size) <= 48)
        pictures.append(b64encode(file.getvalue()).decode())
    return pictures


def _outlines(masks: Optional[Tensor]) -> Optional[dict[str, Any]]:
    """Masks as bits, row by row."""
    if masks is None:
        return None
    flat = (masks.detach().cpu() > 0).float().reshape(len(masks), 1, *masks.shape[-2:])
    size = (min(flat.shape[2], OUTLINE_SIDE), min(flat.shape[3], OUTLINE_SIDE))
    bits = (adaptive_avg_pool2d(flat, size) >= 0.5).numpy()
    return {"height": size[0], "width": size[1], "bits": _base64(np.packbits(bits.reshape(-1)))}


def _words(sentences: Sentences) -> list[list[list[Any]]]:
    """For each word its text, the tokens in it, whether it follows without a space, and whether it is a special token."""
    return [
        [
            [word.text, printable(" ".join(tokens[place] for place in word.positions)), word.is_glued, word.is_special]
            for word in words
        ]
        for tokens, words in zip(sentences.tokens, sentences.words)
    ]


def _class_texts(maps: "InputMaps") -> dict[int, str]:
    """The name of each class among labels and predictions."""
    given = [*(maps.predictions or {}).values(), *([] if maps.labels is None else [maps.labels])]
    return {label: _class_text(maps, label) for label in sorted({label for each in given for label in each.tolist()})}


def _class_text(maps: "InputMaps", label: int) -> str:
    names = maps.class_names or ()
    return one_line(str(names[label])) if 0 <= label < len(names) else f"class {label}"


def _orders(maps: "InputMaps", layers: Sequence[str], inputs: Optional[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The inputs' parts in the scores of each group of Students, by layer, and what is known of their repetition."""
    if inputs is None or maps.indices is None:
        return []
    parts: dict[tuple[Optional[str], str], dict[str, dict[int, Optional[float]]]] = {}
    for row in inputs["rows"]:
        for column in ORDERS:
            if column in row and row["layer"] in layers:
                of_layer = parts.setdefault((row["group_of_students"], column), {}).setdefault(row["layer"], {})
                of_layer[row["input"]] = row[column]
    cautions = {
        (each["group_of_students"], each["score"], each["layer"]): printable(each["sentence"])
        for each in inputs.get("reliability", ())
    }
    return [
        {
            "text": ORDERS[column] + ("" if group is None else f" ({printable(group)})"),
            "layers": [[by_layer.get(layer, {}).get(place) for place in maps.indices.tolist()] for layer in layers],
            "cautions": [cautions.get((group, column, layer), "") for layer in layers],
        }
        for (group, column), by_layer in parts.items()
    ]


# ----------------------------------------------------------------------------- without JavaScript


def _static(maps: "InputMaps", first: _Map, groups: Mapping[str, Sequence[str]], units: Mapping[str, str]) -> str:
    """The first inputs with the maps of the first pair at the first layer that has maps."""
    shown = {title: values[:STATIC] for title, values in maps.maps[first.layer][first.pair].items()}
    count = min(len(maps), STATIC)
    scale = list({id(groups[title]): [each for each in groups[title] if each in shown] for title in shown}.values())
    units = {title: units[title] for title in shown if title in units}
    titles = [_input_title(maps, place, first.pair) for place in range(count)]
    student, base = map(one_line, first.pair)
    caption = (
        f"Maps at {one_line(first.layer)}, Student {student} given Base {base}: the first {count} of {len(maps)} inputs. With "
        "JavaScript, this page shows all inputs, layers and pairs of models here."
    )
    if maps.tokens is not None:
        mask = None if maps.token_mask is None else maps.token_mask[:STATIC]
        content = sentence_rows(read_sentences(maps.tokens[:STATIC], shown, mask, scale, units, True), titles, "h3")
        return f'<div id="explorer" class="explorer">\n<p>{escape(caption)}</p>\n{content}\n</div>'
    assert maps.images is not None
    masks = None if maps.masks is None else maps.masks[:STATIC]
    figure = visualize_transfer(
        maps.images[:STATIC], shown, masks=masks, row_labels=titles, scale=scale, sign="all", units=units
    )
    alt = f"{caption} Columns: input, {', '.join(map(one_line, shown))}. Rows: {'; '.join(titles)}."
    picture = f'<img src="data:image/webp;base64,{_webp(figure)}" alt="{escape(alt)}">'
    return f'<div id="explorer" class="explorer">\n<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n</div>'


def _input_title(maps: "InputMaps", place: int, pair: tuple[str, str]) -> str:
    parts = [f"{'image' if maps.tokens is None else 'text'} {place + 1}"]
    if maps.labels is not None:
        parts.append(_class_text(maps, int(maps.labels[place])))
    for name in pair:
        if maps.predictions is not None and name in maps.predictions:
            parts.append(f"{one_line(name)}: {_class_text(maps, int(maps.predictions[name][place]))}")
    return ", ".join(parts)


def _webp(figure: Figure) -> str:
    file = BytesIO()
    figure.savefig(file, format="webp", dpi=130, pil_kwargs={"quality": 80})
    return b64encode(file.getvalue()).decode()
