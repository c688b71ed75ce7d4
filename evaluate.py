"""Score a checkpoint on a split of a data set; every item of the split counts.

    python evaluate.py --checkpoint checkpoints/CROHME/handwritten-best.safetensors --dataset CROHME --split 2014
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from utils.script import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a .safetensors file of a run")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a folder in datasets/")
    parser.add_argument("--split", default="test", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--root", default="datasets", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="width of the search; default: 1, greedy")
    parser.add_argument("--device", default="auto", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--out", metavar="FILE", help="write a line a picture here, as JSON: id, truth, prediction")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    options = parser.parse_args()

    from dataset.loaders import open_split_loader
    from models.recognizer import Recognizer
    from utils.report import score_table
    from utils.run import load_checkpoint, load_weights, write_whole
    from utils.training import choose_device, read_all, score

    device = choose_device(options.device)
    checkpoint = load_checkpoint(options.checkpoint)
    model = Recognizer(**checkpoint.about["architecture"])
    load_weights(model, checkpoint)
    folder = Path(options.root) / options.dataset
    stride = model.handwritten_encoder.stride
    vocabulary, loader = open_split_loader(folder, options.split, checkpoint.about, stride)
    started = time.monotonic()
    results = read_all(model.to(device), loader, device, "handwritten", f"reading {options.split}", beam=options.beam)
    seconds = time.monotonic() - started
    scores = score(results)

    if options.out:
        texts = [[" ".join(vocabulary.decode(ids)) for ids in (truth, read.tokens)] for _, truth, read in results]
        lines = [
            {"id": name, "truth": truth, "prediction": prediction}
            for (name, *_), (truth, prediction) in zip(results, texts, strict=True)
        ]
        write_whole(Path(options.out), "".join(json.dumps(line) + "\n" for line in lines).encode())
    if options.json:
        print(json.dumps(scores))
    else:
        print(score_table({options.split: scores}))
        print(f"{len(results) / seconds:.1f} pictures/s on {device}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_script(main)
