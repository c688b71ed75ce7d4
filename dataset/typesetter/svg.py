"""A layout as SVG: the outlines of its signs, in the color of the text around them.

Each sign is a path that says which token drew it (`data-token`), so that a page can point at it. No font is needed to
show it. It is as large as text: one em of the layout is one em of what surrounds it.
"""

from typing import TYPE_CHECKING

import numpy as np

from dataset.typesetter import drawing

if TYPE_CHECKING:
    from dataset.renderer import Layout, Style

UNITS = 1000  # of the view box, an em
MARGIN = 60  # of paper on each side, in these units


def to_svg(layout: "Layout", style: "Style") -> str:
    """An <svg> element. style: as the layout was made with; of its other fields, only those that move signs count."""
    from dataclasses import replace

    placed = drawing.place(layout, replace(style, em=float(UNITS), margin=MARGIN))
    points = np.rint(placed.points).astype(int)
    paths, start = [], 0
    for token, counts in zip(placed.tokens.tolist(), placed.counts, strict=True):
        curves = []
        for count in counts:
            curves.append(_polygon(points[start : start + count]))
            start += count
        paths.append(f'<path data-token="{token}" d="{"".join(curves)}"/>')
    width, height = placed.width, placed.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width / UNITS:g}em" '
        f'height="{height / UNITS:g}em" fill="currentColor" fill-rule="evenodd" role="img">{"".join(paths)}</svg>'
    )


def _polygon(points: np.ndarray) -> str:
    """A closed curve through points (P, 2): where it begins, then each step to the next one."""
    steps = np.diff(points, axis=0)
    (x, y), steps = points[0].tolist(), steps[(steps != 0).any(axis=1)].tolist()
    return f"M{x} {y}l" + " ".join(f"{right} {down}" for right, down in steps) + "z"
