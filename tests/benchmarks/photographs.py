"""What is lost when a clean image becomes a photograph: ExpRate and wrong tokens, distortion by distortion.

    python tests/benchmarks/photographs.py --checkpoint PATH --dataset CROHME --split 2014 --count 200

Each image is laid on a sheet of paper and "photographed" with one distortion alone, then with all of them together.
Distortions are seeded for each image. `--show FOLDER` writes the photographs and, beside them, what the network saw.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.images.store import open_split  # noqa: E402
from dataset.vocabulary import Vocabulary  # noqa: E402
from recognize import Reader  # noqa: E402
from utils.errors import DataError  # noqa: E402
from utils.evaluation.metrics import edit_distance, scores  # noqa: E402
from utils.tables import table  # noqa: E402

SYMBOL = 28  # pixels: about the height of a written letter in the clean images
ALL = "everything"
KINDS = {
    "sheet of paper": (),  # dark ink with some paper around, and nothing else
    "light on dark": ("invert",),
    "JPEG 60": ("jpeg",),
    "0.3 to 1 x size": ("shrink",),
    "1 to 3 x size": ("grow",),
    "paper texture": ("texture",),
    "light gradient": ("gradient",),
    "shadow": ("shadow",),
    "rotation to 15": ("rotate",),
    "perspective": ("perspective",),
    "thick pen": ("thick",),
    "ruled paper": ("ruled",),
    "squared paper": ("squared",),
    # everything but lines is what a person means by a photograph; lines are added to half of them in the last one
    "photograph": ("size", "texture", "gradient", "shadow", "rotate", "perspective", "pen", "polarity", "jpeg"),
    ALL: ("size", "texture", "gradient", "shadow", "rotate", "perspective", "pen", "polarity", "jpeg", "lines"),
}


def photograph(ink: np.ndarray, kind: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 (H, W) with ink 255 on paper 0, as it may come from a camera.

    Returns uint8 (H', W'), and (3, 3), which takes pixels (x, y, 1) of the image to it.
    """
    parts = set(KINDS[kind])
    for choice, options in (("polarity", ("invert", "")), ("lines", ("ruled", "squared", "", "")),
                            ("pen", ("thick", "", "")), ("size", ("shrink", "grow"))):  # fmt: skip
        if choice in parts:
            parts.add(options[random.integers(len(options))])
    size = 1.0
    if "shrink" in parts:
        size = np.exp(random.uniform(np.log(0.3), 0))
    elif "grow" in parts:
        size = np.exp(random.uniform(0, np.log(3)))

    if "thick" in parts:
        more = int(random.integers(2, 6))
        ink = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (more, more)))
    height, width = ink.shape
    margins = random.uniform(0.7, 2.5, 4) * SYMBOL
    frame = np.array([width + margins[0] + margins[2], height + margins[1] + margins[3]]) * size  # of the photograph
    matrix = np.diag([size, size, 1.0])
    matrix[:2, 2] = margins[:2] * size
    matrix = _camera(frame, parts, random) @ matrix
    # The frame grows until it holds all ink.
    corners = cv2.perspectiveTransform(np.array([[[0, 0], [width, 0], [0, height], [width, height]]], float), matrix)[0]
    low = np.minimum(corners.min(axis=0) - margins.min() * size, 0)
    frame = np.maximum(corners.max(axis=0) + margins.min() * size, frame) - low
    shift = np.eye(3)
    shift[:2, 2] = -low
    matrix = shift @ matrix
    columns, rows = np.maximum(np.ceil(frame), 16).astype(int)

    page = np.full((rows, columns), random.uniform(0.82, 0.95), np.float32)
    if parts & {"ruled", "squared"}:
        page *= _lines(matrix, (rows, columns), "squared" in parts, random)
    darkness = random.uniform(0.55, 0.85)
    page *= 1 - darkness * _warp(ink, matrix, (rows, columns), size) / 255
    if "texture" in parts:
        page *= _texture(rows, columns, random)
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows))
    if "gradient" in parts:
        angle = random.uniform(0, 2 * np.pi)
        ramp = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2) / 2 + 0.5
        page *= 1 - random.uniform(0.25, 0.55) * ramp
    if "shadow" in parts:
        angle = random.uniform(0, 2 * np.pi)
        side = x * np.cos(angle) + y * np.sin(angle) + random.uniform(-0.5, 0.5)
        softness = random.uniform(0.02, 0.2)
        page *= 1 - random.uniform(0.25, 0.5) / (1 + np.exp(-np.clip(side / softness, -50, 50)))
    grey = 255 * page
    if "texture" in parts:
        grey = cv2.GaussianBlur(grey, (0, 0), 0.5) + random.normal(0, random.uniform(1, 3), grey.shape)
    grey = grey.round().clip(0, 255).astype(np.uint8)
    if "invert" in parts:
        grey = 255 - grey
    if "jpeg" in parts:
        grey = cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)
    return grey, matrix


def _camera(frame: np.ndarray, parts: set[str], random: np.random.Generator) -> np.ndarray:
    """(3, 3): where the camera sees a flat sheet of this width and height."""
    matrix = np.eye(3)
    if "rotate" in parts:
        matrix[:2] = cv2.getRotationMatrix2D(tuple(frame / 2), random.uniform(-15, 15), 1.0)
    if "perspective" in parts:
        width, height = frame
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        moved = corners + random.uniform(-0.08, 0.08, (4, 2)) * [width, min(height, width)]
        matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32)) @ matrix
    return matrix


def _warp(ink: np.ndarray, matrix: np.ndarray, shape: tuple[int, int], size: float) -> np.ndarray:
    """The ink where the camera sees it, (H, W) float32; taken with more pixels and averaged, as a sensor does."""
    finer = 3 if size < 1 else 1
    matrix = np.diag([finer, finer, 1.0]) @ matrix
    large = cv2.warpPerspective(ink, matrix, (shape[1] * finer, shape[0] * finer), flags=cv2.INTER_LINEAR)
    return cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)


def _lines(matrix: np.ndarray, shape: tuple[int, int], is_squared: bool, random: np.random.Generator) -> np.ndarray:
    """What printed lines leave of the light, (H, W): ruled a line of writing apart, or squared about a letter apart."""
    distance = SYMBOL * (random.uniform(0.7, 1.1) if is_squared else random.uniform(1.3, 2.2))
    reach = 4000
    at = np.arange(-reach, reach, distance) + random.uniform(0, distance)
    ends = [[(-reach, y), (reach, y)] for y in at] + ([[(x, -reach), (x, reach)] for x in at] if is_squared else [])
    size = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    thickness = max(1, round(random.uniform(1, 2) * size))
    lines = np.zeros(shape, np.uint8)
    for one, other in ends:
        # Cut up, so that no piece reaches behind the camera.
        steps = np.linspace(one, other, 81)[None]
        scales = steps[0] @ matrix[2, :2] + matrix[2, 2]
        points = cv2.perspectiveTransform(steps, matrix)[0][scales > 0.2]
        cv2.polylines(lines, [np.rint(points * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)
    return 1 - random.uniform(0.12, 0.3) * lines.astype(np.float32) / 255


def _texture(rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """Fibres and waves of paper: noise at three scales, (H, W) about 1."""
    texture = np.ones((rows, columns), np.float32)
    for scale in (1, 4, 24):
        coarse = random.normal(0, 1, (rows // scale + 2, columns // scale + 2)).astype(np.float32)
        texture += 0.015 * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return texture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="PATH")
    parser.add_argument("--dataset", required=True, metavar="NAME")
    parser.add_argument("--split", default="test", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--root", default="datasets", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--count", type=int, metavar="N", help="evenly chosen; default: all of the split")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="NAME", help="of: " + ", ".join(KINDS))
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="default: 1, greedy")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="write each photograph above what the network saw")
    options = parser.parse_args()

    reader = Reader.load(options.checkpoint, options.device)
    folder = Path(options.root) / options.dataset
    store = open_split(folder, options.split, vocabulary := Vocabulary.from_file(folder / "vocabulary.txt"))
    places = np.unique(np.linspace(0, len(store) - 1, options.count or len(store)).astype(int)).tolist()
    truths = [vocabulary.decode(store.tokens(place)) for place in places]

    results = {}
    for kind in ["clean", *options.kinds]:
        prepared, photographs, seconds, no_ink = [], [], 0.0, 0
        for place in places:
            image = store.image(place)
            if kind != "clean":
                random = np.random.default_rng((options.seed, list(KINDS).index(kind), place))
                image, _ = photograph(image, kind, random)
            start = time.perf_counter()
            try:
                prepared.append(reader.prepare(image, store.name(place)))
            except DataError:
                prepared.append(None)
                no_ink += 1
            seconds += time.perf_counter() - start
            photographs.append(image)
        readings = iter(reader.read_many([one for one in prepared if one is not None], options.beam))
        readings = [one if one is None else next(readings) for one in prepared]
        predictions = [one and list(one.tokens) for one in readings]
        results[kind] = scores(truths, predictions) | {"no_ink": no_ink, "cleaning_ms": 1000 * seconds / len(places)}
        if options.show:
            for place, image, truth, reading in zip(places, photographs, truths, readings, strict=True):
                errors = edit_distance(truth, reading.tokens) if reading else len(truth)
                name = f"{kind.replace(' ', '-')}-{store.name(place)}-{errors}.png"
                show(options.show / name, image, reading.image if reading else np.zeros((4, 4), np.uint8))
    if options.json:
        print(json.dumps(results))
        return
    clean = results["clean"]
    rows = [("images", "ExpRate %", "lost", "wrong tokens %", "more", "no ink", "cleaning ms")]
    for kind, values in results.items():
        rate, wrong = values["exprate"], values["token_error_rate"]
        lost, more = clean["exprate"] - rate, wrong - clean["token_error_rate"]
        numbers = (f"{rate:.1f}", f"{lost:.1f}", f"{wrong:.1f}", f"{more:.1f}")
        rows.append((kind, *numbers, values["no_ink"], f"{values['cleaning_ms']:.1f}"))
    print(table(rows))


def show(path: Path, photograph: np.ndarray, seen: np.ndarray) -> None:
    """Write a photograph, and below it what the network saw, dark on light, both at most 1,000 pixels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width = min(1000, max(photograph.shape[1], seen.shape[1]))
    parts = []
    for image in (photograph, 255 - seen):
        scale = min(1.0, width / image.shape[1])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        parts.append(cv2.copyMakeBorder(image, 0, 6, 0, width - image.shape[1], cv2.BORDER_CONSTANT, value=128))
    cv2.imwrite(str(path), np.concatenate(parts))


if __name__ == "__main__":
    main()
