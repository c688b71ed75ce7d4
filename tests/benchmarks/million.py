"""A store of very many images: how long it takes to open, and what memory an epoch of reading needs.

    python tests/benchmarks/million.py FOLDER                      1,000,000 images of CROHME_INK's size, some 30 GB
    python tests/benchmarks/million.py FOLDER --images 20000 --workers 2

The store is made in FOLDER/MILLION, from the images and labels of --like again and again, unless it is there. Then an
epoch of ink as it is, in adaptive batches, is read as a training reads it: opened, planned, read by workers, collated.
Memory is that of all processes which no file backs (RssAnon): pages of the store in memory are the system's cache.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset.images.store import StoreWriter, open_split  # noqa: E402
from dataset.loading.loaders import Data, make_loaders  # noqa: E402
from dataset.vocabulary import Vocabulary  # noqa: E402
from utils.config.loading import load_config  # noqa: E402
from utils.files import file_digest  # noqa: E402
from utils.progress import counted  # noqa: E402

STAGES = """[{name: ink, images: ink, trains: [handwritten_encoder, decoder], losses: {label: 1}, epochs: 1,
    learning_rate: 1e-3}]"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--like", default="CROHME_INK", help="a data set in datasets/ (%(default)s)")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()

    target = options.folder / "MILLION"
    if not (target / "train" / "store").is_dir():
        make(target, ROOT / "datasets" / options.like, options.images)

    settings = [f"data.root={options.folder}", f"data.workers={options.workers}", f"stages={STAGES}"]
    config = load_config(ROOT / "config.yaml", "MILLION", options.preset, settings)
    before = anonymous()
    started = time.perf_counter()
    data = Data(target, config.data, config.seed)
    opened = time.perf_counter()
    loader, _ = make_loaders(data, config.stages[0], config, "adaptive", stride=8)
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    first = time.perf_counter()
    print(f"{data.counts()}: opened after {opened - started:.2f} s, the first batch after {first - started:.2f} s")
    images, tenth = 0, 0
    for number, batch in enumerate(batches, 2):
        images += len(batch)
        if 10 * number // len(loader) > tenth:
            tenth = 10 * number // len(loader)
            mib = (anonymous() - before) / 2**20
            rate = images / (time.perf_counter() - first)
            print(f"{tenth * 10:3} %: {images:,} images, {rate:,.0f} a second, {mib:,.0f} MiB", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak of this process with pages of files: {peak:,.0f} MiB")


def make(target: Path, like: Path, count: int) -> None:
    """A prepared data set of so many images: those of another one's training split, again and again."""
    vocabulary = Vocabulary.from_file(like / "vocabulary.txt")
    source = open_split(like, "train", vocabulary)
    split = target / "train"
    (split / "images").mkdir(parents=True)
    (target / "vocabulary.txt").write_bytes((like / "vocabulary.txt").read_bytes())
    labels = [" ".join(vocabulary.decode(source.tokens(index))) for index in range(len(source))]
    with open(split / "labels.txt", "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(f"{number:07}\t{labels[number % len(source)]} {'x ' * (number // len(source) % 9)}\n")
    status = (split / "labels.txt").stat()
    about = {
        "labels_status": [status.st_size, status.st_mtime_ns],
        "labels_digest": file_digest(split / "labels.txt"),
        "vocabulary": vocabulary.digest,
    }
    with StoreWriter(split / "store", **about) as writer:
        for number in counted(range(count), "made", count):
            index = number % len(source)
            writer.add(
                f"{number:07}",
                source.image(index),
                source.tokens(index),
                f"{labels[index]} {number // len(source) % 9}",
            )


def anonymous() -> int:
    """Bytes of memory that no file backs, of this process and its children."""
    own = Path("/proc/self/task")
    children = [child for task in own.iterdir() for child in (task / "children").read_text().split()]
    total = 0
    for process in ("self", *children):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total


if __name__ == "__main__":
    main()
