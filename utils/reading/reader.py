"""The library: a trained network that reads images, files of ink, and strokes.

    from recognize import Reader

    reader = Reader.load("checkpoints/CROHME/handwritten-best.safetensors")
    print(reader.read("formula.jpg").latex)

The network, the vocabulary, and what draws ink are given to it, because utils imports neither models nor dataset.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, Union

import cv2
import numpy as np

from utils.errors import CheckpointError, ConfigError, DataError, UserError
from utils.hypotheses import Hypothesis, prefer
from utils.reading.batches import ImageBatch, in_batches
from utils.reading.images import check_image_settings, read_image, resize
from utils.reading.photographs import CleanInk, clean_photograph, is_drawn
from utils.reading.scaling import check_scales, largest_and_ratios
from utils.reading.strokes import as_strokes
from utils.reading.text_lines import find_text_lines
from utils.reading.warnings import warnings_about
from utils.training.interfaces import Explanation

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from torch import nn

    from utils.reading.onnx_network import OnnxNetwork

# A path, the bytes of a file, a PIL image, or an array uint8 (H, W), (H, W, 3) or (H, W, 4).
Image: TypeAlias = Union[str, Path, bytes, np.ndarray, "PIL.Image.Image"]
ReadingProgress: TypeAlias = Callable[[int, int], None]  # called with how many images are read, and of how many
INK_SUFFIXES = (".inkml", ".json")
# The share of a token's attention that its box leaves out on each side.
BOX_TAIL = 0.1


class Vocabulary(Protocol):
    """Tokens and their ids, the special ones included in its length."""

    def __len__(self) -> int: ...
    def encode(self, tokens: Sequence[str]) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> list[str]: ...


class Language(NamedTuple):
    """What a Reader is given to know about ink and LaTeX.

    make_vocabulary(tokens): raises a UserError for tokens that cannot be one.   read_ink(path): strokes (n, 2) of an
    InkML file.   draw_ink(strokes): uint8 (H, W), ink 255 on paper 0, as training images are drawn.
    is_well_formed(tokens): whether LaTeX could read them.
    """

    make_vocabulary: Callable[[Sequence[str]], Vocabulary]
    read_ink: Callable[[Path], list[np.ndarray]]
    draw_ink: Callable[[Sequence[np.ndarray]], np.ndarray]
    is_well_formed: Callable[[Sequence[str]], bool]


class Search(NamedTuple):
    """How to decode.

    beam: 1 is greedy, from left to right.   directions: 1, 2, or None: all that the decoder has.
    prefer_well_formed: where the best hypothesis of a beam is no LaTeX, the best one that is takes its place if their
    scores are close.
    """

    beam: int = 1
    directions: int | None = None
    prefer_well_formed: bool = True


@dataclass(frozen=True)
class Alternative:
    """Another hypothesis for the same image.   score: mean log-probability of its tokens and its end."""

    latex: str
    tokens: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Reading:
    """What was read in an image.

    latex: the tokens, joined by spaces.   score: mean log-probability of the tokens and the end; where both directions
    were searched, the mean of the two.   confidences: the probability of each token after those before it.
    confidence: that all tokens are right: their product, to the power that made it fit on validation, if the weights
    name one (utils/evaluation/calibration.py); longer formulas have less.
    alternatives: the other hypotheses of the beam, best first; none where decoding was greedy.
    boxes: where each token was seen: left, top, right, bottom in pixels of the given image, turned as EXIF says.
    is_truncated: it had not ended at the largest length that decoding allows for such an image.
    warnings: reasons to doubt it, in words; none where there are none.   is_cleaned: the image was cleaned first.
    image: the network's input, uint8 (H, W), ink 255 on paper 0.
    """

    latex: str
    tokens: tuple[str, ...]
    score: float
    confidence: float
    confidences: tuple[float, ...]
    alternatives: tuple[Alternative, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    is_truncated: bool
    warnings: tuple[str, ...]
    is_cleaned: bool
    image: np.ndarray


class Prepared(NamedTuple):
    """An image that is ready for the network.

    views: the likeliest size and skew first, then others; one where it was not cleaned.   given_size: height and width
    of the given image.   lines: each line of writing by itself, where there are several.
    """

    views: tuple[CleanInk, ...]
    given_size: tuple[int, int]
    is_cleaned: bool
    lines: tuple[Prepared, ...] = ()

    def each_line(self) -> tuple[Prepared, ...]:
        """What has one line of writing each, from top to bottom."""
        return self.lines or (self,)


class Decoded(NamedTuple):
    """A hypothesis of the network for a prepared image.   view: the index of the view that it belongs to.

    explanation: of its tokens, where it was asked for.
    """

    hypothesis: Hypothesis
    view: int
    explanation: Explanation | None = None


class Reader:
    """A network with all that it takes to read images with it: Reader.load(path).read(image).latex.

    Several threads may use one Reader: they prepare images at the same time, and decode one after the other.
    """

    def __init__(self, model: nn.Module | OnnxNetwork | None, vocabulary: Vocabulary, data: dict[str, Any],
                 language: Language, device: str | torch.device | None = "cpu",
                 scales: Sequence[float] | None = None):  # fmt: skip
        """model: a Recognizer with an encoder of handwriting.   data: `image_scale`, `max_height` and `max_width` of
        its training images; optionally `clean`, whether photographs among them were cleaned (see prepare);
        `scales`, sizes that it reads an image in together, times the usual one; and `confidence_exponent`, see Reading.
        device: of torch; None for a network that runs without it.   scales: instead of those of data. Raises
        ConfigError for scales that cannot be."""
        if device is not None:
            import torch

            model, device = model.to(device).eval().requires_grad_(False), torch.device(device)
        self.scales = check_scales(scales or data.get("scales") or [1.0])
        self.confidence_exponent = float(data.get("confidence_exponent") or 1.0)
        self.network, self.device = model, device
        self.model = model
        if model is not None:  # without one, images are prepared and nothing is read
            model.braces = vocabulary.braces
            self.model = model.at_scales(largest_and_ratios(self.scales)[1])
        self.vocabulary, self.data, self.language = vocabulary, data, language
        self._lock = threading.Lock()  # held while the network computes

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        build: Callable[[dict], nn.Module],
        language: Language,
        device: str | torch.device = "cpu",
        scales: Sequence[float] | None = None,
    ) -> Reader:
        """Read a checkpoint.   build(architecture): the network that a checkpoint describes.   scales: see __init__;
        by default those that the checkpoint names.

        Raises CheckpointError for one that is missing, broken or foreign.
        """
        import torch

        from utils.training.run_folder import Checkpoint, load_checkpoint, load_weights

        checkpoint = load_checkpoint(path)
        about = checkpoint.about
        # Only handwriting is read here: the encoder of standard images is not loaded.
        weights = {name: x for name, x in checkpoint.weights.items() if not name.startswith("standard_encoder.")}
        architecture = {**about["architecture"], "domains": ("handwritten",)}
        try:
            with torch.device("meta"):  # without memory: who knows which sizes a foreign file asks for
                sizes = {name: x.shape for name, x in build(architecture).state_dict().items()}
            check_sizes(sizes, weights, path)
            model = build(architecture)
            data = dict(about["data"])
            check_image_settings(data, path)
            vocabulary = language.make_vocabulary([str(token) for token in about["vocabulary"]])
        except CheckpointError:
            raise
        except Exception as error:  # of any kind: a network of odd sizes fails wherever they do not fit
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{path}: describes a network that this version does not know ({reason})") from error
        load_weights(model, Checkpoint(checkpoint.path, weights, about))
        if len(vocabulary) != about["architecture"]["vocabulary_size"]:
            raise CheckpointError(f"{path}: its vocabulary has another size than its network")
        return cls(model, vocabulary, data, language, device, scales)

    @classmethod
    def from_onnx(cls, folder: str | Path, language: Language, scales: Sequence[float] | None = None) -> Reader:
        """Read what export.py wrote. It needs onnxruntime, and no torch.   scales: as in from_checkpoint().

        Raises CheckpointError for a folder that is none, or where there is no onnxruntime.
        """
        from utils.reading.onnx_network import OnnxNetwork

        model = OnnxNetwork(folder)
        try:
            vocabulary = language.make_vocabulary([str(token) for token in model.about["vocabulary"]])
        except UserError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        data = model.about["data"]
        check_image_settings(data, folder)
        if len(vocabulary) != model.vocabulary_size:
            raise CheckpointError(f"{folder}: its vocabulary has another size than its network")
        return cls(model, vocabulary, data, language, None, scales)

    # ---- for users ---------------------------------------------------------------------------------------------------

    def read(
        self, image: Image, beam: int = 1, directions: int | None = None, prefer_well_formed: bool = True
    ) -> Reading:
        """Read one formula: a path of an image, of an .inkml file or of strokes as .json; the bytes of an image file; a
        PIL image; or an array uint8 (H, W), (H, W, 3) or (H, W, 4).

        beam: 1 decodes greedily from left to right; more keeps so many hypotheses, in all directions that the network
        knows, or in as many as `directions` says.   prefer_well_formed: see Search.   Raises DataError for what is no
        image, or has no ink.
        """
        return self.read_many([image], beam, directions, prefer_well_formed)[0]

    def read_many(
        self,
        images: Sequence[Image | Prepared],
        beam: int = 1,
        directions: int | None = None,
        prefer_well_formed: bool = True,
        progress: ReadingProgress | None = None,
    ) -> list[Reading]:
        """Read images, those of like size together; the readings come in the order of the images.

        progress(done, total): called when the images are prepared, with 0, and after each batch; an error that it
        raises ends the reading.
        """
        prepared = [one if isinstance(one, Prepared) else self.prepare(one) for one in images]
        search = Search(beam, directions, prefer_well_formed)
        decoded = self.decode(prepared, search, explain=True, progress=progress)
        return [self._reading(one, found) for one, found in zip(prepared, decoded, strict=True)]

    def read_lines(self, image: Image, beam: int = 1, directions: int | None = None) -> list[Reading]:
        """Read every line of writing in an image by itself, from top to bottom."""
        return self.read_many(self.prepare(image).each_line(), beam, directions)

    def read_strokes(self, strokes: Any, beam: int = 1, directions: int | None = None) -> Reading:
        """Read pen strokes: a sequence of strokes, each a sequence of points (x, y, …), y down; lists or arrays.

        Raises DataError for what is no list of strokes.
        """
        return self.read_many([self.prepare_strokes(strokes)], beam, directions)[0]

    # ---- in steps ----------------------------------------------------------------------------------------------------

    def prepare(self, image: Image, name: str | None = None, clean_when: str = "auto") -> Prepared:
        """Bring an image to what the network was trained on: find the ink, level it, scale it.

        name: stands for the image in messages.   clean_when: "always", "never", or "auto": unless the image was drawn
        as training images are, with two grey levels and a pen of the usual width.   Raises DataError.
        """
        name = name or (str(image) if isinstance(image, (str, Path)) else "image")
        if isinstance(image, (str, Path)) and str(image).lower().endswith(INK_SUFFIXES):
            return self.prepare_strokes(self._read_strokes(Path(image), name), name)
        given = read_image(image, name)
        when = self.data.get("clean", "auto") if clean_when == "auto" else clean_when
        is_cleaned = when == "always" or (when == "auto" and not is_drawn(given))
        views = clean_photograph(given, name) if is_cleaned else [CleanInk.of_drawn(given, name)]
        return self._prepared(views, given.shape, is_cleaned)

    def prepare_strokes(self, strokes: Any, name: str = "strokes") -> Prepared:
        """Draw strokes as training images are drawn. Raises DataError."""
        try:
            drawn = self.language.draw_ink(as_strokes(strokes))
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        return self._prepared([CleanInk.of_drawn(drawn, name)], drawn.shape, is_cleaned=False)

    def decode(
        self,
        prepared: Sequence[Prepared],
        search: Search = Search(),  # noqa: B008 (it cannot change)
        explain: bool = False,
        max_images: int | None = None,
        on_failure: Callable[[int, Exception], None] | None = None,
        progress: ReadingProgress | None = None,
    ) -> list[Decoded | None]:
        """Decode images, those of like size together, at most `max_images` at a time.

        on_failure(index, error): called for an image whose decoding failed, for which there is None then; where it is
        not given, the error is raised.   progress: see read_many.   Raises ConfigError for a search that the network
        cannot do.
        """
        self.check(search)
        tell = None if progress is None else _counted(progress, len(prepared))
        chosen = self._choose_views(prepared, max_images, on_failure)
        indices = [index for index, view in enumerate(chosen) if view is not None]
        images = [prepared[index].views[chosen[index]].image for index in indices]

        def work(batch: ImageBatch) -> list[tuple[Hypothesis, Explanation | None]]:
            encoded = self.model.encode(batch.images, batch.padding, "handwritten")
            hypotheses = self.model.read_encoded(encoded, search.beam, search.directions)
            if search.prefer_well_formed:
                hypotheses = [prefer(hypothesis, self._is_well_formed) for hypothesis in hypotheses]
            tokens = [hypothesis.tokens for hypothesis in hypotheses]
            explained = self.model.explain_encoded(encoded, tokens) if explain else [None] * len(tokens)
            return list(zip(hypotheses, explained, strict=True))

        fail = None if on_failure is None else lambda place, error: on_failure(indices[place], error)
        found = dict(
            zip(indices, in_batches(images, self._alone(work), self.device, max_images, fail, tell), strict=True)
        )
        return [
            None if found.get(index) is None else Decoded(found[index][0], chosen[index], found[index][1])
            for index in range(len(prepared))
        ]

    def explain(
        self, images: Sequence[np.ndarray], tokens: Sequence[Sequence[str]], max_images: int | None = None
    ) -> list[Explanation]:
        """How sure the network is of each token of given labels, and where it looks: `confidences` and `attention`.

        images: uint8 (H, W), as prepared.   tokens: a label for each of them.
        """
        ids = [self.vocabulary.encode(label) for label in tokens]

        def work(batch: ImageBatch) -> list[Explanation]:
            return self.model.explain(batch.images, batch.padding, [ids[index] for index in batch.indices])

        return in_batches(images, self._alone(work), self.device, max_images)

    def check(self, search: Search) -> None:
        """Raises ConfigError for a search that the network cannot do."""
        known = self.model.directions
        if search.beam < 1:
            raise ConfigError(f"expected a beam of at least 1, got {search.beam}")
        if (search.directions or 1) > known:
            raise ConfigError("both directions (--direction both): this network decodes from left to right only")

    def describe(self, search: Search) -> dict[str, Any]:
        """What a search comes to with this network: beam, directions, 1 or 2, whether well-formed is preferred, and the
        scales that images are read at."""
        is_greedy = search.beam == 1 and search.directions in (None, 1)
        return {
            "beam": search.beam,
            "directions": 1 if is_greedy else search.directions or self.model.directions,
            "prefer_well_formed": search.prefer_well_formed and not is_greedy,
            "scales": list(self.scales),
        }

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _alone(self, work: Callable[[ImageBatch], Any]) -> Callable[[ImageBatch], Any]:
        """The same work, while no other thread uses the network."""

        def work_alone(batch: ImageBatch) -> Any:
            with self._lock:
                return work(batch)

        return work_alone

    def _is_well_formed(self, ids: Sequence[int]) -> bool:
        return self.language.is_well_formed(self.vocabulary.decode(ids))

    def _read_strokes(self, path: Path, name: str) -> Any:
        if path.suffix.lower() == ".inkml":
            return self.language.read_ink(path)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{name}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: not JSON ({error})") from None

    def _prepared(self, views: Sequence[CleanInk], given_size: tuple[int, int], is_cleaned: bool) -> Prepared:
        lines = [find_text_lines(view.image) for view in views]
        parts = []
        for number in range(len(lines[0]) if len(lines[0]) > 1 else 0):
            # In a view that is turned otherwise, lines may run into each other: it is no view of theirs then.
            own = [
                view.crop(*rows[number]) for view, rows in zip(views, lines, strict=True) if len(rows) == len(lines[0])
            ]
            parts.append(Prepared(tuple(map(self._resized, own)), given_size, is_cleaned))
        return Prepared(tuple(map(self._resized, views)), given_size, is_cleaned, tuple(parts))

    def _resized(self, ink: CleanInk) -> CleanInk:
        height, width = ink.image.shape
        limits = (self.data["max_height"] / height, self.data["max_width"] / width)
        resized = resize(ink.image, min(self.data["image_scale"] * self.scales[0], *limits))
        to_clean = np.diag([width / resized.shape[1], height / resized.shape[0], 1.0])
        return ink._replace(image=resized, to_given=ink.to_given @ to_clean)

    def _choose_views(
        self,
        prepared: Sequence[Prepared],
        max_images: int | None,
        on_failure: Callable[[int, Exception], None] | None,
    ) -> list[int | None]:
        """Of each image's views, the one that greedy decoding gives the best score; None where all of them failed."""
        guesses = [(index, view) for index, one in enumerate(prepared) if len(one.views) > 1
                   for view in range(len(one.views))]  # fmt: skip

        def work(batch: ImageBatch) -> list[float]:
            hypotheses = self.model.read(batch.images, batch.padding)
            return [hypothesis.score - 1e4 * hypothesis.is_truncated for hypothesis in hypotheses]

        errors: dict[int, Exception] = {}
        fail = None if on_failure is None else lambda place, error: errors.update({guesses[place][0]: error})
        images = [prepared[index].views[view].image for index, view in guesses]
        best: dict[int, tuple[float, int]] = {}
        for (index, view), score in zip(
            guesses, in_batches(images, self._alone(work), self.device, max_images, fail), strict=True
        ):
            if score is not None and (index not in best or score > best[index][0]):
                best[index] = score, view
        for index in errors.keys() - best.keys():
            on_failure(index, errors[index])
        first = [None if index in errors else 0 for index in range(len(prepared))]
        return [best[index][1] if index in best else first[index] for index in range(len(prepared))]

    def _reading(self, prepared: Prepared, decoded: Decoded) -> Reading:
        hypothesis, explanation, view = decoded.hypothesis, decoded.explanation, prepared.views[decoded.view]
        tokens = tuple(self.vocabulary.decode(hypothesis.tokens))
        others = [(tuple(self.vocabulary.decode(other.tokens)), other.score) for other in hypothesis.alternatives]
        stride = self.model.handwritten_encoder.stride
        confidence = float(as_array(explanation.confidences).astype(np.float64).prod()) ** self.confidence_exponent
        if not np.isfinite(confidence):
            raise CheckpointError(
                "the network's probabilities are no numbers: its weights are damaged, or far too large"
            )
        warnings = warnings_about(tokens, confidence, hypothesis.is_truncated, self.language.is_well_formed(tokens))
        if prepared.lines:
            warnings = (f"{len(prepared.lines)} lines of writing, read as one formula", *warnings)
        return Reading(
            latex=" ".join(tokens),
            tokens=tokens,
            score=hypothesis.score,
            confidence=confidence,
            confidences=tuple(explanation.confidences.tolist()),
            alternatives=tuple(Alternative(" ".join(label), label, score) for label, score in others),
            boxes=tuple(
                _box(weights, stride, view, prepared.given_size) for weights in as_array(explanation.attention)
            ),
            is_truncated=hypothesis.is_truncated,
            warnings=warnings,
            is_cleaned=prepared.is_cleaned,
            image=view.image,
        )


def check_sizes(sizes: Mapping[str, Sequence[int]], weights: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Raises CheckpointError where weights have other names or sizes than the network that they are said to be of."""
    wrong = sorted(sizes.keys() ^ weights.keys())
    wrong += [name for name in sizes if name in weights and tuple(weights[name].shape) != tuple(sizes[name])]
    if wrong:
        raise CheckpointError(f"{path}: weights of another model: {', '.join(wrong[:3])} …")


def _counted(progress: ReadingProgress, total: int) -> Callable[[int], None]:
    """What tells progress after each batch, given how many images that had; before the first one it tells 0."""
    done = 0
    progress(done, total)

    def tell(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    return tell


def as_array(numbers: torch.Tensor | np.ndarray) -> np.ndarray:
    """What a network gives, on the CPU."""
    return numbers if isinstance(numbers, np.ndarray) else numbers.float().cpu().numpy()


def _box(attention: np.ndarray, stride: int, view: CleanInk, given_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where the decoder looked, without the outermost tenths of its attention (h, w), in the given image."""
    (left, right), (top, bottom) = (_middle(attention.sum(axis)) for axis in (0, 1))
    corners = np.array([[[x, y] for x in (left, right) for y in (top, bottom)]], np.float64) * stride
    # Features cover the image up to whole strides: beyond its edge there is nothing to show.
    corners = np.minimum(corners, view.image.shape[::-1])
    corners = cv2.perspectiveTransform(corners, view.to_given)[0]
    height, width = given_size
    low = np.floor(corners.min(axis=0)).clip(0, (width - 1, height - 1))
    high = np.ceil(corners.max(axis=0)).clip(low + 1, (width, height))
    return tuple(map(int, (*low, *high)))


def _middle(mass: np.ndarray) -> tuple[float, float]:
    """Where the middle of a mass (n,), spread evenly over feature positions, begins and ends, in positions."""
    sums = np.concatenate([[0.0], np.cumsum(mass, dtype=np.float64)])
    begin, end = np.interp([BOX_TAIL, 1 - BOX_TAIL], sums / sums[-1], np.arange(len(sums)))
    return begin, end
