"""Seconds and memory from the start of a process to its first batch, for a data set as it is and copied many times.

    python tests/benchmarks/startup.py --dataset CROHME --pictures 1000000

The copies have the sizes and labels of the originals, and blank pixels: a file with holes, which takes no room on disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def enlarge(source: Path, target: Path, pictures: int) -> None:
    """A data set whose training split has the pictures of another, again and again."""
    import numpy as np

    from dataset.store import FILES, ImageStore

    store = ImageStore(source / "train" / "store")
    copies = -(-pictures // len(store))
    folder = target / "train" / "store"
    folder.mkdir(parents=True)
    for name in ("vocabulary.txt", "train/labels.txt"):
        (target / name).write_bytes((source / name).read_bytes())
    about = json.loads((store.folder / "store.json").read_text())
    for name, kind in FILES.items():
        values = np.fromfile(store.folder / f"{name}.bin", kind)
        if name == "pixels":
            about["bytes"][name] = copies * values.nbytes
            with open(folder / "pixels.bin", "wb") as file:
                file.truncate(about["bytes"][name])
            continue
        ends = [values + copy * values[-1] for copy in range(copies)] if name.endswith("_ends") else None
        values = np.concatenate(ends) if ends else np.tile(values, copies)
        values.tofile(folder / f"{name}.bin")
        about["bytes"][name] = values.nbytes
    status = (target / "train" / "labels.txt").stat()
    about["labels_status"] = [status.st_size, status.st_mtime_ns]
    (folder / "store.json").write_text(json.dumps(about))


def first_batch(root: str, dataset: str, batching: str) -> None:
    """What train_stage.py does before its first step of the last stage; prints seconds and memory as JSON."""
    started = time.perf_counter()
    import resource

    import torch  # noqa: F401

    from dataset.loaders import make_loaders, open_data
    from utils.config import load_config

    imported, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = load_config(ROOT / "config.yaml", dataset, "small", [f"data.root={root}", "data.workers=0"])
    data = open_data(config.data, dataset, config.seed)
    opened = time.perf_counter()
    train, _ = make_loaders(data, config.stages[-1], config, batching, stride=8)
    train.set_epoch(0)
    next(iter(train))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        json.dumps(
            {
                "pictures": sum(data.counts().values()),
                "imports_s": round(imported - started, 2),
                "open_s": round(opened - imported, 2),
                "first_batch_s": round(time.perf_counter() - opened, 2),
                "total_s": round(time.perf_counter() - started, 2),
                "data_MiB": round(memory / 1024),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=str(ROOT / "datasets"))
    parser.add_argument("--dataset", default="CROHME")
    parser.add_argument("--pictures", type=int, nargs="*", default=[1_000_000], help="sizes to copy the data set to")
    parser.add_argument("--batching", default="fixed", choices=["fixed", "adaptive"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return first_batch(options.root, options.dataset, options.batching)
    with tempfile.TemporaryDirectory() as folder:
        roots = [options.root]
        for pictures in options.pictures:
            roots.append(f"{folder}/{pictures}")
            enlarge(Path(options.root) / options.dataset, Path(roots[-1]) / options.dataset, pictures)
        for root in roots:
            command = [sys.executable, __file__, "--one", "--root", root, "--dataset", options.dataset]
            done = subprocess.run([*command, "--batching", options.batching], capture_output=True, text=True)
            print(done.stdout.strip() or done.stderr)


if __name__ == "__main__":
    main()
