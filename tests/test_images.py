"""Whatever comes in, the network sees ink 255 on paper 0 with a narrow margin."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError
from utils.reading.frames import remove_frames
from utils.reading.images import MARGIN, normalize_image, read_image, resize


def strokes(height=90, width=160):
    """Two-valued strokes, white on black, that leave a margin of ten pixels."""
    image = np.zeros((height, width), np.uint8)
    cv2.circle(image, (40, height // 2), 25, 255, 3)
    cv2.line(image, (80, 12), (width - 12, height - 12), 255, 3)
    cv2.line(image, (80, height - 12), (width - 12, 12), 255, 3)
    return image


def cropped(image):
    rows, columns = np.nonzero(image)
    return np.pad(image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], MARGIN)


def photograph(image):
    """Dark ink on light paper, brighter to the right, a soft shadow over the lower left, and the sensor's noise."""
    height, width = image.shape
    light = np.linspace(130, 220, width)[None, :] * np.ones((height, 1))
    shadow = np.tri(height, width, -height // 4, dtype=np.float32)
    light *= 1 - 0.4 * cv2.GaussianBlur(shadow, (0, 0), 12)
    noise = np.random.default_rng(0).normal(0, 2.5, image.shape)
    return (light * (1 - 0.6 * cv2.GaussianBlur(image, (3, 3), 0.7) / 255.0) + noise).clip(0, 255).astype(np.uint8)


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
    assert np.array_equal(normalize_image(make(strokes())), cropped(strokes()))


def test_a_normalized_image_stays_as_it_is():
    for image in (strokes(), cv2.GaussianBlur(255 - strokes(), (3, 3), 0.8), photograph(strokes())):
        once = normalize_image(image)
        assert np.array_equal(normalize_image(once), once)


def test_a_blot_that_covers_most_of_the_image_is_still_ink():
    image = np.pad(np.zeros((60, 60), np.uint8), 5, constant_values=255)
    assert np.array_equal(normalize_image(image), np.pad(np.full((60, 60), 255, np.uint8), MARGIN))


@pytest.mark.parametrize("is_dark_ink", [True, False], ids=["ink on paper", "chalk on a board"])
def test_a_photograph_loses_its_shadow_and_keeps_its_ink(is_dark_ink):
    taken = photograph(strokes())
    seen = normalize_image(taken if is_dark_ink else 255 - taken)
    truth = cropped(strokes())
    assert np.abs(np.subtract(seen.shape, truth.shape)).max() <= 6
    seen = cv2.resize(seen, truth.shape[::-1], interpolation=cv2.INTER_AREA)
    overlap = (seen > 127) & (truth > 0)
    assert overlap.sum() / ((seen > 127) | (truth > 0)).sum() > 0.6
    assert np.median(seen[cv2.dilate(truth, np.ones((9, 9))) == 0]) == 0


@pytest.mark.parametrize(
    "image",
    [
        np.full((30, 40), 255, np.uint8),
        np.zeros((30, 40), np.uint8),
        np.zeros((1, 1), np.uint8),
        np.random.default_rng(1).normal(150, 4, (60, 90)).astype(np.uint8),
    ],
    ids=["white", "black", "one pixel", "a photograph of an empty sheet"],
)
def test_an_image_without_ink_is_an_error(image):
    with pytest.raises(DataError, match=r"^a\.png: has no ink"):
        normalize_image(image, "a.png")


# ---- frames ----------------------------------------------------------------------------------------------------------


def framed(ink: np.ndarray, sides: str, thickness: int, level: int = 255, distance: int = 0) -> np.ndarray:
    """Ink, dark 0 on paper 0, with straight lines along the sides named by their first letters."""
    image = np.pad(ink, 30)
    height, width = image.shape
    near, far = distance, distance + thickness
    if "t" in sides:
        image[near:far, near : width - near] = level
    if "b" in sides:
        image[height - far : height - near, near : width - near] = level
    if "l" in sides:
        image[near : height - near, near:far] = level
    if "r" in sides:
        image[near : height - near, width - far : width - near] = level
    return image


@pytest.mark.parametrize("is_dark_ink", [True, False], ids=["ink on paper", "chalk on a board"])
@pytest.mark.parametrize(
    ("sides", "thickness", "level", "distance"),
    [
        ("tblr", 1, 255, 0),
        ("tblr", 3, 255, 0),
        ("tblr", 12, 255, 0),
        ("tblr", 5, 140, 0),
        ("tlr", 2, 255, 0),
        ("bl", 2, 255, 0),
        ("l", 3, 255, 0),
        ("tb", 3, 255, 0),
        ("tblr", 1, 255, 4),
        ("tblr", 3, 255, 7),
        ("tbl", 2, 255, 5),
    ],
)
def test_a_frame_changes_nothing(sides, thickness, level, distance, is_dark_ink):
    image = framed(strokes(), sides, thickness, level, distance)
    given = 255 - image if is_dark_ink else image
    assert np.array_equal(normalize_image(given), cropped(strokes()))


def rounded(height: int, width: int, radius: int) -> np.ndarray:
    """A filled rectangle of 1 with round corners."""
    corner = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(np.pad(np.ones((height - 2 * radius, width - 2 * radius), np.uint8), radius), corner)


@pytest.mark.parametrize("is_dark_ink", [True, False], ids=["ink on paper", "chalk on a board"])
@pytest.mark.parametrize(("radius", "distance"), [(9, 0), (16, 0), (16, 5)])
def test_a_frame_with_round_corners_changes_nothing(radius, distance, is_dark_ink):
    image = np.pad(strokes(), 30)
    height, width = (side - 2 * distance for side in image.shape)
    outside, inside = (rounded(height - 2 * cut, width - 2 * cut, radius - cut) for cut in (0, 3))
    frame = outside - np.pad(inside, 3)
    image[distance : distance + height, distance : distance + width][frame > 0] = 255
    assert np.array_equal(normalize_image(255 - image if is_dark_ink else image), cropped(strokes()))


def test_two_frames_one_inside_the_other_change_nothing():
    image = np.pad(framed(strokes(), "tblr", 2), 6)
    image[:3] = image[-3:] = 255
    image[:, :3] = image[:, -3:] = 255
    assert np.array_equal(normalize_image(255 - image), cropped(strokes()))


@pytest.mark.parametrize("level", [255, 70])
def test_a_frame_with_soft_edges_around_grey_writing_changes_nothing(level):
    soft = cv2.GaussianBlur(np.pad(strokes(), 30), (3, 3), 0.8)
    image = np.maximum(soft, cv2.GaussianBlur(framed(strokes() * 0, "tblr", 3, level), (3, 3), 0.8))
    assert np.array_equal(normalize_image(255 - image), normalize_image(255 - soft))


def test_ink_that_crosses_a_frame_loses_what_lies_outside_alone():
    image = framed(strokes(), "tblr", 3, 255, 6)
    image[60, 2:70] = 255
    seen = normalize_image(255 - image)
    assert seen[:, :12].any() and seen.shape[1] > cropped(strokes()).shape[1] + 10


def drawings() -> dict[str, np.ndarray]:
    """What looks a little like a frame and is ink: bars, brackets, a letter."""
    blank = np.zeros((60, 90), np.uint8)

    def with_lines(*boxes):
        image = blank.copy()
        for top, bottom, left, right in boxes:
            image[top:bottom, left:right] = 255
        return image

    return {
        "E": with_lines((0, 60, 0, 8), (0, 8, 0, 90), (52, 60, 0, 90), (26, 34, 0, 70)),
        "equivalent": with_lines((0, 6, 0, 90), (27, 33, 0, 90), (54, 60, 0, 90)),
        "absolute value": with_lines((0, 60, 0, 5), (0, 60, 85, 90), (15, 45, 30, 60)),
        "overline": with_lines((0, 5, 0, 90), (12, 60, 3, 87)),
        "T": with_lines((0, 6, 0, 90), (0, 60, 42, 48)),
        "brackets": with_lines(
            (0, 60, 0, 5),
            (0, 5, 0, 20),
            (55, 60, 0, 20),
            (0, 60, 85, 90),
            (0, 5, 70, 90),
            (55, 60, 70, 90),
            (20, 40, 40, 50),
        ),  # fmt: skip
    }


@pytest.mark.parametrize("margin", [0, 5])
@pytest.mark.parametrize("kind", drawings())
def test_ink_that_reaches_all_around_stays(kind, margin):
    image = drawings()[kind]
    given = 255 - np.pad(image, margin)
    kept, top, left = remove_frames(given)
    assert (top, left) == (0, 0) and np.array_equal(kept, given)


def test_real_ink_has_no_frame(shared_data):
    files = sorted((shared_data / "CROHME" / "train" / "images").iterdir())
    for file in files[::60]:
        image = read_image(file)
        for given in (image, 255 - image[12:-11, 12:-11]):
            assert np.array_equal(remove_frames(given)[0], given), file.name


# ---- color -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paper", "pen"),
    [((210, 40, 40), (40, 128, 40)), ((255, 255, 255), (255, 255, 120)), ((40, 90, 200), (150, 60, 40))],
    ids=["green on red", "yellow on white", "brown on blue"],
)
def test_ink_that_differs_in_color_alone_is_seen(paper, pen):
    ink = np.pad(strokes(), 20)
    colors = np.where(ink[..., None] > 0, np.uint8(pen), np.uint8(paper))
    for given in (colors, Image.fromarray(colors), encoded(Image.fromarray(colors))):
        assert np.array_equal(normalize_image(read_image(given)), cropped(strokes()))
    light = np.linspace(0.7, 1, colors.shape[1])[None, :, None]
    found = normalize_image(read_image((colors * light).astype(np.uint8))) > 127
    assert found.shape == cropped(strokes()).shape and (found == (cropped(strokes()) > 127)).mean() > 0.98


def test_where_brightness_tells_ink_from_paper_it_is_what_counts():
    ink = np.pad(strokes(), 20)
    for pen in ((0, 0, 0), (20, 40, 160), (190, 20, 30)):
        image = Image.fromarray(np.where(ink[..., None] > 0, np.uint8(pen), np.uint8((250, 248, 240))))
        assert np.array_equal(read_image(image), np.array(image.convert("L")))


# ---- files -----------------------------------------------------------------------------------------------------------


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_transparent_paper_is_white():
    ink = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (5, 3, 15, 6))
    grey = read_image(encoded(ink))
    assert grey[0, 0] == 255 and grey[4, 10] == 0 and grey.shape == (10, 20)


def test_sixteen_bits_become_eight():
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert read_image(encoded(deep)).tolist() == [[0, 100, 255]]


def test_a_photograph_is_turned_the_way_it_was_taken():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    assert read_image(encoded(Image.new("L", (20, 10)), "JPEG", exif=exif)).shape == (20, 10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, kind):
    path = tmp_path / "broken"
    whole = encoded(Image.fromarray(strokes()), kind)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="broken: is truncated or not an image"):
        read_image(path)


def test_an_empty_a_missing_and_a_text_file_are_errors_that_name_them(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("x ^ 2")
    for name, reason in (("empty.png", "is empty"), ("text.png", "not an image"), ("none.png", "cannot be read")):
        with pytest.raises(DataError, match=rf"{name}: .*{reason}"):
            read_image(tmp_path / name)


def test_resizing_gives_the_promised_size_and_keeps_paper_paper():
    image = cropped(strokes())
    for scale in (0.25, 0.5, 0.77, 1.0, 1.3):
        resized = resize(image, scale)
        assert resized.shape == tuple(max(1, round(side * scale)) for side in image.shape)
        assert resized[0, 0] == 0 and resized.dtype == np.uint8
    assert resize(image[:2, :2], 0.01).shape == (1, 1)
