"""Make weights small enough to hand on: 16-bit, and without the encoder of standard images, which reading never needs.

python -m utils.training.publish checkpoints/CROHME/handwritten-best.safetensors --out crohme.safetensors --scales 1,1.2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from utils.errors import CheckpointError
from utils.reading.options import scales_of
from utils.script import run_script
from utils.training.run_folder import load_checkpoint, save_checkpoint

ONLY_FOR_TRAINING = ("standard_encoder.", "symbol_map.")
LARGEST_HALF = 65504.0


def publish(source: str | Path, target: str | Path, **reading: Any) -> int:
    """Write `target` from the checkpoint `source`; returns its size in bytes.

    reading: `scales` that images are to be read at together, times the usual size, and `confidence_exponent`, see
    utils/evaluation/calibration.py; those that are None stay as the checkpoint names them.

    Raises CheckpointError for a checkpoint without a handwritten encoder, or with a weight that 16 bits cannot hold.
    """
    import torch

    checkpoint = load_checkpoint(source)
    about = dict(checkpoint.about)
    if "handwritten" not in about["architecture"].get("domains", ["handwritten"]):
        raise CheckpointError(f"{source}: reads standard images only; expected weights of a later stage")
    weights = {}
    for name, tensor in checkpoint.weights.items():
        if name.startswith(ONLY_FOR_TRAINING):
            continue
        if tensor.is_floating_point():
            if tensor.numel() and tensor.abs().max() > LARGEST_HALF:
                raise CheckpointError(f"{source}: {name} is larger than 16 bits hold ({tensor.abs().max():.3g})")
            tensor = tensor.to(torch.float16)
        weights[name] = tensor
    about["architecture"] = {**about["architecture"], "domains": ["handwritten"], "symbols": False}
    about["data"] = about["data"] | {name: value for name, value in reading.items() if value is not None}
    save_checkpoint(Path(target), weights, about)
    return Path(target).stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a .safetensors file of a run")
    parser.add_argument("--out", default="checkpoints/crohme.safetensors", help="default: %(default)s")
    parser.add_argument("--scales", type=scales_of, metavar="S[,S…]", help="sizes to read in together; default: one")
    parser.add_argument("--confidence-exponent", type=float, metavar="X", help="the fitted_exponent of scores.json")
    options = parser.parse_args()
    size = publish(options.checkpoint, options.out, scales=options.scales,
                   confidence_exponent=options.confidence_exponent)  # fmt: skip
    print(f"{options.out}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    run_script(main)
