"""Whatever a person took an image of, the network sees clean ink of the usual size; a training image stays."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.benchmarks.photographs import KINDS, photograph
from utils.errors import DataError
from utils.reading.components import pieces_of, stroke_width, symbol_height
from utils.reading.images import MARGIN, normalize_image, read_image
from utils.reading.paper_lines import remove_lines
from utils.reading.photographs import (
    PEN,
    SYMBOL_HEIGHT,
    clean,
    clean_photograph,
    contrast_of,
    cut_out_sheet,
    is_drawn,
)


def formula(pen: int = 3) -> np.ndarray:
    """(a + 1) / 2 = x, roughly, of the usual size: uint8 (H, W), ink 255 on paper 0."""
    image = np.zeros((110, 270), np.uint8)

    def stroke(*points):
        cv2.polylines(image, [np.array(points, np.int32)], False, 255, pen)

    cv2.ellipse(image, (38, 34), (13, 15), 0, 0, 360, 255, pen)
    stroke((52, 18), (52, 50))
    stroke((72, 34), (94, 34))
    stroke((83, 22), (83, 46))
    stroke((112, 20), (120, 14), (120, 50))
    stroke((18, 58), (138, 58))
    stroke((62, 76), (74, 68), (84, 76), (62, 98), (88, 98))
    stroke((158, 54), (184, 54))
    stroke((158, 64), (184, 64))
    stroke((206, 42), (236, 78))
    stroke((236, 42), (206, 78))
    return image


def on_paper(ink: np.ndarray, size: float = 1.0, paper: int = 235, darkness: float = 0.7) -> np.ndarray:
    """Dark on light, `size` times as large, with soft edges."""
    ink = cv2.resize(ink, None, fx=size, fy=size, interpolation=cv2.INTER_AREA if size < 1 else cv2.INTER_CUBIC)
    return (paper * (1 - darkness * ink / 255.0)).round().astype(np.uint8)


def share_found(ink: np.ndarray, given: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Shares of the true ink that was found, and of the found ink that is true, up to 2.5 px of the network's image.

    given: a photograph, and (3, 3), which takes pixels of `ink` to it.
    """
    photographed, matrix = given
    cleaned = clean(photographed)[0]
    to_clean = np.linalg.inv(cleaned.to_given) @ matrix
    truth = cv2.warpPerspective(ink, to_clean, cleaned.image.shape[::-1]) > 127
    seen = cleaned.image > 127
    near = [cv2.distanceTransform(1 - one.astype(np.uint8), cv2.DIST_L2, 5) <= 2.5 for one in (seen, truth)]
    return float(near[0][truth].mean()), float(near[1][seen].mean())


# ---- what training saw stays as it is --------------------------------------------------------------------------------


def test_real_training_images_come_through_unchanged(shared_data):
    for split in ("train", "2014"):
        files = sorted((shared_data / "CROHME" / split / "images").iterdir())
        for file in files[:: max(1, len(files) // 150)]:
            image = read_image(file)
            [cleaned] = clean(image)
            assert np.array_equal(cleaned.image, normalize_image(image)), file.name


@pytest.mark.parametrize("pen", [2, 3, 4])
def test_a_drawn_image_stays_as_it_is_in_either_polarity(pen):
    for image in (formula(pen), 255 - formula(pen), (formula(pen) > 0).astype(np.uint8)):
        [cleaned] = clean(image)
        assert np.array_equal(cleaned.image, normalize_image(formula(pen)))
        rows, columns = np.nonzero(formula(pen))
        assert cleaned.to_given @ (MARGIN, MARGIN, 1) == pytest.approx((columns.min(), rows.min(), 1))


def test_a_two_valued_image_of_another_size_or_pen_is_not_a_training_image():
    large = cv2.resize(formula(), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    assert is_drawn(formula()) and not is_drawn(large)
    assert not is_drawn(cv2.dilate(formula(), np.ones((5, 5), np.uint8)))
    assert not is_drawn(on_paper(formula(), 0.9))


# ---- photographs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ink_is_found_where_it_is_and_nowhere_else(kind):
    for seed in range(4):
        given = photograph(formula(), kind, np.random.default_rng(seed))
        found, is_true = share_found(formula(), given)
        assert found > 0.93 and is_true > 0.93, (seed, found, is_true)


@pytest.mark.parametrize("size", [0.35, 0.7, 2, 6])
def test_ink_comes_out_in_the_usual_size_and_pen(size):
    usual = symbol_height(pieces_of(normalize_image(formula())))
    for pen in (3, 6) if size > 0.5 else (3,):
        cleaned = clean(on_paper(formula(pen), size))[0].image
        ink = (cleaned > 127).astype(np.uint8)
        assert symbol_height(pieces_of(ink)) == pytest.approx(SYMBOL_HEIGHT, rel=0.2)
        assert stroke_width(ink) * usual / SYMBOL_HEIGHT == pytest.approx(PEN, abs=1.6)


@pytest.mark.parametrize("angle", [-14, -8, 8, 14])
def test_turned_writing_is_turned_back(angle):
    turn = cv2.getRotationMatrix2D((135, 55), -angle, 1)
    image = cv2.warpAffine(np.pad(formula(), 60), turn, (390, 230), flags=cv2.INTER_CUBIC)
    given = clean(on_paper(image))[0].to_given
    seen = np.degrees(np.arctan2(given[1, 0], given[0, 0]))
    assert abs(seen - angle) < 5  # as far as a hand strays on level paper


def test_level_writing_is_hardly_turned():
    views = clean(on_paper(formula(), 1.5))
    angles = [np.degrees(np.arctan2(view.to_given[1, 0], view.to_given[0, 0])) for view in views]
    assert abs(angles[0]) < 5 and angles[-1] == 0


def test_a_photograph_of_a_sheet_on_a_desk_loses_the_desk():
    sheet = on_paper(np.pad(formula(), ((150, 250), (60, 90))), 2)
    height, width = sheet.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = np.array([[140, 90], [900, 160], [960, 1180], [60, 1120]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, seen)
    desk = np.full((1300, 1050), 90, np.uint8)
    desk[:, ::7] = 75  # wood
    mask = cv2.warpPerspective(np.full_like(sheet, 255), matrix, desk.shape[::-1])
    photo = np.where(mask > 127, cv2.warpPerspective(sheet, matrix, desk.shape[::-1]), desk)
    flat, to_photo = cut_out_sheet(photo)
    assert flat.min() < 100 < np.percentile(flat, 5)
    assert flat.shape[0] / flat.shape[1] == pytest.approx(height / width, rel=0.15)
    to_sheet = matrix @ np.array([[2, 0, 120], [0, 2, 300], [0, 0, 1.0]])
    found, is_true = share_found(formula(), (photo, to_sheet))
    assert found > 0.9 and is_true > 0.95


def test_a_large_photograph_with_small_writing_is_looked_at_again():
    page = np.full((3000, 4000), 230, np.uint8)
    small = on_paper(formula(), 0.9, 230)
    page[1500 : 1500 + small.shape[0], 700 : 700 + small.shape[1]] = small
    matrix = np.array([[0.9, 0, 700], [0, 0.9, 1500], [0, 0, 1]])
    found, is_true = share_found(formula(), (page, matrix))
    assert found > 0.95 and is_true > 0.95


def test_an_image_of_twenty_pixels_is_read_too():
    tiny = on_paper(formula(), 20 / 110)
    assert tiny.shape[0] == 20
    assert clean(tiny)[0].image.shape[0] > 60


def test_a_thumb_at_the_edge_is_no_ink():
    image = on_paper(np.pad(formula(), 80))
    cv2.ellipse(image, (20, image.shape[0]), (60, 45), 0, 0, 360, 70, -1)
    found, is_true = share_found(formula(), (image, np.array([[1, 0, 80], [0, 1, 80], [0, 0, 1.0]])))
    assert found > 0.95 and is_true > 0.95


@pytest.mark.parametrize("kind", ["black border", "dark left side", "box around the formula"])
def test_dark_borders_and_boxes_are_no_ink(kind):
    image = on_paper(np.pad(formula(), 60))
    random = np.random.default_rng(0)
    if kind == "black border":
        image[:9] = image[-14:] = image[:, :11] = image[:, -8:] = 25
    elif kind == "dark left side":
        image[:, :30] = 60
    else:
        cv2.rectangle(image, (12, 12), (image.shape[1] - 14, image.shape[0] - 15), 70, 2)
    darkest = 0.35 if kind == "box around the formula" else 0.8
    image = (image * np.linspace(darkest, 1, image.shape[1]) + random.normal(0, 2, image.shape)).clip(0, 255)
    found, is_true = share_found(formula(), (image.astype(np.uint8), np.array([[1, 0, 60], [0, 1, 60], [0, 0, 1.0]])))
    assert found > 0.95 and is_true > 0.95


# ---- printed lines ---------------------------------------------------------------------------------------------------


def ruled(image: np.ndarray, level: int = 190, squared: bool = False) -> np.ndarray:
    image = image.copy()
    lines = np.full_like(image, 255)
    lines[8::37] = level
    if squared:
        lines[:, 5::37] = level
    return np.minimum(image, lines)


@pytest.mark.parametrize("squared", [False, True], ids=["ruled", "squared"])
def test_printed_lines_go_and_the_fraction_bar_stays(squared):
    plain = on_paper(np.pad(formula(), 30))
    given = (ruled(plain, squared=squared), np.array([[1, 0, 30], [0, 1, 30], [0, 0, 1.0]]))
    found, is_true = share_found(formula(), given)
    assert found > 0.97 and is_true > 0.97


def test_lines_as_dark_as_the_ink_go_too():
    plain = on_paper(np.pad(formula(), 30))
    given = (ruled(plain, level=int(plain.min())), np.array([[1, 0, 30], [0, 1, 30], [0, 0, 1.0]]))
    found, is_true = share_found(formula(), given)
    assert found > 0.9 and is_true > 0.95


def test_a_bar_from_edge_to_edge_of_a_narrow_cut_is_ink():
    bar = formula()[10:104, 18:139]
    contrast, noise = contrast_of(on_paper(bar))
    kept, angles = remove_lines(contrast, float(np.median(noise)))
    assert np.array_equal(kept, contrast) and not angles


def test_paper_without_lines_has_none():
    for kind in ("sheet of paper", "photograph"):
        for seed in range(5):
            image, _ = photograph(formula(), kind, np.random.default_rng(seed))
            contrast, noise = contrast_of(image)
            assert not remove_lines(contrast, float(np.median(noise)))[1]


# ---- no ink ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        np.full((200, 300), 255, np.uint8),
        np.zeros((200, 300), np.uint8),
        np.full((1, 1), 7, np.uint8),
        np.random.default_rng(1).normal(170, 5, (400, 600)).clip(0, 255).astype(np.uint8),
        np.linspace(90, 220, 600).astype(np.uint8) * np.ones((400, 1), np.uint8),
        ruled(np.full((400, 600), 235, np.uint8)),
        ruled(np.full((400, 600), 235, np.uint8), squared=True),
    ],
    ids=["white", "black", "one pixel", "grain", "gradient", "ruled", "squared"],
)
def test_an_empty_page_is_an_error_that_names_it(page):
    with pytest.raises(DataError, match=r"^a\.jpg: has no ink"):
        clean(page, "a.jpg")


def empty_paper(seed: int) -> np.ndarray:
    """A photograph of paper alone: steep light, grain, a lens that is not sharp, JPEG."""
    random = np.random.default_rng(seed)
    height, width = random.integers(150, 500), random.integers(200, 800)
    y, x = np.mgrid[:height, :width]
    angle = random.uniform(0, 2 * np.pi)
    light = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
    grey = random.uniform(120, 245) + random.uniform(0, 180) * light + random.normal(0, 15 * random.random(), x.shape)
    if seed % 2:
        grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(0.5, 2))
    grey = grey.clip(0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(30, 95))]
    return grey if seed % 4 < 2 else cv2.imdecode(cv2.imencode(".jpg", grey, quality)[1], cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("seed", range(24))
def test_empty_paper_in_bad_light_has_no_ink(seed):
    with pytest.raises(DataError, match=r"^a\.jpg: has no ink"):
        clean_photograph(empty_paper(seed), "a.jpg")


@pytest.mark.parametrize("darkness", [0.15, 0.3])
def test_a_faint_pencil_on_grainy_paper_is_seen(darkness):
    ink = np.pad(formula(), 20)
    page = on_paper(ink, 2, darkness=darkness) + np.random.default_rng(0).normal(0, 2, (300, 620))
    assert min(share_found(ink, (page.round().astype(np.uint8), np.diag([2.0, 2.0, 1.0])))) > 0.9


@settings(max_examples=40)
@given(
    st.integers(1, 260), st.integers(1, 260), st.sampled_from(["noise", "steps", "two values", "dots"]), st.integers()
)
def test_whatever_comes_is_either_ink_or_an_error_that_names_it(height, width, kind, seed):
    random = np.random.default_rng(seed % 2**32)
    values = random.integers(0, 256, (height, width))
    image = {
        "noise": values,
        "steps": np.kron(values[: height // 9 + 1, : width // 9 + 1], np.ones((9, 9)))[:height, :width],
        "two values": (values > 128) * 255,
        "dots": (values < 2) * 255,
    }[kind].astype(np.uint8)
    try:
        for view in clean(image, "a.png"):
            assert view.image.dtype == np.uint8 and view.image.max() > 127
            assert np.isfinite(view.to_given).all()
    except DataError as error:
        assert str(error).startswith("a.png: has no ink")


# ---- files of all kinds ----------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def kinds_of_files() -> dict[str, bytes]:
    grey = on_paper(np.pad(formula(), 20), 2, paper=255, darkness=1.0)
    image = Image.fromarray(grey)
    color = image.convert("RGB")
    nothing = Image.new("L", image.size, 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "PNG": encoded(image, "PNG"),
        "1 bit": encoded(image.convert("1", dither=Image.Dither.NONE), "PNG"),
        "palette": encoded(color.quantize(8), "PNG"),
        "16 bit": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "12 bit in 16": encoded(Image.fromarray(grey.astype(np.uint16) * 16), "TIFF"),
        "float": encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        "JPEG": encoded(color, "JPEG", quality=60),
        "CMYK": encoded(color.convert("CMYK"), "JPEG"),
        "CMYK TIFF": encoded(color.convert("CMYK"), "TIFF"),
        "Lab": encoded(color.convert("RGB").convert("YCbCr"), "TIFF"),
        "WebP": encoded(color, "WEBP"),
        "BMP": encoded(color, "BMP"),
        "GIF": encoded(color.quantize(16), "GIF"),
        "film": encoded(color.quantize(16), "GIF", save_all=True, append_images=[color.quantize(4)]),
        "dark ink on nothing": encoded(Image.merge("LA", (nothing, Image.fromarray(255 - grey))), "PNG"),
        "light ink on nothing": encoded(
            Image.merge("LA", (Image.new("L", image.size, 255), Image.fromarray(255 - grey))), "PNG"
        ),
        "turned": encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned, quality=95),
        "light on dark": encoded(Image.fromarray(255 - grey), "PNG"),
    }


@pytest.mark.parametrize("kind", kinds_of_files())
def test_every_kind_of_file_gives_the_same_ink(kind):
    matrix = np.array([[2, 0, 40], [0, 2, 40], [0, 0, 1.0]])
    found, is_true = share_found(formula(), (read_image(kinds_of_files()[kind]), matrix))
    assert found > 0.97 and is_true > 0.97


def test_a_decompression_bomb_is_an_error_that_names_it(tmp_path):
    for name, side in (("bomb.png", 20_000), ("large.png", 10_000)):
        path = tmp_path / name
        path.write_bytes(encoded(Image.new("1", (side, side)), "PNG"))
        with pytest.raises(DataError, match=rf"{name}: .*expected at most 50,000,000"):
            read_image(path)


def test_a_heic_image_that_cannot_be_read_says_what_would_help(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(40))
    with pytest.raises(DataError, match="photo.heic: is .*(install pillow-heif|truncated)"):
        read_image(path)
