"""Figures of the maps of several images side by side."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL.Image import Image
from torch import Tensor

from captum_kd._utils.maps import as_maps, upsample
from captum_kd._utils.validation import check_choice, check_dense, check_float, check_mapping, check_str, short_repr
from captum_kd.attr import TransferAttributions
from captum_kd.visualization._panels import (
    SIGNS, draw_bar, draw_caption, draw_map, draw_outline, draw_picture, hatched, of_sign, scale_tops,
)  # fmt: skip
from captum_kd.visualization._style import LABEL_SIZE, LINE_HEIGHT, PAGE_WIDTH, TEXT_SIZE, TITLE_SIZE, text_width, wrapped

__all__ = ["visualize_transfer"]

Array = npt.NDArray[Any]

INPUT = "input"
"""Title of the column of images."""

METHODS = ("heat_map", "blended_heat_map")
SCALES = ("map", "column", "shared")

UNIT = "gain of J per position"
"""Unit of integrated maps."""

OVERSHOOT = 0.25
"""Perturbed images may exceed [0, 1] by this much, since imputation adds noise; they are clipped."""


def visualize_transfer(
    images: Union[Tensor, Sequence[Image]],
    maps: Union[Mapping[str, Tensor], TransferAttributions],
    *,
    mean: Union[None, float, Sequence[float], Tensor] = None,
    std: Union[None, float, Sequence[float], Tensor] = None,
    kept: Optional[Mapping[str, Tensor]] = None,
    columns: Optional[Sequence[str]] = None,
    masks: Optional[Tensor] = None,
    row_labels: Optional[Sequence[str]] = None,
    scale: Union[None, str, Sequence[Sequence[str]]] = None,
    sign: Optional[str] = None,
    units: Optional[Mapping[str, str]] = None,
    method: str = "blended_heat_map",
    alpha_overlay: float = 0.75,
    outlier_perc: float = 2.0,
    cmap: Optional[str] = None,
    panel_size: Optional[float] = None,
    title: Optional[str] = None,
) -> Figure:
    """Draws one row per image: the image, and one map or perturbed version of it in each further column.

    Maps are passed at the layer's resolution, as attribution methods return them, and enlarged bilinearly by
    ``LayerAttribution.interpolate``. A map without values of the selected sign is drawn as the image with the caption
    "all zero" or "nothing positive".

    Args:
        images (Tensor or sequence of PIL.Image.Image): N images of one size. As a tensor (N, C, H, W) with C = 1 or 3 and
            values between 0 and 1, as for ``imshow``, or normalized by ``mean`` and ``std``.
        maps (mapping of str to Tensor, or TransferAttributions): column title -> maps (N, 1, h, w), one for each
            image, of any resolution, in the order in which they are shown. Long titles are wrapped. May be empty.
            The result of ``attribute_transfer`` for one layer becomes the columns "distilled" and "residual". If it
            was made with ``n_steps``, "net" comes first, all have both signs and one scale, and their unit stands
            below the color bars. With several Bases there is a residual column for each.
        mean, std (float, sequence or Tensor, optional): one number, or one for each channel, by which ``images`` were
            normalized, (x - mean) / std, as by torchvision's ``Normalize``; the figure shows x. They also apply to
            floating-point images in ``kept``, but not to PIL images. Pass both. Default: None, the images are not
            normalized
        kept (mapping of str to Tensor, optional): column title -> the part of the images that a perturbation keeps.
            Boolean masks (N, H, W) or (N, 1, H, W) are drawn as the image with removed pixels (False) pale and
            hatched; floating-point images (N, C, H, W), as ``keep_relevant`` returns them, are drawn like
            ``images``.
        columns (sequence of str, optional): the columns to draw, from left to right: titles of ``maps`` and
            ``kept``, and "input" for the images. Default: "input", then ``maps`` and ``kept`` in their order.
        masks (Tensor, optional): (N, H, W) or (N, 1, H, W), true or positive on the object. Its outline is drawn
            into every panel.
        row_labels (sequence of str, optional): N texts to the left of the rows, wrapped if they are long.
        scale (str or sequence of sequences of str, optional): "column" (one color scale for each column, to compare
            rows), "shared" (one for the whole figure, for maps in the same unit) or "map" (one for each map, as in
            Captum). Groups of titles, ``[["net", "net of two Bases"]]``, share a scale within each group, so that
            a weak null looks weak; every other column has its own. Default: "column"
        sign (str, optional): "positive", "all", "absolute_value" or "negative", as in Captum. "all" has a diverging
            color map, white at 0, whose scale is symmetric. Default: "positive"
        units (mapping of str to str, optional): column title -> unit of its maps, below the color bar. The unit of
            integrated and of net maps is a gain of the objective J per position of the layer. Default: none
        method (str): "blended_heat_map" (over the image in gray) or "heat_map" (the map alone, better for gray
            print, which does not distinguish map and image). Default: "blended_heat_map"
        alpha_overlay (float): opacity of the blended map at full color; it decreases with the value.
            Default: 0.75
        outlier_perc (float): as in Captum: the largest values, which sum to this percentage of all values on one
            scale, get the scale's last color. Default: 2.0
        cmap (str, optional): color map instead of the default for ``sign``.
        panel_size (float, optional): width of a panel in inches. Default: 1.5, or less where the figure would
            otherwise be wider than a page (7 inches), but not below 0.8.
        title (str, optional): a heading over the figure.

    Returns:
        *Figure*, not registered with pyplot.

    Raises:
        TypeError: images, maps or kept images that are not tensors, or kept images that are neither boolean nor
            floating point.
        ValueError: shapes that do not belong together, values that are not finite or outside [0, 1], a mean without
            a standard deviation, a title that is used twice, or options that do not exist.

    Examples::

        >>> # Maps of 8 images of 3 x 224 x 224 from a layer of 7 x 7: (8, 1, 7, 7) each.
        >>> transfer = UniCAM(student, "layer4", base).attribute_transfer(images, target=labels)
        >>> kept = {"kept by distilled": keep_relevant(images, transfer.distilled)}
        >>> figure = visualize_transfer(images, transfer, kept=kept)
        >>> figure.savefig("transfer.png", dpi=150)
        >>> # Images as the loader of a network trained on ImageNet normalizes them.
        >>> visualize_transfer(images, transfer, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> # The net map first, and as its null the net map of two Bases on the same scale.
        >>> transfer, null = (
        ...     each.attribute_transfer(images, labels, n_steps=16)
        ...     for each in (UniCAM(student, "layer4", base), UniCAM(base_2, "layer4", base)))
        >>> unit = "gain of J per position"
        >>> figure = visualize_transfer(
        ...     images,
        ...     {"net": transfer.net, "net of two Bases": null.net, "Grad-CAM": gradcam},
        ...     scale=[["net", "net of two Bases"]], sign="all", units={"net": unit, "net of two Bases": unit})
    """
    has_net = isinstance(maps, TransferAttributions) and maps.has_net
    has_unit = isinstance(maps, TransferAttributions) and maps.has_unit
    given_maps: Mapping[str, Tensor] = columns_of(maps) if isinstance(maps, TransferAttributions) else maps
    scale = ("shared" if has_net else "column") if scale is None else scale
    sign = ("all" if has_net else "positive") if sign is None else sign
    if isinstance(scale, str):
        check_choice(scale, "scale", SCALES)
    check_choice(sign, "sign", tuple(SIGNS))
    check_choice(method, "method", METHODS)
    outlier_perc = check_float(outlier_perc, "outlier_perc", "a percentage from 0 to below 100", -1e-300, 100.0)
    alpha_overlay = check_float(alpha_overlay, "alpha_overlay", "an opacity from 0 to 1", 0.0, 1.0, closed=True)
    if panel_size is not None:
        panel_size = check_float(panel_size, "panel_size", "a positive number of inches, at most 100, or None", 0.0, 100.0)
    if not isinstance(cmap, (str, type(None))) or (cmap is not None and cmap not in colormaps):
        raise ValueError(f"cmap must be the name of one of matplotlib's color maps or None, got {short_repr(cmap)}.")
    title = check_str(title, "title")
    is_pillow = not isinstance(images, Tensor)
    images = _from_pillow(images)
    check_dense(images, "images")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must have shape (N, 1 or 3, H, W) with N >= 1, got {tuple(images.shape)}.")
    normalization = _as_normalization(mean, std, images.shape[1])
    pictures = _as_pictures("images", images, None if is_pillow else normalization, 1e-3)
    n, height, width = pictures.shape[:3]
    given_kept: Mapping[str, Tensor] = {} if kept is None else kept
    names = _checked_columns(columns, given_maps, given_kept)
    groups = checked_groups(scale, list(given_maps))
    units = checked_units(units, list(given_maps), UNIT if has_unit else None)
    outlines = None if masks is None else _as_masks("masks", masks, n, height, width)
    if row_labels is not None and (
        not isinstance(row_labels, (list, tuple)) or not all(isinstance(text, (str, int)) for text in row_labels)
    ):
        raise TypeError(f"row_labels must be a list of texts or None, got {short_repr(row_labels)}.")
    if row_labels is not None and len(row_labels) != n:
        raise ValueError(f"row_labels must hold one text for each of the {n} images, got {len(row_labels)}.")
    panels = {name: _as_maps(name, given_maps[name], n, height, width) for name in names if name in given_maps}
    drawn = {name: _as_kept(name, given_kept[name], images, normalization, pictures) for name in names if name in given_kept}
    drawn[INPUT] = pictures

    row_texts = [wrapped(text, 1.3, LABEL_SIZE) for text in ([] if row_labels is None else row_labels)]
    room_left = max((text_width(text, LABEL_SIZE) for text in row_texts), default=0.0) + 0.15
    if panel_size is None:
        panel_size = max(0.8, min(1.5, (PAGE_WIDTH - room_left) / len(names) - 0.06))
    titles = [wrapped(name, panel_size, LABEL_SIZE) for name in names]
    title = None if title is None else wrapped(title, room_left + panel_size * len(names), TITLE_SIZE)
    title_lines = max(text.count("\n") + 1 for text in titles)
    unit_texts = {name: wrapped(units[name], panel_size, TEXT_SIZE) for name in names if name in units}
    unit_lines = max((text.count("\n") + 1 for text in unit_texts.values()), default=0)
    row_height = panel_size * min(max(height / width, 0.4), 2.5)
    figure = Figure(
        figsize=(
            (panel_size + 0.06) * len(names) + room_left,
            (row_height + 0.06) * n + 0.4 + 0.14 * title_lines + LINE_HEIGHT * unit_lines
            + (0.0 if title is None else 0.2 + 0.15 * title.count("\n")),
        ),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0),
    )
    # The bars have their own row, so that all columns keep the same size.
    axes = figure.subplots(n + 1, len(names), squeeze=False, height_ratios=[row_height] * n + [0.08])

    tops = scale_tops(panels, groups, sign, outlier_perc)
    colors = cmap or SIGNS[sign]
    for column, name in enumerate(names):
        for row, axis in enumerate(axes[:n, column]):
            if name in panels:
                draw_map(axis, pictures[row], panels[name][row], tops[name][row], sign, method, alpha_overlay, colors)
            else:
                draw_picture(axis, drawn[name][row])
            if name in given_kept and given_kept[name].dtype == torch.bool and not bool(given_kept[name][row].any()):
                draw_caption(axis, "nothing kept")
            if outlines is not None:
                draw_outline(axis, outlines[row])
            if column == 0 and row_labels is not None:
                axis.set_ylabel(row_texts[row], rotation=0, ha="right", va="center", fontsize=LABEL_SIZE)
        axes[0, column].set_title(titles[column], fontsize=LABEL_SIZE, pad=3.0)
        if name in panels and any(np.any(of_sign(values, sign)) for values in panels[name]):
            draw_bar(figure, axes[n, column], None if groups is None else tops[name][0], sign, colors)
            axes[n, column].set_xlabel(unit_texts.get(name, ""), fontsize=TEXT_SIZE, labelpad=2.0)
        else:
            axes[n, column].set_axis_off()
    if title is not None:
        figure.suptitle(title, fontsize=TITLE_SIZE)
    return figure


# ----------------------------------------------------------------------------- arguments


def _checked_columns(
    columns: Optional[Sequence[str]], maps: Mapping[str, Tensor], kept: Mapping[str, Tensor]
) -> list[str]:
    for argument, given in (("maps", maps), ("kept", kept)):
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise TypeError(f"{argument} must map column titles to tensors, got {short_repr(given)}.")
    if columns is not None and (
        not isinstance(columns, (list, tuple)) or not all(isinstance(name, str) for name in columns)
    ):
        raise TypeError(f"columns must be a list of column titles or None, got {short_repr(columns)}.")
    known = [INPUT, *maps, *kept]
    if len(set(known)) != len(known):
        twice = sorted({name for name in known if known.count(name) > 1})
        raise ValueError(f"Every column needs a title of its own ({INPUT!r} is the images'), got {twice} twice.")
    names = known if columns is None else list(columns)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"columns must name some of {known}, each once; got {names}"
            + (f", of which {unknown} are in neither maps nor kept." if unknown else ".")
        )
    return names


def columns_of(maps: TransferAttributions) -> dict[str, Any]:
    net = {"net": maps.net} if maps.has_net else {}
    if not maps.has_several_bases:
        return {**net, **maps._asdict()}
    residuals = {f"residual of Base {number + 1}": each for number, each in enumerate(maps.residual)}
    return {**net, "distilled": maps.distilled, **residuals}


def checked_groups(scale: Any, titles: list[str]) -> Optional[list[list[str]]]:
    """Titles of maps that share a scale; None if each map has its own."""
    if isinstance(scale, str):
        return {"map": None, "column": [[title] for title in titles], "shared": [titles]}[scale]
    is_groups = isinstance(scale, (list, tuple)) and all(isinstance(group, (list, tuple)) for group in scale)
    if not is_groups or not all(isinstance(title, str) for group in scale for title in group):
        raise TypeError(
            f"scale must be the name of a scale or groups of titles such as [['net', 'null']], got {short_repr(scale)}."
        )
    grouped = [title for group in scale for title in group]
    if not set(grouped) <= set(titles) or len(set(grouped)) < len(grouped):
        raise ValueError(f"The groups of scale must hold titles of maps, some of {titles}, each once; got {grouped}.")
    return [*map(list, scale), *([title] for title in titles if title not in grouped)]


def checked_units(units: Any, titles: list[str], default: Optional[str]) -> Mapping[str, str]:
    """Title -> unit; ``default`` is the unit of all maps if ``units`` is None."""
    if units is None:
        return {} if default is None else dict.fromkeys(titles, default)
    check_mapping(units, "units", "a mapping from titles of maps to texts, or None")
    if not all(isinstance(text, str) for text in units.values()) or not set(units) <= set(titles):
        raise ValueError(f"units must map titles of maps, some of {titles}, to texts, got {short_repr(units)}.")
    return dict(units)


def _from_pillow(images: object) -> Tensor:
    """Images as a tensor (N, C, H, W); Pillow's become RGB between 0 and 1."""
    if isinstance(images, Tensor):
        return images
    if not isinstance(images, (list, tuple)) or not images or not all(isinstance(each, Image) for each in images):
        raise TypeError(f"images must be a tensor (N, C, H, W) or a list of PIL images, got {short_repr(images)}.")
    sizes = {each.size for each in images}
    if len(sizes) > 1:
        raise ValueError(f"images must be of one size, got {len(sizes)} sizes; resize them.")
    pixels = np.stack([np.asarray(each.convert("RGB")) for each in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _as_normalization(mean: Any, std: Any, channels: int) -> Optional[tuple[Tensor, Tensor]]:
    """Mean and standard deviation, each (1, C or 1, 1, 1); None if neither is given."""
    if (mean is None) != (std is None):
        raise ValueError(
            "mean and std belong together; pass both, or neither for images between 0 and 1. "
            f"{'mean' if mean is None else 'std'} is missing."
        )
    if mean is None:
        return None
    found = []
    for name, given in (("mean", mean), ("std", std)):
        wanted = f"a number or one for each of the {channels} channels"
        if isinstance(given, Tensor):
            check_dense(given, name)
        try:
            values = torch.as_tensor(given, dtype=torch.float32, device="cpu").detach()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be {wanted}, got {short_repr(given)}.") from None
        if values.numel() not in (1, channels) or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} must be {wanted}, got {short_repr(given)}.")
        found.append(values.reshape(1, -1, 1, 1))
    if bool((found[1] <= 0).any()):
        raise ValueError(f"std must be positive, got {short_repr(std)}.")
    return found[0], found[1]


def _as_pictures(name: str, images: Tensor, normalization: Optional[tuple[Tensor, Tensor]], overshoot: float) -> Array:
    """(N, H, W, 3) between 0 and 1; Captum needs three channels for gray images too."""
    if images.is_complex():
        raise TypeError(f"{name} must be real, got {images.dtype}.")
    values = images.detach().float().cpu()
    if normalization is not None:
        values = values * normalization[1] + normalization[0]
    low, high = float(values.min()), float(values.max())
    if not bool(torch.isfinite(values).all()) or low < -overshoot or high > 1.0 + overshoot:
        after, advice = " after mean and std are undone", "Pass the mean and std of your transform."
        if normalization is None:
            after, advice = "", (
                "Pass mean= and std= if they are normalized, for example mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, "
                "0.225) for ImageNet; divide by 255 if they go up to 255."
            )
        raise ValueError(f"{name} must be finite and between 0 and 1{after}, got values from {low:.3g} to {high:.3g}. {advice}")
    array: Array = values.clamp(0.0, 1.0).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).double().numpy()
    return array


def _as_masks(name: str, masks: Tensor, n: int, height: int, width: int) -> Array:
    """(N, H, W), boolean."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"{name} must be a tensor (N, H, W), got {type(masks).__name__}.")
    check_dense(masks, name)
    if masks.is_complex():
        raise TypeError(f"{name} must be real, got {masks.dtype}.")
    flat = masks[:, 0] if masks.dim() == 4 and masks.shape[1] == 1 else masks
    if tuple(flat.shape) != (n, height, width):
        raise ValueError(
            f"{name} must have shape ({n}, {height}, {width}) or ({n}, 1, {height}, {width}) like the images, "
            f"got {tuple(masks.shape)}."
        )
    array: Array = (flat > 0).cpu().numpy()
    return array


def _as_kept(
    name: str, kept: Tensor, images: Tensor, normalization: Optional[tuple[Tensor, Tensor]], pictures: Array
) -> Array:
    """(N, H, W, 3): perturbed images, or the images with the removed part pale and hatched."""
    name = f"The kept pixels of column {name!r}"
    if not isinstance(kept, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(kept).__name__}.")
    check_dense(kept, name)
    if kept.dtype == torch.bool:
        stays = _as_masks(name, kept, *pictures.shape[:3])[..., None]
        return np.where(stays, pictures, hatched(pictures))
    if not kept.is_floating_point():
        raise TypeError(f"{name} must be boolean masks or floating-point images, got {kept.dtype}; use kept.bool().")
    if kept.shape != images.shape:
        raise ValueError(
            f"{name} must have the images' shape {tuple(images.shape)}, or be a boolean mask of the pixels that stay, "
            f"got {tuple(kept.shape)} of {kept.dtype}."
        )
    return _as_pictures(name, kept, normalization, OVERSHOOT)


def _as_maps(name: str, values: Tensor, n: int, height: int, width: int) -> Array:
    """(N, H, W) float64."""
    maps = as_maps(values, f"column {name!r} of maps", n)
    array: Array = upsample(maps.cpu().double(), (height, width))[:, 0].numpy()
    return array
