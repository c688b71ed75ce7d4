"""Read formulas: images, photographs or pen strokes in, LaTeX out, one line for each line of writing.

    python recognize.py photo.jpg                              with the published weights
    python recognize.py folder notes.inkml --json --beam 10    a folder's images and .inkml files, by name
    python recognize.py strokes.json --checkpoint newest       with the weights of your own newest run
    python recognize.py - --checkpoint PATH < image.png        an image from stdin
    python recognize.py photo.jpg --onnx FOLDER                what export.py wrote, without torch

Of several inputs, each line begins with the name and a tab. What cannot be read is named on stderr, leaves its line
empty, and makes the exit code 1. Readings to doubt are named on stderr, with the reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataset.language import language
from utils.reading import reader
from utils.reading.checkpoints import find_checkpoint
from utils.reading.inputs import open_inputs, portions
from utils.reading.options import add_reading_options, search_of
from utils.reading.outputs import MAX_ON_SHEET, json_line, text_line, warn, write_input, write_sheet
from utils.reading.reader import Reading
from utils.script import run_script
from utils.training.stopping import exit_code_of

if TYPE_CHECKING:
    import torch

__all__ = ["Reader", "Reading"]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="IMAGE|INKML|JSON|FOLDER|-")
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--checkpoint", metavar="PATH|newest", help="default: the published weights")
    network.add_argument("--onnx", metavar="FOLDER", help="read with onnxruntime what export.py wrote")
    add_reading_options(parser)
    parser.add_argument("--lines", choices=("split", "join"), default="split",
                        help="several lines of writing: read each by itself, or as one formula")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with confidences, boxes …")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a PNG of each image beside what was read")
    parser.add_argument("--show-input", type=Path, metavar="FOLDER", help="write the network's input, as PNG")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    network, checkpoint = open_network(options)
    search = search_of(options, network)
    if options.onnx is None and options.checkpoint in (None, "newest"):
        print(f"reading with {checkpoint}", file=sys.stderr)

    rows, failures, taken = [], 0, set()
    with_name = len(options.inputs) > 1 or Path(options.inputs[0]).is_dir()
    try:
        for portion in portions(open_inputs(network, options.inputs, options)):
            readings = iter(network.read_many([one.prepared for one in portion if not one.error], *search))
            for one in portion:
                reading = None if one.error else next(readings)
                print(json_line(one, reading) if options.json else text_line(one, reading, with_name), flush=True)
                if reading is None:
                    failures += 1
                    continue
                warn(one, reading)
                if options.show_input:
                    write_input(options.show_input, one.name, reading.image, taken)
                if options.sheet and len(rows) <= MAX_ON_SHEET:
                    rows.append((one, reading.latex))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stopped:
        print("\nstopped", file=sys.stderr)
        return exit_code_of(stopped)
    if rows:
        write_sheet(options.sheet, rows, draw_latex)
    return 1 if failures else 0


def open_network(options: argparse.Namespace) -> tuple[Reader, Path]:
    """The network to read with, and where it is."""
    if options.onnx is not None:
        return Reader.from_onnx(options.onnx, language(), options.scales), Path(options.onnx)
    from utils.training.devices import choose_device  # with torch

    checkpoint = find_checkpoint(options.checkpoint)
    return Reader.load(checkpoint, choose_device(options.device), options.scales), checkpoint


# ---- the library -----------------------------------------------------------------------------------------------------


class Reader(reader.Reader):
    """A network that reads images, files of ink and strokes; see utils/reading/reader.py.

    from recognize import Reader

    print(Reader.load().read("photo.jpg").latex)
    """

    @classmethod
    def load(cls, path: str | Path | None = None, device: str | torch.device = "cpu",
             scales: Sequence[float] | None = None) -> Reader:  # fmt: skip
        """Read a checkpoint: a path, "newest" for your own newest run, or nothing for the published weights.

        Or a folder that export.py wrote: reading it takes onnxruntime and no torch, on the CPU.
        scales: sizes to read an image in together, times the usual one; by default those that the checkpoint names.
        Raises CheckpointError for one that is missing, broken or foreign.
        """
        path = find_checkpoint(path)
        if path.is_dir():
            return cls.from_onnx(path, language(), scales)
        from models.recognizer import Ensemble

        return cls.from_checkpoint(path, Ensemble.from_architecture, language(), device, scales)


def draw_latex(latex: str) -> np.ndarray:
    from dataset.renderer import render

    return render(latex)


if __name__ == "__main__":
    run_script(main)
