r"""A library of handwritten symbols: single symbols as strokes, by token, with who wrote them and how large.

    library = open_library(folder / "train", vocabulary)           # built once from a split whose strokes are known
    python -m dataset.images.symbols mathnote.tar.xz --out datasets/MATHNOTE/symbols     # single symbols from elsewhere

Each symbol of a written expression is measured against the box that the typesetter gives its token: the em of the
image is fitted first, then the symbol's strokes are kept in that em, together with the typeset box. So a symbol
brings its own size, shape and place on the line along, wherever the typesetter wants one of its token.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.images.flat_files import FlatWriter, map_files
from dataset.images.standard import STANDARD, StandardImages
from dataset.images.store import ImageStore
from dataset.images.strokes import Strokes, StrokeStore, boxes_of, open_strokes
from dataset.images.token_boxes import TokenBoxes, as_written, boxes_of_label, forms_of, token_boxes
from dataset.renderer import RenderError, layout
from dataset.vocabulary import Vocabulary
from utils.errors import DataError
from utils.files import hash64, locked
from utils.parallel import in_processes
from utils.progress import counted

# Raise this when the files below, or what is measured, change: older libraries are then built again.
VERSION = 6
# The flat files, and what one element of each is. Lengths are in em of the image that the symbol is from.
FILES = {
    "points": np.float32,  # x, y from the left top of the symbol
    "trace_ends": np.int64,  # in points; of each trace
    "trace_heights": np.float32,
    "symbol_trace_ends": np.int64,  # in traces; of each symbol
    "symbol_tokens": np.int32,  # place in the list of tokens
    "symbol_images": np.int32,  # place among the images
    "symbol_sizes": np.float32,  # width, height
    "typeset_sizes": np.float32,  # width, height of the token's box where the symbol was written
    "symbol_levels": np.float32,  # the size of the typeset glyph: 1 on the line, less in scripts
    "rises": np.float32,  # how far the symbol lies below where the typesetter has it, against its line
    "image_hashes": np.uint64,  # of the images' names
    "image_writers": np.int32,
    "image_forms": np.int32,  # how the image's label is laid out, see `token_boxes.forms_of`
    "image_widths": np.float32,  # of the typeset label
    "image_features": np.float32,  # see `Features`; NaN where an image does not tell
}
NO_IMAGE = -1
CHUNK, MANY = 128, 8  # images that a process measures at a time; more than so many chunks are worth processes
# Symbols whose diagonal is beyond these shares of the typeset one are taken for errors of the segmentation.
LEAST_SIZE, LARGEST_SIZE = 0.35, 2.6
LARGEST_RISE = 0.3  # em
# So many images share the beginning of their names and still are one writer's.
MAX_OF_A_WRITER = 150


class Features(NamedTuple):
    """What an image tells about its writer's way.

    slant: mean x per y of steep strokes, rightwards and upwards.   step: em from a point to the next: the tablet's.
    spread: distances along the line against the typesetter's.   lift: distances across it.
    """

    slant: float
    step: float
    spread: float
    lift: float


class CutSymbol(NamedTuple):
    """A handwritten symbol.   token: place in the list of tokens.   traces: (points, 2) each, in em.

    typeset: (2,) width and height of the token's typeset box.   level, rise: see FILES.
    """

    token: int
    traces: Sequence[np.ndarray]
    typeset: np.ndarray
    level: float = 1.0
    rise: float = 0.0


class WrittenImage(NamedTuple):
    """What a symbol is cut out of.   label: (L,) vocabulary ids.   boxes: of this label alone."""

    strokes: Strokes
    label: np.ndarray
    boxes: TokenBoxes


class SymbolLibrary:
    """The symbols of one source, memory-mapped. Cheap to pickle. Raises DataError when the files are not whole."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        about, files = map_files(self.folder, FILES, "delete it to have it built again")
        self.tokens: list[str] = about["tokens"]
        self.points = files["points"].reshape(-1, 2)
        self.trace_ends, self.trace_heights = files["trace_ends"], files["trace_heights"]
        self.symbol_trace_ends = files["symbol_trace_ends"]
        self.symbol_tokens, self.symbol_images = files["symbol_tokens"], files["symbol_images"]
        self.sizes, self.typeset_sizes = files["symbol_sizes"].reshape(-1, 2), files["typeset_sizes"].reshape(-1, 2)
        self.levels, self.rises = files["symbol_levels"], files["rises"]
        self.image_hashes, self.image_writers = files["image_hashes"], files["image_writers"]
        self.image_forms, self.image_widths = files["image_forms"], files["image_widths"]
        self.image_features = files["image_features"].reshape(-1, len(Features._fields))

    def __len__(self) -> int:
        return len(self.symbol_tokens)

    def __reduce__(self):
        return SymbolLibrary, (self.folder,)

    def of_images(self, names: Sequence[str]) -> np.ndarray:
        """(symbols,) bool: which symbols are from the images of these names, or from no image at all."""
        is_wanted = np.isin(self.image_hashes, np.array([hash64(name.encode()) for name in names], np.uint64))
        return np.append(is_wanted, True)[self.symbol_images]  # NO_IMAGE is the last


class LibraryWriter(FlatWriter):
    """Writes a SymbolLibrary."""

    def __init__(self, folder: Path, tokens: Sequence[str], source: str):
        """tokens: what symbols are symbols of.   source: stands for what the library is built from."""
        super().__init__(folder, FILES, version=VERSION, tokens=list(tokens), source=source)
        self._images = 0

    def add_image(self, name: str, writer: int, form: int, width: float, features: Features) -> int:
        """Returns the image's place, for its symbols."""
        self._write("image_hashes", hash64(name.encode()))
        self._write("image_writers", writer)
        self._write("image_forms", form)
        self._write("image_widths", width)
        self._write("image_features", features)
        self._images += 1
        return self._images - 1

    def add(self, image: int, symbol: CutSymbol) -> None:
        """image: the place of that which it is from, or NO_IMAGE."""
        points = np.concatenate(symbol.traces)
        low = points.min(axis=0)
        for trace in symbol.traces:
            self._write("points", trace - low)
            self._write("trace_ends", self._written("points") // 2)
            self._write("trace_heights", np.ptp(trace[:, 1]))
        self._write("symbol_trace_ends", self._written("trace_ends"))
        self._write("symbol_tokens", symbol.token)
        self._write("symbol_images", image)
        self._write("symbol_sizes", np.ptp(points, axis=0))
        self._write("typeset_sizes", symbol.typeset)
        self._write("symbol_levels", symbol.level)
        self._write("rises", symbol.rise)


# ---- from a split whose strokes are known ----------------------------------------------------------------------------


def open_library(split: Path, vocabulary: Vocabulary, progress: bool = True) -> SymbolLibrary | None:
    """The symbols of a split's folder, in SPLIT/symbols; built first where they are missing or older than the strokes
    or the table of writers.

    Nothing where the split's strokes are not known. Raises DataError.
    """
    strokes = open_strokes(split)
    if strokes is None:
        return None
    store = ImageStore(split / "store")
    digest = hashlib.sha256("\n".join(vocabulary.tokens).encode())
    for folder in (split / "store", split / "strokes"):
        digest.update((folder / "store.json").read_bytes())
    if (split / "writers.txt").is_file():
        digest.update((split / "writers.txt").read_bytes())
    source = digest.hexdigest()
    if not _is_fresh(split / "symbols", source):
        with locked(split.parent / ".lock", f"{split.parent}: another process prepares it"):
            if not _is_fresh(split / "symbols", source):  # another process may have built it meanwhile
                build_library(split, store, strokes, vocabulary, source, progress)
    return SymbolLibrary(split / "symbols")


def _is_fresh(folder: Path, source: str) -> bool:
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and about.get("version") == VERSION and about.get("source") == source


def build_library(
    split: Path, store: ImageStore, strokes: StrokeStore, vocabulary: Vocabulary, source: str, progress: bool = True
) -> None:
    """Cut all images of a split into symbols, each measured against the typeset box of its token."""
    labels, label_of = _different_labels(store, vocabulary)
    standard = StandardImages(labels, vocabulary, split.parent / "standard", STANDARD, progress=progress)
    boxes = as_written(token_boxes(*standard.layouts()), [labels[place] for place in standard.labels_of])
    forms, widths = forms_of(boxes)
    layout_of = np.full(len(labels), -1)
    layout_of[standard.labels_of] = np.arange(len(standard))
    names = [store.name(index) for index in range(len(store))]
    writers = writers_of(names, split / "writers.txt")
    title = f"{split.parent.name}/{split.name}: symbols"

    def images() -> Iterator[tuple[int, WrittenImage]]:
        for index, name in enumerate(counted(names, title, len(names), "image", progress)):
            drawn = layout_of[label_of[index]]
            written = strokes.find(name, store.sizes[index])
            if drawn >= 0 and written is not None:
                yield index, WrittenImage(written, store.tokens(index), boxes_of_label(boxes, drawn))

    given = images()
    chunks = iter(lambda: list(islice(given, CHUNK)), [])
    workers = None if len(names) > MANY * CHUNK else 1
    with LibraryWriter(split / "symbols", vocabulary.tokens, source) as library:
        for index, cut_out in chain.from_iterable(in_processes(_cut_all, chunks, workers)):
            if cut_out is None:
                continue
            features, symbols = cut_out
            drawn = layout_of[label_of[index]]
            image = library.add_image(names[index], writers[index], forms[drawn], widths[drawn], features)
            for symbol in symbols:
                library.add(image, symbol)


def _different_labels(store: ImageStore, vocabulary: Vocabulary) -> tuple[list[list[str]], np.ndarray]:
    _, first, label_of = np.unique(store.label_hash, return_index=True, return_inverse=True)
    return [vocabulary.decode(store.tokens(int(index))) for index in first], label_of


def writers_of(names: Sequence[str], table: Path) -> list[int]:
    """A number for the writer of each image.

    table: lines `name<TAB>writer`, where somebody knows. Else names that differ in their last number alone are one
    writer's, as data sets that are collected on forms have it; where that would be far too many, each image is its
    own writer's.
    """
    known = {}
    if table.is_file():
        lines = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line)
        known = {fields[0]: fields[-1] for fields in lines}
    groups = [known.get(name) or re.sub(r"[-_ ]?[A-Za-z]*\d+$", "", name) or name for name in names]
    counts = Counter(groups)
    groups = [
        group if name in known or counts[group] <= MAX_OF_A_WRITER else name
        for group, name in zip(groups, names, strict=True)
    ]
    numbers: dict[str, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def _cut_all(images: Sequence[tuple[int, WrittenImage]]) -> list[tuple[int, tuple[Features, list[CutSymbol]] | None]]:
    """images: each with its index, which the result has, too."""
    return [(index, cut_symbols(image)) for index, image in images]


def cut_symbols(image: WrittenImage) -> tuple[Features, list[CutSymbol]] | None:
    """Measure the symbols of an image, and keep those that fit their boxes. Nothing where none can be measured."""
    written, label, boxes = image
    ink = boxes_of(written, written.traces, 1, len(label))[boxes.tokens]  # (S, 4)
    is_known = np.isfinite(ink[:, 0]) & (label[boxes.tokens] >= 0)
    if not is_known.any():
        return None
    sizes, typeset = ink[:, 2:] - ink[:, :2] - 1, boxes.high - boxes.low
    ratios = np.hypot(*sizes.T) / np.hypot(*typeset.T)
    # Letters and digits on the line tell the em; what is as wide or as high as what it holds does not.
    is_plain = is_known & ~boxes.has_rule & (typeset.max(axis=1) < 1.1) & (typeset.min(axis=1) > 0.15)
    is_full = is_plain & (boxes.levels > 0.95)
    em = float(np.median(ratios[is_full if is_full.any() else is_plain if is_plain.any() else is_known]))
    if not em > 0:
        return None
    middles = np.stack([(ink[:, :2] + ink[:, 2:]) / 2 / em, (boxes.low + boxes.high) / 2])  # written, typeset
    features = Features(*_pen_of(written.traces, em), *_spreads(middles[:, is_known]))
    rises = _rises(middles[..., 1], boxes.baselines, is_known)
    stretch = np.where(boxes.has_rule, features.spread if np.isfinite(features.spread) else 1.0, 1.0)
    relative = ratios / em / stretch
    is_good = is_known & (relative > LEAST_SIZE) & (relative < LARGEST_SIZE) & (np.abs(rises) < 2 * LARGEST_RISE)
    members = written.traces_of(len(label))
    symbols = []
    for place in np.flatnonzero(is_good):
        token = int(boxes.tokens[place])
        # What spans others is as much wider as they are further apart: that belongs to the image.
        scale = np.array([1 / (em * stretch[place]), 1 / em])
        traces = [written.traces[trace] * scale for trace in members[token]]
        rise = float(np.clip(rises[place], -LARGEST_RISE, LARGEST_RISE))
        symbols.append(CutSymbol(int(label[token]) - FIRST_TOKEN, traces, typeset[place], boxes.levels[place], rise))
    return features, symbols


FIRST_TOKEN = 3  # the id of the first token of a vocabulary, after the three specials


def _pen_of(traces: Sequence[np.ndarray], em: float) -> tuple[float, float]:
    """Slant and step of the strokes of an image."""
    moves = np.concatenate([np.diff(trace, axis=0) for trace in traces]) / em
    lengths = np.hypot(*moves.T) if len(moves) else np.zeros(0)
    if not (lengths > 0).any():
        return np.nan, np.nan
    steep = np.abs(moves[:, 1]) > 1.5 * np.abs(moves[:, 0])
    rows = np.abs(moves[steep, 1]).sum()
    slant = float(-(moves[steep, 0] * np.sign(moves[steep, 1])).sum() / rows) if rows > 0.5 else np.nan
    return slant, float(np.mean(lengths[lengths > 0]))


def _spreads(middles: np.ndarray) -> tuple[float, float]:
    """How far apart symbols are written against where they are typeset, along and across the line.

    middles: (2, S, 2), written and typeset, x and y in em.   NaN where they say too little.
    """
    spreads = []
    for axis, least in ((0, 0.4), (1, 0.3)):
        written, typeset = middles[..., axis] - middles[..., axis].mean(axis=1, keepdims=True)
        enough = np.ptp(typeset) > least
        spreads.append(float((written * typeset).sum() / (typeset * typeset).sum()) if enough else np.nan)
    return spreads[0], spreads[1]


def _rises(y: np.ndarray, baselines: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """How far symbols lie below their typeset places, em, against the others of the same line: (S,).

    y: (2, S), middles as written and as typeset.   What stands alone on a line lies where it lies.
    """
    rises = np.where(is_known, y[0] - y[1], 0.0)
    _, lines = np.unique(np.round(baselines, 3), return_inverse=True)
    for line in range(lines.max() + 1):
        members = (lines == line) & is_known
        if members.any():
            rises[lines == line] -= np.median(rises[members])
    return rises


# ---- single symbols from elsewhere -----------------------------------------------------------------------------------

# The classes of mathnote whose names are not their tokens; a letter with _cap is the capital, a Greek name has one \.
MATHNOTE = {
    "subset": r"\subseteq",  # all of them have the line below
    "frac_bar": r"\frac", "dot": ".", "colon": ":", "slash": "/", "lbrace": r"\{", "rbrace": r"\}", "infty": r"\infty",
    "Gamma_cap": r"\Gamma", "Delta_cap": r"\Delta", "Omega_up": r"\Omega", "Phi_up": r"\Phi", "Pi_up": r"\Pi",
    "Psi_up": r"\Psi", "Sigma_up": r"\Sigma",
}  # fmt: skip
WORDS = frozenset(
    r"""alpha beta gamma delta epsilon theta lambda mu pi sigma phi psi omega partial nabla exists forall in int sum
    prod sqrt cdot ldots div times pm cap cup leq geq neq prime rightarrow leftarrow""".split()
)
# Tokens that data sets write differently, and people alike.
SAME_LOOK = {r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq", r"\to": r"\rightarrow", r"\dots": r"\ldots",
             r"\cdots": r"\ldots", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|", r"\mid": "|", r"\lbrack": "[",
             r"\rbrack": "]", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\varphi": r"\phi",
             r"\varepsilon": r"\epsilon"}  # fmt: skip


def mathnote_token(name: str) -> str | None:
    """The token of a class of mathnote; nothing where there is none."""
    if name in MATHNOTE:
        return MATHNOTE[name]
    if name in WORDS:
        return f"\\{name}"
    if re.fullmatch(r"[A-Z]_cap", name):
        return name[0]
    return name if len(name) == 1 else None


def import_mathnote(archive: Path, folder: Path, progress: bool = True) -> list[str]:
    """Make a library of mathnote's single symbols (its tar.xz).   Returns the classes that no token stands for.

    Apache-2.0, YonatanNemtsov/mathnote-ocr: a file a symbol, `{"strokes": [[{"x", "y", "t"}, …], …]}`.
    """
    symbols, unknown = defaultdict(list), set()
    for name, traces in _mathnote_symbols(archive, progress):
        token = mathnote_token(name)
        if token is None:
            unknown.add(name)
        elif traces:
            symbols[token].append(traces)
    if not symbols:
        raise DataError(f"{archive}: no symbols in it; expected mathnote's data/shared/symbols/CLASS/NUMBER.json")
    tokens = sorted(symbols)
    with LibraryWriter(folder, tokens, str(archive.name)) as library:
        for number, token in enumerate(tokens):
            typeset = _typeset_size(token)
            diagonals = [np.hypot(*np.ptp(np.concatenate(traces), axis=0)) for traces in symbols[token]]
            # What is about as large as others of its class is as large as the typesetter's.
            scale = np.hypot(*typeset) / max(float(np.median(diagonals)), 1e-6)
            for traces, diagonal in zip(symbols[token], diagonals, strict=True):
                if LEAST_SIZE < diagonal * scale / np.hypot(*typeset) < LARGEST_SIZE:
                    library.add(NO_IMAGE, CutSymbol(number, [trace * scale for trace in traces], typeset))
    return sorted(unknown)


def _mathnote_symbols(archive: Path, progress: bool) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Class and traces of every symbol in the archive, in its order."""
    with tarfile.open(archive) as tar:
        for member in counted(tar.getmembers(), archive.name, len(tar.getmembers()), "file", progress):
            parts = Path(member.name).parts
            if not member.isfile() or "symbols" not in parts or not member.name.endswith(".json"):
                continue
            try:
                strokes = json.load(tar.extractfile(member))["strokes"]
                traces = [np.array([(point["x"], point["y"]) for point in stroke], float) for stroke in strokes]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{archive}, {member.name}: expected strokes of points x and y ({error!r})") from None
            yield parts[-2], [trace for trace in traces if len(trace)]


def _typeset_size(token: str) -> np.ndarray:
    """Width and height in em of a token that is typeset for itself, or over two letters where it holds something."""
    holding = {r"\frac": r"\frac { a b } { 2 b }", r"\sqrt": r"\sqrt { a b }"}
    try:
        boxes = layout(holding.get(token, token).split()).boxes()
    except RenderError as error:
        raise DataError(f"{token}: cannot be typeset ({error.reason})") from None
    left, top, right, bottom = next(edges for index, *edges in boxes if index == 0)
    return np.array([right - left, bottom - top]) / 50  # the em of the style that boxes() has by default


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a library of symbols from mathnote's archive.")
    parser.add_argument("archive", type=Path, help="mathnote.tar.xz")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, such as datasets/MATHNOTE/symbols")
    options = parser.parse_args()
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        unknown = import_mathnote(options.archive, options.out)
    except (DataError, OSError, tarfile.TarError) as error:
        raise SystemExit(f"error: {error}") from None
    library = SymbolLibrary(options.out)
    print(f"{options.out}: {len(library)} symbols of {len(library.tokens)} tokens")
    if unknown:
        print(f"no token for the classes: {' '.join(unknown)}", file=sys.stderr)


if __name__ == "__main__":
    main()
