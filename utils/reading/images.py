"""Images as the network sees them: grey, ink 255 on paper 0, with a narrow margin, whatever came in."""

import io
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import CheckpointError, DataError
from utils.reading.frames import levels_of, remove_frames

# What a checkpoint says about the size in which its network sees images; keys of `data` in the configuration.
IMAGE_SETTINGS = ("image_scale", "max_height", "max_width")

# Of an image, so that reading it takes less than 500 MB; a file of some kilobytes can hold any number. Of more than
# 8 bits or with transparency, a pixel takes more.
MAX_PIXELS, MAX_DEEP_PIXELS = 50_000_000, 20_000_000
NEEDS_A_PROGRAM = ("EPS",)  # formats that Pillow has Ghostscript run for
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Paper around the ink, in pixels, on all four sides.
MARGIN = 4
# A border whose middle 90 % differ by no more grey levels than this is clean paper: a scan, a screen, a rendering.
CLEAN_SPREAD = 8
# Grey levels between paper and ink, below which an image of many levels is a blank sheet and its noise.
LEAST_CONTRAST = 16
# Ink that differs from the paper in color more than in brightness, by this factor, is told from it by its color.
COLOR_CONTRAST, COLOR_SIDE = 2.0, 500
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow has it
# Normalized pixels that the image is cropped to. Grain may look like faint ink where paper was photographed.
LEAST_INK, LEAST_INK_IN_PHOTOGRAPHS = 64, 96
# The window, in pixels, in which a photograph's paper is looked for: wider than a stroke, narrower than a shadow.
LEAST_WINDOW, LARGEST_WINDOW = 31, 101


def check_image_settings(data: dict[str, Any], path: str | Path) -> None:
    """Raises CheckpointError where what a checkpoint, or exported network, says about its images cannot be."""
    for name in IMAGE_SETTINGS:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
            raise CheckpointError(f"{path}: it says that its data.{name} is {value!r}; expected a positive number")
    scales, exponent = data.get("scales") or [], data.get("confidence_exponent") or 1.0
    numbers = [*scales, exponent] if isinstance(scales, (list, tuple)) else [None]
    if not all(isinstance(number, (int, float)) and 0 < number < 1e6 for number in numbers):
        raise CheckpointError(
            f"{path}: it says that its data.scales are {scales!r}, and its data.confidence_exponent {exponent!r}; "
            "expected positive numbers"
        )


def read_image(source: str | Path | bytes | Image.Image | np.ndarray, name: str | None = None) -> np.ndarray:
    """Read an image as uint8 grey (H, W), in the polarity it has.

    source: a file, the bytes of one, an open PIL image, or an array uint8 (H, W), (H, W, 3) or (H, W, 4).
    Turned as EXIF says, transparency laid on white (light ink on black), 16 bits scaled to 8; of a film, its first
    image. `name` stands for anything but a file in messages. Raises DataError that names the image when it is
    missing, empty, truncated, too large or not an image.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "image")
    if isinstance(source, np.ndarray):
        return _grey(_image_of(source, name))
    if isinstance(source, Image.Image):
        return _decode(source, name)
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise DataError(
            f"{name}: expected a file, the bytes of one, a PIL image or an array, got {type(source).__name__}; "
            "read_strokes() reads lists of pen strokes"
        )
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None
    if not data:
        raise DataError(f"{name}: is empty (0 bytes)")
    is_heic = data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS
    if is_heic:
        with suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error, below
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise DataError(f"{name}: is too large; expected at most {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # of any kind: on broken files the decoders raise OSError, SyntaxError, struct.error …
        if is_heic:
            raise DataError(f"{name}: is a HEIC image; to read it, install pillow-heif, or save it as JPEG") from None
        reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{name}: is truncated or not an image ({reason or type(error).__name__})") from None
    with image:
        return _decode(image, name, is_ours=True)


def _decode(image: Image.Image, name: str, is_ours: bool = False) -> np.ndarray:
    """is_ours: nobody else has this image, so it may be turned in place, without a copy of all its pixels."""
    if image.format in NEEDS_A_PROGRAM:
        raise DataError(f"{name}: is {image.format}, which only a program can draw; save it as PNG")
    width, height = image.size
    is_deep = image.mode.startswith(("I", "F")) or image.has_transparency_data
    most = MAX_DEEP_PIXELS if is_deep else MAX_PIXELS
    if width * height > most:
        what = " of more than 8 bits, or with transparency" if is_deep else ""
        raise DataError(f"{name}: has {width} x {height} pixels; expected at most {most:,}{what}")
    try:
        return _grey(ImageOps.exif_transpose(image, in_place=is_ours) or image)
    except Exception as error:
        raise DataError(f"{name}: is truncated or not an image ({error or type(error).__name__})") from None


def _image_of(array: np.ndarray, name: str) -> Image.Image:
    is_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_shape or not array.size:
        shapes = "(height, width), (height, width, 3) or (height, width, 4)"
        raise DataError(f"{name}: expected an array uint8 {shapes}, got {array.dtype} {array.shape}")
    return Image.fromarray(array)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):  # more than 8 bits a pixel; Pillow's own conversion would clip them at 255
        return _eight_bits(np.asarray(image, np.float64))
    if image.has_transparency_data:
        image = image.convert("RGBA")

        def lay_on(paper: str) -> np.ndarray:
            return _grey(Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("RGB"))

        on_white = lay_on("white")
        if np.ptp(on_white) < LEAST_CONTRAST <= np.ptp(on_black := lay_on("black")):  # white ink on nothing
            return on_black
        return on_white
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    colors = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    channel = _color_channel(colors)
    if channel is not None:
        return channel
    with suppress(ValueError):
        return np.array(image.convert("L"))
    return np.array(image.convert("RGB").convert("L"))  # from Lab there is no other way


def _color_channel(colors: np.ndarray) -> np.ndarray | None:
    """The mixture of red, green and blue in which ink differs most from paper, as uint8 (H, W).

    colors: uint8 (H, W, 3).   None where brightness tells ink from paper about as well: then brightness is better,
    because light and shadow change it alone.
    """
    shrink = max(1.0, max(colors.shape) / COLOR_SIDE)
    small = shrink_by(colors, shrink).astype(np.float32)
    if small.ndim != 3 or not small.size:
        return None
    side = int(np.clip(min(small.shape[:2]) // 4, LEAST_WINDOW, LARGEST_WINDOW)) | 1
    changes = (small - cv2.blur(small, (side, side))).reshape(-1, 3)  # strokes are narrower than the window
    strength = np.abs(changes).max(axis=1)
    strokes = changes[strength >= np.percentile(strength, 98)]
    axis = np.linalg.svd(strokes, full_matrices=False)[2][0]
    axis /= np.abs(axis).sum()  # its values stay as wide apart as grey levels are
    by_color, by_luma = (float(np.percentile(np.abs(changes @ weights), 99)) for weights in (axis, LUMA))
    if by_color < max(COLOR_CONTRAST * by_luma, LEAST_CONTRAST / 2):
        return None
    offset = -255 * axis[axis < 0].sum()
    return cv2.transform(colors, np.append(axis, offset).astype(np.float32)[None])


def _eight_bits(values: Any) -> np.ndarray:
    """Levels of a deep image as uint8; its depth is the least one, of at least 8 bits, that holds its values."""
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    highest = values.max(initial=0.0)
    is_share = 0 < highest <= 1 and (values != values.round()).any()
    depth = 1.0 if is_share else 2.0 ** max(8, np.ceil(np.log2(highest + 1))) - 1
    return (values * (255 / depth)).round().clip(0, 255).astype(np.uint8)


def normalize_image(image: np.ndarray, name: str = "image") -> np.ndarray:
    """Bring an image of any polarity to ink 255 on paper 0, cropped to its ink with MARGIN pixels of paper around.

    image: uint8 (H, W). Returns uint8 (H', W'). Raises DataError, which begins with `name`, when there is no ink.

    Frames along or near the edges are taken away first. An image with a clean border (scan, screen, rendering) has
    paper of one grey, the border's, and ink is what differs from it. In any other image (photograph) light changes
    from place to place: ink is what differs from the paper around it, and it is dark or light, whichever has the
    sharper strokes. Contrast is then stretched until a typical ink pixel is 255. Two-valued images stay two-valued,
    and a normalized image stays as it is.
    """
    return find_ink(image, name)[0]


def find_ink(image: np.ndarray, name: str = "image") -> tuple[np.ndarray, int, int]:
    """What normalize_image() returns, and the row and column of the given image that its upper left pixel shows."""
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise DataError(f"{name}: expected a grey image, uint8 (height, width), got {image.dtype} {image.shape}")
    image, top, left = remove_frames(image)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    low, paper, high = np.percentile(border, (5, 50, 95), method="nearest")
    is_clean = high - low <= CLEAN_SPREAD
    is_dark_ink = image.mean() < paper if is_clean else _has_dark_strokes(image)
    if is_clean:
        ink = cv2.absdiff(image, np.full_like(image, paper)) * ((image < paper) == is_dark_ink)
    else:
        ink = _ink_on_paper(image, is_dark_ink)
    paper_level, ink_level = _levels(ink, is_clean)
    is_two_valued = len(levels_of(image)) <= 2
    if ink_level - paper_level < (1 if is_two_valued else LEAST_CONTRAST):
        raise DataError(f"{name}: has no ink, all of it looks like paper")
    # A table of all levels: the same numbers, without copies of the image in 64 bits.
    levels = ((np.arange(256) - paper_level) * (255 / (ink_level - paper_level))).round().clip(0, 255).astype(np.uint8)
    ink = cv2.LUT(ink, levels)
    is_ink = ink >= (LEAST_INK if is_clean else LEAST_INK_IN_PHOTOGRAPHS)
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(ink, MARGIN), top + int(rows[0]) - MARGIN, left + int(columns[0]) - MARGIN


def _window(image: np.ndarray) -> tuple[int, int]:
    side = int(np.clip(min(image.shape) // 4, LEAST_WINDOW, LARGEST_WINDOW)) | 1
    return side, side


def _has_dark_strokes(image: np.ndarray) -> bool:
    """Strokes are few and sharp, so they are the long tail of the differences from the local mean."""
    difference = image.astype(np.float32)
    difference -= cv2.blur(difference, _window(image))
    return bool((difference**3).mean() < 0)


def _ink_on_paper(image: np.ndarray, is_dark_ink: bool) -> np.ndarray:
    """uint8 (H, W): how far each pixel is from the paper around it (morphological closing and opening)."""
    square = np.ones(_window(image), np.uint8)  # wider than a stroke: in every window there is some paper
    if not is_dark_ink:
        return cv2.morphologyEx(image, cv2.MORPH_TOPHAT, square)
    paper = cv2.morphologyEx(image, cv2.MORPH_CLOSE, square)
    # Divided by the paper, because a shadow dims ink and paper alike.
    return cv2.divide(paper - image, paper, scale=255)


def _levels(ink: np.ndarray, is_clean: bool) -> tuple[float, float]:
    """What is still paper, above the grain of a photographed one, and what is typical ink. Equal where all is one."""
    _, is_ink = cv2.threshold(ink, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if is_ink.min() == is_ink.max():
        return 0.0, 0.0
    is_ink = is_ink.astype(bool)
    return 0.0 if is_clean else float(np.percentile(ink[~is_ink], 95)), float(np.median(ink[is_ink]))


def shrink_by(image: np.ndarray, factor: float) -> np.ndarray:
    """uint8 (H, W) or (H, W, C) with sides so many times smaller, of at least a pixel. Averages."""
    if min(image.shape[:2]) / factor > 0.5:
        return cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """Scale uint8 (H, W); each side becomes max(1, round(side * scale)). Shrinking averages, growing interpolates."""
    height, width = (max(1, round(side * scale)) for side in image.shape)
    if (height, width) == image.shape:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
