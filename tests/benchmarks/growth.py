"""What grows with the data, and what does not: a data set as it is, and copied 10 and 100 times.

    python tests/benchmarks/growth.py --dataset CROHME --times 1 10 100 --plot results/growth.png

For each size: seconds in which `train/` is prepared from its images (of at most --prepare images, which are links
to the originals); seconds and memory from the start of a process to the first batch; seconds to plan an epoch; images
a second that one process reads, distorts and stacks, of those of the first 400 batches at most. But for preparing, the
copies have the sizes and labels of the originals, and blank pixels: a file with holes, which takes no room on disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SHOWN = {
    "prepare_s": "preparing (s)",
    "first_batch_s": "start to first batch (s)",
    "plan_s": "planning an epoch (s)",
    "data_MiB": "memory for data (MiB)",
    "images_per_second": "images/s",
}


def enlarge(source: Path, target: Path, copies: int) -> None:
    """A data set whose training split has the images of another, again and again."""
    import numpy as np

    from dataset.images.store import FILES, ImageStore

    store = ImageStore(source / "train" / "store")
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


def prepare(source: Path, target: Path, copies: int) -> float:
    """Seconds to prepare a training split of so many copies of each image."""
    from dataset.images.store import open_split
    from dataset.vocabulary import Vocabulary

    folder = target / "train"
    (folder / "images").mkdir(parents=True)
    (target / "vocabulary.txt").write_bytes((source / "vocabulary.txt").read_bytes())
    lines = (source / "train" / "labels.txt").read_text(encoding="utf-8").splitlines()
    with open(folder / "labels.txt", "w", encoding="utf-8") as file:
        for copy in range(copies):
            file.writelines(f"{copy}-{line}\n" for line in lines)
    for image in (source / "train" / "images").iterdir():
        for copy in range(copies):
            os.link(image, folder / "images" / f"{copy}-{image.name}")
    started = time.perf_counter()
    open_split(target, "train", Vocabulary.from_file(target / "vocabulary.txt"), progress=False)
    return time.perf_counter() - started


def first_batches(root: str, dataset: str, batching: str) -> None:
    """What train_stage.py does before its first step of the last stage, and some epochs more; prints JSON."""
    started = time.perf_counter()
    import torch

    from dataset.loading.loaders import make_loaders, open_data
    from utils.config.loading import load_config

    torch.set_num_threads(1)
    imported, before = time.perf_counter(), resident()
    config = load_config(ROOT / "config.yaml", dataset, "small", [f"data.root={root}", "data.workers=0"])
    data = open_data(config.data, dataset, config.seed)
    train, _ = make_loaders(data, config.stages[-1], config, batching, stride=8)
    train.set_epoch(0)
    batches = iter(train)
    next(batches)
    first = time.perf_counter()
    memory = resident() - before
    images = sum(len(batch) for _, batch in zip(range(400), batches, strict=False))
    seconds = time.perf_counter() - first
    planning = time.perf_counter()
    train.set_epoch(1)
    len(train)
    found = {
        "images": data.counts()["train"],
        "imports_s": imported - started,
        "first_batch_s": first - started,
        "plan_s": time.perf_counter() - planning,
        "data_MiB": memory / 2**20,
        "images_per_second": images / seconds,
    }
    print(json.dumps(found))


def resident() -> int:
    """Bytes of this process in memory, as Linux tells it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def draw(found: list[dict], path: Path) -> None:
    """A panel for each figure, over the number of images."""
    from matplotlib.ticker import NullFormatter

    from utils.plots import new_figure

    sizes = [values["images"] for values in found]
    figure = new_figure(3 * len(SHOWN), 2.8)
    for axes, (key, title) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
        points = [(values["images"], values[key]) for values in found if key in values]
        axes.loglog(*zip(*points, strict=True), marker="o")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("training images")
        axes.set_xlim(min(sizes) / 2, max(sizes) * 2)
        axes.set_ylim(min(y for _, y in points) / 10, max(y for _, y in points) * 10)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=str(ROOT / "datasets"))
    parser.add_argument("--dataset", default="CROHME")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100], help="sizes to copy the data set to")
    parser.add_argument("--prepare", type=int, default=100_000, metavar="N", help="prepare at most N images")
    parser.add_argument("--batching", default="adaptive", choices=["fixed", "adaptive"])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as PNG")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return first_batches(options.root, options.dataset, options.batching)
    source, found = Path(options.root) / options.dataset, []
    with tempfile.TemporaryDirectory(dir=options.root) as folder:
        for copies in options.times:
            root = Path(folder) / str(copies)
            enlarge(source, root / options.dataset, copies)
            command = [sys.executable, __file__, "--one", "--root", str(root), "--dataset", options.dataset]
            done = subprocess.run([*command, "--batching", options.batching], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            if found[-1]["images"] <= options.prepare:
                found[-1]["prepare_s"] = prepare(source, Path(folder) / "prepared" / options.dataset, copies)
                shutil.rmtree(Path(folder) / "prepared")
            print(json.dumps({name: round(value, 2) for name, value in found[-1].items()}), flush=True)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
