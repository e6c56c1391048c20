"""Bytes to pixels: every kind of file comes out upright, in RGB, square."""

import numpy as np
import pytest
from distillation.data.decoding import BROKEN, EMPTY, TOO_LARGE, Unreadable, decode
from PIL import Image

from pictures import encoded, picture


def pixels(data, size=48):
    return decode(data, size).transpose(1, 2, 0)


def test_an_image_of_the_right_size_stays_as_it_is():
    image = picture(1)
    assert np.array_equal(pixels(encoded(image, "PNG")), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_kinds_of_files(kind):
    assert np.abs(pixels(encoded(picture(1), kind)).astype(int) - np.asarray(picture(1))).mean() < 8


def test_the_middle_square_is_taken():
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    found = pixels(encoded(image, "PNG"), 15)
    assert (found[:, 1:-1] == (0, 0, 255)).all() and found[..., 2].min() > 200  # borders are blurred by the reduction


def test_large_jpegs_are_decoded_at_a_smaller_scale_to_the_same_image():
    image = picture(1, (800, 600))
    small = image.crop((100, 0, 700, 600)).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(pixels(encoded(image, quality=95), 64).astype(int) - np.asarray(small)).mean() < 3


def test_palettes_and_gray():
    flag = Image.new("P", (16, 16), 1)
    flag.putpalette([0, 0, 0, 200, 100, 50])
    assert (pixels(encoded(flag, "PNG"), 16) == (200, 100, 50)).all()
    assert (pixels(encoded(Image.new("L", (16, 16), 77), "PNG"), 16) == 77).all()
    assert pixels(encoded(Image.new("1", (16, 16), 1), "PNG"), 16).min() == 255


def test_cmyk_becomes_rgb():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = pixels(encoded(red, "JPEG"), 16).mean((0, 1))
    assert found[0] > 200 and found[1] < 60 and found[2] < 60


def test_sixteen_bits_are_scaled_not_cut():
    gray = Image.fromarray(np.full((16, 16), 32896, dtype=np.uint16))
    assert (pixels(encoded(gray, "PNG"), 16) == 128).all()


def test_transparent_becomes_white():
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert (pixels(encoded(clear, "PNG"), 16) == 255).all()
    keyed = Image.new("P", (16, 16), 0)
    assert (pixels(encoded(keyed, "PNG", transparency=0), 16) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # the transpositions that turn it back
    upright = picture(1)
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encoded(stored, "PNG", exif=exif)), np.asarray(upright))


def test_broken_metadata_do_not_matter():
    data = encoded(picture(1), "JPEG", exif=b"Exif\x00\x00nonsense")
    assert pixels(data).shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", EMPTY),
        (b"no image", BROKEN),
        (encoded(picture(1))[:-300], BROKEN),
        (encoded(picture(1), "PNG")[:-300], BROKEN),
        (encoded(picture(1))[:10], BROKEN),
        (encoded(picture(1), "WEBP")[:-30], BROKEN),
    ],
)
def test_what_is_no_whole_image_is_refused(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(data, 32)


def test_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Unreadable, match=TOO_LARGE):
        decode(encoded(picture(1)), 32)


def test_what_is_transparent_in_a_16_bit_image_becomes_white():
    values = np.full((16, 16), 30_000, np.uint16)
    values[8:] = 40_000
    found = pixels(encoded(Image.fromarray(values), "PNG", transparency=40_000), 16)
    assert (found[:8] == 30_000 // 257).all() and (found[8:] == 255).all()
