"""How many pictures a second one core distorts, with everything on, and how fast sizes are known.

    python tests/benchmarks/augment.py --dataset CROHME
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.augment import EXAMPLES, Augmentation, augment, sizes_after  # noqa: E402
from dataset.store import open_split  # noqa: E402
from dataset.vocabulary import Vocabulary  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", type=Path, default=Path("datasets"))
    parser.add_argument("--count", type=int, default=2000, help="pictures (2000)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    folder = options.root / options.dataset
    store = open_split(folder, "train", Vocabulary.from_file(folder / "vocabulary.txt"))
    places = np.linspace(0, len(store) - 1, min(options.count, len(store))).astype(int)
    pictures = [store.picture(int(place)) for place in places]
    mean = store.sizes[places].mean(axis=0)
    print(f"{len(pictures)} pictures, {mean[0]:.0f} x {mean[1]:.0f} pixels on average")

    trials = {name: Augmentation(**{name: value}) for name, value in EXAMPLES.items()}
    for name, settings in {**trials, "everything": Augmentation(**EXAMPLES)}.items():
        start, processor = time.perf_counter(), time.process_time()
        for index, picture in enumerate(pictures):
            augment(picture, index, 0, 0, settings)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        after = sizes_after(store.sizes[places], 0, 0, settings).astype(float).prod(axis=1).sum()
        before = store.sizes[places].astype(float).prod(axis=1).sum()
        rate, core = len(pictures) / seconds, len(pictures) / processor
        print(f"{name:12} {rate:6.0f} pictures a second, {core:6.0f} a core second, {after / before:.2f} x the area")
    start = time.perf_counter()
    sizes_after(np.full((1_000_000, 2), (105, 304)), 0, 0, Augmentation(**EXAMPLES))
    print(f"sizes of a million pictures: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
