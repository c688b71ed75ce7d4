"""Several lines of writing are told from one formula that is high."""

import cv2
import numpy as np
import pytest

from utils.reading.images import read_image
from utils.reading.text_lines import find_text_lines

HEIGHT = 34  # of a symbol, in pixels


def row(count: int = 5, height: int = HEIGHT) -> np.ndarray:
    """Symbols beside each other: uint8 (H, W), ink 255 on paper 0."""
    image = np.zeros((height, 30 * count), np.uint8)
    for left in range(0, 30 * count, 30):
        cv2.ellipse(image, (left + 12, height // 2), (9, height // 2 - 2), 0, 0, 360, 255, 3)
    return image


def above(*parts: np.ndarray | int) -> np.ndarray:
    """Parts from top to bottom, each in the middle; a number is so many empty rows."""
    width = max(part.shape[1] for part in parts if not isinstance(part, int))
    rows = []
    for part in parts:
        part = np.zeros((part, 1), np.uint8) if isinstance(part, int) else part
        left = (width - part.shape[1]) // 2
        rows.append(np.pad(part, ((0, 0), (left, width - part.shape[1] - left))))
    return np.pad(np.concatenate(rows), 4)


def bar(width: int) -> np.ndarray:
    return np.full((4, width), 255, np.uint8)


def test_one_line_is_one():
    assert len(find_text_lines(above(row()))) == 1


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_lines_are_found_from_top_to_bottom_whatever_their_size(scale):
    image = above(row(), 45, row(3), 60, row(7))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    found = find_text_lines(image)
    assert len(found) == 3
    tops = [4, 4 + HEIGHT + 45, 4 + 2 * HEIGHT + 105]
    assert [top for top, _ in found] == pytest.approx([scale * top for top in tops], abs=3 * scale + 1)
    assert all((bottom - top) == pytest.approx(scale * HEIGHT, abs=4 * scale + 1) for top, bottom in found)


@pytest.mark.parametrize(
    "image",
    [
        above(row(), 10, row()),  # a script, a limit
        above(row(3), 60, bar(180), 8, row(5)),  # a fraction whose numerator floats high
        above(row(3), 8, bar(180), 60, row(5)),
        above(row(), 60, bar(20)),  # what has no symbol
        above(np.full((5, 5), 255, np.uint8), 50, row()),
    ],
    ids=["near", "numerator", "denominator", "dash below", "dot above"],
)
def test_parts_of_one_formula_are_one_line(image):
    assert len(find_text_lines(image)) == 1


def test_a_bar_that_is_shorter_than_the_next_line_is_no_fraction():
    assert len(find_text_lines(above(row(), 5, bar(50), 45, row(7)))) == 2


def test_an_empty_image_has_no_line():
    assert find_text_lines(np.zeros((40, 40), np.uint8)) == []


def test_real_formulas_are_one_line_and_two_of_them_are_two(shared_data):
    files = sorted((shared_data / "CROHME" / "train" / "images").iterdir())[::40]
    images = [read_image(file)[12:-11, 12:-11] for file in files]
    assert sum(len(find_text_lines(image)) > 1 for image in images) <= 1
    pairs = [above(one, 50, other) for one, other in zip(images, images[1:], strict=False)]
    assert np.mean([len(find_text_lines(pair)) == 2 for pair in pairs]) > 0.9
