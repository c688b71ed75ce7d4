"""Make weights small enough to hand on: 16-bit, and without the encoder of standard images, which reading never needs.

    python -m utils.training.publish checkpoints/CROHME/handwritten-best.safetensors --out crohme.safetensors

Networks of several runs on the same data become one file, and read together:

    python -m utils.training.publish checkpoints/a/clean-best.safetensors checkpoints/b/clean-best.safetensors

Networks of one line of training, such as the weights before a last stage and after it, become one network whose weights
are the mean of theirs, no slower than one: Wortsman et al., Model soups, ICML 2022.

    python -m utils.training.publish --mean checkpoints/a/ink-best.safetensors checkpoints/a/clean-best.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.loading import FREE_WITH_WEIGHTS
from utils.errors import CheckpointError
from utils.reading.options import scales_of
from utils.script import run_script
from utils.training.run_folder import Checkpoint, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

ONLY_FOR_TRAINING = ("standard_encoder.", "symbol_map.")
LARGEST_HALF = 65504.0
OF_READING = ("scales", "confidence_exponent")  # what of a checkpoint's data says how to read, not what was trained on
OF_ONE_NETWORK = ("stage", "epoch", "validation")


def publish(
    source: str | Path, target: str | Path, others: Sequence[str | Path] = (), as_mean: bool = False, **reading: Any
) -> int:
    """Write `target` from the checkpoint `source`; returns its size in bytes.

    others: checkpoints of other networks, which then read together with the first; see models/ensemble.py.
    as_mean: make one network of them instead, with the mean of their weights.
    reading: `scales` that images are to be read at together, times the usual size, and `confidence_exponent`, see
    utils/evaluation/calibration.py; those that are None stay as the first checkpoint names them.

    Raises CheckpointError for a checkpoint without a handwritten encoder, or with a weight that 16 bits cannot hold, or
    that holds several networks already; and for several that differ in what they know or are given.
    """
    first, *rest = (load_checkpoint(each) for each in (source, *others))
    architectures, parts = zip(*map(_for_reading, (first, *rest)), strict=True)
    for other in rest:
        _check_alike(first, other)
    about, architecture, weights = dict(first.about), architectures[0], parts[0]
    if rest:
        about = {name: value for name, value in about.items() if name not in OF_ONE_NETWORK}
    if as_mean:
        for other, each in zip(rest, architectures[1:], strict=True):
            if _sizes(each) != _sizes(architecture):
                raise CheckpointError(f"{other.path}: has no mean with {first.path}: its network is another")
        weights = {name: _mean([part[name] for part in parts]) for name in weights}
    elif rest:
        # As Ensemble.architecture() has it.
        architecture = {"vocabulary_size": architecture["vocabulary_size"], "networks": architectures}
        weights = {f"networks.{index}.{name}": x for index, part in enumerate(parts) for name, x in part.items()}
    about["architecture"] = architecture
    about["data"] = about["data"] | {name: value for name, value in reading.items() if value is not None}
    save_checkpoint(Path(target), weights, about)
    return Path(target).stat().st_size


def _sizes(architecture: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that weights do not depend on, such as dropout."""
    return {
        name: _sizes(value) if isinstance(value, dict) else value
        for name, value in architecture.items()
        if name not in FREE_WITH_WEIGHTS
    }


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """In 32 bits, and back; counts are those of the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return (sum(tensor.float() for tensor in tensors) / len(tensors)).to(tensors[0].dtype)


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    """Raises CheckpointError for networks that cannot read together, or were not validated on the same images."""
    own, others = ({name: x for name, x in each.about["data"].items() if name not in OF_READING}
                   for each in (first, other))  # fmt: skip
    decoders = (each.about["architecture"].get("decoder") for each in (first, other))
    differences = {
        "another decoder": len(set(decoders)) > 1,
        "another vocabulary": first.about["vocabulary"] != other.about["vocabulary"],
        f"other images, {others} instead of {own}": own != others,
        "other labels for validation": first.about.get("held_out") != other.about.get("held_out"),
    }
    for what, differs in differences.items():
        if differs:
            raise CheckpointError(f"{other.path}: cannot read together with {first.path}: it has {what}")


def _for_reading(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Architecture and weights, in 16 bits, of the part of a network that reads."""
    import torch

    architecture, weights = checkpoint.about["architecture"], {}
    if "networks" in architecture:
        raise CheckpointError(f"{checkpoint.path}: holds several networks; expected one, of a run")
    if "handwritten" not in architecture.get("domains", ["handwritten"]):
        raise CheckpointError(f"{checkpoint.path}: reads standard images only; expected weights of a later stage")
    for name, tensor in checkpoint.weights.items():
        if name.startswith(ONLY_FOR_TRAINING):
            continue
        if tensor.is_floating_point():
            if tensor.numel() and tensor.abs().max() > LARGEST_HALF:
                largest = f"{tensor.abs().max():.3g}"
                raise CheckpointError(f"{checkpoint.path}: {name} is larger than 16 bits hold ({largest})")
            tensor = tensor.to(torch.float16)
        weights[name] = tensor
    return {**architecture, "domains": ["handwritten"], "symbols": False}, weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="+", help="a .safetensors file of a run; several: they read together")
    parser.add_argument("--mean", action="store_true", help="make one network of several: the mean of their weights")
    parser.add_argument("--out", default="checkpoints/crohme.safetensors", help="default: %(default)s")
    parser.add_argument("--scales", type=scales_of, metavar="S[,S…]", help="sizes to read in together; default: one")
    parser.add_argument("--confidence-exponent", type=float, metavar="X", help="the fitted_exponent of scores.json")
    options = parser.parse_args()
    first, *others = options.checkpoint
    size = publish(first, options.out, others, options.mean, scales=options.scales,
                   confidence_exponent=options.confidence_exponent)  # fmt: skip
    print(f"{options.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    run_script(main)
