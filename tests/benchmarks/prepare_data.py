"""What prepare.py takes in time and disk for a download of a form: on made-up data, in the simulated ink of SAMPLE.

    python tests/benchmarks/prepare_data.py mathwriting --items 5000
    python tests/benchmarks/prepare_data.py m2e --items 5000
    python tests/benchmarks/prepare_data.py hme100k --items 5000 --clean

Files and labels are those of the form, ink and formulas those of SAMPLE: a formula has 10 tokens on average.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset.images.sample import draw, make_labels, write, writer_of  # noqa: E402


def strokes_of(index: int, tokens: list[str]) -> list[np.ndarray]:
    return write(tokens, writer_of(index, "train", 0), np.random.default_rng(index))


def inkml(index: int, tokens: list[str]) -> bytes:
    """A file with times and both labels, as MathWriting has them."""
    label, traces = escape(" ".join(tokens)), []
    for number, stroke in enumerate(strokes_of(index, tokens)):
        points = ",".join(f"{x:.2f} {y:.2f} {8 * place}" for place, (x, y) in enumerate(stroke))
        traces.append(f'<trace id="{number}">{points}</trace>')
    kinds = "".join(f'<annotation type="{kind}">{label}</annotation>' for kind in ("label", "normalizedLabel"))
    return f'<ink xmlns="http://www.w3.org/2003/InkML">{kinds}{"".join(traces)}</ink>'.encode()


def photograph(index: int, tokens: list[str]) -> bytes:
    """A JPEG of ink on grey paper with shadow and noise."""
    paper, random = draw(strokes_of(index, tokens), 3), np.random.default_rng(index)
    grey = 90 + paper * np.float32(0.45) + np.linspace(0, 30, paper.shape[1], dtype=np.float32)
    grey += random.normal(0, 4, paper.shape)
    return cv2.imencode(".jpg", grey.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def make_download(form: str, count: int, folder: Path) -> None:
    """Write a download of a form, train alone, into a folder."""
    distinct = make_labels(min(count, 5000), 0)
    items = [(index, distinct[index % len(distinct)]) for index in range(count)]
    place = folder / {"mathwriting": "train", "m2e": "images", "hme100k": "train/train_images"}[form]
    place.mkdir(parents=True)
    suffix, make = ("inkml", inkml) if form == "mathwriting" else ("jpg", photograph)
    for index, tokens in items:
        (place / f"{index:06d}.{suffix}").write_bytes(make(index, tokens))
    labels = [(f"{index:06d}.jpg", " ".join(tokens)) for index, tokens in items]
    if form == "m2e":
        lines = (json.dumps({"name": name, "tex": label}) for name, label in labels)
        (folder / "train.jsonl").write_text("".join(f"{line}\n" for line in lines))
    elif form == "hme100k":
        (folder / "train" / "train_labels.txt").write_text("".join(f"{name}\t{label}\n" for name, label in labels))


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=("mathwriting", "m2e", "hme100k"))
    parser.add_argument("--items", type=int, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--clean", action="store_true", help="with prepare.py's --clean")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        download, target = Path(folder) / "download", Path(folder) / "datasets"
        make_download(options.form, options.items, download)
        command = [sys.executable, ROOT / "prepare.py", download, "--dataset", "X", "--root", target]
        command += ["--clean"] if options.clean else []
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, check=True)
        wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        peak = after.ru_maxrss // 1024
        print(f"{options.form}, {options.items} items: {cpu:.1f} s of CPU, {wall:.1f} s in all, peak {peak} MB")
        print(f"download {megabytes(download):.1f} MB")
        for part in ("images", "store", "strokes"):
            if (target / "X" / "train" / part).is_dir():
                print(f"{part} {megabytes(target / 'X' / 'train' / part):.1f} MB")


if __name__ == "__main__":
    main()
