"""How much of what a batch costs is padding: the Adaptive Batch Sampler beside other ways to make batches.

    python tests/benchmarks/sampler.py
    python tests/benchmarks/sampler.py --shapes    what it costs when an epoch has few shapes of batches

Sizes are those of CROHME's training images where they are found (../shared/data or the folder HMER_DATA, else
datasets/CROHME), and drawn from a log-normal distribution otherwise. Every number is the mean of 6 epochs.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset.sampler import AdaptiveBatchSampler, BatchCost, EpochPlan, FixedBatchSampler  # noqa: E402

EPOCHS = 6


def crohme_sizes() -> np.ndarray | None:
    """(N, 2) height and width of CROHME's training images, from the headers of the PNG files; None without them."""
    data = Path(os.environ.get("HMER_DATA", ROOT.parent / "shared" / "data"))
    for folder in (data / "CROHME", ROOT / "datasets" / "CROHME"):
        headers = [path.open("rb").read(24) for path in sorted((folder / "train" / "images").glob("*.png"))]
        if headers:
            return np.array([struct.unpack(">II", header[16:24])[::-1] for header in headers])
    return None


def made_up_sizes(count: int, seed: int = 0) -> np.ndarray:
    """(N, 2) log-normal heights and widths, spread like CROHME's."""
    random = np.random.default_rng(seed)
    height = np.exp(random.normal(4.55, 0.41, count))
    width = height * np.exp(random.normal(0.88, 0.70, count))
    return np.clip(np.stack([height, width], axis=1), 24, 2200).astype(np.int64)


def fill_in_order(order: np.ndarray, sizes: np.ndarray, max_pixels: int, stride: int) -> list[list[int]]:
    """Take images as they come; a batch ends before it would cost more than max_pixels."""
    rounded = (-(-sizes // stride) * stride).tolist()
    batches, batch, height, width = [], [], 0, 0
    for index in order.tolist():
        taller, wider = max(height, rounded[index][0]), max(width, rounded[index][1])
        if batch and taller * wider * (len(batch) + 1) > max_pixels:
            batches.append(batch)
            batch, (taller, wider) = [], rounded[index]
        batch.append(index)
        height, width = taller, wider
    return [*batches, batch] if batch else batches


def share_of_new_pairs(before: list[list[int]], after: list[list[int]], count: int) -> float:
    """Of all pairs that share a batch in `after`, the share that did not in `before`."""
    labels = np.empty((2, count), np.int64)
    for label, batches in zip(labels, (before, after), strict=True):
        for number, batch in enumerate(batches):
            label[batch] = number

    def pairs(label: np.ndarray) -> int:
        counts = np.unique(label, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    return 1 - pairs(labels[0] * len(after) + labels[1]) / max(pairs(labels[1]), 1)


def epochs_of(name: str, sizes: np.ndarray, max_pixels: int, stride: int) -> list[list[list[int]]]:
    """The batches of EPOCHS epochs, made in the named way."""
    epochs, area = [], sizes.prod(axis=1)
    samplers = {
        "fixed 8, random order": FixedBatchSampler(sizes, 8, plan=EpochPlan(stride=stride)),
        "adaptive": AdaptiveBatchSampler(sizes, max_pixels, plan=EpochPlan(stride=stride)),
        "adaptive, fuller (overhead 0.4)": AdaptiveBatchSampler(
            sizes, max_pixels, cost=BatchCost(overhead=0.4), plan=EpochPlan(stride=stride)
        ),
    }
    for epoch in range(EPOCHS):
        if name in samplers:
            samplers[name].set_epoch(epoch)
            epochs.append(list(samplers[name]))
        else:
            order = np.random.default_rng(epoch).permutation(len(sizes))
            if name.startswith("sorted"):
                order = order[np.argsort(area[order], kind="stable")]
            epochs.append(fill_in_order(order, sizes, max_pixels, stride))
    return epochs


WAYS = (
    "fixed 8, random order",
    "random order up to the budget",
    "sorted by area up to the budget",
    "adaptive",
    "adaptive, fuller (overhead 0.4)",
)


def compare(sizes: np.ndarray, max_pixels: int, stride: int) -> None:
    """Print one line for each way to make batches."""
    rounded = -(-sizes // stride) * stride
    area = sizes.prod(axis=1).sum()
    rounding = f"sides rounded up to {stride} px" if stride > 1 else "no rounding"
    print(f"\nbudget {max_pixels / 1e6:.2f} Mpx; {rounding}")
    print(f"{'':34}{'padding':>9}{'batches':>9}{'images':>10}{'filled':>8}{'over budget':>13}{'new pairs':>11}")
    for name in WAYS:
        epochs = epochs_of(name, sizes, max_pixels, stride)
        costs = [np.array([len(b) * rounded[b].max(axis=0).prod() for b in batches]) for batches in epochs]
        new = [share_of_new_pairs(*pair, len(sizes)) for pair in zip(epochs, epochs[1:], strict=False)]
        padding = np.mean([1 - area / cost.sum() for cost in costs])
        batches = np.mean([len(cost) for cost in costs])
        filled = np.mean([cost.mean() for cost in costs]) / max_pixels
        over = np.mean([(cost > max_pixels).mean() for cost in costs])
        mean = len(sizes) / batches
        print(f"{name:34}{padding:9.1%}{batches:9.0f}{mean:10.1f}{filled:8.0%}{over:13.1%}{min(new):11.0%}")


def compare_shapes(sizes: np.ndarray, max_pixels: int, stride: int = 16) -> None:
    """Print one line for each number of shapes that an epoch may have."""
    print(f"\nbudget {max_pixels / 1e6:.2f} Mpx; sides rounded up to {stride} px")
    print(f"{'at most':>10}{'shapes':>9}{'padding':>9}{'batches':>9}{'pixels':>9}")
    usual = None
    for shapes in (None, 96, 48, 24, 12):
        sampler, facts = AdaptiveBatchSampler(sizes, max_pixels, plan=EpochPlan(stride=stride), shapes=shapes), []
        for epoch in range(EPOCHS):
            sampler.set_epoch(epoch)
            facts.append([sampler.summary()[name] for name in ("shapes", "padding", "batches", "pixels")])
        count, padding, batches, pixels = np.mean(facts, axis=0)
        usual = usual or pixels
        print(f"{shapes or 'any':>10}{count:9.0f}{padding:9.1%}{batches:9.0f}{pixels / usual:8.2f}x")


def time_plans() -> None:
    """Print how long it takes to plan an epoch of many images, and how much memory."""
    print("\nplanning an epoch, 1.35 Mpx, sides rounded up to 16 px")
    for count in (10_000, 100_000, 1_000_000):
        sizes = made_up_sizes(count)
        sampler = AdaptiveBatchSampler(sizes, 1_350_000)
        started = time.process_time()
        batches = len(sampler)
        seconds = time.process_time() - started
        tracemalloc.start()
        sampler.set_epoch(1)
        len(sampler)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{count:>9,} images: {batches:>6,} batches in {seconds:.2f} s of one core, {peak / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-timing", action="store_true", help="leave out the plans of up to a million images")
    parser.add_argument("--shapes", action="store_true", help="only the cost of few shapes")
    arguments = parser.parse_args()
    sizes = crohme_sizes()
    if sizes is None:
        sizes = made_up_sizes(8835)
        print("no CROHME images found: sizes are made up")
    height, width = sizes.mean(axis=0)
    print(f"{len(sizes)} images, {height:.0f} x {width:.0f} px in the mean, {sizes.prod(axis=1).sum():,} px in all")
    if arguments.shapes:
        print("shapes: different heights and widths of an epoch's batches; pixels: computed, against any shapes")
        for max_pixels in (1_350_000, 4_000_000):
            compare_shapes(sizes, max_pixels)
        return
    print("padding: share of the computed pixels outside the images; images: in a batch, in the mean;")
    print("new pairs: share of neighbors in the batch that were none in the epoch before, the least of all epochs")
    for stride in (1, 16):
        for max_pixels in (1_350_000, 2_700_000):
            compare(sizes, max_pixels, stride)
    if not arguments.no_timing:
        time_plans()


if __name__ == "__main__":
    main()
