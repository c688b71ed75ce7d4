"""How real is synthetic ink? The same labels in both: what can be measured, side by side, and a sheet to look at.

    python tests/benchmarks/synthetic_ink.py --dataset CROHME --out sheet.png
    python tests/benchmarks/synthetic_ink.py --dataset CROHME --out sheet.png --tell-apart

Draws sheet.png (real ink left, synthetic ink of the same label right) and sheet-histograms.png, and prints percentiles
and the images a core draws a second. With --tell-apart a small network learns for a minute to tell both apart on half
of the labels, and is tested on the other half: an error of 50 % means that it cannot.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset.images.strokes import Strokes, boxes_of, open_strokes  # noqa: E402
from dataset.images.synthetic import SyntheticInk  # noqa: E402
from dataset.loading.loaders import Data, open_data  # noqa: E402
from utils.config.schema import DataConfig  # noqa: E402

PERCENTILES = (5, 25, 50, 75, 95)
# Their lower ends stand on the line.
STANDING = frozenset("0123456789ABCDEFGHIKLMNPRSTVXYacehikmnorsuvwxz")


def measure(strokes: Strokes, label: list[str], found: dict[str, list[float]]) -> None:
    """Add what one image says to `found`."""
    boxes = boxes_of(strokes, strokes.traces, 1, len(label))
    left, top, right, bottom = boxes.T
    height = bottom - top
    plain = [index for index, token in enumerate(label) if token in STANDING and np.isfinite(top[index])]
    line = float(np.median(height[plain])) if plain else np.nan
    found["image height, px"].append(strokes.size[0])
    found["image width, px"].append(strokes.size[1])
    found["strokes a symbol"] += [len(symbol) for symbol in strokes.symbols if symbol]
    for index, token in enumerate(label):
        if token == r"\frac" and label[index + 2] in STANDING and line > 0:
            found["numerator above bar, lines"].append((top[index] - bottom[index + 2]) / line)
        if token in (r"\frac", r"\sqrt") and line > 0:
            found["bar or root width, lines"].append((right[index] - left[index]) / line)
        if index in plain:
            found["symbol height, lines"].append(height[index] / line)
            found["symbol width, lines"].append((right[index] - left[index]) / line)
    for here, there in zip(range(len(label)), range(1, len(label)), strict=False):
        if np.isfinite(left[here]) and np.isfinite(left[there]) and line > 0:
            found["gap to the next, lines"].append((left[there] - right[here]) / line)
        if here in plain and there in plain:
            found["baseline offset, lines"].append((bottom[there] - bottom[here]) / line)
        if here in plain and label[there] in "^_" and label[here + 3] in STANDING:
            found[f"script size {label[there]}, share of base"].append(height[here + 3] / max(height[here], 1))
            rise = (bottom[here + 3] - bottom[here]) / max(height[here], 1)
            found[f"script drop {label[there]}, share of base"].append(rise)


def couples(data: Data, limit: int, seed: int) -> tuple[SyntheticInk, list[tuple[int, int]]]:
    """Synthetic ink in full size, and pairs: indices of a real image of train, and of its label in synthetic ink."""
    ink = data.ink("train")
    synthetic = data.synthetic_ink()
    find = {each: index for index, each in enumerate(synthetic.label_hash().tolist())}
    pairs = [(index, find[each]) for index, each in enumerate(ink.label_hash().tolist()) if each in find]
    order = np.random.default_rng(seed).permutation(len(pairs))[:limit]
    return synthetic, [pairs[place] for place in order]


def compare(data: Data, synthetic: SyntheticInk, pairs: list[tuple[int, int]], seed: int) -> tuple[dict, dict]:
    """What both kinds measure: lists of numbers, by name."""
    ink, known = data.ink("train"), open_strokes(data.folder / "train")
    real, drawn = defaultdict(list), defaultdict(list)
    for number, (index, twin) in enumerate(pairs):
        place = int(ink.indices[index])
        strokes = known.find(ink.store.name(place), ink.store.sizes[place])
        label = data.vocabulary.decode(ink.label(index))
        if strokes is not None:
            measure(strokes, label, real)
            measure(synthetic.strokes(twin, seed, 4 * number // len(pairs)), label, drawn)
    return real, drawn


def print_table(real: dict, drawn: dict) -> None:
    print(f"{'':32s}{'':12s}" + "".join(f"{each:>8d} %" for each in PERCENTILES) + "      mean")
    for name in real:
        for title, values in (("real", real[name]), ("synthetic", drawn[name])):
            values = np.array(values)[np.isfinite(values)]
            numbers = "".join(f"{value:10.2f}" for value in np.percentile(values, PERCENTILES))
            print(f"{name if title == 'real' else '':32s}{title:12s}{numbers}{values.mean():10.2f}")


def draw_histograms(real: dict, drawn: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(-(-len(real) // 3), 3, figsize=(12, 3 * -(-len(real) // 3)))
    for axis, name in zip(axes.flat, real, strict=False):
        both = [np.array(each[name])[np.isfinite(each[name])] for each in (real, drawn)]
        bins = np.linspace(*np.percentile(both[0], (0.5, 99.5)), 40)
        axis.hist(both, bins, density=True, histtype="step", label=["real", "synthetic"])
        axis.set_title(name, fontsize=9)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def draw_sheet(data: Data, synthetic: SyntheticInk, pairs: list[tuple[int, int]], path: Path, seed: int) -> None:
    """Real ink left, synthetic ink of the same label right; dark on light."""
    ink, width, rows = data.ink("train"), 520, []
    for index, twin in pairs:
        images = ink.image(index, 0, 0), synthetic.image(twin, seed, 0)
        row = np.zeros((max(image.shape[0] for image in images) + 8, 2 * width), np.uint8)
        for column, image in enumerate(images):
            image = image[:, : width - 8]
            row[4 : 4 + image.shape[0], column * width : column * width + image.shape[1]] = image
        rows.append(row)
    cv2.imwrite(str(path), 255 - np.concatenate(rows))


def speed(data: Data, image_scale: float) -> float:
    """Images, with their boxes, that one core draws a second; planning of all of them included."""
    ink = data.resized(image_scale).synthetic_ink()
    order = np.random.default_rng(0).permutation(len(ink))
    started = time.process_time()
    ink.sizes(0, 0)
    for index in order.tolist():
        ink.image(index, 0, 0)
        ink.boxes(index, 0, 0)
    return len(ink) / (time.process_time() - started)


# ---- a network that tells them apart ---------------------------------------------------------------------------------


def tell_apart(data: Data, pairs: list[tuple[int, int]], seconds: float, seed: int) -> float:
    """The share of held-out images, as many of each kind, that a small network takes for the other kind."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = data.resized(0.5)
    ink, synthetic = data.ink("train"), data.synthetic_ink()
    random = np.random.default_rng(seed)
    layers, channels = [], 1
    for width in (12, 24, 48, 64):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    body, head = nn.Sequential(*layers), nn.Linear(channels, 1)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], 2e-3)
    is_test = (ink.label_hash() % np.uint64(2)).astype(bool)
    # Neighbors in width make a batch: little of it is padding.
    widths = ink.sizes(0, 0)[:, 1]
    pairs = sorted(pairs, key=lambda pair: (widths[pair[0]], pair))
    parts = [[pair for pair in pairs if is_test[pair[0]] == side] for side in (False, True)]

    def batch(some: list[tuple[int, int]], epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = [ink.image(index, 0, 0) for index, _ in some]
        images += [synthetic.image(twin, seed, epoch) for _, twin in some]
        height, width = (max(image.shape[side] for image in images) for side in (0, 1))
        stacked = np.zeros((len(images), 1, height, width), np.float32)
        for row, image in zip(stacked, images, strict=True):
            row[0, : image.shape[0], : image.shape[1]] = image / 255
        return torch.from_numpy(stacked), torch.arange(len(images)) // len(some)

    def scores(images: torch.Tensor) -> torch.Tensor:
        # The mean over what is not empty: the size of the image alone says little.
        seen = nn.functional.max_pool2d(images, 16, ceil_mode=True) > 0
        features = body(images)
        seen = seen[..., : features.shape[2], : features.shape[3]]
        return head((features * seen).sum((2, 3)) / seen.sum((2, 3)).clamp(min=1)).flatten()

    started, step = time.process_time(), 0
    while time.process_time() - started < seconds:
        start = int(random.integers(0, len(parts[0]) - 48))
        some = [parts[0][start + place] for place in random.permutation(48)[:16]]
        images, truth = batch(some, step // 100)
        loss = nn.functional.binary_cross_entropy_with_logits(scores(images), truth.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:  # falls to nothing with the time
            group["lr"] = 2e-3 * max(1 - (time.process_time() - started) / seconds, 0.01)
        step += 1
    body.eval()
    wrong = []
    with torch.no_grad():
        for start in range(0, len(parts[1]) - 15, 64):  # a quarter of them, of every width
            images, truth = batch(parts[1][start : start + 16], 1_000)
            wrong += ((scores(images) > 0) != truth.bool()).tolist()
    print(f"{step} steps of 16 images of each kind; tested on {len(wrong)} images")
    return float(np.mean(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a data set whose strokes are known")
    parser.add_argument("--root", default="datasets")
    parser.add_argument("--symbols", nargs="*", default=[], help="data sets that lend their symbols")
    parser.add_argument("--out", type=Path, required=True, help="the sheet, a PNG file")
    parser.add_argument("--count", type=int, default=4000, help="images to measure (default: %(default)s)")
    parser.add_argument("--shown", type=int, default=24, help="images on the sheet (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tell-apart", action="store_true", help="train a network to tell real from synthetic ink")
    parser.add_argument("--seconds", type=float, default=90, help="CPU time that it learns (default: %(default)s)")
    options = parser.parse_args()
    limits = {"image_scale": 1.0, "max_height": 512, "max_width": 2048, "validation_share": 0.05, "workers": 0}
    data = open_data(DataConfig(root=options.root, symbols=tuple(options.symbols), **limits), options.dataset, 0)
    synthetic, pairs = couples(data, options.count, options.seed)
    real, drawn = compare(data, synthetic, pairs, options.seed)
    print_table(real, drawn)
    histograms = options.out.with_name(f"{options.out.stem}-histograms.png")
    draw_histograms(real, drawn, histograms)
    draw_sheet(data, synthetic, pairs[: options.shown], options.out, options.seed)
    print(f"{options.out}, {histograms}")
    print(f"{speed(data, 0.5):.0f} images with boxes a core second, at image_scale 0.5")
    if options.tell_apart:
        error = tell_apart(data, couples(data, 1 << 30, options.seed)[1], options.seconds, options.seed)
        print(f"taken for the other kind: {100 * error:.1f} % of the held-out images (50 %: cannot be told apart)")


if __name__ == "__main__":
    main()
