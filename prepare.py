"""Bring a data set into datasets/NAME: CROHME or HME100K as they are published, pen strokes, or your own pictures.

    python prepare.py ~/Downloads/CROHME --dataset CROHME              a folder with train_images.pkl …, or with InkML
    python prepare.py ~/Downloads/data.zip --dataset CROHME            the zip of BTTR and CoMER
    python prepare.py ~/ink/TEST2014 --dataset CROHME --split 2014     a folder that is one split

Items that cannot be read are left out, listed at the end, and make the exit code 1; with --skip-bad it is 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from utils.script import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="a folder or a zip; recognised on sight")
    parser.add_argument(
        "--dataset", required=True, metavar="NAME", help="the name to train with: a folder in datasets/"
    )
    parser.add_argument("--split", metavar="NAME", help="take this split only, or say which one SOURCE is")
    parser.add_argument("--skip-bad", action="store_true", help="exit with 0 although items had to be left out")
    parser.add_argument("--root", default="datasets", metavar="FOLDER", help="default: %(default)s")
    options = parser.parse_args()

    from dataset.formats.packages import prepare

    folder = Path(options.root) / options.dataset
    try:
        bad = prepare(options.source, folder, options.split)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the split it was at", file=sys.stderr)
        return 130
    for item in bad:
        print(item, file=sys.stderr)
    if bad:
        print(f"{folder}: {len(bad)} bad items left out, listed above and in SPLIT/left_out.txt", file=sys.stderr)
    print(f"{folder}: ready" if (folder / "vocabulary.txt").exists() else f"{folder}: no split 'train' yet")
    return 1 if bad and not options.skip_bad else 0


if __name__ == "__main__":
    run_script(main)
