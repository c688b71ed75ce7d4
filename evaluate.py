"""Score a checkpoint, or anybody's predictions, on a split of a data set; every item of the split counts.

    python evaluate.py --checkpoint checkpoints/CROHME/handwritten-best.safetensors --dataset CROHME --split 2014
    python evaluate.py --checkpoint PATH --dataset CROHME --split 2014 --beam 10 --out results/2014
    python evaluate.py --checkpoint PATH --dataset CROHME --split 2014 --against results/2014/predictions.jsonl
    python evaluate.py --predictions theirs.txt --dataset CROHME --split 2014

--out writes predictions.jsonl, scores.json and report.html, a page to look at what went wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.script import run_script

if TYPE_CHECKING:
    import numpy as np

    from dataset.formats.manifest import Prediction, Truth
    from dataset.latex.comparison import Comparison

LENGTHS = ((5, "up to 5"), (10, "6 to 10"), (20, "11 to 20"), (40, "21 to 40"), (math.inf, "41 and more"))
DEPTHS = ((0, "0"), (1, "1"), (2, "2"), (math.inf, "3 and more"))
MOST_CONFUSIONS = 40
DRAWN_EM = 32  # pixels


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="PATH", help="a .safetensors file of a run")
    source.add_argument("--predictions", metavar="PATH",
                        help="lines name<TAB>tokens, a folder of NAME.txt, or a predictions.jsonl")  # fmt: skip
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a folder in datasets/")
    parser.add_argument("--split", default="test", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--root", default="datasets", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--beam", type=partial(at_least, 1), default=1, metavar="N",
                        help="width of the search; default: 1, greedy")  # fmt: skip
    parser.add_argument("--direction", choices=("left-to-right", "both"),
                        help="default: greedy reads left to right, a beam as the decoder can")  # fmt: skip
    parser.add_argument("--batch", type=batch_size, metavar="auto|N",
                        help="at most so many pictures at a time; default: auto, by their sizes")  # fmt: skip
    parser.add_argument("--device", default="auto", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--against", metavar="FILE", help="predictions.jsonl of another run, for a paired test")
    parser.add_argument("--out", metavar="FOLDER", help="write predictions.jsonl, scores.json and report.html here")
    parser.add_argument("--gallery", type=partial(at_least, 0), default=300, metavar="N",
                        help="at most so many wrong items in the report; default: %(default)s")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    return parser.parse_args()


def at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least {least}, got {text}")
    return int(text)


def batch_size(text: str) -> int | None:
    return None if text == "auto" else at_least(1, text)


def main() -> int:
    options = parse_options()

    from dataset.formats.manifest import open_manifest, read_outcomes
    from dataset.latex.comparison import compare

    folder = Path(options.root) / options.dataset
    truths = open_manifest(folder, options.split)
    # What can be wrong is looked at before anything takes time.
    others = read_outcomes(Path(options.against), truths) if options.against else None
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)

    source = (by_checkpoint if options.checkpoint else by_file)(options, folder, truths)
    found = [source.predictions.get(truth.name) for truth in truths]
    comparisons = [
        compare(truth.tokens, *((prediction.tokens, prediction.is_cut) if prediction else (None,)))
        for truth, prediction in zip(truths, found, strict=True)
    ]
    failed = failures(truths, source)
    scores = {
        "dataset": options.dataset,
        "split": options.split,
        "items": len(truths),
        **source.about,
        **scores_of(truths, found, comparisons),
        "failed": failed,
        "against": paired(options.against, others, comparisons),
    }
    for failure in failed:
        print(f"counted as wrong: {failure['id']}: {failure['reason']}", file=sys.stderr)
    print(json.dumps(scores) if options.json else describe(scores), flush=True)
    if options.out:
        write_out(Path(options.out), options, truths, source, comparisons, scores)
    return 0


# ---- where predictions come from -------------------------------------------------------------------------------------


@dataclass
class Source:
    """Predictions by name, and what is known about them.

    failed: {name: reason} where something went wrong.   about: entries of scores.json.
    picture(name): uint8 (H, W) as the network saw it, or None.
    explain(names): {name: (confidences (L,), attention (L, h, w))} of the predictions.   stride: pixels a cell.
    """

    predictions: dict[str, Prediction]
    failed: dict[str, str]
    about: dict[str, Any]
    picture: Callable[[str], np.ndarray | None]
    explain: Callable[[Sequence[str]], dict[str, tuple[np.ndarray, np.ndarray]]]
    stride: int = 1


def by_file(options: argparse.Namespace, folder: Path, truths: Sequence[Truth]) -> Source:
    """Predictions that somebody wrote down."""
    from dataset.formats.manifest import open_pictures, read_predictions
    from dataset.vocabulary import Vocabulary
    from utils.errors import DataError

    vocabulary = Vocabulary.from_file(folder / "vocabulary.txt")
    predictions = read_predictions(Path(options.predictions), truths, vocabulary.tokens)
    places, store = {}, None
    if options.out:  # the scores need no pictures
        try:
            store, _ = open_pictures(folder, options.split, truths, vocabulary)
        except DataError as error:
            print(f"the report has no pictures: {error}", file=sys.stderr)
        else:
            places = {store.name(index): index for index in range(len(store))}
    about = {"predictions": options.predictions, "search": None, "device": None}
    return Source(
        predictions,
        {truth.name: "no prediction" for truth in truths if truth.name not in predictions},
        about | {"seconds": None, "pictures_per_second": None},
        lambda name: store.picture(places[name]) if name in places else None,
        lambda names: {},
    )


def by_checkpoint(options: argparse.Namespace, folder: Path, truths: Sequence[Truth]) -> Source:
    """Read every picture with a checkpoint."""
    import numpy as np

    from dataset.formats.manifest import Prediction, open_pictures
    from dataset.loading.loaders import READING_PICTURES, open_split_loader, reading_loader
    from dataset.vocabulary import Vocabulary
    from models.recognizer import Recognizer
    from utils.errors import CheckpointError
    from utils.training.devices import choose_device
    from utils.training.run_folder import load_checkpoint, load_weights

    device = choose_device(options.device)
    checkpoint = load_checkpoint(options.checkpoint)
    model = Recognizer(**checkpoint.about["architecture"])
    load_weights(model, checkpoint)
    model.to(device).eval()
    stride = model.handwritten_encoder.stride
    vocabulary = Vocabulary(checkpoint.about["vocabulary"])
    store, failed = open_pictures(folder, options.split, truths, vocabulary)
    most = options.batch or READING_PICTURES
    _, loader = open_split_loader(folder, options.split, checkpoint.about, stride, store, most)
    pictures = loader.items.pictures
    places = {pictures.name(index): index for index in range(len(pictures))}

    directions = {"left-to-right": 1, "both": model.decoder.directions, None: None}[options.direction]
    search = {"beam": options.beam, "directions": directions}
    predictions = {}
    started = time.monotonic()
    for batch, hypotheses in each_batch(
        loader, device, f"reading {options.split}", failed,
        lambda batch: model.read(batch.images("handwritten"), batch.padding("handwritten"), **search),
    ):  # fmt: skip
        for name, best in zip(batch.names, hypotheses, strict=True):
            others = tuple((vocabulary.decode(other.tokens), other.score) for other in best.alternatives)
            predictions[name] = Prediction(vocabulary.decode(best.tokens), best.score, best.is_cut, others)
    seconds = time.monotonic() - started
    if not predictions:
        name, reason = next(iter(failed.items()))
        raise CheckpointError(f"{options.checkpoint}: could not read a single picture; {name}: {reason}")

    def explain(names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        chosen = np.zeros(len(pictures), bool)
        chosen[[places[name] for name in names if name in predictions]] = True
        if not chosen.any():
            return {}

        def ask(batch: Any) -> list:
            readings = [vocabulary.encode(predictions[name].tokens) for name in batch.names]
            return model.explain(batch.images("handwritten"), batch.padding("handwritten"), readings)

        explained, unexplained = {}, {}
        part = reading_loader(pictures.part(chosen), stride, most)
        for batch, explanations in each_batch(part, device, "attention", unexplained, ask):
            for name, explanation in zip(batch.names, explanations, strict=True):
                explained[name] = tuple(tensor.float().cpu().numpy() for tensor in explanation)
        for name, reason in unexplained.items():
            print(f"no attention in the report: {name}: {reason}", file=sys.stderr)
        return explained

    is_greedy = options.beam == 1 and directions in (None, 1)
    about = {
        "checkpoint": options.checkpoint,
        "search": {"beam": options.beam, "directions": 1 if is_greedy else directions or model.decoder.directions},
        "device": str(device),
        "seconds": round(seconds, 2),
        "pictures_per_second": round(len(predictions) / seconds, 2),
    }
    picture = lambda name: pictures.picture(places[name], 0, 0) if name in places else None  # noqa: E731
    return Source(predictions, failed, about, picture, explain, stride)


def each_batch(
    loader: Any, device: Any, title: str, failed: dict[str, str], work: Callable[[Any], list]
) -> Iterator[tuple[Any, list]]:
    """(batch, work(batch)) of all of a loader's pictures.

    A batch that fails is done again in halves, down to the picture at fault, which goes to `failed` with the reason.
    """
    import torch

    from dataset.loading.batch import collate
    from utils.training.devices import autocast
    from utils.training.distributed import SINGLE_PROCESS
    from utils.training.progress import progress

    for indices in progress(loader.sampler, title, SINGLE_PROCESS, total=len(loader)):
        parts = [indices]
        while parts:
            part = parts.pop()
            try:
                batch = collate([loader.items[0, index] for index in part]).to(device)
                with autocast(device):
                    result = work(batch)
            except (RuntimeError, ValueError, OSError, MemoryError) as error:
                result, reason = None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if result is not None:  # outside of the except block, which keeps what failed in memory
                yield batch, result
            elif len(part) > 1:
                batch = None
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                failed[loader.items.pictures.name(part[0])] = reason


# ---- scores ----------------------------------------------------------------------------------------------------------


def failures(truths: Sequence[Truth], source: Source) -> list[dict[str, str]]:
    """What went wrong, by name and in the split's order."""
    reasons = dict(source.failed)
    for name, prediction in source.predictions.items():
        if prediction.is_cut:
            reasons[name] = f"cut: it had not ended after {len(prediction.tokens)} tokens"
    return [{"id": truth.name, "reason": reasons[truth.name]} for truth in truths if truth.name in reasons]


def scores_of(
    truths: Sequence[Truth], found: Sequence[Prediction | None], comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """All scores, in percent, as scores.json keeps them."""
    from dataset.latex.comparison import KINDS, depth, kinds
    from dataset.latex.normalization import RULES_VERSION
    from utils.evaluation.metrics import interval, percent, rates

    def column(name: str) -> list:
        return [getattr(comparison, name) for comparison in comparisons]

    is_read, is_exact = column("is_read"), column("is_exact")
    exact = rates(column("errors"), column("length"), is_read) | {"interval": interval(is_exact)}
    normal = rates(column("normal_errors"), column("normal_length"), is_read)
    normal |= {"interval": interval(column("is_normal")), "rules": RULES_VERSION}
    # A share of the truth's symbols; what was read beside them counts against it, down to none.
    symbols = column("symbols")
    right_symbols = [count - wrong for count, wrong in zip(symbols, column("symbol_errors"), strict=True)]
    shares = {
        "structure_exprate": column("same_structure"),
        "well_formed": column("is_well_formed"),
        "visual_exprate": column("same_picture"),
    }
    intervals = {name: interval(values) for name, values in shares.items()}
    intervals["symbol_accuracy"] = [max(0.0, end) for end in interval(right_symbols, symbols)]

    def by(groups: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict[str, Any]]:
        rows = []
        for name in names:
            right = [is_right for is_right, own in zip(is_exact, groups, strict=True) if name in own]
            if right:
                exprate = percent(sum(right), len(right))
                rows.append({"name": name, "items": len(right), "exprate": exprate, "interval": interval(right)})
        return rows

    lengths = [[bucket(len(truth.tokens), LENGTHS)] for truth in truths]
    depths = [[bucket(depth(truth.tokens), DEPTHS)] for truth in truths]
    return {
        "exact": exact,
        "normalized": normal,
        **{name: percent(sum(values), len(values)) for name, values in shares.items()},
        "symbol_accuracy": max(0.0, percent(sum(right_symbols), sum(symbols))),
        "intervals": intervals,
        "by": {
            "length": by(lengths, [name for _, name in LENGTHS]),
            "depth": by(depths, [name for _, name in DEPTHS]),
            "kind": by([kinds(truth.tokens) for truth in truths], KINDS),
        },
        "confusions": confusions(truths, found, comparisons),
    }


def bucket(number: int, buckets: Sequence[tuple[float, str]]) -> str:
    return next(name for limit, name in buckets if number <= limit)


def confusions(
    truths: Sequence[Truth], found: Sequence[Prediction | None], comparisons: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """What was read for what, most frequent first; "" for nothing. Braces go with what they belong to.

    A sign is not confused with a mark of structure: that is one too few and one too many.
    """
    from dataset.latex.comparison import NOT_SYMBOLS
    from dataset.latex.normalization import normalize
    from utils.evaluation.metrics import align

    counts: Counter[tuple[str, str]] = Counter()
    for truth, prediction, comparison in zip(truths, found, comparisons, strict=True):
        if prediction is None or comparison.is_normal:
            continue
        wanted, read = normalize(truth.tokens), normalize(prediction.tokens)
        for i, j in align(wanted, read):
            pair = "" if i is None else wanted[i], "" if j is None else read[j]
            is_mixed = "" not in pair and (pair[0] in NOT_SYMBOLS) != (pair[1] in NOT_SYMBOLS)
            for one in ((pair[0], ""), ("", pair[1])) if is_mixed else (pair,):
                if one[0] != one[1] and not {*one} <= {"", "{", "}"}:
                    counts[one] += 1
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_CONFUSIONS]
    return [{"truth": truth, "read": read, "count": count} for (truth, read), count in ordered]


def paired(file: str | None, others: Sequence[bool] | None, comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """The paired test against another run, token-exact."""
    if others is None:
        return None
    from utils.evaluation.metrics import mcnemar

    pairs = Counter((here.is_exact, there) for here, there in zip(comparisons, others, strict=True))
    here, there = pairs[True, False], pairs[False, True]
    return {"file": file, "only_here": here, "only_there": there, "p": round(mcnemar(here, there), 6)}


def describe(scores: dict[str, Any]) -> str:
    """The scores for a person: as the tokens are, and normalised, beside each other."""
    from utils.training.report import table

    def with_interval(value: float, ends: Sequence[float]) -> str:
        return f"{value:6.2f}  ({ends[0]:.1f} to {ends[1]:.1f})"

    columns = [scores["exact"], scores["normalized"]]
    rows = [("", "exact", f"normalised (rules {scores['normalized']['rules']})")]
    rows.append(("ExpRate %", *(with_interval(each["exprate"], each["interval"]) for each in columns)))
    names = {"at_most_1": "<=1", "at_most_2": "<=2", "at_most_3": "<=3", "token_error_rate": "wrong tokens %"}
    rows += [(shown, *(f"{each[name]:6.2f}" for each in columns)) for name, shown in names.items()]
    others = [("", "%")]
    names = {
        "structure_exprate": "structure right",
        "symbol_accuracy": "symbols right",
        "well_formed": "well-formed",
        "visual_exprate": "same picture",
    }
    others += [(shown, with_interval(scores[name], scores["intervals"][name])) for name, shown in names.items()]

    search = scores["search"]
    how = scores.get("predictions") or f"{scores['checkpoint']}, beam {search['beam']}"
    if search and search["directions"] > 1:
        how += ", both directions"
    lines = [f"{scores['dataset']} {scores['split']}: {scores['items']} items; {how}", "", table(rows), ""]
    lines += [table(others), "", "In parentheses: 95 % bootstrap intervals."]
    if scores["failed"]:
        lines.append(f"{len(scores['failed'])} items failed, and count as wrong.")
    if scores["seconds"]:
        lines.append(f"{scores['seconds']:.1f} s, {scores['pictures_per_second']:.1f} pictures/s on {scores['device']}")
    if scores["against"]:
        against = scores["against"]
        lines.append(
            f"Right here alone: {against['only_here']}; in {against['file']} alone: {against['only_there']}; "
            f"by chance with probability {against['p']:.3g} (McNemar, exact)."
        )
    return "\n".join(lines)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_out(
    folder: Path,
    options: argparse.Namespace,
    truths: Sequence[Truth],
    source: Source,
    comparisons: Sequence[Comparison],
    scores: dict[str, Any],
) -> None:
    """predictions.jsonl, scores.json and report.html."""
    from utils.evaluation.page import write_report
    from utils.files import atomic_write

    lines = []
    for truth, comparison in zip(truths, comparisons, strict=True):
        prediction = source.predictions.get(truth.name)
        line = {"id": truth.name, "truth": " ".join(truth.tokens), "prediction": None, "score": None, "is_cut": False}
        line["alternatives"] = []
        if prediction:
            line |= {
                "prediction": " ".join(prediction.tokens),
                "score": finite(prediction.score),
                "is_cut": prediction.is_cut,
                "alternatives": [[" ".join(tokens), finite(score)] for tokens, score in prediction.alternatives],
            }
        line |= {
            "errors": comparison.errors,
            "same_picture": comparison.same_picture,
            "normalized_equal": comparison.is_normal,
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    atomic_write(folder / "predictions.jsonl", "".join(lines).encode())
    atomic_write(folder / "scores.json", (json.dumps(scores, indent=1, ensure_ascii=False) + "\n").encode())
    chosen = gallery([comparison.is_exact for comparison in comparisons], options.gallery)
    title = f"{options.dataset} {options.split}"
    items = report_items(chosen, truths, source, comparisons)
    write_report(folder / "report.html", title, scores, items)


def finite(score: float | None) -> float | None:
    return round(score, 6) if score is not None and math.isfinite(score) else None


def gallery(is_right: Sequence[bool], most: int) -> list[int]:
    """Places of at most `most` wrong items, and a fifth as many right ones, both evenly spread, in their order."""
    chosen = []
    for wanted, limit in ((False, most), (True, most // 5)):
        places = [place for place, right in enumerate(is_right) if right == wanted]
        if len(places) > limit:
            places = [places[i * len(places) // limit] for i in range(limit)]
        chosen += places
    return sorted(chosen)


def report_items(
    chosen: Sequence[int], truths: Sequence[Truth], source: Source, comparisons: Sequence[Comparison]
) -> list:
    """What the page shows of the chosen items."""
    import numpy as np

    from utils.evaluation.metrics import differing
    from utils.evaluation.page import ReportItem

    explained = source.explain([truths[place].name for place in chosen])
    items = []
    for place in chosen:
        truth, prediction = truths[place], source.predictions.get(truths[place].name)
        read = prediction.tokens if prediction else []
        marks = differing(truth.tokens, read)
        picture = source.picture(truth.name)
        confidences, attention = explained.get(truth.name, (None, None))
        items.append(
            ReportItem(
                name=truth.name,
                truth=truth.tokens,
                prediction=read,
                errors=comparisons[place].errors,
                picture=np.zeros((16, 64), np.uint8) if picture is None else np.asarray(picture),
                truth_marks=marks[0],
                prediction_marks=marks[1],
                truth_drawn=drawn(truth.tokens),
                prediction_drawn=drawn(read),
                attention=attention,
                stride=source.stride,
                confidences=None if confidences is None else confidences.tolist(),
                alternatives=[(" ".join(tokens), finite(score)) for tokens, score in prediction.alternatives]
                if prediction else [],
                visually_equal=comparisons[place].same_picture,
            )
        )  # fmt: skip
    return items


def drawn(tokens: Sequence[str]) -> Any:
    """A label as it is printed, with the place of each token; None where it cannot be drawn."""
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
