"""Standard images: the typeset images of labels, drawn again in every epoch from layouts that are kept on disk.

    images = StandardImages(labels, vocabulary, "datasets/CROHME/standard", VARIED, Scaling(0.5))
    images.sizes(seed, epoch), images.image(index, seed, epoch), images.boxes(index, seed, epoch)

Laying a label out takes as long as drawing it several times, and a layout is some 250 bytes: so layouts are cached, one
for every font, and images are not. What an image looks like is a pure function of (seed, epoch, index), and its size
is known without drawing it.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from dataset.images.augmentation import Augmentation, augment, boxes_after, sizes_after, uniform
from dataset.images.scaling import FULL_SIZE, Scaling
from dataset.images.source import ImageSource
from dataset.renderer import Layout, RenderError, Style, draw_ink, image_size, layout
from dataset.vocabulary import Vocabulary
from utils.files import file_digest, hash64, locked
from utils.parallel import in_processes
from utils.progress import Progress
from utils.reading.images import MARGIN

Range = tuple[float, float]


@dataclass(frozen=True)
class Styles:
    """How images may look: the renderer's fonts, and ranges of the numbers of its Style, by the same names.

    Every image takes its own value from every range, evenly, and one of the fonts. It is also more or less casual,
    0 to 1: the last three are what the most casual image allows its symbols; the neatest allows nothing.
    """

    fonts: tuple[str, ...] = ("cm",)
    em: Range = (55.0, 55.0)  # pixels; with 55, images of CROHME's labels have the mean area of its ink
    weight: Range = (0.0, 0.0)
    slant: Range = (0.0, 0.0)
    spacing: Range = (0.0, 0.0)
    script_shift: Range = (0.0, 0.0)
    baseline_jitter: float = 0.0
    scale_jitter: float = 0.0
    rotation_jitter: float = 0.0
    augmentation: Augmentation | None = None  # of the drawn image
    chinese_font: str = ""  # path of a font file


STANDARD = Styles()
VARIED = Styles(
    fonts=("cm", "stix", "dejavusans"),
    em=(36.0, 52.0),  # the other jitters take room, too
    weight=(-0.01, 0.03),
    slant=(-0.1, 0.35),
    spacing=(-0.05, 0.3),
    script_shift=(-0.1, 0.2),
    baseline_jitter=0.08,
    scale_jitter=0.2,
    rotation_jitter=0.2,
    augmentation=Augmentation(stretch=(0.85, 1.2), rotation=3, distortion=2),
)
RANGES = ("em", "weight", "slant", "spacing", "script_shift")
# The place of an image's draws among those of `uniform`; the first ones are its augmentation's.
FIRST_DRAW = 1_000
JITTER_RANGES = ("baseline_jitter", "scale_jitter", "rotation_jitter")
# Added to the thickness of strokes, em: letters of these fonts are heavier than a pen, their rules are not.
FONT_WEIGHT = {"dejavusans": -0.035, "dejavuserif": -0.02}

# ---- the cache of layouts --------------------------------------------------------------------------------------------

# A row of the index. start, bytes: where the layout lies in the other file. No marks at all: the label cannot be drawn,
# and what lies there is the reason.
ROW = np.dtype(
    [("key", "<u8"), ("start", "<u8"), ("bytes", "<u4"), ("glyphs", "<u2"), ("rules", "<u2"), ("extents", "<f4", 3)]
)
CHUNK = 256  # labels that a process lays out between two reports
FEW = 600  # so few labels are laid out sooner than a second process starts


def key_of(tokens: Sequence[str]) -> int:
    """64 bits that stand for a label, whatever the vocabulary."""
    return hash64(" ".join(tokens).encode())


@cache
def renderer_version() -> str:
    """Digest of all that decides what a layout is: the typesetter's code, and the fonts, which come with matplotlib."""
    from matplotlib import __version__

    here = Path(__file__).parents[1]
    digest = hashlib.sha256(__version__.encode())
    for file in [here / "latex" / "parser.py", here / "renderer.py", *sorted((here / "typesetter").glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _font_digest(path: str) -> str:
    return file_digest(path)[:8]


class LayoutCache:
    """Layouts of labels in one font, in two files that only grow; kept for one version of the renderer.

    With a font for Chinese, which is the user's own, the cache is another one for each such font.

    Rows of `index` are written after what they point to, so a process may be killed at any moment: the next one that
    fills the cache cuts off what was half written, and goes on. One process fills at a time, others wait for it.
    """

    def __init__(self, folder: str | Path, font: str, version: str | None = None, chinese_font: str = ""):
        """version: of the renderer; the present one's if None.   chinese_font: path of a font file, or ""."""
        self.font, self.version, self.chinese_font = font, version or renderer_version(), chinese_font
        name = f"{font}-{self.version}" + (f"-{_font_digest(chinese_font)}" if chinese_font else "")
        self.folder = Path(folder) / name
        if not self.folder.exists():
            for other in self.folder.parent.glob(f"{font}-" + "[0-9a-f]" * 12 + "*"):
                if other.name.split("-")[1] != self.version:  # outdated
                    shutil.rmtree(other, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def __reduce__(self):
        return LayoutCache, (self.folder.parent, self.font, self.version, self.chinese_font)

    def _open(self) -> None:
        self.index = _map(self.folder / "index", ROW)
        self._bytes = _map(self.folder / "layouts", np.dtype("u1"))
        # A row is good once the bytes it points to are there.
        whole = self.index["start"] + self.index["bytes"] <= len(self._bytes)
        self.index = self.index[: len(whole) if whole.all() else int(whole.argmin())]
        self._order = np.argsort(self.index["key"], kind="stable")
        self._keys = self.index["key"][self._order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Rows of the index, int64 (N,), for keys uint64 (N,); -1 where there is none."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._order[place], -1)

    def fill(self, labels: Sequence[Sequence[str]], keys: np.ndarray, progress: bool, workers: int | None) -> None:
        """Lay out those of the labels that are missing. keys: their keys, uint64 (N,)."""
        if (self.find(keys) >= 0).all():
            return
        with locked(self.folder / "lock", f"{self.folder}: another process is filling it"):
            self._open()  # whoever had the lock may have done it
            missing = np.flatnonzero(self.find(keys) < 0)
            missing = missing[np.sort(np.unique(keys[missing], return_index=True)[1])]
            index, layouts = open(self.folder / "index", "ab"), open(self.folder / "layouts", "ab")
            with index, layouts:
                index.truncate(len(self.index) * ROW.itemsize)
                end = int(self.index["start"][-1] + self.index["bytes"][-1]) if len(self.index) else 0
                layouts.truncate(end)
                title = f"laying out {self.folder.parent.parent.name} ({self.font})"
                wanted = (labels[number] for number in missing)
                with Progress(title, len(missing), "label", progress) as bar:
                    for rows, data in _lay_out_all(wanted, len(missing), self.font, self.chinese_font, workers):
                        rows["start"] += end
                        end += len(data)
                        layouts.write(data)
                        layouts.flush()
                        index.write(rows.tobytes())
                        index.flush()
                        bar.update(len(rows))
            self._open()

    def has_marks(self, rows: np.ndarray) -> np.ndarray:
        """(N,) bool: can the labels of these rows be drawn?"""
        return (self.index["glyphs"][rows] > 0) | (self.index["rules"][rows] > 0)

    def reason(self, row: int) -> str:
        """Why the label of this row cannot be drawn."""
        return self._data(self.index[row]).tobytes().decode().rstrip("\0")

    def layout(self, row: int) -> Layout:
        entry = self.index[row]
        glyphs, rules, data = int(entry["glyphs"]), int(entry["rules"]), self._data(entry)
        ends = np.cumsum([16 * glyphs, 16 * rules, 6 * glyphs, 2 * rules])
        return Layout.from_arrays(
            extents=entry["extents"],
            glyph_places=data[: ends[0]].view(np.float32).reshape(-1, 4),
            rule_places=data[ends[0] : ends[1]].view(np.float32).reshape(-1, 4),
            glyph_ids=data[ends[1] : ends[2]].view(np.uint16).reshape(-1, 3),
            rule_tokens=data[ends[2] : ends[3]].view(np.uint16),
        )

    @property
    def as_float32(self) -> np.ndarray:
        """All bytes of the layouts as floats: every layout begins at a multiple of four bytes, with its places."""
        return self._bytes[: len(self._bytes) // 4 * 4].view(np.float32)

    @property
    def as_uint16(self) -> np.ndarray:
        """All bytes of the layouts as 16-bit numbers, which is what the ids in them are."""
        return self._bytes[: len(self._bytes) // 2 * 2].view(np.uint16)

    def _data(self, entry: np.void) -> np.ndarray:
        return self._bytes[int(entry["start"]) : int(entry["start"]) + int(entry["bytes"])]


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    count = path.stat().st_size // dtype.itemsize if path.exists() else 0
    return np.asarray(np.memmap(path, dtype, mode="r", shape=count)) if count else np.empty(0, dtype)


def _lay_out_all(
    labels: Iterator[Sequence[str]], count: int, font: str, chinese_font: str, workers: int | None
) -> Iterator[tuple[np.ndarray, bytes]]:
    """Rows and bytes of all labels, chunk by chunk, from as many processes as there are cores if `workers` is None."""
    fonts = font, chinese_font
    chunks = ((fonts, [" ".join(label) for label in chunk]) for chunk in iter(lambda: list(islice(labels, CHUNK)), []))
    return in_processes(_lay_out, chunks, 1 if count < FEW else workers)


def _lay_out(job: tuple[tuple[str, str], list[str]]) -> tuple[np.ndarray, bytes]:
    """Rows of the index, with `start` counted from this chunk's first byte, and the bytes they point to."""
    (font, chinese_font), labels = job
    rows, parts, end = np.zeros(len(labels), ROW), [], 0
    style = Style(font=font, chinese_font=chinese_font)
    for row, label in zip(rows, labels, strict=True):
        tokens = label.split(" ")
        try:
            drawn = layout(tokens, style)
            arrays = (drawn.glyph_places, drawn.rule_places, drawn.glyph_ids, drawn.rule_tokens)
            data = b"".join(array.tobytes() for array in arrays)
            row["glyphs"], row["rules"], row["extents"] = len(drawn.glyph_ids), len(drawn.rule_tokens), drawn.extents
        except RenderError as error:
            data = f"token {error.token}: {error.reason}".encode()
        data += bytes(-len(data) % 4)  # floats are read from where they lie
        row["key"], row["start"], row["bytes"] = key_of(tokens), end, len(data)
        parts.append(data)
        end += len(data)
    return rows, b"".join(parts)


# ---- the images ----------------------------------------------------------------------------------------------------


class StandardImages(ImageSource):
    """The standard images of different labels. Deterministic in (seed, epoch, index), for any number of workers.

    failures: [(tokens, reason)], labels that cannot be drawn; they have no image here.
    labels_of: (N,) places of the others in the labels that were given.
    lengths: (N,) int32, tokens a label.
    """

    def __init__(
        self,
        labels: Sequence[Sequence[str]],
        vocabulary: Vocabulary,
        folder: str | Path,
        styles: Styles = STANDARD,
        scaling: Scaling = FULL_SIZE,
        workers: int | None = None,
        progress: bool = True,
    ):
        """labels: token lists, different from one another.   folder: where layouts are cached, shared by all styles.

        scaling: a label that would be larger than its limits is drawn smaller.
        Raises DataError where a label has a token that the vocabulary lacks.
        """
        self.styles = replace(styles, em=tuple(pixels * scaling.scale for pixels in styles.em))
        self._vocabulary = vocabulary
        self._limits = scaling.limits
        self._font_weight = np.array([FONT_WEIGHT.get(font, 0.0) for font in styles.fonts])
        keys = np.fromiter((key_of(tokens) for tokens in labels), np.uint64, len(labels))
        self._caches = [LayoutCache(folder, font, chinese_font=styles.chinese_font) for font in styles.fonts]
        for cache_ in self._caches:
            cache_.fill(labels, keys, progress, workers)
        rows = np.stack([cache_.find(keys) for cache_ in self._caches])  # (fonts, labels)
        has_marks = [cache_.has_marks(row) for cache_, row in zip(self._caches, rows, strict=True)]
        drawable = np.logical_and.reduce(has_marks)
        self.failures: list[tuple[list[str], str]] = []
        for place in np.flatnonzero(~drawable):
            number = next(number for number, marks in enumerate(has_marks) if not marks[place])
            self.failures.append((list(labels[place]), self._caches[number].reason(rows[number, place])))
        self.labels_of = np.flatnonzero(drawable)
        self._rows = rows[:, drawable]
        ids = [np.array(vocabulary.encode(labels[place]), np.int32) for place in self.labels_of]
        self.lengths = np.array([len(each) for each in ids], np.int32)
        self._ids = np.concatenate(ids) if ids else np.empty(0, np.int32)
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def label(self, index: int) -> np.ndarray:
        """int32 vocabulary ids, without `<sos>` and `<eos>`."""
        return self._ids[self._ends[index] - self.lengths[index] : self._ends[index]]

    def name(self, index: int) -> str:
        """The label as text."""
        return " ".join(self._vocabulary.decode(self.label(index)))

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) int32: height and width in pixels of every image in this epoch."""
        _, _, numbers, extents, _ = self._styles_of(np.arange(len(self)), seed, epoch)
        sizes = np.stack(image_size(extents, Style(margin=MARGIN, **numbers)), axis=1).astype(np.int32)
        return sizes_after(sizes, seed, epoch, self.styles.augmentation) if self.styles.augmentation else sizes

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        image = draw_ink(*self._layout_and_style(index, seed, epoch))
        augmentation = self.styles.augmentation
        return augment(image, index, seed, epoch, augmentation) if augmentation else image

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of `image`; NaN without ink."""
        layout_, style = self._layout_and_style(index, seed, epoch)
        boxes = np.full((self.lengths[index], 4), np.nan, np.float32)
        for token, *edges in layout_.boxes(style):
            boxes[token] = edges
        if not self.styles.augmentation:
            return boxes
        return boxes_after(boxes, image_size(layout_.extents, style), index, seed, epoch, self.styles.augmentation)

    def layouts(self) -> tuple[LayoutCache, np.ndarray]:
        """The cache of layouts of the first font, and the row of each label in it, (N,)."""
        return self._caches[0], self._rows[0]

    def ids(self) -> tuple[np.ndarray, np.ndarray]:
        """The vocabulary ids of all labels one after the other, int32, and where each label ends, int64 (N,)."""
        return self._ids, self._ends

    def label_hash(self) -> np.ndarray:
        """(N,) uint64, the same as in an ImageStore."""
        return np.array([key_of(self._vocabulary.decode(self.label(i))) for i in range(len(self))], np.uint64)

    def _styles_of(self, indices: np.ndarray, seed: int, epoch: int) -> tuple:
        """For n indices: fonts, rows in their caches, numbers of their Styles, each (n,), extents (n, 3), seeds.

        One image and a million give the same numbers to the last bit: nothing but sums, products and roundings.
        """
        draws = uniform(seed, epoch, indices, 3 + len(RANGES), FIRST_DRAW)
        font = (draws[:, 0] * len(self._caches)).astype(np.int64)
        numbers = {name: draws[:, 1] * getattr(self.styles, name) for name in JITTER_RANGES}
        for place, name in enumerate(RANGES, start=3):
            low, high = getattr(self.styles, name)
            numbers[name] = low + (high - low) * draws[:, place]
        numbers["weight"] += self._font_weight[font]
        rows = self._rows[font, indices]
        extents = np.empty((len(indices), 3), np.float32)
        for number, cache_ in enumerate(self._caches):
            extents[font == number] = cache_.index["extents"][rows[font == number]]
        # What is too large is drawn with a smaller em.
        sizes = np.stack(image_size(extents, Style(margin=MARGIN, **numbers)), axis=1) - 2 * MARGIN
        numbers["em"] = numbers["em"] * np.minimum(1, (self._limits - 2 * MARGIN) / sizes).min(axis=1)
        return font, rows, numbers, extents, (draws[:, 2] * 2**53).astype(np.int64)

    def _layout_and_style(self, index: int, seed: int, epoch: int) -> tuple[Layout, Style]:
        index = range(len(self))[index]  # an IndexError where there is no such image, and -1 is the last
        (font,), (row,), numbers, _, (chance,) = self._styles_of(np.array([index]), seed, epoch)
        numbers = {name: float(number[0]) for name, number in numbers.items()}
        fonts = {"font": self.styles.fonts[font], "chinese_font": self.styles.chinese_font}
        style = Style(**fonts, margin=MARGIN, seed=int(chance), **numbers)
        return _with_heavier_rules(self._caches[font].layout(row), -self._font_weight[font]), style


def _with_heavier_rules(layout_: Layout, weight: float) -> Layout:
    """Bars of fractions and roots are as thin in all fonts as in Computer Modern; they lose nothing as letters do."""
    if not weight or not len(layout_.rule_places):
        return layout_
    arrays = layout_.to_arrays()
    arrays["rule_places"] = arrays["rule_places"] + np.float32([0, -weight / 2, 0, weight])
    return Layout.from_arrays(**arrays)
