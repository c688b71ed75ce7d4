"""The library: a checkpoint that reads pictures.

from models.recognizer import Reader

reader = Reader.load("checkpoints/CROHME/handwritten-best.safetensors")
print(reader.read("formula.jpg").latex)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from models.recognizer import Encoded, Explanation, Recognizer
from models.search import Hypothesis
from utils.errors import CheckpointError, ConfigError
from utils.reading.photographs import CleanInk, clean
from utils.reading.pictures import read_picture, resize
from utils.special_tokens import END
from utils.training.run_folder import Checkpoint, load_checkpoint, load_weights

T = TypeVar("T")
Picture = Any  # a path, the bytes of a file, a PIL image, or an array uint8 (H, W), (H, W, 3) or (H, W, 4)

# Pictures that are read together: their number, and padded pixels. A CPU wins less by company than it loses by padding.
BATCH_PICTURES, BATCH_PIXELS = 32, {"cpu": 120_000, "cuda": 2_000_000}
# The share of a token's attention that its box leaves out on each side.
BOX_TAIL = 0.1


@dataclasses.dataclass(frozen=True)
class Alternative:
    """Another way to read the same picture.   score: mean log-probability of its tokens and its end."""

    latex: str
    tokens: tuple[str, ...]
    score: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a picture was read as.

    latex: the tokens, joined by spaces.   score: mean log-probability of the tokens and the end; where both directions
    were asked, the mean of the two.   confidences: the probability of each token after those before it.
    confidence: their product, the probability of all tokens together, so longer formulas have less.
    alternatives: what the beam found beside it, best first; none where it was read greedily.
    boxes: where each token was seen: left, top, right, bottom in pixels of the given picture, turned as EXIF says.
    is_cut: it had not ended when it was as long as a formula in such a picture can be.
    picture: what the network saw, uint8 (H, W), ink 255 on paper 0.
    """

    latex: str
    tokens: tuple[str, ...]
    score: float
    confidence: float
    confidences: tuple[float, ...]
    alternatives: tuple[Alternative, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    is_cut: bool
    picture: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A picture, ready for the network: as it is likeliest meant, and other guesses of its size and skew.

    given_size: height and width of the given picture.
    """

    views: tuple[CleanInk, ...]
    given_size: tuple[int, int]


class Reader:
    """A network with all that it takes to read pictures with it: Reader.load(path).read(picture).latex."""

    def __init__(self, model: Recognizer, vocabulary: Sequence[str], data: dict[str, Any], device: Any = "cpu"):
        """model: with an encoder of handwriting.   vocabulary: its tokens, without the three special ones.

        data: `picture_scale`, `max_height` and `max_width` of the pictures that it learnt from.
        """
        self.model = model.to(device).eval().requires_grad_(False)
        self.vocabulary, self.data, self.device = tuple(vocabulary), data, torch.device(device)

    @classmethod
    def load(cls, path: str | Path, device: Any = "cpu") -> Reader:
        """Read a checkpoint. Raises CheckpointError for one that is missing, broken or foreign."""
        checkpoint = load_checkpoint(path)
        about = checkpoint.about
        try:
            model = Recognizer(**{**about["architecture"], "domains": ("handwritten",)})
            data = {name: about["data"][name] for name in ("picture_scale", "max_height", "max_width")}
            vocabulary = [str(token) for token in about["vocabulary"]]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{path}: describes a network that this version does not know ({reason})") from error
        # Handwriting is all it reads: the encoder of standard images stays on the disk.
        weights = {name: x for name, x in checkpoint.weights.items() if not name.startswith("standard_encoder.")}
        load_weights(model, Checkpoint(checkpoint.path, weights, about))
        if len(vocabulary) + END + 1 != about["architecture"]["vocabulary_size"]:
            raise CheckpointError(f"{path}: its vocabulary has another size than its network")
        return cls(model, vocabulary, data, device)

    def read(self, picture: Picture, beam: int = 1, directions: int | None = None) -> Reading:
        """Read a picture: a path, the bytes of a file, a PIL image, or an array uint8 (H, W), (H, W, 3) or (H, W, 4).

        beam: 1 reads greedily from left to right; more keeps so many readings, in all directions that the network
        knows, or in as many as `directions` says.   Raises DataError for what is no picture, or has no ink.
        """
        return self.read_many([picture], beam, directions)[0]

    def read_many(
        self, pictures: Sequence[Picture | Prepared], beam: int = 1, directions: int | None = None
    ) -> list[Reading]:
        """Read pictures, those of like size together; the readings come in the order of the pictures."""
        known = self.model.decoder.directions
        if beam < 1 or (directions or 1) > known:
            kinds = "1" if known == 1 else "1 or 2"
            raise ConfigError(f"expected a beam of at least 1 and {kinds} directions, got {beam} and {directions}")
        prepared = [one if isinstance(one, Prepared) else self.prepare(one) for one in pictures]
        views = self._choose_views(prepared)

        def read(places: list[int]) -> list[Reading]:
            encoded = self._encode([views[place].picture for place in places])
            hypotheses = self.model.read_encoded(encoded, beam, directions)
            explanations = self.model.explain_encoded(encoded, [hypothesis.tokens for hypothesis in hypotheses])
            return [
                self._reading(views[place], prepared[place].given_size, *found)
                for place, *found in zip(places, hypotheses, explanations, strict=True)
            ]

        return self._in_batches([view.picture.shape for view in views], read)

    def prepare(self, picture: Picture, name: str | None = None, is_drawn: bool = False) -> Prepared:
        """Clean a picture and bring it to the size that the network learnt from.

        name: stands for the picture in messages.   is_drawn: it was drawn from strokes as training pictures are, so
        there is nothing to clean.   Raises DataError.
        """
        name = name or (str(picture) if isinstance(picture, (str, Path)) else "picture")
        given = read_picture(picture, name)
        inks = [CleanInk.of_drawn(given, name)] if is_drawn else clean(given, name)
        return Prepared(tuple(self._resized(ink) for ink in inks), given.shape)

    def _resized(self, ink: CleanInk) -> CleanInk:
        height, width = ink.picture.shape
        limits = (self.data["max_height"] / height, self.data["max_width"] / width)
        resized = resize(ink.picture, min(self.data["picture_scale"], *limits))
        to_clean = np.diag([width / resized.shape[1], height / resized.shape[0], 1.0])
        return CleanInk(resized, ink.to_given @ to_clean)

    def _choose_views(self, prepared: Sequence[Prepared]) -> list[CleanInk]:
        """Of each picture's views, the one that the network is surest of, token by token, when it reads greedily."""
        guesses = [(i, view) for i, one in enumerate(prepared) if len(one.views) > 1 for view in one.views]
        pictures = [view.picture for _, view in guesses]

        def read(places: list[int]) -> list[float]:
            hypotheses = self.model.read_encoded(self._encode([pictures[place] for place in places]))
            return [hypothesis.score - 1e4 * hypothesis.is_truncated for hypothesis in hypotheses]

        scores = self._in_batches([picture.shape for picture in pictures], read)
        best: dict[int, tuple[float, CleanInk]] = {}
        for (i, view), score in zip(guesses, scores, strict=True):
            if i not in best or score > best[i][0]:
                best[i] = score, view
        return [best[i][1] if i in best else one.views[0] for i, one in enumerate(prepared)]

    def _in_batches(self, sizes: Sequence[tuple[int, int]], read: Callable[[list[int]], list[T]]) -> list[T]:
        """What `read` gives for places of pictures, in the pictures' order; those of like size are read together."""
        most = BATCH_PIXELS.get(self.device.type, BATCH_PIXELS["cuda"])
        results: dict[int, T] = {}
        batch: list[int] = []
        height = width = 0
        for place in sorted(range(len(sizes)), key=lambda place: (sizes[place][1] // 64, sizes[place])):
            taller, wider = max(height, sizes[place][0]), max(width, sizes[place][1])
            if batch and (len(batch) == BATCH_PICTURES or (len(batch) + 1) * taller * wider > most):
                results.update(zip(batch, read(batch), strict=True))
                batch, taller, wider = [], *sizes[place]
            batch.append(place)
            height, width = taller, wider
        if batch:
            results.update(zip(batch, read(batch), strict=True))
        return [results[place] for place in range(len(sizes))]

    def _encode(self, pictures: Sequence[np.ndarray]) -> Encoded:
        """Pictures uint8 (H, W) of any size, as one batch."""
        height, width = (max(picture.shape[side] for picture in pictures) for side in (0, 1))
        images = torch.zeros(len(pictures), 1, height, width)
        padding = torch.ones(len(pictures), height, width, dtype=torch.bool)
        for image, is_padding, picture in zip(images, padding, pictures, strict=True):
            rows, columns = map(slice, picture.shape)
            image[0, rows, columns] = torch.from_numpy(picture) / 255
            is_padding[rows, columns] = False
        with torch.inference_mode():
            return self.model.encode(images.to(self.device), padding.to(self.device), "handwritten")

    def _reading(
        self, view: CleanInk, given_size: tuple[int, int], hypothesis: Hypothesis, explanation: Explanation
    ) -> Reading:
        tokens = self._text(hypothesis)
        stride = self.model.handwritten_encoder.stride
        attention = explanation.attention.cpu().numpy()
        return Reading(
            latex=" ".join(tokens),
            tokens=tokens,
            score=hypothesis.score,
            confidence=float(explanation.confidences.double().prod()),
            confidences=tuple(explanation.confidences.tolist()),
            alternatives=tuple(
                Alternative(" ".join(self._text(other)), self._text(other), other.score)
                for other in hypothesis.alternatives
            ),
            boxes=tuple(_box(look, stride, view, given_size) for look in attention),
            is_cut=hypothesis.is_truncated,
            picture=view.picture,
        )

    def _text(self, hypothesis: Hypothesis) -> tuple[str, ...]:
        return tuple(self.vocabulary[token - END - 1] for token in hypothesis.tokens)


def _box(attention: np.ndarray, stride: int, view: CleanInk, given_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where the decoder looked, without the outermost tenths of its attention (h, w), in the given picture."""
    (left, right), (top, bottom) = (_middle(attention.sum(axis)) for axis in (0, 1))
    corners = np.array([[[x, y] for x in (left, right) for y in (top, bottom)]], np.float64) * stride
    # A picture counts as filled up to whole cells: beyond its edge there is nothing to show.
    corners = np.minimum(corners, view.picture.shape[::-1])
    corners = cv2.perspectiveTransform(corners, view.to_given)[0]
    height, width = given_size
    low = np.floor(corners.min(axis=0)).clip(0, (width - 1, height - 1))
    high = np.ceil(corners.max(axis=0)).clip(low + 1, (width, height))
    return tuple(map(int, (*low, *high)))


def _middle(mass: np.ndarray) -> tuple[float, float]:
    """Where the middle of a mass (n,), spread evenly over cells, begins and ends, in cells."""
    sums = np.concatenate([[0.0], np.cumsum(mass, dtype=np.float64)])
    begin, end = np.interp([BOX_TAIL, 1 - BOX_TAIL], sums / sums[-1], np.arange(len(sums)))
    return begin, end
