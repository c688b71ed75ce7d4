"""How many images a second one core distorts, with everything on, and how fast sizes are known.

Where strokes are known, also how many it draws again from distorted strokes, distorts, and finds the symbols' boxes in.

    python tests/benchmarks/augment.py --dataset CROHME
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the scripts set it; before NumPy is loaded

import cv2  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.images.augmentation import (  # noqa: E402
    Augmentation,
    StrokeAugmentation,
    augment,
    sizes_after,
)
from dataset.images.handwritten import HandwrittenImages  # noqa: E402
from dataset.images.sheet import EXAMPLES, STROKE_EXAMPLES  # noqa: E402
from dataset.images.store import open_split  # noqa: E402
from dataset.images.strokes import open_strokes  # noqa: E402
from dataset.vocabulary import Vocabulary  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", type=Path, default=Path("datasets"))
    parser.add_argument("--count", type=int, default=2000, help="images (2000)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    folder = options.root / options.dataset
    store = open_split(folder, "train", Vocabulary.from_file(folder / "vocabulary.txt"))
    places = np.linspace(0, len(store) - 1, min(options.count, len(store))).astype(int)
    images = [store.image(int(place)) for place in places]
    mean = store.sizes[places].mean(axis=0)
    print(f"{len(images)} images, {mean[0]:.0f} x {mean[1]:.0f} pixels on average")

    trials = {name: Augmentation(**{name: value}) for name, value in EXAMPLES.items()}
    for name, settings in {**trials, "everything": Augmentation(**EXAMPLES)}.items():
        start, processor = time.perf_counter(), time.process_time()
        for index, image in enumerate(images):
            augment(image, index, 0, 0, settings)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        after = sizes_after(store.sizes[places], 0, 0, settings).astype(float).prod(axis=1).sum()
        before = store.sizes[places].astype(float).prod(axis=1).sum()
        rate, core = len(images) / seconds, len(images) / processor
        print(f"{name:12} {rate:6.0f} images a second, {core:6.0f} a core second, {after / before:.2f} x the area")
    if strokes := open_strokes(folder / "train"):
        ink = HandwrittenImages(
            store,
            places,
            augmentation=Augmentation(**EXAMPLES),
            strokes=strokes,
            stroke_augmentation=StrokeAugmentation(**STROKE_EXAMPLES),
        )
        trials = {"with strokes": [ink.image], "and boxes": [ink.image, ink.boxes]}
        for name, calls in trials.items():
            start, processor = time.perf_counter(), time.process_time()
            for index in range(len(ink)):
                for call in calls:
                    call(index, 0, 0)
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
            print(f"{name:12} {len(ink) / seconds:6.0f} images a second, {len(ink) / processor:6.0f} a core second")
    start = time.perf_counter()
    sizes_after(np.full((1_000_000, 2), (105, 304)), 0, 0, Augmentation(**EXAMPLES))
    print(f"sizes of a million images: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
