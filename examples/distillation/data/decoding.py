"""An image file's bytes to pixels of one size."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Optional

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

__all__ = ["BROKEN", "EMPTY", "TOO_LARGE", "Unreadable", "decode"]

EMPTY, BROKEN, TOO_LARGE = "empty", "broken or truncated", "too large"

ORIENTATION = 0x0112
"""EXIF's tag."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of that orientation upright."""

FAULTS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
"""What Pillow's readers raise on bytes that are not an image, or not a whole one."""


class Unreadable(Exception):
    """Bytes that are no whole image; the message is one of the reasons above."""


def decode(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Pixels of an image file, upright, its middle square reduced or enlarged to ``size``.

    Gray, palette, CMYK and 16-bit images become RGB; what is transparent becomes white.

    Args:
        data: the file.
        size: side of the result.

    Returns:
        (3, size, size), uint8.

    Raises:
        Unreadable: empty, broken or truncated, or so large that Pillow refuses.
    """
    if not data:
        raise Unreadable(EMPTY)
    try:
        with Image.open(io.BytesIO(data)) as image:
            # JPEG decodes to a half, a quarter or an eighth for less; twice the size leaves the resizing its quality.
            image.draft(None, (2 * size, 2 * size))
            image.load()
            turn, upright = _turn(image), _as_rgb(image)
            if turn is not None:
                upright = upright.transpose(turn)
            square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
    except Image.DecompressionBombError as error:
        raise Unreadable(TOO_LARGE) from error
    except FAULTS as error:
        raise Unreadable(BROKEN) from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's conversion would cut 16-bit values at 255.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _turn(image: Image.Image) -> Optional[Image.Transpose]:
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except FAULTS:  # broken EXIF in front of whole pixels: some cameras' software wrote that
        return None
