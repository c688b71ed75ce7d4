r"""How fast labels are laid out and drawn, beside matplotlib's mathtext in the same run. One process, one thread.

python -m tests.benchmarks.renderer --labels datasets/CROHME/2014/labels.txt
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset.renderer import FAMILIES, Layout, Style, draw_ink, layout

EM = 50  # pixels
MATHTEXT_LABELS = 60  # it is slow
CASUAL = Style(
    weight=0.02, slant=0.2, spacing=0.1, script_shift=0.1, baseline_jitter=0.1, scale_jitter=0.1, rotation_jitter=0.1
)


def best_rate(work: Callable[[], None], count: int, repeats: int) -> tuple[float, float]:
    """Items a second of wall time and of this process's own time, each the best of several runs."""
    wall, own = [], []
    for _ in range(repeats):
        wall_start, own_start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - wall_start)
        own.append(time.process_time() - own_start)
    return count / min(wall), count / min(own)


def mathtext_source(label: str) -> str:
    """A label as mathtext reads it: without spaces inside braces, and without what it does not know."""
    return "$" + label.replace("{ ", "{").replace(" }", "}").replace(r"\limits", "").replace("\\prime", "'") + "$"


def figure_for_each(labels: list[str]) -> None:
    """The way of the public baseline: one figure a formula, saved and read back."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.image import imread

    for label in labels:
        figure = plt.figure(figsize=(0.01, 0.01))
        figure.text(0, 0, mathtext_source(label), fontsize=36)
        with io.BytesIO() as file:
            figure.savefig(file, dpi=100, format="png", bbox_inches="tight", pad_inches=0.05)
            file.seek(0)
            imread(file)
        plt.close(figure)


def parse_and_draw(labels: list[str]) -> None:
    """The fastest way through mathtext: its parser and its rasteriser, without any figure."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    parser, font = MathTextParser("agg"), FontProperties(size=36)
    for label in labels:
        np.asarray(parser.parse(mathtext_source(label), dpi=100, prop=font).image)


def readable_by_mathtext(labels: list[str]) -> list[str]:
    good = []
    for label in labels:
        try:
            parse_and_draw([label])
        except ValueError:
            continue
        good.append(label)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the typesetter beside mathtext.")
    parser.add_argument("--labels", required=True, help="labels.txt (name<TAB>tokens)")
    parser.add_argument("--count", type=int, default=2000, help="different labels, drawn at random (default: 2000)")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the best counts (default: 5)")
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    lines = Path(options.labels).read_text(encoding="utf-8").splitlines()
    labels = sorted({line.split("\t")[-1] for line in lines})
    labels = random.Random(0).sample(labels, min(options.count, len(labels)))
    tokens = [label.split(" ") for label in labels]
    print(f"{len(labels)} labels, {np.mean([len(each) for each in tokens]):.1f} tokens on average, {EM} px per em")
    print(f"{'':36}{'a second':>12}{'of CPU time':>12}")
    rates = {}

    def report(name: str, work: Callable[[], None], count: int) -> None:
        rates[name] = best_rate(work, count, options.repeats)
        print(f"{name:36}{rates[name][0]:12,.0f}{rates[name][1]:12,.0f}")

    for font in FAMILIES:
        report(f"lay out, {font}", lambda font=font: [layout(each, Style(font=font)) for each in tokens], len(tokens))
    placed = [layout(each) for each in tokens]
    report("draw a layout, standard image", lambda: [draw_ink(each, Style(em=EM)) for each in placed], len(placed))
    report("draw a layout, casual image", lambda: [draw_ink(each, CASUAL) for each in placed], len(placed))
    report("lay out and draw", lambda: [draw_ink(layout(each), Style(em=EM)) for each in tokens], len(tokens))
    some = readable_by_mathtext(labels[: 2 * MATHTEXT_LABELS])[:MATHTEXT_LABELS]
    options.repeats = 1  # it caches what it has parsed
    report("mathtext, a figure a formula", lambda: figure_for_each(some), len(some))
    report("mathtext, parse and draw", lambda: parse_and_draw(some), len(some))
    bytes_each = np.mean([sum(array.nbytes for array in Layout.to_arrays(each).values()) for each in placed])
    ours, theirs = rates["lay out and draw"], rates["mathtext, a figure a formula"]
    print(f"a layout takes {bytes_each:.0f} bytes; lay out and draw is {ours[0] / theirs[0]:.0f} x a figure a formula")


if __name__ == "__main__":
    main()
