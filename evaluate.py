"""Score a checkpoint, or anybody's predictions, on a split of a data set; every item of the split counts.

    python evaluate.py --checkpoint newest --dataset CROHME --split 2014
    python evaluate.py --checkpoint PATH --dataset CROHME --split 2014 --beam 10 --out results/2014
    python evaluate.py --checkpoint PATH --dataset CROHME --split 2014 --against results/2014/predictions.jsonl
    python evaluate.py --predictions theirs.txt --dataset CROHME --split 2014

Scoring predictions needs datasets/NAME/SPLIT/labels.txt and nothing else. --out writes predictions.jsonl, scores.json
and report.html, a page to look at what went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.project import DATASETS
from utils.script import run_script

if TYPE_CHECKING:
    from utils.evaluation.page import Drawn
    from utils.evaluation.scores import Prediction, Reference, ScoredItem
    from utils.evaluation.sources import Source

DRAWN_EM = 32  # pixels


def parse_options() -> argparse.Namespace:
    from utils.reading.options import add_reading_options, at_least

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", metavar="PATH|newest", help="default: the published weights")
    source.add_argument("--predictions", metavar="PATH",
                        help=".txt with name<TAB>tokens, .jsonl, .json, .csv; folder or .zip of NAME.txt")  # fmt: skip
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a folder in datasets/")
    parser.add_argument("--split", default="test", metavar="NAME",
                        help="validation: what was held out of training; default: %(default)s")  # fmt: skip
    parser.add_argument("--root", type=Path, default=DATASETS, metavar="FOLDER",
                        help="where data sets are; default: datasets/ beside this script")  # fmt: skip
    add_reading_options(parser)
    parser.add_argument("--batch", type=lambda text: None if text == "auto" else at_least(1, text), metavar="auto|N",
                        help="at most so many images at a time; default: auto, by their sizes")  # fmt: skip
    parser.add_argument("--against", metavar="PATH", help="predictions of another system, for a paired test")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="predictions.jsonl, scores.json and report.html")
    parser.add_argument("--gallery", type=partial(at_least, 0), default=300, metavar="N",
                        help="at most so many wrong items in the report; default: %(default)s")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    return parser.parse_args()


def main() -> int:
    options = parse_options()

    from dataset.formats.manifest import open_references
    from dataset.formats.predictions import read_outcomes
    from dataset.latex.comparison import KINDS, NOT_SYMBOLS
    from dataset.latex.normalization import RULES_VERSION
    from dataset.loading.validation import HeldOut
    from utils.evaluation.scores import Conventions, compare_systems, compute_scores, describe, find_failures
    from utils.reading.checkpoints import held_out_of

    chosen_by = {} if options.predictions or options.split != "validation" else held_out_of(options.checkpoint)
    references = open_references(options.root / options.dataset, options.split, HeldOut(**chosen_by))
    # What can be wrong is looked at before anything takes time.
    outcomes = read_outcomes(Path(options.against), references) if options.against else None
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)

    source = (read_with_checkpoint if options.predictions is None else read_file)(options, references)
    items = [score_item(reference, source.predictions.get(reference.name)) for reference in references]
    scores = {
        "dataset": options.dataset,
        "split": options.split,
        "items": len(items),
        **source.about,
        **compute_scores(items, Conventions(RULES_VERSION, KINDS, NOT_SYMBOLS), source.about["confidence_exponent"]),
        "failed": find_failures(items, source.failed),
        "against": None if outcomes is None else compare_systems(options.against, outcomes, items),
    }
    for failure in scores["failed"]:
        print(f"counted as wrong: {failure['id']}: {failure['reason']}", file=sys.stderr)
    print(json.dumps(scores) if options.json else describe(scores), flush=True)
    if options.out:
        from utils.evaluation.report import write_report

        write_report(options.out, items, scores, source, draw_label, options.gallery)
    return 0


def read_with_checkpoint(options: argparse.Namespace, references: Sequence[Reference]) -> Source:
    """Read every image of the split, as recognize.py reads it."""
    from dataset.formats.manifest import find_images
    from recognize import Reader
    from utils.evaluation.sources import CheckpointSource
    from utils.reading.checkpoints import find_checkpoint
    from utils.reading.options import search_of
    from utils.training.devices import choose_device

    checkpoint = str(find_checkpoint(options.checkpoint))
    reader = Reader.load(checkpoint, choose_device(options.device), options.scales)
    search = search_of(options, reader)
    images, missing = find_images(options.root / options.dataset, options.split, references)
    return CheckpointSource(checkpoint, reader, images, missing, search, options.clean, options.batch)


def read_file(options: argparse.Namespace, references: Sequence[Reference]) -> Source:
    """Take the predictions that somebody wrote down."""
    from dataset.formats.manifest import find_images, known_tokens
    from dataset.formats.predictions import read_predictions
    from utils.evaluation.sources import FileSource

    folder = options.root / options.dataset
    predictions = read_predictions(Path(options.predictions), references, known_tokens(folder))
    images = find_images(folder, options.split, references)[0] if options.out else {}
    return FileSource(options.predictions, predictions, images)


def score_item(reference: Reference, prediction: Prediction | None) -> ScoredItem:
    """Compare a prediction with its reference, in everything that is scored."""
    from dataset.latex.comparison import compare, depth, kinds
    from dataset.latex.error_kinds import error_kinds
    from dataset.latex.normalization import normalize
    from utils.evaluation.scores import ScoredItem

    wanted, tokens = reference.tokens, prediction.tokens if prediction else []
    is_truncated = bool(prediction and prediction.is_truncated)
    comparison = compare(wanted, tokens or None, is_truncated)
    return ScoredItem(
        reference,
        prediction,
        comparison,
        (normalize(wanted), normalize(tokens)),
        depth(wanted),
        kinds(wanted),
        error_kinds(wanted, tokens, is_truncated),
    )


def draw_label(tokens: Sequence[str]) -> Drawn | None:
    """A label as it is printed, with the box of each token; None where it cannot be drawn."""
    from dataset.renderer import RenderError, Style, draw, layout
    from utils.evaluation.page import Drawn

    style = Style(em=DRAWN_EM)
    try:
        placed = layout(list(tokens), style)
    except RenderError:
        return None
    return Drawn(draw(placed, style), placed.boxes(style))


if __name__ == "__main__":
    run_script(main)
