"""Bring a data set into datasets/NAME: CROHME or HME100K as they are published, pen strokes, or your own images.

    python prepare.py ~/Downloads/CROHME --dataset CROHME              a folder with train_images.pkl …, or with InkML
    python prepare.py ~/Downloads/data.zip --dataset CROHME            the zip of BTTR and CoMER
    python prepare.py ~/ink/TEST2014 --dataset CROHME --split 2014     a folder that is one split
    python prepare.py ~/photos --dataset MINE --split train            labels.csv (name,label) and images
    python prepare.py ~/photos --dataset MINE --split train --clean    photographs: as recognize.py will see them
    python prepare.py ~/more --dataset MINE --split train --add        more of them; the vocabulary keeps its order
    python prepare.py --dataset MINE --sheet sheet.png                 examples of what training makes of the images
    python prepare.py --dataset SAMPLE                                 the embedded data set; training makes it, too

Items that cannot be read are left out, listed at the end, and make the exit code 1; with --skip-bad it is 0.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

from utils.errors import ConfigError
from utils.project import DATASETS
from utils.script import run_script
from utils.training.stopping import exit_code_of


def main() -> int:
    options = _options()
    folder = options.root / options.dataset
    if options.source is not None:
        code = _bring_in(options, folder)
    elif options.dataset == "SAMPLE":
        from dataset.images.sample import make_sample

        print(f"{make_sample(folder)}: ready")
        code = 0
    elif options.sheet:
        code = 0
    else:
        raise ConfigError("SOURCE: expected a folder or a zip; without one, --sheet, or --dataset SAMPLE")
    if options.sheet:
        from dataset.images.sheet import write_sheet

        write_sheet(folder, options.split or "train", options.sheet)
        print(options.sheet)
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a folder or a zip; recognized on sight")
    parser.add_argument(
        "--dataset", required=True, metavar="NAME", help="the name to train with: a folder in datasets/"
    )
    parser.add_argument("--split", metavar="NAME", help="take this split only, or say which one SOURCE is")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--add", action="store_true", help="add to a split that is there from something else")
    existing.add_argument("--replace", action="store_true", help="replace a split that is there from something else")
    parser.add_argument("--normalize", action="store_true", help=r"write \dfrac, \left ( … in one spelling: \frac, (")
    parser.add_argument("--clean", action="store_true", help="clean photographs, as recognize.py does before it reads")
    parser.add_argument("--in-order", action="store_true", help="line n is the label of the n-th image, by name")
    parser.add_argument("--truth", metavar="TYPE", help="of InkML: the annotation with the label, such as label; "
                        "default: truth, normalizedLabel or label, the first that is there")  # fmt: skip
    parser.add_argument("--encoding", metavar="NAME", help="of label files, where it is not recognized: gbk, utf-16 …")
    parser.add_argument("--skip-bad", action="store_true", help="exit with 0 although items had to be left out")
    parser.add_argument("--sheet", metavar="FILE", help="draw a sheet of examples of every distortion, a PNG file")
    parser.add_argument("--root", type=Path, default=DATASETS, metavar="FOLDER",
                        help="where data sets are; default: datasets/ beside this script")  # fmt: skip
    return parser.parse_args()


def _bring_in(options: argparse.Namespace, folder: Path) -> int:
    from dataset.formats.packages import Reading
    from dataset.formats.preparation import Options, long_labels, prepare

    existing = "add" if options.add else "replace" if options.replace else "refuse"
    reading = Reading(options.encoding, options.in_order, options.truth)
    try:
        how = Options(reading, existing, options.normalize, options.clean)
        bad = prepare(options.source, folder, options.split, options=how)
    except KeyboardInterrupt as stopped:
        print("\nstopped; the same command goes on with the split it was at", file=sys.stderr)
        return exit_code_of(stopped)
    for line in long_labels(folder, _token_limit):
        print(line, file=sys.stderr)
    for item in bad:
        print(item, file=sys.stderr)
    if bad:
        print(f"{folder}: {len(bad)} bad items left out, listed above and in SPLIT/left_out.txt", file=sys.stderr)
    print(f"{folder}: ready" if (folder / "vocabulary.txt").exists() else f"{folder}: no split 'train' yet")
    return 1 if bad and not options.skip_bad else 0


def _token_limit(height: int, width: int) -> int:
    """The most tokens that are read from an image of this size in pixels, by an encoder of stride 16."""
    return _token_limit_of_cells(-(-height // 16), -(-width // 16))


@cache
def _token_limit_of_cells(height: int, width: int) -> int:
    import torch

    from models.search import token_limits

    return int(token_limits(torch.zeros(1, height, width, dtype=torch.bool))[0])


if __name__ == "__main__":
    run_script(main)
