"""Read formulas: pictures, photographs or pen strokes in, LaTeX out, a line an input.

    python recognize.py photo.jpg notes.inkml                  with the newest checkpoint
    python recognize.py folder --json --beam 10                its pictures and .inkml files, by name
    python recognize.py - --checkpoint PATH < picture.png      a picture from stdin

What cannot be read is named on stderr, leaves its line empty, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import CheckpointError, ConfigError, DataError
from utils.script import run_script

CHECKPOINTS = Path("checkpoints")
PUBLISHED = CHECKPOINTS / "crohme.safetensors"
STDIN = "-"
PICTURES = "png jpg jpeg jpe jfif webp bmp tif tiff gif heic heif avif pgm ppm pbm".split()
SUFFIXES = frozenset(f".{kind}" for kind in (*PICTURES, "inkml"))
MOST_AT_ONCE = 64  # pictures in memory; the first ones come in small portions, so that the first line comes soon
MOST_ON_SHEET = 200
DIRECTIONS = {"left-to-right": 1, "both": 2}


class Seen(NamedTuple):
    """One input, ready to be read, or what is wrong with it."""

    name: str
    prepared: Any = None
    thumbnail: Any = None  # uint8 (H, W) as it was given
    error: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="PICTURE|INKML|FOLDER|-")
    parser.add_argument("--checkpoint", metavar="PATH", help="default: the newest run's, in checkpoints/")
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="width of the search; default: 1, greedy")
    parser.add_argument("--direction", choices=DIRECTIONS, help="default: with a beam, all that the network knows")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with confidences, boxes …")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a PNG of each picture beside what was read")
    parser.add_argument("--show-input", type=Path, metavar="FOLDER", help="write what the network saw, as PNG")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 …; default: %(default)s")
    options = parser.parse_args()
    checkpoint = options.checkpoint or newest_checkpoint()

    from models.recognizer import Reader
    from utils.training.devices import choose_device

    reader = Reader.load(checkpoint, choose_device(options.device))
    directions = DIRECTIONS.get(options.direction)
    if options.beam < 1:
        raise ConfigError(f"--beam: expected a positive integer, got {options.beam}")
    if directions == 2 and reader.model.decoder.directions == 1:
        raise ConfigError(f"--direction both: {checkpoint} has a decoder that reads from left to right only")
    if not options.checkpoint:
        print(f"reading with {checkpoint}", file=sys.stderr)

    rows, bad, names = [], 0, set()
    try:
        for portion in portions(look(reader, options.inputs, bool(options.sheet))):
            good = [seen.prepared for seen in portion if not seen.error]
            readings = iter(reader.read_many(good, options.beam, directions))
            for seen in portion:
                reading = None if seen.error else next(readings)
                bad += reading is None
                print(line(seen, reading) if options.json else (reading.latex if reading else ""), flush=True)
                if reading and options.show_input:
                    write_input(options.show_input, seen.name, reading.picture, names)
                if reading and options.sheet and len(rows) < MOST_ON_SHEET:
                    rows.append((seen, reading.latex))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    if rows:
        write_sheet(options.sheet, rows)
    return 1 if bad else 0


def newest_checkpoint() -> Path:
    """The best weights of the newest run that finished an epoch of its last stage, else the published ones.

    Raises CheckpointError where there are neither.
    """
    import yaml

    found = []
    for config in CHECKPOINTS.glob("*/config.yaml"):
        try:
            stage = yaml.safe_load(config.read_text(encoding="utf-8"))["stages"][-1]["name"]
            best = config.with_name(f"{stage}-best.safetensors")
            found.append((best.stat().st_mtime, best))
        except (OSError, yaml.YAMLError, LookupError, TypeError):  # still training, or no run
            continue
    if found:
        return max(found)[1]
    if PUBLISHED.is_file():
        return PUBLISHED
    raise CheckpointError(f"no finished run in {CHECKPOINTS}/ and no {PUBLISHED}; name a checkpoint with --checkpoint")


def look(reader: Any, inputs: list[str], keeps_thumbnail: bool) -> Iterator[Seen]:
    """Find and clean every input, in order."""
    for name in inputs:
        try:
            files = files_of(name)
        except DataError as error:
            yield complain(name, error)
            continue
        for file in files:
            try:
                yield look_at(reader, file, keeps_thumbnail)
            except DataError as error:
                yield complain(file, error)


def complain(name: str, error: DataError) -> Seen:
    message = " ".join(str(error).split())
    print(message, file=sys.stderr, flush=True)
    return Seen(name, error=message)


def files_of(name: str) -> list[str]:
    """An input itself, or what is in it: a folder's pictures and .inkml files, by name."""
    folder = Path(name)
    if name == STDIN or not folder.is_dir():
        return [name]
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None
    if not files:
        raise DataError(f"{name}: a folder without pictures or .inkml files")
    return [str(path) for path in files]


def look_at(reader: Any, file: str, keeps_thumbnail: bool) -> Seen:
    """Read and clean one picture, or draw one file of strokes. Raises DataError."""
    from utils.reading.pictures import read_picture, resize

    is_ink = file.lower().endswith(".inkml")
    if is_ink:
        from dataset.formats.inkml import rasterise, read_inkml

        ink = read_inkml(file)
        try:
            picture = rasterise(ink.traces)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
    else:
        name = "stdin" if file == STDIN else file
        picture = read_picture(sys.stdin.buffer.read() if file == STDIN else file, name)
    prepared = reader.prepare(picture, "stdin" if file == STDIN else file, is_drawn=is_ink)
    if not keeps_thumbnail:
        return Seen(file, prepared)
    thumbnail = resize(picture, min(1.0, 900 / max(picture.shape)))
    return Seen(file, prepared, 255 - thumbnail if is_ink else thumbnail)


def portions(all_seen: Iterator[Seen]) -> Iterator[list[Seen]]:
    """1, 2, 4 … inputs at a time: those of a portion are read in batches of like size."""
    portion, size = [], 1
    for seen in all_seen:
        portion.append(seen)
        if len(portion) == size:
            yield portion
            portion, size = [], min(2 * size, MOST_AT_ONCE)
    if portion:
        yield portion


def line(seen: Seen, reading: Any) -> str:
    """A JSON object about one input; numbers are rounded to what means something."""
    if reading is None:
        return json.dumps({"input": seen.name, "error": seen.error}, ensure_ascii=False)
    about = {
        "input": seen.name,
        "latex": reading.latex,
        "tokens": list(reading.tokens),
        "confidence": round(reading.confidence, 4),
        "confidences": [round(confidence, 4) for confidence in reading.confidences],
        "score": round(reading.score, 4),
        "alternatives": [{"latex": other.latex, "score": round(other.score, 4)} for other in reading.alternatives],
        "size": list(reading.picture.shape),  # height and width of what the network saw
        "boxes": [list(box) for box in reading.boxes],
        "is_cut": reading.is_cut,
    }
    return json.dumps(about, ensure_ascii=False)


def write_input(folder: Path, name: str, picture: Any, taken: set[str]) -> None:
    """Write what the network saw as FOLDER/NAME.png; of equal names, the later ones get a number."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    stem = "stdin" if name == STDIN else Path(name).stem
    unique, number = stem, 1
    while unique in taken:
        number += 1
        unique = f"{stem}-{number}"
    taken.add(unique)
    Image.fromarray(picture).save(folder / f"{unique}.png")


def write_sheet(path: Path, rows: list[tuple[Seen, str]]) -> None:
    """Write a PNG: on the left each picture with its name, on the right what was read, as text and drawn."""
    import numpy as np

    from dataset.renderer import RenderError, render
    from utils.plots import draw_sheet

    items = []
    for seen, latex in rows:
        try:
            drawn = 255 - render(latex)
        except RenderError as error:
            drawn, latex = np.zeros((40, 200), np.uint8), f"{latex}   (cannot be drawn: {error.reason})"
        items += [(255 - seen.thumbnail, seen.name, seen.name), (drawn, latex, latex)]
    draw_sheet(items, path, f"{len(rows)} inputs and what was read", columns=2)
    more = " (the first inputs only)" if len(rows) == MOST_ON_SHEET else ""
    print(f"sheet {path}{more}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
