"""Checkpoints and exported networks: tampered headers, types and shapes, weights that are no numbers, foreign files."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

from tests.faults.campaign import Case, Kind
from tests.faults.mutation import BINARY, TEXT, VALUES, mutated, mutated_value
from tests.test_reader import OPTIONS, recognizer, saved, written
from utils.training.run_folder import load_checkpoint


def tampered(random: random.Random, data: bytes) -> bytes:
    """A safetensors file whose header is JSON still, with a length that fits, but says something else."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if random.random() < 0.5:
        about = mutated_value(random, json.loads(header["__metadata__"]["about"]))
        text = json.dumps(about)
        header["__metadata__"]["about"] = (
            text if random.random() < 0.9 else mutated(random, text.encode(), TEXT).decode("utf-8", "replace")
        )
    else:
        header = mutated_value(random, header)
    text = json.dumps(header).encode()
    if random.random() < 0.05:
        text = b"[" * 100_000 + b"]" * 100_000
    if random.random() < 0.1:
        length = random.choice((0, 2**63, 2**64 - 1, 100_000_001, len(text) + 1, len(data) * 2))
    else:
        length = len(text)
    return struct.pack("<Q", length) + text + data[8 + struct.unpack("<Q", data[:8])[0] :]


def make_checkpoints(folder: Path) -> Case:
    import torch
    from safetensors.torch import save

    from recognize import Reader
    from utils.training.publish import publish

    paths = [saved(folder / f"{kind}.safetensors", recognizer(kind)) for kind in OPTIONS]
    image = written()

    def use(path: Path, publishes: bool) -> None:
        if publishes:
            publish(path, path.with_name("published.safetensors"))
            path = path.with_name("published.safetensors")
        reading = Reader.load(path).read(image)
        assert reading.confidence == reading.confidence, "a confidence that is no number"

    for path in paths:
        use(shutil.copy(path, folder / "copy.safetensors"), True)

    def other_weights(random: random.Random, path: Path) -> bytes:
        checkpoint = load_checkpoint(path)
        weights, about = dict(checkpoint.weights), {"about": json.dumps(checkpoint.about)}
        name = random.choice(list(weights))
        tensor = weights[name].clone()
        kinds = [tensor.double(), tensor.half(), tensor.to(torch.int64), tensor[None], tensor.flatten(), tensor * 0,
                 torch.zeros(0), torch.zeros(()), tensor * float("nan"), tensor / 0, tensor * 1e30,
                 tensor.to(torch.bfloat16),
                 tensor.bool(), tensor.to(torch.complex64), torch.cat([tensor,
                 tensor]) if tensor.dim() else tensor]  # fmt: skip
        weights[name] = random.choice(kinds)
        if random.random() < 0.3 and tensor.is_floating_point():
            flat = tensor.flatten()
            flat[random.randrange(len(flat))] = random.choice((float("nan"), float("inf"), 70_000.0))
            weights[name] = flat.view_as(tensor)
        if random.random() < 0.2:
            del weights[name]
        return save({name: tensor.contiguous() for name, tensor in weights.items()}, about)

    def case(random: random.Random, folder: Path) -> None:
        path = random.choice(paths)
        data = random.choice((
            lambda: tampered(random, path.read_bytes()), lambda: other_weights(random, path),
            lambda: mutated(random, path.read_bytes(), BINARY)))()  # fmt: skip
        (folder / "a.safetensors").write_bytes(data)
        use(folder / "a.safetensors", random.random() < 0.3)

    return case


def make_exported(folder: Path) -> Case:
    """Needs onnxruntime and onnxscript, to write an exported network and to read it."""
    from recognize import Reader
    from tests.test_export import Exported

    whole = Exported(folder, "gru").folder
    image = written()
    Reader.load(whole).read(image)

    def case(random: random.Random, folder: Path) -> None:
        shutil.copytree(whole, folder / "network")
        path = folder / "network" / random.choice(("model.json", "model.json", "encoder.onnx", "decoder_step.onnx"))
        data = path.read_bytes()
        if path.name == "model.json":
            about = mutated_value(random, json.loads(data))
            data = json.dumps(about if random.random() < 0.95 else random.choice(VALUES)).encode()
            data = data if random.random() < 0.7 else mutated(random, data, TEXT)
        else:
            data = mutated(random, data, BINARY)
        path.write_bytes(data)
        Reader.load(folder / "network").read(image)

    return case


KINDS = [
    Kind("checkpoints", make_checkpoints, share=20, cpu_seconds=3),
    Kind("exported", make_exported, share=0, cpu_seconds=3),
]
