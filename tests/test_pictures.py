"""Whatever comes in, the network sees ink 255 on paper 0 with a narrow margin."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError
from utils.reading.pictures import MARGIN, normalize, read_picture, resize


def strokes(height=90, width=160):
    """Two-valued strokes, white on black, that leave a margin of ten pixels."""
    picture = np.zeros((height, width), np.uint8)
    cv2.circle(picture, (40, height // 2), 25, 255, 3)
    cv2.line(picture, (80, 12), (width - 12, height - 12), 255, 3)
    cv2.line(picture, (80, height - 12), (width - 12, 12), 255, 3)
    return picture


def cropped(picture):
    rows, columns = np.nonzero(picture)
    return np.pad(picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], MARGIN)


def photograph(picture):
    """Dark ink on light paper, brighter to the right, a soft shadow over the lower left, and the sensor's noise."""
    height, width = picture.shape
    light = np.linspace(130, 220, width)[None, :] * np.ones((height, 1))
    shadow = np.tri(height, width, -height // 4, dtype=np.float32)
    light *= 1 - 0.4 * cv2.GaussianBlur(shadow, (0, 0), 12)
    noise = np.random.default_rng(0).normal(0, 2.5, picture.shape)
    return (light * (1 - 0.6 * cv2.GaussianBlur(picture, (3, 3), 0.7) / 255.0) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda ink: ink,
        lambda ink: 255 - ink,
        lambda ink: (ink > 0).astype(np.uint8),
        lambda ink: np.where(ink, 90, 180).astype(np.uint8),
        lambda ink: np.pad(ink, 40),
        lambda ink: cropped(ink)[MARGIN:-MARGIN, MARGIN:-MARGIN],
        lambda ink: 255 - cropped(ink)[MARGIN:-MARGIN, MARGIN:-MARGIN],
    ],
    ids=["light ink", "dark ink", "0 and 1", "greys", "wide margins", "no margin", "no margin, dark ink"],
)
def test_polarity_and_margins_do_not_matter(make):
    assert np.array_equal(normalize(make(strokes())), cropped(strokes()))


def test_a_normalized_picture_stays_as_it_is():
    for picture in (strokes(), cv2.GaussianBlur(255 - strokes(), (3, 3), 0.8), photograph(strokes())):
        once = normalize(picture)
        assert np.array_equal(normalize(once), once)


def test_a_blot_that_covers_most_of_the_picture_is_still_ink():
    picture = np.pad(np.zeros((60, 60), np.uint8), 5, constant_values=255)
    assert np.array_equal(normalize(picture), np.pad(np.full((60, 60), 255, np.uint8), MARGIN))


@pytest.mark.parametrize("is_dark_ink", [True, False], ids=["ink on paper", "chalk on a board"])
def test_a_photograph_loses_its_shadow_and_keeps_its_ink(is_dark_ink):
    taken = photograph(strokes())
    seen = normalize(taken if is_dark_ink else 255 - taken)
    truth = cropped(strokes())
    assert np.abs(np.subtract(seen.shape, truth.shape)).max() <= 6
    seen = cv2.resize(seen, truth.shape[::-1], interpolation=cv2.INTER_AREA)
    overlap = (seen > 127) & (truth > 0)
    assert overlap.sum() / ((seen > 127) | (truth > 0)).sum() > 0.6
    assert np.median(seen[cv2.dilate(truth, np.ones((9, 9))) == 0]) == 0


@pytest.mark.parametrize(
    "picture",
    [
        np.full((30, 40), 255, np.uint8),
        np.zeros((30, 40), np.uint8),
        np.zeros((1, 1), np.uint8),
        np.random.default_rng(1).normal(150, 4, (60, 90)).astype(np.uint8),
    ],
    ids=["white", "black", "one pixel", "a photograph of an empty sheet"],
)
def test_a_picture_without_ink_is_an_error(picture):
    with pytest.raises(DataError, match=r"^a\.png: has no ink"):
        normalize(picture, "a.png")


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_transparent_paper_is_white():
    ink = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (5, 3, 15, 6))
    grey = read_picture(encoded(ink))
    assert grey[0, 0] == 255 and grey[4, 10] == 0 and grey.shape == (10, 20)


def test_sixteen_bits_become_eight():
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert read_picture(encoded(deep)).tolist() == [[0, 100, 255]]


def test_a_photograph_is_turned_the_way_it_was_taken():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    assert read_picture(encoded(Image.new("L", (20, 10)), "JPEG", exif=exif)).shape == (20, 10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_truncated_picture_is_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / "broken"
    whole = encoded(Image.fromarray(strokes()), kind)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="broken: is truncated or not a picture"):
        read_picture(path)


def test_an_empty_a_missing_and_a_text_file_are_errors_that_name_them(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("x ^ 2")
    for name, reason in (("empty.png", "is empty"), ("text.png", "not a picture"), ("none.png", "cannot be read")):
        with pytest.raises(DataError, match=rf"{name}: .*{reason}"):
            read_picture(tmp_path / name)


def test_resizing_gives_the_promised_size_and_keeps_paper_paper():
    picture = cropped(strokes())
    for scale in (0.25, 0.5, 0.77, 1.0, 1.3):
        resized = resize(picture, scale)
        assert resized.shape == tuple(max(1, round(side * scale)) for side in picture.shape)
        assert resized[0, 0] == 0 and resized.dtype == np.uint8
    assert resize(picture[:2, :2], 0.01).shape == (1, 1)
