"""A sheet of examples: some images of a split, with every distortion that training may use.

python prepare.py --dataset NAME --sheet sheet.png
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np

from dataset.images.augmentation import AS_WRITTEN, Augmentation, StrokeAugmentation, augment
from dataset.images.store import open_split
from dataset.images.strokes import Strokes, draw, open_strokes, vary
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.files import atomic_write

# Strong enough to be seen.
EXAMPLES = {
    "scale": (0.7, 1.4),
    "stretch": (0.8, 1.25),
    "rotation": 5,
    "shear": 0.2,
    "perspective": 0.05,
    "distortion": 3,
    "thickness": 1,
    "contrast": 0.6,
    "blur": 1.5,
    "cut_outs": 4,
}
STROKE_EXAMPLES = {
    "pen": (1, 6),
    "jitter": 2,
    "shift": 5,
    "scale": (0.7, 1.4),
    "slant": 0.4,
    "smoothing": 3,
}


def sheet(images: Sequence[np.ndarray], seed: int = 0, strokes: Sequence[Strokes | None] = ()) -> np.ndarray:
    """Examples, dark on light, uint8 (H, W): a column for each image; as it is, with each distortion alone, with all.

    strokes: of each image, where any are known; their distortions come first.
    """
    cells = []
    for name, settings, stroke_settings, epoch in _rows(has_strokes=any(strokes)):
        title = np.zeros((24, 150), np.uint8)
        cells.append([cv2.putText(title, name, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA)])
        for index, (image, known) in enumerate(zip_longest(images, strokes)):
            if known and stroke_settings != AS_WRITTEN:
                traces, pen = vary(known, index, seed, epoch, stroke_settings)
                image = draw(traces, known.size, pen)
            cell = augment(image, index, seed, epoch, settings).copy()
            cells[-1].append(cv2.rectangle(cell, (0, 0), (cell.shape[1] - 1, cell.shape[0] - 1), 60, 1))  # its canvas
    return 255 - _page(cells)


def _rows(has_strokes: bool) -> list[tuple[str, Augmentation, StrokeAugmentation, int]]:
    """(title, distortions of the image, distortions of its strokes, epoch) of each row."""
    rows = [("as it is", Augmentation(), AS_WRITTEN, 0)]
    if has_strokes:
        each = [(f"strokes: {name}", {name: value}, 0) for name, value in STROKE_EXAMPLES.items()]
        each += [(f"all, epoch {epoch}", STROKE_EXAMPLES, epoch) for epoch in range(3)]
        rows += [(name, Augmentation(), StrokeAugmentation(**values), epoch) for name, values, epoch in each]
    each = [(name.replace("_", " "), {name: value}, 0) for name, value in EXAMPLES.items()]
    each += [(f"all, epoch {epoch}", EXAMPLES, epoch) for epoch in range(3)]
    return rows + [(name, Augmentation(**values), AS_WRITTEN, epoch) for name, values, epoch in each]


def _page(cells: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of cells, each uint8 (h, w), in columns of one width and rows of one height."""
    widths = [max(cell.shape[1] for cell in column) + 8 for column in zip(*cells, strict=True)]
    heights = [max(cell.shape[0] for cell in row) + 8 for row in cells]
    page = np.zeros((sum(heights), sum(widths)), np.uint8)
    for row, top, height in zip(cells, np.cumsum([0, *heights]), heights, strict=False):
        for cell, left in zip(row, np.cumsum([0, *widths]), strict=False):
            middle = top + (height - cell.shape[0]) // 2
            page[middle : middle + cell.shape[0], left + 4 : left + 4 + cell.shape[1]] = cell
    return page


def write_sheet(dataset_folder: str | Path, split: str, path: str | Path, count: int = 4, seed: int = 0) -> None:
    """Write the sheet of `count` images, spread over a split that is prepared, as a PNG file. Raises DataError."""
    folder = Path(dataset_folder)
    store = open_split(folder, split, Vocabulary.from_file(folder / "vocabulary.txt"))
    known = open_strokes(folder / split)
    indices = [int(index) for index in np.linspace(0, len(store) - 1, min(count, len(store)))]
    strokes = [known.find(store.name(index), store.sizes[index]) for index in indices] if known else ()
    drawn = sheet([store.image(index) for index in indices], seed, strokes)
    if Path(path).suffix.lower() != ".png":
        raise DataError(f"{path}: expected a name that ends in .png")
    atomic_write(path, cv2.imencode(".png", drawn)[1].tobytes())
