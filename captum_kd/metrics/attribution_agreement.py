"""Agreement of two sets of attributions of the same inputs: whether two networks look at the same places."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
from captum.log import log_usage
from torch import Tensor

from captum_kd._utils.inputs import as_token_mask
from captum_kd._utils.maps import as_maps, unit_length, unit_maps, upsample
from captum_kd._utils.validation import check_choice, check_dense, check_share
from captum_kd._utils.warnings import warn_user

__all__ = ["attribution_agreement"]


@log_usage()
def attribution_agreement(
    attributions_a: Any,
    attributions_b: Any,
    *,
    measure: str = "cosine",
    keep: float = 0.25,
    token_mask: Optional[Tensor] = None,
) -> Tensor:
    r"""
    Agreement of two sets of attributions of the same inputs, for example the maps of a Student and those of its Teacher.
    Each input gets one value, and equal maps get 1.

    A high value alone shows little: maps of one kind agree without any transfer, since objects lie in the middle and many maps
    have no negative values. Compare it with the values of maps of different inputs,
    ``attribution_agreement(maps_a, maps_b.roll(1, 0))``, and with the agreement of the Teacher with a Base that was trained
    without it. ``compare_transfer(..., explanations=...)`` does the latter, with intervals and seed control.

    A constant map (all values 0, for example) shows no place, so it agrees with nothing. It counts as 0, so that means are
    defined and maps that show nothing do not raise them; a warning counts such maps.

    Source: Parchami-Araghi et al., "Good Teachers Explain: Explanation-Enhanced Knowledge Distillation", ECCV 2024 (cosine
    similarity of the maps of Student and Teacher, both of the class that the Teacher predicts).

    Args:

        attributions_a (Tensor or tuple[Tensor, ...]): Captum's attributions: (N, 1, h, w) of a layer; (N, C, H, W) of
                    images, whose channels are summed, as in Captum's pictures; (N, 1, T) or (N, T) of tokens or of other
                    features. A tuple of several, as of a model with several inputs, is compared as one map for each input.
        attributions_b (Tensor or tuple[Tensor, ...]): Those of the other network, N in the same order. If their grid differs,
                    the smaller grid is brought to the larger one bilinearly, as by ``LayerAttribution.interpolate`` and as in
                    :func:`map_reliability`, so that no position of the finer map is lost. To compare coarse with noisy
                    fine maps, average the latter first: ``torch.nn.functional.adaptive_avg_pool2d(maps, (7, 7))``.
        measure (str, optional): "cosine", the cosine of the angle between the maps, with their signs; "spearman", the
                    correlation of the ranks of their positions; or "iou", intersection over union of the most salient
                    positions of each map. The first two lie in [-1, 1], "iou" in [0, 1]. None changes if a map is multiplied
                    by a positive number. Pass ``maps.clamp(min=0)`` to compare positive evidence only. Pearson's
                    correlation is in ``map_reliability({"a": maps_a, "b": maps_b}).values[0, 1]``.
        keep (float, optional): Share of the positions that "iou" compares, in (0, 1). If positions tie at the border, none of
                    these counts, unless they are the map's maximum. Random maps have an IoU of about keep / (2 - keep).
        token_mask (Tensor, optional): (N, T), True for the tokens that count in maps of text.
                    Default: None, all positions

    Returns:
        Tensor: (N,) float64 on the CPU, never NaN.

    Raises:
        TypeError: attributions that are not floating point tensors, or the result of ``attribute_transfer``, of which one map
                    has to be chosen.
        ValueError: an unknown measure, a share outside (0, 1), other numbers of maps or tensors, maps of another shape, with
                    non-finite values or of a single position, a mask of other tokens.

    Warns:
        UserWarning: constant maps.

    Examples::

        >>> # Student and Teacher, layers of 7x7, 64 images. Both maps explain the class that the Teacher predicts.
        >>> classes = teacher(images).argmax(1)
        >>> of_student = LayerGradCam(student, student.layer4).attribute(images, classes)
        >>> of_teacher = LayerGradCam(teacher, teacher.layer4).attribute(images, classes)
        >>> attribution_agreement(of_student, of_teacher).mean()
        tensor(0.71, dtype=torch.float64)
        >>> # Where is what the Student gained over the Base, seen from the Teacher?
        >>> attribution_agreement(unicam.attribute(images, classes, n_steps=16), of_teacher)
    """
    check_choice(measure, "measure", list(MEASURES))
    keep = check_share(keep)
    given = [
        _as_tuple(value, argument) for value, argument in ((attributions_a, "attributions_a"), (attributions_b, "attributions_b"))
    ]
    if len(given[0]) != len(given[1]):
        raise ValueError(f"attributions_a has {len(given[0])} tensors, attributions_b {len(given[1])}; pass the same number.")
    pairs: list[tuple[Tensor, Tensor]] = []
    for (first, name), (second, other_name) in zip(*given):
        maps = as_any_maps(first, name, len(pairs[0][0]) if pairs else None)
        pairs.append(on_one_grid(maps, as_any_maps(second, other_name, len(maps)), f"{name} and {other_name}"))
    rows = [torch.cat([pair[side] for pair in pairs], 1) for side in (0, 1)]
    n, positions = rows[0].shape
    if positions == 1:
        raise ValueError("The maps have a single position, where all maps agree; pass maps of a layer with positions.")
    mask = None if token_mask is None else as_token_mask(token_mask, n, "token_mask").cpu()
    if mask is not None and mask.shape[1] != positions:
        raise ValueError(
            f"token_mask has {mask.shape[1]} tokens, but the maps have {positions} positions; pass maps (N, 1, "
            f"{mask.shape[1]}). Leave prefix tokens out of the mask."
        )
    values = agreement_of_maps(rows[0], rows[1], measure, keep, mask)
    is_undefined = values.isnan()
    if bool(is_undefined.any()):
        warn_user(
            f"Of {int(is_undefined.sum())} of {n} inputs, at least one of the two maps is constant and shows no place; their "
            "agreement counts as 0."
        )
    return values.masked_fill(is_undefined, 0.0)


def as_any_maps(attributions: Any, argument: str, n: Optional[int], tokens: Optional[int] = None) -> Tensor:
    """Checked maps (N, 1, h, w) or (N, 1, T) on the CPU, from those or from (N, C, h, w) or (N, T).

    With ``tokens`` only maps of this number of tokens are accepted.
    """
    dims = 4
    if isinstance(attributions, Tensor):
        check_dense(attributions, argument)
        dims, shape = attributions.dim(), tuple(attributions.shape)
        if dims == 3 and shape[1] != 1:
            raise ValueError(
                f"{argument} must have shape (N, C, h, w), (N, 1, T) or (N, T), got {shape}. Sum the attributions of token "
                "embeddings (N, T, e) over the embedding, by .sum(2); give maps (N, h, w) a channel, by .unsqueeze(1)."
            )
        if dims == 4 and shape[1] > 1 and attributions.is_floating_point():
            attributions = attributions.detach().cpu().double().sum(1, keepdim=True)
    size = None if tokens is None else (tokens,)
    return as_maps(attributions, argument, n, size, is_text=dims < 4, flat_too=dims < 4).cpu()


def on_one_grid(first: Tensor, second: Tensor, argument: str) -> tuple[Tensor, Tensor]:
    """Two sets of maps as rows (N, p), float64, the smaller grid brought to the larger one.

    Raises:
        ValueError: maps of images and of tokens, or of other numbers of tokens.
    """
    if first.dim() != second.dim() or (first.dim() == 3 and first.shape != second.shape):
        raise ValueError(
            f"{argument} have the shapes {tuple(first.shape)} and {tuple(second.shape)}, which have no common positions. Pass "
            "maps of images (N, C, h, w), whose grids may differ, or maps of the same tokens (N, 1, T)."
        )
    if first.dim() == 4:
        size = (max(first.shape[2], second.shape[2]), max(first.shape[3], second.shape[3]))
        # Rounded to the maps' own precision, so that equal neighbors give equal positions between them: ties stay ties.
        first, second = (upsample(maps.double(), size).to(maps.dtype) for maps in (first, second))
    return first.flatten(1).double(), second.flatten(1).double()


def is_constant(maps: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """(N,) True for rows (N, p) of maps with a single value, up to rounding."""
    return (unit_maps(maps, mask) == 0).all(1)


def agreement_of_maps(
    first: Tensor, second: Tensor, measure: str, keep: float, mask: Optional[Tensor] = None
) -> Tensor:
    """(N,) agreement of rows (N, p) of maps, float64 on the CPU; NaN if one of the two is constant."""
    mask = torch.ones(first.shape, dtype=torch.bool, device="cpu") if mask is None else mask
    values = MEASURES[measure](first, second, mask, keep)
    return values.masked_fill(is_constant(first, mask) | is_constant(second, mask), torch.nan)


def _cosine(first: Tensor, second: Tensor, mask: Tensor, keep: float) -> Tensor:
    return _products(*(unit_length(maps.masked_fill(~mask, 0.0)) for maps in (first, second)))


def _spearman(first: Tensor, second: Tensor, mask: Tensor, keep: float) -> Tensor:
    return _products(*(unit_maps(_ranks(maps, mask), mask) for maps in (first, second)))


def _iou(first: Tensor, second: Tensor, mask: Tensor, keep: float) -> Tensor:
    one, other = (most_salient(maps, mask, keep) for maps in (first, second))
    return (one & other).sum(1).double() / (one | other).sum(1)


MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "cosine": _cosine, "spearman": _spearman, "iou": _iou,
}  # fmt: skip


def _products(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1).clamp(-1.0, 1.0)


def _ranks(maps: Tensor, mask: Tensor) -> Tensor:
    """Ranks of the positions of each row; tied ones share the mean of their ranks. Masked positions rank last."""
    values = maps.masked_fill(~mask, torch.inf)
    ordered = values.sort(1).values
    before, up_to = (torch.searchsorted(ordered, values, right=is_last) for is_last in (False, True))
    return (before + up_to).double() / 2


def most_salient(maps: Tensor, mask: Tensor, keep: float) -> Tensor:
    """True for the share of positions with the highest values, at most ``round(keep * p)`` and at least one.

    Positions that tie at the border are all left out, or all in if they are the maximum. So the place of a position decides
    nothing, and the many zeros of a map with few positive values do not count as salient.
    """
    counts = mask.sum(1)
    most = torch.minimum((keep * counts.double()).round(), counts - 1.0).clamp(min=1)
    kept = most.clamp(max=maps.shape[1] - 1).long()
    values = maps.masked_fill(~mask, -torch.inf)
    ordered = values.sort(1, descending=True).values
    above = values > ordered.gather(1, kept[:, None])
    highest = values == ordered[:, :1]
    return torch.where(above.any(1, keepdim=True), above, highest)


def _as_tuple(attributions: Any, argument: str) -> list[tuple[Any, str]]:
    """Each tensor and its name for messages."""
    if hasattr(attributions, "_fields"):
        fields = attributions._fields
        raise TypeError(
            f"{argument} is a {type(attributions).__name__} of {', '.join(fields)}, which are maps of different questions; "
            f"choose one, for example .{fields[0]}."
        )
    if not isinstance(attributions, (tuple, list)):
        return [(attributions, argument)]
    if not attributions:
        raise ValueError(f"{argument} is empty; pass a tensor of attributions, or a tuple of them.")
    return [(each, f"{argument}[{place}]") for place, each in enumerate(attributions)]
