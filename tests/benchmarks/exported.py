"""An exported network against torch: how many images they read alike, scores, and CPU time.

    python tests/benchmarks/exported.py exported --checkpoint checkpoints/crohme.safetensors --split 2014
    python tests/benchmarks/exported.py exported-int8 --against exported --split validation
    python tests/benchmarks/exported.py exported --first photo.jpg            seconds to the first result, and memory

One image at a time, as when a person reads one. Times are CPU times of this process, so that other processes disturb
them less. The split `validation` is the part of `train` that training with seed 0 sets aside.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from dataset.images.store import open_split  # noqa: E402
from dataset.loading.validation import HeldOut, split_validation  # noqa: E402
from dataset.vocabulary import Vocabulary  # noqa: E402
from recognize import Reader  # noqa: E402
from utils.reading.reader import Prepared, Search  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def open_items(folder: Path, split: str, count: int | None) -> tuple[list[np.ndarray], list[list[str]]]:
    """Images uint8 (H, W) and labels of a split, evenly spread where fewer than all are asked for."""
    vocabulary = Vocabulary.from_file(folder / "vocabulary.txt")
    store = open_split(folder, "train" if split == "validation" else split, vocabulary)
    indices = np.arange(len(store))
    if split == "validation":
        _, indices = split_validation(store.label_hash, HeldOut())
    if count and count < len(indices):
        indices = indices[np.linspace(0, len(indices) - 1, count).astype(int)]
    return [store.image(index) for index in indices], [vocabulary.decode(store.tokens(index)) for index in indices]


def read_all(reader: Reader, prepared: Sequence[Prepared], search: Search) -> tuple[list[list[str]], float]:
    """Tokens of each image, and CPU seconds."""
    reader.decode(prepared[:2], search, explain=True)  # what happens once only
    started = time.process_time()
    found = [reader.decode([one], search, explain=True)[0].hypothesis.tokens for one in prepared]
    return [reader.vocabulary.decode(tokens) for tokens in found], time.process_time() - started


def compare(options: argparse.Namespace) -> None:
    images, labels = open_items(options.root / options.dataset, options.split, options.items)
    search = Search(options.beam)
    results = []
    for path in filter(None, (options.folder, options.against or options.checkpoint)):
        reader = Reader.load(path)
        prepared = [reader.prepare(image, clean_when="never") for image in images]
        tokens, seconds = read_all(reader, prepared, search)
        right = sum(one == label for one, label in zip(tokens, labels, strict=True))
        print(f"{path}: ExpRate {100 * right / len(labels):.2f} % ({right} of {len(labels)}), "
              f"{1000 * seconds / len(labels):.1f} ms of CPU an image", flush=True)  # fmt: skip
        results.append((tokens, seconds))
    if len(results) == 2:
        (tokens, seconds), (others, other_seconds) = results
        alike = sum(one == other for one, other in zip(tokens, others, strict=True))
        print(f"alike: {alike} of {len(labels)}; {other_seconds / seconds:.2f} times as fast")


def first_result(folder: str, image: str) -> None:
    """Of a new process that reads one image: seconds, CPU seconds and the most memory."""
    code = (
        "import resource, sys, recognize\n"
        "code = recognize.main()\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(f'{used.ru_utime + used.ru_stime:.2f} s of CPU, {used.ru_maxrss / 1024:.0f} MiB', file=sys.stderr)\n"
        "sys.exit(code)"
    )
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code, image, "--onnx", folder], cwd=ROOT, check=True)
        print(f"{time.monotonic() - started:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what export.py wrote")
    parser.add_argument("--checkpoint", help="to compare with torch")
    parser.add_argument("--against", help="another exported folder")
    parser.add_argument("--dataset", default="CROHME_INK")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--root", type=Path, default=ROOT / "datasets")
    parser.add_argument("--items", type=int, help="so many images, evenly spread; default: all")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--first", metavar="IMAGE", help="seconds to the first result, from the start of a process")
    options = parser.parse_args()
    if options.first:
        first_result(options.folder, options.first)
    else:
        compare(options)


if __name__ == "__main__":
    main()
