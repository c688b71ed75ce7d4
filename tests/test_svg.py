"""The SVG of a label shows what its image shows, and says which token drew what."""

import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from dataset.renderer import Style, draw_ink, layout
from dataset.typesetter.svg import MARGIN, UNITS, to_svg

LABELS = [
    "x ^ { 2 }",
    r"\frac { a + b } { \sqrt { 8 } }",
    r"\sum _ { i = 1 } ^ { n } \left ( \frac { 1 } { 2 } \right )",
    r"\overline { a b } \neq \theta \% i",
]


def drawn(svg: str, em: int) -> np.ndarray:
    """The paths, filled as SVG says, at `em` pixels an em: uint8 (H, W), ink 255."""
    root = ElementTree.fromstring(svg)
    width, height = map(int, root.get("viewBox").split()[2:])
    image = np.zeros((height, width), np.uint8)
    for path in root:
        polygons = []
        for x, y, steps in re.findall(r"M(-?\d+) (-?\d+)l([-\d ]*)z", path.get("d")):
            steps = np.array(steps.split(), int).reshape(-1, 2)
            polygons.append(np.cumsum([[int(x), int(y)], *steps], axis=0).astype(np.int32))
        cv2.fillPoly(image, polygons, 255)
    size = (round(width * em / UNITS), round(height * em / UNITS))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("label", LABELS)
def test_it_looks_as_the_image_does(label):
    placed, em = layout(label), 50
    style = Style(em=em, margin=MARGIN * em // UNITS)
    image, other = draw_ink(placed, style).astype(float), drawn(to_svg(placed, Style()), em).astype(float)
    height, width = (min(sides) for sides in zip(image.shape, other.shape, strict=True))
    assert abs(np.subtract(image.shape, other.shape)).max() <= 1
    image, other = image[:height, :width], other[:height, :width]
    assert np.abs(image - other).sum() < 0.25 * image.sum()  # edges alone differ: where a pixel's share is rounded
    assert abs(image.sum() - other.sum()) < 0.08 * image.sum()


@pytest.mark.parametrize("label", LABELS)
def test_each_path_names_its_token(label):
    placed = layout(label)
    tokens = {int(path.get("data-token")) for path in ElementTree.fromstring(to_svg(placed, Style()))}
    assert tokens == placed.tokens


def test_it_is_as_large_as_the_text_around_it():
    root = ElementTree.fromstring(to_svg(placed := layout("x"), Style()))
    assert root.get("width") == f"{int(root.get('viewBox').split()[2]) / UNITS:g}em"
    assert abs(float(root.get("width")[:-2]) - placed.width - 2 * MARGIN / UNITS) < 0.002
    assert root.get("fill") == "currentColor"
