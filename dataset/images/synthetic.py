"""Synthetic ink: the strokes of real symbols, put where the typesetter puts the tokens of any label.

    images = SyntheticInk(standard, vocabulary, [(library, is_allowed)], Scaling(0.5))
    images.sizes(seed, epoch), images.image(index, seed, epoch), images.boxes(index, seed, epoch)

Every image follows the hand of one real image: how far its writer spreads symbols, and the writer's own symbols
where there are any, else those of writers with a similar slant. A symbol keeps the size that it had against the
typesetter's box, its own shape, and its place above or below the line. All is drawn by the rule that draws InkML: an
ordinary trace is 28 pixels high, the pen 3 wide.

What an image looks like is a pure function of (seed, epoch, index), and its size is known before it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dataset.images.augmentation import (
    AS_WRITTEN,
    Augmentation,
    StrokeAugmentation,
    augment,
    boxes_after,
    sizes_after,
)
from dataset.images.placement import Plan, Planner
from dataset.images.scaling import FULL_SIZE, Scaling
from dataset.images.simulated_symbols import SimulatedLibrary, seen_in
from dataset.images.source import ImageSource
from dataset.images.standard import StandardImages
from dataset.images.strokes import Strokes, boxes_of, draw, vary
from dataset.images.symbol_pool import Source, gather
from dataset.images.token_boxes import TokenBoxes, as_written, token_boxes
from dataset.vocabulary import SPECIALS, Vocabulary
from utils.reading.images import resize

CHUNK = 4096  # labels planned together where all sizes are asked for
# What stands around an environment, by the first letter of its name: matrices, cases, and arrays with lines in them.
DELIMITERS = {
    "p": ("(", ")"),
    "b": ("[", "]"),
    "B": (r"\{", r"\}"),
    "v": ("|", "|"),
    "V": (r"\|", r"\|"),
    "c": (r"\{", r"\}"),
    "a": ("|", "|"),
}


def _delimiters(labels: Sequence[Sequence[str]], boxes: TokenBoxes) -> Iterator[tuple[int, str]]:
    r"""The boxes of environments' delimiters, and the tokens that look like what is drawn there.

    The typesetter gives them to `\begin{pmatrix}`, or to the first letter where names are spelled: `\begin { p m a …`.
    """
    starts = boxes.ends - np.diff(boxes.ends, prepend=0)
    for tokens, start, end in zip(labels, starts.tolist(), boxes.ends.tolist(), strict=True):
        if not any(token.startswith(r"\begin") for token in tokens):
            continue
        for box in range(start, end):
            place = int(boxes.tokens[box])
            is_spelled = place > 1 and tokens[place - 1] == "{"
            text = "".join(tokens[place - 2 : place + 1]) if is_spelled else tokens[place]
            command, _, name = text.partition("{")
            if command in (r"\begin", r"\end") and name[:1] in DELIMITERS:
                yield box, DELIMITERS[name[0]][command == r"\end"]


class SyntheticInk(ImageSource):
    """Images of labels in the ink of others. Deterministic in (seed, epoch, index), for any number of workers.

    lengths: (N,) int32, tokens a label.   simulated: tokens that nobody has written; a simulated hand draws them.
    failures: [(tokens, reason)], labels that cannot be drawn at all; they have no image here.
    """

    def __init__(
        self,
        standard: StandardImages,
        vocabulary: Vocabulary,
        sources: Sequence[Source],
        scaling: Scaling = FULL_SIZE,
        augmentation: Augmentation | None = None,
        stroke_augmentation: StrokeAugmentation = AS_WRITTEN,
    ):
        """standard: the labels, laid out.   sources: see `gather`; none at all: a simulated hand draws everything.

        scaling, augmentation, stroke_augmentation: as of HandwrittenImages.
        """
        self._standard, self._scaling = standard, scaling
        self.augmentation, self.stroke_augmentation = augmentation, stroke_augmentation
        self.lengths, self.failures = standard.lengths, list(standard.failures)
        layouts, rows = standard.layouts()
        labels = [standard.name(index).split() for index in range(len(standard))]
        boxes = as_written(token_boxes(layouts, rows), labels)
        ids, id_ends = standard.ids()
        owners = np.repeat(np.arange(len(rows)), np.diff(boxes.ends, prepend=0))
        tokens = ids[(id_ends - standard.lengths)[owners] + boxes.tokens].astype(np.int64)
        for box, token in _delimiters(labels, boxes):
            if token in vocabulary:
                tokens[box] = vocabulary.encode([token])[0]
        written = gather(sources, vocabulary).tokens if sources else np.empty(0, np.int64)
        missing = np.setdiff1d(tokens, written)
        self.simulated = [vocabulary.decode([token])[0] for token in missing]
        if len(missing):
            names = np.array([*SPECIALS, *vocabulary.tokens])[tokens]
            seen = seen_in(layouts, rows, boxes, names, set(self.simulated))
            sources = [*sources, (SimulatedLibrary(seen, chinese_font=layouts.chinese_font), None)]
        self._planner = Planner(gather(sources, vocabulary), boxes, tokens)
        # Seed and epoch of the images that are planned, where each of them stands in the plan, and the plan.
        self._planned: tuple[tuple, dict[int, int], Plan | None] = ((), {}, None)
        self._last: tuple = (None, None)  # whose strokes were asked for last, and what they are

    def __len__(self) -> int:
        return len(self._standard)

    def label(self, index: int) -> np.ndarray:
        """int32 vocabulary ids, without `<sos>` and `<eos>`."""
        return self._standard.label(index)

    def name(self, index: int) -> str:
        """The label as text."""
        return self._standard.name(index)

    def label_hash(self) -> np.ndarray:
        """(N,) uint64, equal for equal labels."""
        return self._standard.label_hash()

    def sizes(self, seed: int, epoch: int) -> np.ndarray:
        """(N, 2) height and width in pixels of every image in this epoch."""
        chunks = np.split(np.arange(len(self)), range(CHUNK, len(self), CHUNK))
        sizes = np.concatenate([self._planner.plan(chunk, seed, epoch).sizes for chunk in chunks])
        sizes = self._scaling.scaled(sizes)[1]
        return sizes if self.augmentation is None else sizes_after(sizes, seed, epoch, self.augmentation)

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """uint8 (H, W), ink 255 on paper 0."""
        strokes, traces, pen = self._written(index, seed, epoch)
        image = draw(traces, strokes.size, pen)
        scale = float(self._scaling.scaled(np.array([strokes.size]))[0][0])
        if scale != 1:
            image = resize(image, scale)
        return image if self.augmentation is None else augment(image, index, seed, epoch, self.augmentation)

    def boxes(self, index: int, seed: int, epoch: int) -> np.ndarray:
        """float32 (L, 4): left, top, right, bottom of each token's ink in pixels of `image`; NaN without ink."""
        strokes, traces, pen = self._written(index, seed, epoch)
        boxes = boxes_of(strokes, traces, pen, int(self.lengths[index]))
        size = self._scaling.scaled(np.array([strokes.size]))[1][0]
        boxes *= np.tile(size / strokes.size, 2)[::-1].astype(np.float32)
        return boxes if self.augmentation is None else boxes_after(boxes, size, index, seed, epoch, self.augmentation)

    def strokes(self, index: int, seed: int, epoch: int) -> Strokes:
        """What is written of this image, in pixels of full size, before strokes are distorted."""
        return self._written(index, seed, epoch)[0]

    def prepare(self, indices: Sequence[int], seed: int, epoch: int) -> None:
        """Plan these images together: alone, an image takes as long as thirty."""
        places = {int(index): at for at, index in enumerate(indices)}
        self._planned = (seed, epoch), places, self._planner.plan(np.fromiter(places, np.int64), seed, epoch)

    def _written(self, index: int, seed: int, epoch: int) -> tuple[Strokes, list[np.ndarray], int]:
        """An image's strokes, its traces as this epoch has them, and the pen. Kept until the next is asked for."""
        index = range(len(self))[index]  # an IndexError where there is no such image, and -1 is the last
        if self._last[0] != (index, seed, epoch):
            if self._planned[0] != (seed, epoch) or index not in self._planned[1]:
                self.prepare([index], seed, epoch)
            _, places, plan = self._planned
            strokes = self._planner.strokes(index, plan, places[index])
            self._last = (
                (index, seed, epoch),
                (strokes, *vary(strokes, index, seed, epoch, self.stroke_augmentation)),
            )
        return self._last[1]
