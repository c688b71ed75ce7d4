"""A network that export.py wrote, run by onnxruntime, without torch: what a Reader asks of a network, in NumPy.

FOLDER/model.json          vocabulary, settings of images, license, and what is known of the network
      /encoder.onnx        images (B, 1, H, W) and their padding (B, H, W) -> the decoder's state before the first token
      /decoder_step.onnx   the state and a token in every row -> logits, attention, and the state after it
      /backwards_step.onnx the same for a second decoder, which reads from right to left, where there is one

Of networks that read together (models/ensemble.py), the second has encoder-2.onnx and decoder_step-2.onnx, and so on.

The state consists of named arrays, which are the decoder's own affair: `image.NAME` (B, …) stays the same from step to
step, `past.NAME` (B, K, …) is replaced by the output `next.NAME`. Of the encoder, `past.NAME` is (B, …). The state of a
second decoder has names behind `backwards.` there, and the same as the first one's in its own graph.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.errors import CheckpointError
from utils.hypotheses import Braces, Hypothesis
from utils.reading.onnx_search import (
    Array,
    Encoded,
    Explanation,
    State,
    Step,
    beam_search,
    explain,
    greedy,
    log_softmax,
    rescore,
)
from utils.reading.scaling import joined, parted, shrinking, shrunk_padding

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Of the folder; raise it when readers of an older version could not use it. 1 has one network, 2 several.
FORMAT = 2
ABOUT = "model.json"
KEYS = {"format": int, "vocabulary": list, "data": dict, "directions": int, "stride": int}
IMAGES, PADDING, TOKENS, LOGITS, ATTENTION = "images", "padding", "tokens", "logits", "attention"
OF_IMAGE, OF_PAST, OF_NEXT, OF_BACKWARDS = "image.", "past.", "next.", "backwards."


def read_about(folder: str | Path) -> dict[str, Any]:
    """What model.json says. Raises CheckpointError for a folder that is no exported network."""
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = f"it has no readable {ABOUT} ({type(error).__name__})"
        raise CheckpointError(
            f"{folder}: not an exported network: {reason}; python export.py CHECKPOINT --out FOLDER writes one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    for key, kind in KEYS.items():
        if not isinstance(about, dict) or not isinstance(about.get(key), kind):
            raise CheckpointError(f"{path}: expected the key {key}, of type {kind.__name__}; export the network again")
    if about["stride"] < 1 or about["directions"] not in (1, 2):
        raise CheckpointError(
            f"{path}: no network has a stride of {about['stride']} and {about['directions']} directions"
        )
    if not isinstance(about.setdefault("networks", 1), int) or about["networks"] < 1:
        raise CheckpointError(f"{path}: expected the number of networks, got {about['networks']!r}")
    if not isinstance(about.setdefault("backwards", False), bool):
        raise CheckpointError(f"{path}: backwards: expected true or false, got {about['backwards']!r}")
    if about["format"] > FORMAT:
        raise CheckpointError(f"{path}: written by a newer version of this program (format {about['format']})")
    return about


def file_names(index: int) -> tuple[str, str, str]:
    """Of the graphs of a network: encoder, step of the decoder, and of a decoder that reads backwards.

    index: of the network, from 0.
    """
    suffix = f"-{index + 1}" if index else ""
    return tuple(f"{name}{suffix}.onnx" for name in ("encoder", "decoder_step", "backwards_step"))


class _Part(NamedTuple):
    """A part of a Recognizer, as far as a Reader needs it."""

    directions: int
    stride: int


class _StepGraph:
    """One step of a decoder."""

    def __init__(self, path: Path, threads: int, given: Iterable[str]):
        """given: what the encoder says of the state. Raises CheckpointError where the decoder needs more."""
        self._session = _open(path, threads, {TOKENS}, {LOGITS, ATTENTION})
        self._inputs = {one.name for one in self._session.get_inputs()} - {TOKENS}
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.vocabulary_size = next(one.shape[-1] for one in self._session.get_outputs() if one.name == LOGITS)
        if missing := self._inputs - set(given):
            raise CheckpointError(f"{path}: needs {min(missing)}, which the encoder beside it does not give")

    def __call__(self, state: State, tokens: Array) -> tuple[Array, State, Array]:
        """See OnnxNetwork.step()."""
        given = {name: array for part in state for name, array in part.items() if name in self._inputs}
        outputs = _run(self._session, {TOKENS: tokens.astype(np.int64), **given})
        found = dict(zip(self._outputs, outputs, strict=True))
        past = {OF_PAST + name[len(OF_NEXT) :]: array for name, array in found.items() if name.startswith(OF_NEXT)}
        return found[LOGITS], State(state.image, past), found[ATTENTION]


class _Graphs:
    """The graphs of one network."""

    def __init__(self, folder: Path, index: int, threads: int, has_backwards: bool):
        encoder, step, backwards = (folder / name for name in file_names(index))
        self._encoder = _open(encoder, threads, {IMAGES, PADDING}, set())
        self._outputs = [output.name for output in self._encoder.get_outputs()]
        self.step = _StepGraph(step, threads, self._outputs)
        self._backwards = backwards, threads
        if has_backwards and not backwards.is_file():
            raise CheckpointError(f"{backwards}: it is missing")

    @cached_property
    def backwards(self) -> _StepGraph:
        """Opened when it is asked for: greedy decoding does without."""
        given = [name.removeprefix(OF_BACKWARDS) for name in self._outputs if name.startswith(OF_BACKWARDS)]
        return _StepGraph(*self._backwards, given)

    def start(self, images: Array, padding: Array) -> tuple[State, State]:
        """The states of both decoders before their first token, of one row (B, 1, …) for each image; the second one
        is empty where there is none."""
        outputs = dict(zip(self._outputs, _run(self._encoder, {IMAGES: images, PADDING: padding}), strict=True))
        of_second = {
            name.removeprefix(OF_BACKWARDS): array for name, array in outputs.items() if name.startswith(OF_BACKWARDS)
        }
        return _state(outputs), _state(of_second)


def _state(outputs: dict[str, Array]) -> State:
    image = {name: array for name, array in outputs.items() if name.startswith(OF_IMAGE)}
    return State(image, {name: array[:, None] for name, array in outputs.items() if name.startswith(OF_PAST)})


class OnnxNetwork:
    """Images in, token ids out; its methods are those of models.recognizer.Recognizer, with arrays for tensors."""

    def __init__(self, folder: str | Path, threads: int | None = None):
        """threads: to compute with; by default OMP_NUM_THREADS, or one for each core that this process may use.

        Raises CheckpointError for a folder that is no exported network, or where there is no onnxruntime.
        """
        folder = Path(folder)
        self.ratios: tuple[float, ...] = ()  # see at_scales()
        self.braces: Braces | None = None  # see Reads in models/recognizer.py
        self.about = read_about(folder)
        self.decoder = self.handwritten_encoder = _Part(self.about["directions"], self.about["stride"])
        threads = threads or _usual_threads()
        self._networks = [
            _Graphs(folder, index, threads, self.about["backwards"]) for index in range(self.about["networks"])
        ]
        self.vocabulary_size = self._networks[0].step.vocabulary_size
        if any(network.step.vocabulary_size != self.vocabulary_size for network in self._networks):
            raise CheckpointError(f"{folder}: its networks have vocabularies of different sizes")

    @property
    def directions(self) -> int:
        """1, or 2 where hypotheses can be scored in both."""
        return 2 if self.about["backwards"] else self.decoder.directions

    def at_scales(self, ratios: Sequence[float]) -> OnnxNetwork:
        """This network, reading each image as it is and `ratios` times as large together; as models/ensemble.py."""
        network = copy.copy(self)
        network.ratios = tuple(ratios)
        return network

    def encode(self, images: Array, padding: Array, domain: str = "handwritten") -> Encoded:
        """images: (B, 1, H, W) float32, ink 1 on paper 0, padding: (B, H, W) bool.   domain: only "handwritten"."""
        given = [(images, padding), *(shrink(images, padding, ratio) for ratio in self.ratios)]
        stride = self.handwritten_encoder.stride
        is_image = ~padding[:, ::stride, ::stride]
        sizes = np.stack([is_image.any(2).sum(1), is_image.any(1).sum(1)], 1)
        forwards, backwards = zip(*(network.start(*one) for network in self._networks for one in given), strict=True)
        return Encoded(joined(forwards), sizes, {}, joined(backwards) if self.about["backwards"] else None)

    def read(self, images: Array, padding: Array) -> list[Hypothesis]:
        """Greedy decoding, from left to right."""
        return self.read_encoded(self.encode(images, padding))

    def read_encoded(
        self, encoded: Encoded, beam: int = 1, directions: int | None = None, length_penalty: float = 1.0
    ) -> list[Hypothesis]:
        """Autoregressive decoding.   beam: 1 decodes greedily from left to right; more uses all of the decoder's
        directions, or as many as `directions` says."""
        if beam == 1 and directions in (None, 1):
            found = greedy(self.step, encoded, length_penalty, self.braces)
            for index, (hypothesis, explanation) in enumerate(found):
                encoded.seen[index, tuple(hypothesis.tokens)] = explanation
            return [hypothesis for hypothesis, _ in found]
        if encoded.backwards is None or directions == 1:
            directions = directions or self.decoder.directions
            return beam_search(self.step, encoded, beam, directions, length_penalty, self.braces)
        found = beam_search(self.step, encoded, beam, 1, length_penalty, self.braces)
        return rescore(found, self.step_backwards, encoded.backwards, length_penalty)

    def explain(self, images: Array, padding: Array, predictions: Sequence[Sequence[int]]) -> list[Explanation]:
        """How probable each token of a prediction is, and where it is in the image."""
        return self.explain_encoded(self.encode(images, padding), predictions)

    def explain_encoded(self, encoded: Encoded, predictions: Sequence[Sequence[int]]) -> list[Explanation]:
        """explain(), for what encode() returned."""
        keys = [(index, tuple(tokens)) for index, tokens in enumerate(predictions)]
        if all(key in encoded.seen for key in keys):
            return [encoded.seen[key] for key in keys]
        return explain(self.step, encoded, predictions)

    def step(self, state: State, tokens: Array) -> tuple[Array, State, Array]:
        """One more token in every row.   tokens: (B, K).   Returns logits (B, K, V), state, attention (B, K, h, w)."""
        return self._step([network.step for network in self._networks], state, tokens)

    def step_backwards(self, state: State, tokens: Array) -> tuple[Array, State, Array]:
        """step() of the decoder that reads from right to left, where there is one."""
        return self._step([network.backwards for network in self._networks], state, tokens)

    def _step(self, decoders: Sequence[Step], state: State, tokens: Array) -> tuple[Array, State, Array]:
        members = (decoder for decoder in decoders for _ in (1, *self.ratios))
        steps = [step(one, tokens) for step, one in zip(members, parted(state), strict=True)]
        logits, states, attention = zip(*steps, strict=True)
        mean = logits[0] if len(logits) == 1 else np.mean([log_softmax(one) for one in logits], 0, dtype=np.float32)
        return mean, joined(states), attention[0]


def shrink(images: Array, padding: Array, ratio: float) -> tuple[Array, Array]:
    """A batch in a smaller size.   images: (B, 1, H, W), zero in the padding.   padding: (B, H, W)."""
    rows, columns = (shrinking(side, ratio) for side in images.shape[2:])
    return rows @ images @ columns.T, shrunk_padding(padding, ratio)


def _usual_threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(path: Path, threads: int, inputs: set[str], outputs: set[str]) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            f"{path.parent}: reading it needs onnxruntime: pip install -r requirements-inference.txt ({error})"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Waiting threads sleep: of two threads of one core, one that spins takes a third of the time from the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each reason, and none for all of them
        reason = "it is missing" if not path.is_file() else " ".join(str(error).split())
        raise CheckpointError(f"{path}: onnxruntime cannot open it: {reason}") from None
    found = {one.name for one in session.get_inputs()}, {one.name for one in session.get_outputs()}
    for kind, wanted, names in zip(("input", "output"), (inputs, outputs), found, strict=True):
        if missing := wanted - names:
            raise CheckpointError(f"{path}: a graph of another program: it has no {kind} named {min(missing)}")
    return session


def _run(session: InferenceSession, inputs: dict[str, Array]) -> list[Array]:
    try:
        return session.run(None, inputs)
    except Exception as error:  # as above; callers know what is out of memory as a RuntimeError
        reason = f"onnxruntime: {' '.join(str(error).split())}"
        raise (RuntimeError if "alloc" in reason.lower() else CheckpointError)(reason) from None
