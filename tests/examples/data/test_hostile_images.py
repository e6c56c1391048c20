"""Mutated images, other formats and bombs are left out with a reason; nothing else is raised, nothing is run."""

import io
import random
import struct
import warnings
import zlib
from collections import Counter

import numpy as np
import pytest
from distillation.data import decoding
from distillation.data.decoding import BROKEN, EMPTY, TOO_LARGE, Unreadable, decode
from PIL import Image, features

from pictures import encoded, picture


def samples(kind):
    """Small images of a format, with metadata, palettes, transparency and several frames where it has them."""
    image = picture(1, (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "JPEG": [(image, {"exif": exif}), (image, {"progressive": True}), (image.convert("CMYK"), {})],
        "PNG": [(image, {"exif": exif}), (image.convert("P"), {"transparency": 3}), (image.convert("RGBA"), {})],
        "BMP": [(image, {}), (image.convert("P"), {}), (image.convert("1"), {})],
        "WEBP": [(image, {"exif": exif}), (image.convert("RGBA"), {"lossless": True})],
    }[kind]
    found = [encoded(each, kind, **options) for each, options in made]
    if kind == "JPEG":
        found.append(encoded(image, "MPO", save_all=True, append_images=[image]))
    elif kind != "BMP":
        found.append(encoded(image, kind, save_all=True, append_images=[image.rotate(90)]))
    else:
        found.append(run_lengths(b"".join(bytes([20, value]) * 2 + b"\0\0" for value in range(30)) + b"\0\1", 40, 30))
    return found


def run_lengths(body, width, height):
    """A BMP file of 256 gray levels, compressed by run lengths."""
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_checksums(data):
    """A PNG file whose chunks have right checksums again, so that decoders read them."""
    made, start = data[:8], 8
    while start + 12 <= len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        if start + 12 + length > len(data):
            break
        made += chunk(data[start + 4 : start + 8], data[start + 8 : start + 8 + length])
        start += 12 + length
    return made + data[start:]


def mutated(data, others, rng):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(min(len(changed), rng.choice([40, 120, len(changed)])) or 1)
        splice = rng.choice(others)
        where = rng.randrange(len(splice))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            changed[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", rng.randbytes(4)])
        elif kind == 2:
            del changed[at : at + rng.randint(1, 100)]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 60))
        elif kind == 4:
            del changed[rng.randrange(len(changed) or 1) :]
        else:
            changed[at : at + 100] = splice[where : where + 200]
    found = bytes(changed)
    return with_checksums(found) if found.startswith(b"\x89PNG") and rng.random() < 0.7 else found


@pytest.mark.parametrize("kind", decoding.FORMATS)
@pytest.mark.parametrize("seed", range(2))
def test_mutated_images_are_read_or_left_out(kind, seed):
    rng = random.Random(seed)
    images, outcomes = samples(kind), Counter()
    everything = [image for each in decoding.FORMATS for image in samples(each)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(300):
            try:
                found = decode(mutated(images[number % len(images)], everything, rng), 16)
                outcomes[found.shape] += 1
            except Unreadable as error:
                outcomes[str(error)] += 1
    assert set(outcomes) <= {(3, 16, 16), EMPTY, BROKEN, TOO_LARGE}
    assert outcomes[BROKEN] > 50 and outcomes[3, 16, 16] > 5


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_every_sample_is_read_whole(kind):
    assert {decode(image, 16).shape for image in samples(kind)} == {(3, 16, 16)}


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "ICNS", "TGA", "PPM", "PCX", "SGI", "DIB", "PDF", "DDS", "JPEG2000"])
def test_formats_that_are_not_promised_are_left_out(kind):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        kind = "GIF"
    with pytest.raises(Unreadable, match=BROKEN):
        decode(encoded(picture(1, (64, 64)), kind), 16)


def test_postscript_starts_no_program(monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: started.append(args))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    with pytest.raises(Unreadable, match=BROKEN):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", 16)
    assert not started


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        *[(kind, BROKEN) for kind in (SyntaxError, struct.error, IndexError, OverflowError, zlib.error, AttributeError)],
        *[(kind, BROKEN) for kind in (ZeroDivisionError, TypeError, RuntimeError, RecursionError, AssertionError)],
        (MemoryError, TOO_LARGE),
        (Image.DecompressionBombError, TOO_LARGE),
        (Image.DecompressionBombWarning, TOO_LARGE),
    ],
)
def test_whatever_a_decoder_raises_leaves_the_image_out(monkeypatch, error, reason):
    def fail(self):
        raise error("from the decoder")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(Unreadable, match=reason):
        decode(encoded(picture(1), "PNG"), 16)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_taken_for_a_broken_image(monkeypatch, error):
    def stop(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stop)
    with pytest.raises(error):
        decode(encoded(picture(1), "PNG"), 16)


def png_of(width, height):
    """A PNG file of that stated size whose pixels are never reached."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8193, 8193), (12_000, 12_000), (30_000, 30_000), (65_536, 1), (1, 65_536)])
def test_images_with_too_many_pixels_are_left_out(size):
    with pytest.raises(Unreadable, match=TOO_LARGE):
        decode(png_of(*size), 16)


def test_the_limit_of_pixels_holds_where_pillow_has_none(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(Unreadable, match=TOO_LARGE):
        decode(png_of(30_000, 30_000), 16)


def test_a_photograph_above_the_limit_is_read_at_a_reduced_scale(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 200 * 150)
    monkeypatch.setattr(decoding, "MANY_PIXELS", 1)  # alone
    assert decode(encoded(picture(1, (800, 600))), 32).shape == (3, 32, 32)
    with pytest.raises(Unreadable, match=TOO_LARGE):
        decode(encoded(picture(1, (800, 600)), "PNG"), 32)


def test_files_above_the_limit_of_bytes_are_left_out(monkeypatch):
    image = encoded(picture(1))
    monkeypatch.setattr(decoding, "MOST_BYTES", len(image))
    assert decode(image, 16).shape == (3, 16, 16)
    with pytest.raises(Unreadable, match=TOO_LARGE):
        decode(image + b"\0", 16)


def test_a_progressive_jpeg_of_endless_passes_is_left_out():
    image = encoded(picture(1), progressive=True)
    last = image[image.rindex(b"\xff\xda") : -2]
    assert decode(image[:-2] + last * 50 + image[-2:], 16).shape == (3, 16, 16)
    with pytest.raises(Unreadable, match=BROKEN):
        decode(image[:-2] + last * 1000 + image[-2:], 16)


def test_a_jpeg_of_endless_metadata_is_left_out():
    image = encoded(picture(1))
    piece = b"\xff\xe1\0\x0aExif\0\0aa"
    assert decode(image[:2] + piece * 50 + image[2:], 16).shape == (3, 16, 16)
    with pytest.raises(Unreadable, match=BROKEN):
        decode(image[:2] + piece * 1000 + image[2:], 16)


def test_compressed_metadata_do_not_unpack_without_limit():
    image = encoded(picture(1), "PNG")
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    with pytest.raises(Unreadable, match=BROKEN):
        decode(image[:33] + bomb + image[33:], 16)


def test_strips_of_a_transparent_image_fit_together():
    image = Image.fromarray(np.indices((600, 300))[0].astype(np.uint8)).convert("LA")
    image.putalpha(picture(1, (300, 600)).convert("L"))
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    whole = io.BytesIO()
    white.save(whole, "PNG")
    assert (decode(encoded(image, "PNG"), 300) == decode(whole.getvalue(), 300)).all()
