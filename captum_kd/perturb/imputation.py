"""Noisy linear imputation: each removed pixel becomes the weighted mean of its neighbors, plus noise."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from captum_kd._utils.interrupts import without_gradients
from captum_kd._utils.validation import check_noise, check_float, check_dense, check_generator, short_repr
from captum_kd.distance.precision import has_float64
from captum_kd.perturb.grids import Buffers, Pixels, by_parity, from_parity
from captum_kd.perturb.multigrid import Hierarchy

# Image values processed at once. On a CPU, passes over data that fits the cache are several times as fast; on other
# devices the block size bounds the memory.
_CPU_BLOCK = 1_250_000
_DEVICE_BLOCK = 20_000_000
_MAX_STEPS = 60
_PIXELS = (2, 3, 4, 5)  # the pixel dimensions in parity layout


@without_gradients
def noisy_linear_imputation(
    images: Tensor,
    keep: Tensor,
    *,
    noise: float = 0.01,
    tolerance: float = 1e-3,
    generator: Optional[torch.Generator] = None,
) -> Tensor:
    r"""
    Replaces pixels by noisy linear imputation: each removed pixel becomes the weighted mean of its 8
    neighbors (direct ones 1/6, diagonal ones 1/12, renormalized at the image's border), plus Gaussian
    noise. The removed pixels of an image form one linear system. Kept pixels do not change.

    A black or blurred region shows the model where something was removed; an imputed region hardly does.

    All images and channels are solved together, each image with its own mask, by conjugate gradients with one
    multigrid cycle as preconditioner.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ROAD),
    ICML 2022.

    Args:

        images (Tensor): (N, C, H, W), floating point. Removed pixels are never read.
        keep (Tensor): (N, 1, H, W) or (N, H, W), boolean: True stays.
        noise (float, optional): Standard deviation of the noise on imputed pixels, in the images' units.
                    0 gives the solution itself.
        tolerance (float, optional): Largest error of the solution, before noise, in the images' units. If a
                    channel's kept values span less than 1, it is relative to that span, so that faint images are
                    solved too. For images of 0..255 a hundredth of a gray level, 0.01, is enough and takes less
                    time. Rounding to the images' dtype is not included.
        generator (torch.Generator, optional): Source of the noise, on the CPU or the images' device, drawn
                    image by image, so that consecutive batches get the same noise as all images at once.
                    Default: torch's global generator

    Returns:
        Tensor: shape and dtype of ``images``, without graph. Half precision is computed in float32 and rounded at the
        end.

    Raises:
        TypeError: images that are not a floating point tensor, or a mask that is not boolean.
        ValueError: shapes that do not fit, a mask that keeps nothing of an image, kept pixels that are
                    not finite, negative noise, or a tolerance that is not positive.

    Example::

        >>> images = torch.rand(16, 3, 224, 224)
        >>> keep = torch.rand(16, 1, 224, 224) > 0.5
        >>> noisy_linear_imputation(images, keep, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([16, 3, 224, 224])
    """
    check_images(images, "images")
    noise = check_noise(noise)
    tolerance = check_float(tolerance, "tolerance", "a positive number", 0, float("inf"))
    check_generator(generator)
    mask = _as_mask(images, keep)
    dtype = torch.promote_types(images.dtype, torch.float32)
    filled = _impute(_known(images, mask).to(dtype), mask, tolerance)
    if noise > 0:
        where = images.device if generator is None else generator.device
        # Image by image, so that the noise does not depend on the batch size.
        drawn = [_drawn(images, where, generator) for _ in images]
        filled = filled + noise * torch.stack(drawn).to(images.device)
    filled = filled.to(images.dtype)
    return torch.where(mask, images, filled, out=filled)


def skip_noise(images: Tensor, count: int, generator: torch.Generator) -> None:
    """Advances the generator past the noise of ``count`` images like these."""
    for _ in range(count):
        _drawn(images, generator.device, generator)


def _drawn(images: Tensor, device: torch.device, generator: Optional[torch.Generator]) -> Tensor:
    dtype = torch.promote_types(images.dtype, torch.float32)
    return torch.randn(images.shape[1:], dtype=dtype, device=device, generator=generator)


# ------------------------------------------------------------------------------ solution


def _known(images: Tensor, keep: Tensor) -> Tensor:
    """Replaces removed pixels by any kept value of their channel, so that minimum and maximum are those of kept pixels."""
    first = keep.flatten(2).to(torch.uint8).argmax(2, keepdim=True).expand(*images.shape[:2], 1)
    some = images.flatten(2).gather(2, first).unsqueeze(3)
    return torch.where(keep, images, some).contiguous()


def _impute(known: Tensor, keep: Tensor, tolerance: float) -> Tensor:
    """Fills the removed pixels, given :func:`_known`."""
    n, channels, height, width = known.shape
    low, high = (end.unsqueeze(3) for end in known.flatten(2).aminmax(dim=2, keepdim=True))
    _check_finite(low, high)
    middle, half = low / 2 + high / 2, high / 2 - low / 2  # high - low may overflow float32
    # The target error in units in which kept values span -1 to 1. Below one rounding error it could not be reached.
    target = tolerance * torch.where(half < 0.5, 2.0, 1 / half.clamp(min=0.5))
    target = target.clamp(min=torch.finfo(known.dtype).eps)
    # Rounding errors of float32 grow with the distance from a hole's middle to its rim; smaller targets need float64.
    rounding = torch.finfo(known.dtype).eps * max(height, width) ** 1.5 / min(height, width) ** 0.5
    precise = bool((target < 5 * rounding).any()) and has_float64(known.device)
    work = torch.float64 if precise else known.dtype
    block = max(1, (_CPU_BLOCK if known.device.type == "cpu" else _DEVICE_BLOCK) // (channels * height * width))
    filled, buffers = torch.empty_like(known), Buffers()
    for start in range(0, n, block):
        rows = slice(start, start + block)
        size = torch.where(half[rows] > 0, half[rows], 1)
        boundary = torch.sub(known[rows], middle[rows], out=buffers.like(known[rows], "boundary")).div_(size)
        solution = _solve(boundary.mul_(keep[rows]).to(work), keep[rows], target[rows], buffers)
        # The mean of neighbors lies between the smallest and the largest kept value.
        torch.addcmul(middle[rows], solution.clamp_(-1, 1).to(known.dtype), size, out=filled[rows])
    return filled


def _solve(boundary: Tensor, keep: Tensor, target: Tensor, buffers: Buffers) -> Tensor:
    """The removed pixels' values from the kept ones, 0 at kept pixels."""
    size = (boundary.shape[-2], boundary.shape[-1])
    kept, removed = by_parity(boundary), by_parity((~keep).to(boundary.dtype))
    finest = Pixels(removed, size, buffers)
    b = finest.neighbors(kept, out=buffers.like(kept, "b"))
    return from_parity(_conjugate_gradients(Hierarchy(finest), b, target[..., None, None], buffers), size)


def _conjugate_gradients(grids: Hierarchy, b: Tensor, target: Tensor, buffers: Buffers) -> Tensor:
    """Solves D x - N x = b until the preconditioned residual of each channel is at most its target.

    One multigrid cycle estimates the error, and adding that estimate to the solution removes at least half of the
    error, so the estimate may be a factor of two too small. (Over thousands of random masks the error was at most 0.8 of
    the target, on lattices of dots; mostly it is below 0.3.)
    """
    x, p, q = (buffers.like(b, name) for name in ("solution", "direction", "product"))
    x.zero_()
    r = b  # the residual overwrites the right-hand side
    z = grids.cycle(r)
    p.copy_(z)
    rz = _dot(r, z, out=q)
    for _ in range(_MAX_STEPS):
        if bool((torch.abs(z, out=q).amax(_PIXELS, keepdim=True) <= target).all()):
            return x.add_(z)
        grids.finest.apply(p, out=q)
        step = _quotient(rz, _dot(p, q, out=z))
        x.addcmul_(step, p)
        r.addcmul_(step, q, value=-1)
        z = grids.cycle(r)
        rz, before = _dot(r, z, out=q), rz
        torch.addcmul(z, _quotient(rz, before), p, out=p)
    raise RuntimeError(f"The imputation did not reach its tolerance in {_MAX_STEPS} steps.")


def _dot(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """The inner product of each channel; ``out`` receives the products of the pixels."""
    return torch.mul(a, b, out=out).sum(_PIXELS, keepdim=True)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 for a channel that is already solved exactly."""
    return torch.where(b > 0, a / b, 0)


# ------------------------------------------------------------------------------ arguments


def check_images(images: Tensor, argument: str) -> None:
    """Raises unless these are floating point images (N, C, H, W) with at least one pixel each."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{argument} must be a tensor (N, C, H, W), got {type(images).__name__}.")
    if not images.is_floating_point():
        raise TypeError(
            f"{argument} must be a floating point tensor, got {images.dtype}; convert it, "
            "by .float() or torchvision's to_dtype(torch.float32, scale=True)."
        )
    check_dense(images, argument)
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"{argument} must be images (N, C, H, W), got a tensor of shape {tuple(images.shape)}.")


def _as_mask(images: Tensor, keep: Tensor) -> Tensor:
    """The mask as (N, 1, H, W) on the images' device."""
    if not isinstance(keep, Tensor):
        raise TypeError(f"keep must be a boolean tensor, got {short_repr(keep)}.")
    if keep.dtype != torch.bool:
        raise TypeError(
            f"keep must be a boolean mask (True stays), got a tensor of {keep.dtype}; compare first: keep > 0.5, "
            "or keep.bool() for zeros and ones."
        )
    check_dense(keep, "keep")
    n, _, height, width = images.shape
    if keep.shape not in ((n, 1, height, width), (n, height, width)):
        raise ValueError(
            f"keep has shape {tuple(keep.shape)} for images {tuple(images.shape)}; pass one mask per image, "
            f"({n}, 1, {height}, {width}) or ({n}, {height}, {width})."
        )
    mask = keep.reshape(n, 1, height, width).to(images.device)
    empty = (~mask.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"keep keeps no pixel of image(s) {_first(empty)}: there is nothing to impute from. "
            "Keep at least one pixel of every image."
        )
    return mask


def _check_finite(low: Tensor, high: Tensor) -> None:
    """Raises where the smallest or largest kept value of a channel is not finite."""
    broken = (~(low.isfinite() & high.isfinite()).flatten(1).all(1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"Kept pixels of image(s) {_first(broken)} are not finite (NaN or infinity); repair the images or "
            "remove those pixels (keep=False)."
        )


def _first(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
