"""SAMPLE, the embedded data set: labels from a small grammar, ink by a simulated hand over the standard layout.

    python prepare.py --dataset SAMPLE

It is honest about being synthetic: it shows that all works on a machine without data, and nothing about real ink.
The hand follows the *skeleton* of a printed letter (one thin line where the outline has a stroke), fitted into the box
where the typesetter put the symbol. Each writer has a slant, a pen, letter forms and a carelessness of their own; each
symbol is shifted, scaled, turned and bent. Nobody who wrote a test image wrote a training image.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.path import Path as Outline

from dataset.renderer import Style, layout
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.files import locked, naming
from utils.parallel import in_processes
from utils.progress import Progress

# Raise this when anything below changes what is made: an older SAMPLE is then made again.
VERSION = 2
TRAIN_LABELS, TEST_LABELS = 6000, 500
LONGEST_LABEL = 12  # tokens
CHUNK = 64  # images that a process draws between two reports
WRITERS = {"train": 200, "test": 40}
EM = 45  # pixels; symbols come out about as large as in CROHME, where a trace is 28 px high on average
BORDER = 8  # pixels of paper around the ink
BEND = 0.07  # how far the points of a symbol move, against its size

# ---- labels ----------------------------------------------------------------------------------------------------------

# No two classes that casual writing makes alike: no o beside 0, no l or | beside 1, no \times beside x, no z beside 2.
DIGITS = "0123456789"
LETTERS = "abcdefkmnpxy"
CAPITALS = "AFR"
GREEK = (r"\pi", r"\theta", r"\lambda", r"\beta")


class Grammar:
    """Draws labels, lists of tokens, the way CROHME writes them: braces always, subscript before superscript."""

    def __init__(self, random: Random):
        self.random = random

    def one_of(self, choices, weights=None):
        return self.random.choices(choices, weights)[0]

    def label(self) -> list[str]:
        relation = self.one_of(["", "=", "<", r"\neq", r"\rightarrow"], [56, 32, 4, 4, 4])
        return [*self.sum(), relation, *self.sum()] if relation else self.sum()

    def sum(self) -> list[str]:
        tokens = self.term()
        while self.random.random() < 0.35:
            tokens += [self.one_of("+-"), *self.term()]
        return tokens

    def term(self) -> list[str]:
        return self.factor() + (self.factor() if self.random.random() < 0.25 else [])

    def factor(self) -> list[str]:
        kinds = [self.letter, self.number, self.power, self.index, self.fraction, self.root]
        kinds += [self.function, self.parentheses, self.big, self.infinity]
        return self.one_of(kinds, [26, 18, 18, 10, 14, 9, 7, 5, 7, 1])()

    def small(self) -> list[str]:
        """What stands in a script, a fraction or under a root: short and flat."""
        return self.one_of([self.letter, self.number, self.power, self.pair], [5, 4, 1, 2])()

    def letter(self) -> list[str]:
        return [self.one_of(self.one_of([LETTERS, CAPITALS, GREEK], [12, 3, 4]))]

    def number(self) -> list[str]:
        return self.random.choices(DIGITS, k=self.one_of([1, 2], [7, 3]))

    def pair(self) -> list[str]:
        return [*self.letter(), self.one_of("+-"), *self.number()]

    def power(self) -> list[str]:
        exponent = self.number() if self.random.random() < 0.6 else self.small()
        return [*self.letter(), "^", "{", *exponent, "}"]

    def index(self) -> list[str]:
        tokens = [*self.letter(), "_", "{", self.one_of("123ikmn"), "}"]
        return tokens + ["^", "{", self.one_of("23"), "}"] if self.random.random() < 0.25 else tokens

    def fraction(self) -> list[str]:
        return [r"\frac", "{", *self.small(), "}", "{", *self.small(), "}"]

    def root(self) -> list[str]:
        return [r"\sqrt", "{", *self.small(), "}"]

    def function(self) -> list[str]:
        return [self.one_of([r"\sin", r"\cos", r"\log"]), *self.small()]

    def parentheses(self) -> list[str]:
        return ["(", *self.small(), ")"]

    def infinity(self) -> list[str]:
        return [r"\infty"]

    def big(self) -> list[str]:
        upper = ["^", "{", self.one_of([r"\infty", "n", "m", "5", "9"]), "}"]
        if self.random.random() < 0.5:
            return [r"\sum", "_", "{", "i", "=", self.one_of("01"), "}", *upper, *self.letter()]
        return [r"\int", "_", "{", self.one_of("012a"), "}", *upper, *self.letter(), "d", "x"]


def make_labels(count: int, seed: int) -> list[list[str]]:
    """`count` different labels of at most LONGEST_LABEL tokens."""
    grammar, labels = Grammar(Random(seed)), {}
    while len(labels) < count:
        label = grammar.label()
        if len(label) <= LONGEST_LABEL:
            labels[" ".join(label)] = label
    return list(labels.values())


# ---- skeletons: the strokes of a printed letter ----------------------------------------------------------------------

# What a hand writes for a token that is not its own image. A word is written letter by letter.
WRITTEN = {r"\pi": "π", r"\theta": "θ", r"\lambda": "λ", r"\beta": "β", r"\sum": "∑", r"\int": "∫", r"\infty": "∞"}
WRITTEN |= {r"\rightarrow": "→", r"\neq": "≠", r"\sin": "sin", r"\cos": "cos", r"\log": "log", "-": "−"}
PRINT, CURSIVE = "DejaVuSans.ttf", "STIXGeneralItalic.ttf"
EITHER_FORM = "bcdegiklmnoprsxyπθλβ"
ALWAYS_CURSIVE = frozenset("af")  # nobody writes the two storeys of a printed a
SKELETON_PIXELS = 80  # an em, when letters are thinned

# The eight neighbors (down, right), clockwise from the one above. Bit k of a pixel's code: is neighbor k ink?
NEIGHBORS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def _removable() -> np.ndarray:
    """(2, 256) bool: may a pixel of this code go in the first, in the second half step? Zhang and Suen, CACM 1984."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    transitions = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(axis=1)
    up, right, down, left = bits[:, 0], bits[:, 2], bits[:, 4], bits[:, 6]
    is_border = (transitions == 1) & (bits.sum(axis=1) >= 2) & (bits.sum(axis=1) <= 6)
    first = (up & right & down) | (right & down & left)
    second = (up & right & left) | (up & down & left)
    return np.stack([is_border & (first == 0), is_border & (second == 0)])


REMOVABLE = _removable()


def thin(ink: np.ndarray) -> np.ndarray:
    """Wear bool (H, W) down to lines one pixel wide, without breaking them. The border of the image must be paper."""
    kernel = np.zeros((3, 3), np.float32)
    for bit, (down, right) in enumerate(NEIGHBORS):
        kernel[1 + down, 1 + right] = 1 << bit
    ink = ink.astype(np.float32)
    remaining = -1
    while remaining != (remaining := np.count_nonzero(ink)):
        for removable in REMOVABLE:
            ink[removable[cv2.filter2D(ink, -1, kernel, borderType=cv2.BORDER_CONSTANT).astype(np.uint8)]] = 0
    return ink > 0


def trace(skeleton: np.ndarray) -> list[np.ndarray]:
    """Cut lines one pixel wide, bool (H, W), at their junctions. Returns chains of points (n, 2), x and y."""
    pixels = set(map(tuple, np.argwhere(skeleton).tolist()))

    def neighbors(pixel):
        y, x = pixel
        for down, right in NEIGHBORS:
            # A diagonal step counts only where no two straight steps lead to the same place.
            if (y + down, x + right) in pixels and not (down and right and ({(y + down, x), (y, x + right)} & pixels)):
                yield y + down, x + right

    links = {pixel: list(neighbors(pixel)) for pixel in sorted(pixels)}
    chains, used = [], set()
    # Ends and junctions first; what is left after them are closed loops, which may start anywhere.
    for start in sorted(links, key=lambda pixel: len(links[pixel]) == 2):
        for step in links[start]:
            if (start, step) in used:
                continue
            chain = [start, step]
            while len(links[chain[-1]]) == 2 and chain[-1] != start:
                chain.append(next(pixel for pixel in links[chain[-1]] if pixel != chain[-2]))
            used |= set(zip(chain, chain[1:], strict=False)) | set(zip(chain[1:], chain, strict=False))
            chains.append(chain)
        if not links[start]:
            chains.append([start, start])
    return [np.array(chain, np.float64)[:, ::-1] for chain in chains]


def smooth(chain: np.ndarray) -> np.ndarray:
    """Take the pixel staircase out of a chain (n, 2) and keep about every third point; the ends stay."""
    padded = np.pad(chain, ((2, 2), (0, 0)), mode="edge")
    middle = sum(padded[k : k + len(chain)] for k in range(5)) / 5
    keep = np.linspace(0, len(chain) - 1, max(2, len(chain) // 3 + 1)).round().astype(int)[1:-1]
    return np.concatenate([chain[:1], middle[keep], chain[-1:]])


@cache
def skeleton_strokes(text: str, font: str) -> tuple[np.ndarray, ...]:
    """The strokes of a letter or a word: polylines (n, 2), x right and y down, 0..1 in the box around its outline."""
    face = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font))
    face.set_size(SKELETON_PIXELS, 72)
    polygons, advance = [], 0.0
    for character in text:
        glyph = face.load_char(ord(character), flags=LoadFlags.NO_HINTING)
        polygons += [polygon * [1, -1] + [advance, 0] for polygon in Outline(*face.get_path()).to_polygons()]
        advance += glyph.linearHoriAdvance / 65536
    points = np.concatenate(polygons)
    corner, size = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1)
    image = np.zeros(np.ceil(size[::-1]).astype(int) + 5, np.uint8)
    cv2.fillPoly(image, [np.rint((polygon - corner + 2) * 16).astype(np.int32) for polygon in polygons], 1, shift=4)
    return tuple((smooth(chain) - 2) / size for chain in trace(thin(image > 0)))


# ---- the hand --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """The habits of one hand; lengths in em where no unit is given."""

    pen: int  # pixels
    size: float  # of everything, 1 is EM
    slant: float  # x per y
    spread: float  # distances between symbols against the typesetter's
    breadth: float  # width of symbols against the typesetter's
    carelessness: float  # multiplies the jitter of every symbol
    climb: float  # y per x: does the line rise or fall
    cursive: frozenset[str]  # characters in italic form

    @staticmethod
    def draw(random: np.random.Generator) -> "Writer":
        return Writer(
            pen=int(random.choice([2, 3, 4], p=[0.4, 0.5, 0.1])),
            size=random.uniform(0.8, 1.15),
            slant=random.normal(0.05, 0.15),
            spread=random.uniform(0.95, 1.3),
            breadth=random.uniform(0.85, 1.25),
            carelessness=random.uniform(0.5, 1.3),
            climb=random.normal(0, 0.03),
            cursive=frozenset(letter for letter in EITHER_FORM if random.random() < 0.5) | ALWAYS_CURSIVE,
        )


def bend(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shifts of about one, (n, 2), for points (n, 2) of a unit box, from a smooth field: lines that meet still meet."""
    shifts = 0
    for frequency in (1.5, 4.0):
        waves, phase = random.normal(0, frequency, (2, 2)), random.uniform(0, 2 * np.pi, 2)
        shifts = shifts + np.sin(points @ waves + phase) * (1.5 / frequency)
    return shifts


def radical(hook: float) -> np.ndarray:
    """A root in its unit box, in one stroke: down, up, and from `hook` along the bar."""
    corners = np.array([[0, 0.62], [0.22 * hook, 0.52], [0.5 * hook, 1], [hook, 0.02], [1, 0]])
    steps = np.linspace(0, len(corners) - 1, 25)
    return np.stack([np.interp(steps, range(len(corners)), corners[:, axis]) for axis in (0, 1)], axis=1)


def write(tokens: list[str], writer: Writer, random: np.random.Generator) -> list[np.ndarray]:
    """The strokes, polylines (n, 2) in pixels, in which a writer writes a label over its standard layout."""
    em, care = EM * writer.size, writer.carelessness
    standard = layout(tokens)
    bars = {rule.token: rule.x * em for rule in standard.rules}
    symbols, lengths = [], []
    for index, left, top, right, bottom in standard.boxes(Style(em=em, margin=0)):
        token, size = tokens[index], np.array([right - left, bottom - top])
        if token == r"\frac":
            shapes = [np.linspace((0, 0.5), (1, 0.5), 12)]
        elif token == r"\sqrt":
            shapes = [radical((bars[index] - left) / size[0])]
        else:
            text = WRITTEN.get(token, token)
            shapes = skeleton_strokes(text, CURSIVE if set(text) <= writer.cursive else PRINT)
        centre = np.array([(left + right) / 2 * writer.spread, (top + bottom) / 2])
        # Bars and roots hold others, and must not run into them: they are wider where others stand further apart.
        is_structure = token in (r"\frac", r"\sqrt")
        jitter, breadth = (care / 3, writer.spread) if is_structure else (care, writer.breadth)
        points = one_symbol(np.concatenate(shapes), size, breadth, em, jitter, random)
        lengths += [len(shape) for shape in shapes]
        lifts = random.normal(0, 0.012 * care * em, (len(shapes), 2))  # the pen does not come down where it left off
        symbols.append(points + centre + np.repeat(lifts, lengths[-len(shapes) :], axis=0))
    x, y = np.concatenate(symbols).T
    slant, climb = writer.slant + random.normal(0, 0.04), writer.climb + random.normal(0, 0.02)
    drift, phase = random.normal(0, 0.04) * em, random.uniform(0, 2 * np.pi)
    points = np.stack([x - slant * y, y - climb * x + drift * np.sin(x / (3 * em) + phase)], axis=1)
    return np.split(points, np.cumsum(lengths)[:-1])


def one_symbol(
    points: np.ndarray, size: np.ndarray, breadth: float, em: float, jitter: float, random: np.random.Generator
) -> np.ndarray:
    """Points (n, 2) of a symbol in its unit box -> pixels around its centre: bent, scaled, turned and shifted.

    size: width and height in pixels.   breadth: factor of the width.   jitter: 0 for none, 1 is usual.
    """
    # A bar is bent like a symbol, however thin its box is, and a long one no more than a short one.
    bent = (points - 0.5) * size + bend(points, random) * np.clip(size, 0.25 * em, 0.6 * em) * BEND * jitter
    growth = np.exp(random.normal(0, 0.1 * jitter, 2)) * [breadth, 1]
    turn = random.normal(0, 0.09 * jitter)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return bent * growth @ turned + random.normal(0, 0.05 * jitter * em, 2)


def draw(strokes: list[np.ndarray], pen: int) -> np.ndarray:
    """Strokes (n, 2), in pixels, drawn with a round pen: uint8 (H, W), ink 0 on paper 255, as on a sheet of paper."""
    points = np.concatenate(strokes)
    corner = np.floor(points.min(axis=0)) - BORDER
    width, height = (np.ceil(points.max(axis=0)) + BORDER - corner).astype(int) + 1
    image = np.full((height, width), 255, np.uint8)
    lines = [np.rint((stroke - corner) * 16).astype(np.int32) for stroke in strokes]
    cv2.polylines(image, lines, isClosed=False, color=0, thickness=pen, shift=4)
    return image


# ---- the data set ----------------------------------------------------------------------------------------------------


def writer_of(index: int, split: str, seed: int) -> Writer:
    """Who wrote image `index` of a split: one of the split's own WRITERS."""
    return Writer.draw(np.random.default_rng((seed, list(WRITERS).index(split), index % WRITERS[split])))


def image_png(item: tuple[int, list[str]], split: str, seed: int) -> bytes:
    """The image of item (index, label) as a PNG file. Depends on nothing but its arguments."""
    index, tokens = item
    writer = writer_of(index, split, seed)
    random = np.random.default_rng((seed, list(WRITERS).index(split), WRITERS[split] + index))
    return cv2.imencode(".png", draw(write(tokens, writer, random), writer.pen))[1].tobytes()


def pngs(items: list[tuple[int, list[str]]], split: str, seed: int) -> list[bytes]:
    """What `image_png` makes of some items: the work that a process takes at once."""
    return [image_png(item, split, seed) for item in items]


def make_sample(
    folder: str | Path,
    train_labels: int = TRAIN_LABELS,
    test_labels: int = TEST_LABELS,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make SAMPLE in `folder`, in the plain form; returns the folder. The same arguments give the same bytes.

    Made under a temporary name and renamed. A SAMPLE already made with these arguments is left as it is, one made with
    others is replaced; raises DataError where the folder holds something else. workers: processes, one for each core if
    None.
    """
    folder = Path(folder)
    about = json.dumps({"version": VERSION, "train_labels": train_labels, "test_labels": test_labels, "seed": seed})
    manifest = folder / "sample.json"
    if manifest.exists() and manifest.read_text() == about:
        return folder
    if folder.exists() and any(folder.iterdir()) and not manifest.exists():
        raise DataError(f"{folder}: holds something else than SAMPLE; remove it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = folder.with_name(f"{folder.name}.partial")
    with locked(folder.with_name(f".{folder.name}.lock"), f"{folder}: another process makes it"):
        if manifest.exists() and manifest.read_text() == about:  # which may have been done meanwhile
            return folder
        try:
            with naming(partial_folder):
                _write_sample(partial_folder, (train_labels, test_labels), seed, workers, progress)
                (partial_folder / "sample.json").write_text(about)
        except OSError:  # a full disk gets back what was taken of it
            shutil.rmtree(partial_folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        partial_folder.rename(folder)
    return folder


def _write_sample(folder: Path, counts: tuple[int, int], seed: int, workers: int | None, progress: bool) -> None:
    """counts: labels of train and of test."""
    shutil.rmtree(folder, ignore_errors=True)
    train_labels, test_labels = counts
    labels = make_labels(train_labels + test_labels, seed)
    Random(seed).shuffle(labels)  # later draws are longer, because short labels are soon all taken
    parts = {"train": labels[:train_labels], "test": labels[train_labels:]}
    with Progress(f"making {folder.name.removesuffix('.partial')}", len(labels), "image", progress) as bar:
        for split, part in parts.items():
            images = folder / split / "images"
            images.mkdir(parents=True)
            chunks = [range(start, min(start + CHUNK, len(part))) for start in range(0, len(part), CHUNK)]
            jobs = [[(index, part[index]) for index in chunk] for chunk in chunks]
            for chunk, made in zip(
                chunks, in_processes(partial(pngs, split=split, seed=seed), jobs, workers), strict=True
            ):
                for index, png in zip(chunk, made, strict=True):
                    (images / f"{split}_{index:05d}.png").write_bytes(png)
                bar.update(len(chunk))
            lines = [f"{split}_{index:05d}\t{' '.join(tokens)}\n" for index, tokens in enumerate(part)]
            (folder / split / "labels.txt").write_text("".join(lines), encoding="utf-8")
    Vocabulary.from_labels(labels).save(folder / "vocabulary.txt")
