"""How well labels and images made from InkML agree with the published ones.

    python tests/benchmarks/inkml.py --inkml FOLDER --truth datasets/CROHME/train

FOLDER holds the InkML files; the truth is a split in the plain form (`labels.txt` and `images/`).
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.formats.inkml import rasterise, read_inkml  # noqa: E402
from utils.errors import DataError  # noqa: E402


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the ink of two images, laid corner on corner."""
    sheet = np.zeros((2, *np.maximum(one.shape, other.shape)), bool)
    for page, image in zip(sheet, (one, other), strict=True):
        page[: image.shape[0], : image.shape[1]] = image > 0
    return sheet.all(axis=0).sum() / sheet.any(axis=0).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inkml", type=Path, required=True, help="folder of .inkml files")
    parser.add_argument("--truth", type=Path, required=True, help="split in the plain form")
    parser.add_argument("--verbose", action="store_true", help="list every label that differs")
    options = parser.parse_args()
    lines = (options.truth / "labels.txt").read_text(encoding="utf-8").splitlines()
    labels = dict(line.split("\t") for line in lines)

    bad, equal, linked, visible, sizes, overlaps = [], 0, 0, 0, [], []
    start = time.perf_counter()
    for path in sorted(options.inkml.glob("*.inkml")):
        try:
            ink = read_inkml(path, needs_truth=True)
            image = rasterise(ink.traces)
        except DataError as error:
            bad.append(str(error))
            continue
        label = " ".join(ink.tokens)
        equal += label == labels[ink.name]
        if options.verbose and label != labels[ink.name]:
            print(f"{ink.name}\n    derived   {label}\n    published {labels[ink.name]}")
        linked += sum(symbol.token is not None for symbol in ink.symbols)
        visible += len(ink.symbols)
        given = cv2.imread(str(options.truth / "images" / f"{ink.name}.png"), cv2.IMREAD_GRAYSCALE)
        sizes.append(np.abs(np.subtract(image.shape, given.shape)).max())
        overlaps.append(overlap(image, given))
    seconds = time.perf_counter() - start
    for problem in bad:
        print("cannot be read:", problem)
    print(f"labels equal:            {equal} of {len(labels)} ({equal / len(labels):.2%})")
    print(f"symbols with their token {linked / visible:.2%} of {visible}")
    print(f"sizes within 1 px:       {np.mean(np.array(sizes) <= 1):.2%} of {len(sizes)}")
    equal = np.mean(np.array(overlaps) == 1)
    print(f"intersection over union: mean {np.mean(overlaps):.4f}, images all equal {equal:.1%}")
    print(f"{len(sizes) / seconds:.0f} files a second, reading the given images included")


if __name__ == "__main__":
    main()
