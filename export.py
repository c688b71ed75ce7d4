"""Write a checkpoint as ONNX: a folder that reads without torch, by onnxruntime alone.

    python export.py checkpoints/crohme.safetensors --out exported
    python recognize.py --onnx exported photo.jpg
    python export.py checkpoints/crohme.safetensors --out exported-int8 --int8     smaller, see docs/export.md

The folder holds the encoder and one step of the decoder as graphs, and model.json: vocabulary, settings of images,
license and origin. Before it is called written, both are compared with torch on made-up ink.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders.interface import DecoderState
from recognize import Reader
from utils.errors import CheckpointError, ConfigError
from utils.files import atomic_write, file_digest
from utils.reading.batches import ImageBatch
from utils.reading.checkpoints import find_checkpoint
from utils.reading.onnx_network import (
    ABOUT,
    ATTENTION,
    IMAGES,
    LOGITS,
    OF_BACKWARDS,
    OF_IMAGE,
    OF_NEXT,
    OF_PAST,
    PADDING,
    TOKENS,
    OnnxNetwork,
    file_names,
)
from utils.script import run_script
from utils.special_tokens import END, START
from utils.training.run_folder import load_checkpoint

if TYPE_CHECKING:
    from models.attention import CoverageRefinement
    from models.decoders.interface import Decoder, Encoded
    from models.densenet import DenseBlock
    from models.recognizer import Ensemble, Recognizer
    from utils.reading.onnx_search import State, Step

ROOT = Path(__file__).resolve().parent
OPSET = 20
# How far the exported network may differ from torch: of its largest logit; in 8 bits it differs anyway.
TOLERANCE = 1e-3
# Two batches (B, H, W) and numbers of tokens that have no size in common: what differs between them is dynamic. No side
# is a multiple of a stride: how much is added to it is then not taken for a constant.
EXAMPLES = ((3, 91, 155), 5), ((2, 125, 219), 4)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .safetensors file of this project, or newest")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made where it is missing")
    parser.add_argument("--int8", action="store_true", help="weights and products in 8 bits")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    check_packages()
    checkpoint = find_checkpoint(options.checkpoint)
    reader = Reader.load(checkpoint)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / ABOUT).unlink(missing_ok=True)  # the folder counts as exported when everything else is there
    graphs = 3 if reader.network.backwards is not None else 2
    files = []
    for index, network in enumerate(reader.network.networks):
        paths = [options.out / name for name in file_names(index)[:graphs]]
        export_network(network, *paths)
        if options.int8:
            quantize(paths)
        files += paths
    shutil.copyfile(ROOT / "LICENSE", options.out / "LICENSE")
    about = describe(checkpoint, reader, "int8" if options.int8 else "fp32")
    atomic_write(options.out / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    difference = compare(reader.network, OnnxNetwork(options.out))
    if not options.int8 and difference > TOLERANCE:
        (options.out / ABOUT).unlink()
        raise CheckpointError(f"{options.out}: the network there differs from torch by {difference:.2g} of its logits")
    size = sum(path.stat().st_size for path in files)
    print(f"{options.out}: {size / 1e6:.1f} MB; logits differ from torch's by {difference:.1g} of the largest at most")
    return 0


def check_packages() -> None:
    """Raises ConfigError where what exporting needs is not installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"exporting needs {', '.join(missing)}: pip install -r requirements-dev.txt")


def describe(checkpoint: Path, reader: Reader, precision: str) -> dict[str, Any]:
    """What model.json says: all that reading needs, and where the network is from."""
    import onnx

    about = load_checkpoint(checkpoint).about
    origin = {name: about[name] for name in ("stage", "epoch", "validation") if name in about}
    networks = len(reader.network.networks)
    return {
        "format": 1 if networks == 1 else 2,
        "networks": networks,
        "precision": precision,
        "directions": reader.network.decoder.directions,
        "backwards": reader.network.backwards is not None,
        "stride": reader.network.handwritten_encoder.stride,
        "data": dict(reader.data),
        "license": "MIT for the program, see LICENSE; the weights are used as the data that they were trained on",
        "architecture": reader.network.architecture(),
        "origin": {"checkpoint": checkpoint.name, "sha256": file_digest(checkpoint), **origin},
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__, "opset": OPSET},
        "vocabulary": [str(token) for token in about["vocabulary"]],
    }


# ---- graphs ----------------------------------------------------------------------------------------------------------


class EncoderGraph(nn.Module):
    """Images to the state before the first token of each decoder; image and past are the names of a state's parts."""

    def __init__(self, model: Recognizer, decoders: Sequence[nn.Module], image: Sequence[str], past: Sequence[str]):
        super().__init__()
        self.model, self.decoders, self.image, self.past = model, nn.ModuleList(decoders), list(image), list(past)

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        """Returns, for each decoder, the image's parts (B, …), then those of the past (B, …), as they are named."""
        encoded, parts = self.model.encode(images, padding, "handwritten"), []
        for decoder in self.decoders:
            state = decoder.start(*encoded)
            parts += [state.image[name] for name in self.image] + [state.past[name] for name in self.past]
        # Copies: parts may start as the very same tensor, and each needs an output of its own.
        return tuple(part.clone() for part in parts)


class StepGraph(nn.Module):
    """One more token (B, K) for K rows of each image; image and past are the names of the state's parts."""

    def __init__(self, decoder: nn.Module, image: Sequence[str], past: Sequence[str]):
        super().__init__()
        self.decoder, self.image, self.past = decoder, list(image), list(past)

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """state: the image's parts (B, …), then those of the past (B, K, …).

        Returns logits (B, K, V), attention (B, K, h, w), and the past after this token.
        """
        size = tokens.shape
        image = dict(zip(self.image, state[: len(self.image)], strict=True))
        past = {name: x.flatten(0, 1) for name, x in zip(self.past, state[len(self.image) :], strict=True)}
        logits, after, attention = self.decoder.step(DecoderState(image, past), tokens.flatten())
        return tuple(part.unflatten(0, size) for part in (logits, attention, *(after.past[name] for name in self.past)))


class PlainDenseBlock(nn.Module):
    """A DenseBlock as the paper has it, with concatenation: writing into a shared map is not for ONNX."""

    def __init__(self, block: DenseBlock):
        super().__init__()
        self.layers = nn.ModuleList(block)

    def forward(self, features: Tensor, is_valid: Tensor) -> Tensor:
        for layer in self.layers:
            squeezed = F.conv2d(features, layer.conv1.weight)
            features = torch.cat([features, layer.expand(squeezed, is_valid)], 1)
        return features


class PlainRefinement(nn.Module):
    """A CoverageRefinement that takes all maps at once: one step has few of them, and splitting is not for ONNX."""

    def __init__(self, refinement: CoverageRefinement):
        super().__init__()
        self.conv, self.project, self.norm = refinement.conv, refinement.project, refinement.norm

    def forward(self, coverage: Tensor, padding: Tensor) -> Tensor:
        rows, length = coverage.shape[:2]
        maps = self.project(self.conv(coverage.flatten(0, 1).unflatten(2, padding.shape[1:])).relu())
        is_valid = (~padding).flatten(1)[:, None, None].float()
        maps = self.norm(maps.flatten(2).unflatten(0, (padding.shape[0], -1)), is_valid)
        return maps.view(rows, length, *maps.shape[2:])


def exportable(model: Recognizer) -> Recognizer:
    """The same network in operations that ONNX knows, for reading."""
    model = copy.deepcopy(model).float().eval().requires_grad_(False)
    encoder = model.handwritten_encoder
    encoder.blocks = nn.ModuleList(PlainDenseBlock(block) for block in encoder.blocks)
    if hasattr(model.decoder, "refinement"):
        model.decoder.refinement = PlainRefinement(model.decoder.refinement)
    return model


@torch.no_grad()
def export_network(model: Recognizer, encoder: Path, *steps: Path) -> None:
    """Write the graphs of a network; see utils/reading/onnx_network.py for their inputs and outputs.

    steps: of the decoder, and of the one that reads backwards, where it is to be written.
    """
    model = exportable(model)
    batch, other_batch = (made_up_images(*size) for size, _ in EXAMPLES)
    encoded = [model.encode(images.images, images.padding, "handwritten") for images in (batch, other_batch)]
    names = []
    decoders = [model.decoder, model.backwards][: len(steps)]
    for prefix, decoder, path in zip(("", OF_BACKWARDS), decoders, steps, strict=False):
        state, other = (example(decoder, one, count) for one, (_, count) in zip(encoded, EXAMPLES, strict=True))
        # By name: a decoder may list the parts of its state in another order after a step than before the first.
        parts = {OF_IMAGE + name: (state.image[name], other.image[name]) for name in state.image}
        parts |= {OF_PAST + name: (state.past[name], other.past[name]) for name in state.past}
        names += [prefix + name for name in parts]
        write_graph(
            path,
            StepGraph(decoder, state.image, state.past),
            {TOKENS: (torch.full(rows(state), START), torch.full(rows(other), START)), **parts},
            [LOGITS, ATTENTION, *(OF_NEXT + name for name in state.past)],
        )
    write_graph(
        encoder,
        EncoderGraph(model, decoders, state.image, state.past),
        {IMAGES: (batch.images, other_batch.images), PADDING: (batch.padding, other_batch.padding)},
        names,
    )


def example(decoder: Decoder, encoded: Encoded, count: int) -> DecoderState:
    """The state after `count` tokens of count rows for each image; rows are (B, K, …)."""
    size = len(encoded.features)
    state = decoder.start(*encoded).select(torch.arange(size).repeat_interleave(count))
    for _ in range(count):
        _, state, _ = decoder.step(state, torch.full((size * count,), START))
    return DecoderState(state.image, {name: x.unflatten(0, (size, count)) for name, x in state.past.items()})


def rows(state: DecoderState) -> tuple[int, int]:
    """B and K of a state."""
    return tuple(next(iter(state.past.values())).shape[:2])


def made_up_images(count: int, height: int, width: int) -> ImageBatch:
    """Rectangles of different sizes on paper, each image a little smaller than the one before."""
    random = np.random.default_rng(count)
    images = []
    for index in range(count):
        image = np.zeros((height - 20 * index, width - 28 * index), np.uint8)
        for top, left in random.integers(4, min(image.shape) - 24, (8, 2)):
            image[top : top + 20, left : left + 3] = image[top : top + 3, left : left + 16] = 255
        images.append(image)
    return ImageBatch.of(range(count), images).to(torch.device("cpu"))


def write_graph(path: Path, graph: nn.Module, inputs: dict[str, tuple[Tensor, Tensor]], outputs: Sequence[str]) -> None:
    """inputs: of two examples, by name; axes whose sizes differ are dynamic."""
    first, second = zip(*inputs.values(), strict=True)
    shapes = [dynamic_axes(*pair) for pair in inputs.values()]
    if isinstance(graph, StepGraph):  # all but the first are in *state
        shapes = (shapes[0], tuple(shapes[1:]))
    with quiet():
        # Strict: by reading the code. Running it instead would make the len() of a tensor a constant.
        program = torch.export.export(graph.eval(), first, dynamic_shapes=tuple(shapes), strict=True)
        written = torch.onnx.export(
            program, input_names=list(inputs), output_names=list(outputs), opset_version=OPSET, verbose=False
        )
        written.save(path, external_data=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings about themselves. What they could get wrong is compared afterwards."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def dynamic_axes(first: Tensor, second: Tensor) -> dict[int, Any]:
    return {
        axis: torch.export.Dim.DYNAMIC
        for axis, (one, other) in enumerate(zip(first.shape, second.shape, strict=True))
        if one != other
    }


def quantize(paths: Sequence[Path]) -> None:
    """Replace graphs by ones in 8 bits: weights per channel, inputs by the range that they have in each batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for path in paths:
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / path.name
            shutil.move(path, source)
            with quiet():
                quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


# ---- comparison ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def compare(model: Recognizer | Ensemble, exported: OnnxNetwork, steps: int = 12) -> float:
    """The largest difference of any logit of some steps on made-up images, as a share of the largest logit.

    Two rows an image: one continues with its likeliest token, the other with its second likeliest.
    """
    batch = made_up_images(3, 112, 208)
    encoded = model.encode(batch.images, batch.padding, "handwritten")
    other = exported.encode(batch.images.numpy(), batch.padding.numpy())
    pairs = [(model.decoder, exported.step, other.state, START)]
    if other.backwards is not None:
        pairs.append((model.backwards, exported.step_backwards, other.backwards, END))
    return max(_difference(decoder, encoded, *pair, steps) for decoder, *pair in pairs)


def _difference(decoder: Decoder, encoded: Encoded, step: Step, other: State, start: int, steps: int) -> float:
    """compare(), for one decoder.   step, other: the exported one, and its state before the first token."""
    state = decoder.start(*encoded).select(torch.arange(3).repeat_interleave(2))
    other = other.select(np.zeros((3, 2), int))
    tokens, worst = torch.full((3, 2), start), 0.0
    for _ in range(steps):
        logits, state, _ = decoder.step(state, tokens.flatten())
        others, other, _ = step(other, tokens.numpy())
        logits = logits.unflatten(0, (3, 2))
        worst = max(worst, float(np.abs(logits.numpy() - others).max() / np.abs(logits.numpy()).max()))
        tokens = logits.topk(2).indices.diagonal(dim1=1, dim2=2)
    return worst


if __name__ == "__main__":
    run_script(main)
