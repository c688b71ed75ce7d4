r"""Draw labels, one below the other, as the typesetter sees them: for people who want to look.

python -m tests.benchmarks.sheet_of_labels '\frac{1}{2}' labels.txt --out sheet.png --tokens
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from dataset.latex.parser import tokenize
from dataset.renderer import FAMILIES, RenderError, Style, draw, layout

PAPER = (255, 255, 255)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw labels, one below the other, as the typesetter sees them.")
    parser.add_argument("labels", nargs="*", help="LaTeX labels, or files of labels (one a line, or name<TAB>label)")
    parser.add_argument("--out", required=True, help="image to write, PNG")
    parser.add_argument("--boxes", action="store_true", help="a frame around each token's ink")
    parser.add_argument("--tokens", action="store_true", help="each frame's token written above it; implies --boxes")
    parser.add_argument("--count", type=int, default=100, help="labels to take from each file (default: %(default)s)")
    parser.add_argument("--font", choices=FAMILIES, default="cm")
    parser.add_argument("--em", type=float, default=50.0, help="pixels per em (default: %(default)s)")
    parser.add_argument("--inline", action="store_true", help="as within a line of text, not on a line of its own")
    parser.add_argument("--chinese-font", default="", metavar="FILE")
    for name, meaning in {
        "weight": "em added to strokes",
        "slant": "lean to the right",
        "spacing": "share by which distances along the line grow",
        "script-shift": "share by which distances from the baseline grow",
        "baseline_jitter": "em by which the baseline strays",
        "scale-jitter": "each sign's own size, a share",
        "rotation-jitter": "each sign's own turn, radians",
    }.items():
        parser.add_argument(f"--{name}", type=float, default=0.0, help=meaning)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jitters = (
        "weight",
        "slant",
        "spacing",
        "script_shift",
        "baseline_jitter",
        "scale_jitter",
        "rotation_jitter",
        "seed",
    )
    style = Style(
        font=options.font,
        display=not options.inline,
        chinese_font=options.chinese_font,
        em=options.em,
        margin=24 if options.tokens else 8,  # names need room
        **{name: getattr(options, name) for name in jitters},
    )
    images, failures = [], 0
    for label in _labels(options.labels, options.count):
        try:
            images.append(_image_for_people(label, style, options.boxes or options.tokens, options.tokens))
        except RenderError as error:
            print(error, file=sys.stderr)
            failures += 1
    if images:
        width = max(image.shape[1] for image in images)
        sheet = [cv2.copyMakeBorder(p, 0, 0, 0, width - p.shape[1], cv2.BORDER_CONSTANT, value=PAPER) for p in images]
        cv2.imwrite(options.out, np.concatenate(sheet))
        print(f"{options.out}: {len(images)} labels" + (f", {failures} cannot be drawn" if failures else ""))
    if failures:
        sys.exit(1)


def _labels(arguments: list[str], count: int) -> list[str]:
    labels = []
    for argument in arguments:
        if Path(argument).is_file():
            lines = Path(argument).read_text(encoding="utf-8").splitlines()
            labels += [line.split("\t")[-1] for line in lines if line.strip()][:count]
        else:
            labels.append(argument)
    return labels


def _image_for_people(label: str, style: Style, with_boxes: bool, with_names: bool) -> np.ndarray:
    """(H, W, 3): a label's image, with its tokens' boxes and names on request."""
    drawn = layout(label, style)
    image = cv2.cvtColor(draw(drawn, style), cv2.COLOR_GRAY2BGR)
    if with_boxes:
        tokens = tokenize(label)
        for token, *corners in drawn.boxes(style):
            left, top, right, bottom = (round(corner) for corner in corners)
            color = [int(value) for value in np.random.default_rng(token).integers(0, 200, 3)]
            cv2.rectangle(image, (left - 1, top - 1), (right, bottom), color, 1)
            if with_names:
                name, place, font = f"{token} {tokens[token]}", (left, top - 3), cv2.FONT_HERSHEY_SIMPLEX
                cv2.putText(image, name, place, font, 0.3, color, 1, cv2.LINE_AA)
    return image


if __name__ == "__main__":
    main()
