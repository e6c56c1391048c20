"""An image file's bytes to pixels of one size."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from typing import Optional

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

__all__ = ["BROKEN", "EMPTY", "FORMATS", "MOST_BYTES", "MOST_PIXELS", "TOO_LARGE", "Unreadable", "decode"]

EMPTY, BROKEN, TOO_LARGE = "empty", "broken or truncated", "too large"

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""The formats that are decoded, whatever a file is called. Pillow knows more, some of which start other programs."""

MOST_BYTES = 1 << 27
"""Size of a file, 128 MiB; larger ones are too large."""

MOST_PIXELS = 1 << 26
"""Pixels to decode, 67 million or 8192 x 8192. JPEG files are decoded at a reduced scale where the wanted size allows it,
so that they may have more, up to the 179 million that Pillow opens."""

MOST_SIDE = 65535
"""Pixels of a side, the limit of the JPEG format. Some decoders take memory in proportion to the square of a side."""

MANY_PIXELS = 1 << 24
"""From here on images are decoded one at a time, whatever the number of threads: each takes up to 20 bytes a pixel."""

MOST_SCANS = 100
"""Passes over a progressive JPEG file; encoders write about ten. Thousands of empty ones would take hours."""

MOST_EXIF = 100
"""Pieces of EXIF data in a file; a piece has up to 64 KiB, a photograph has a few. Joining millions would take hours."""

_one_at_a_time = threading.Lock()

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
        Unreadable: empty; larger than ``MOST_BYTES`` or ``MOST_PIXELS``; or no whole image of one of the ``FORMATS``.
    """
    if not data:
        raise Unreadable(EMPTY)
    if len(data) > MOST_BYTES:
        raise Unreadable(TOO_LARGE)
    if data.count(b"Exif\0\0") > MOST_EXIF:
        raise Unreadable(BROKEN)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            held = image.width * image.height
            # JPEG decodes to a half, a quarter or an eighth for less; twice the size leaves the resizing its quality.
            image.draft(None, (2 * size, 2 * size))
            pixels = image.width * image.height
            if pixels > MOST_PIXELS or max(image.size) > MOST_SIDE:
                raise Unreadable(TOO_LARGE)
            if "progressive" in image.info:
                if data.count(b"\xff\xda") > MOST_SCANS:
                    raise Unreadable(BROKEN)
            else:
                held = pixels  # a progressive file is held in memory at its full scale
            with _one_at_a_time if held > MANY_PIXELS else nullcontext():
                image.load()
                turn, upright = _turn(image), _as_rgb(image)
                if turn is not None:
                    upright = upright.transpose(turn)
                square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(TOO_LARGE) from error
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on damaged files
        raise Unreadable(BROKEN) from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's conversion would cut 16-bit values at 255.
        values = np.asarray(image)
        gray = (values.clip(0, 65535) // 257).astype(np.uint8)
        gray[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = Image.new("RGB", image.size)
        for top in range(0, image.height, 256):  # in strips, which take less memory
            box = (0, top, image.width, min(top + 256, image.height))
            strip = image.crop(box).convert("RGBA")
            opaque.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), box)
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn(image: Image.Image) -> Optional[Image.Transpose]:
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF in front of whole pixels: some cameras' software wrote that
        return None
