"""What a training script tells a person: a table of the stages first; scores, curves and a sheet of images last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from utils.config.schema import Config
from utils.evaluation.metrics import edit_distance
from utils.plots import draw_curves, draw_sheet
from utils.tables import table
from utils.training.clock import stage_seconds
from utils.training.inference import Prediction, chosen_for_sheet, predict, score
from utils.training.interfaces import Loader, OpenedData
from utils.training.run_folder import Run


def score_table(splits: dict[str, dict[str, float]]) -> str:
    """Scores of several splits, a line each."""
    rows = [("split", "images", "ExpRate %", "<=1", "<=2", "<=3", "wrong tokens %")]
    for name, values in splits.items():
        rates = [f"{values[key]:.2f}" for key in ("exprate", "at_most_1", "at_most_2", "at_most_3", "token_error_rate")]
        rows.append((name, values["items"], *rates))
    return table(rows)


def millions(model: nn.Module | None) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M" if model else "none"


def print_stages(
    config: Config, data: OpenedData, model: nn.Module, run: Run, device: torch.device, batching: str
) -> None:
    """What is going to happen."""
    minutes = config.training.minutes
    rows = [("stage", "images", "trains", "losses", "minutes" if minutes else "epochs", "learning rate")]
    used = dict(run.stage_seconds)
    for index, stage in enumerate(config.stages):
        losses = ", ".join(f"{name} {weight:g}" for name, weight in stage.losses.items())
        seconds = stage_seconds(minutes, config.stages, index, used)
        used.setdefault(stage.name, seconds or 0.0)
        length = stage.epochs if seconds is None else f"{seconds / 60:.1f}"
        rows.append((stage.name, stage.images, ", ".join(stage.trains), losses, length, stage.learning_rate))
    print(f"\n{config.dataset}: {data.describe()}")
    print(f"model: {config.model.decoder}, {millions(model)} parameters, on {device}")
    print(f"{batching} batches; run {run.folder}")
    if config.training.compile:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        print(f"compiling what the decoder repeats: its first steps take a minute or so; kept in {cache_dir()}")
    print()
    print(table(rows) + "\n", flush=True)


def log_sheet(run: Run, stage: str, predictions: Sequence[Prediction], loader: Loader) -> None:
    """Where a run logs for TensorBoard, add a sheet of what a validation read, beside the log's next line."""
    if run.tensorboard:
        items = chosen_for_sheet(predictions, loader, run.text, count=12)
        title = f"{stage}: validation, ExpRate {score(predictions)['exprate']:.1f} %"
        run.tensorboard.add_sheet(stage, items, title, len(run.lines()) + 1)


def prediction_row(prediction: Prediction, text: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    """A line of SPLIT-predictions.jsonl, in the words of evaluate.py.   text(ids): LaTeX."""
    name, reference, hypothesis = prediction
    read = text(hypothesis.tokens) if hypothesis.tokens else None
    errors = edit_distance(reference, hypothesis.tokens)
    return {"id": name, "reference": text(reference), "prediction": read, "errors": errors}


def report(
    model: nn.Module,
    data: OpenedData,
    loaders: dict[str, Loader],
    config: Config,
    run: Run,
    device: torch.device,
    seconds: float,
) -> None:
    """Read validation and test splits with the final weights; write summary.json, predictions, curves and a sheet."""
    splits, shown = {}, None
    for split, loader in loaders.items():
        predictions = predict(model, loader, device, "handwritten", f"reading {split}")
        splits[split] = score(predictions)
        run.save_predictions(split, (prediction_row(prediction, data.text) for prediction in predictions))
        if shown is None or split != "validation":
            shown = (split, loader, predictions)
    lines = run.lines()
    run.summarize(
        {
            "dataset": config.dataset,
            "splits": splits,
            "search": "greedy",
            "scales": list(config.data.scales),
            "sizes": data.counts(),
            "seed": config.seed,
            "seconds": round(sum(line["seconds"] + line.get("validation_seconds", 0) for line in lines), 1),
            "seconds_of_this_process": round(seconds, 1),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "device": str(device),
            "config": config.as_dict(),
        }
    )
    title = f"{config.dataset}, {config.model.decoder}, seed {config.seed}"
    run.save_image("curves.png", lambda path: draw_curves(lines, path, title))
    split, loader, predictions = shown
    items = chosen_for_sheet(predictions, loader, data.text)
    exprate = splits[split]["exprate"]
    run.save_image("sheet.png", lambda path: draw_sheet(items, path, f"{title}: {split}, ExpRate {exprate:.1f} %"))

    print("\n" + score_table(splits))
    for split in splits:
        if count := data.uncleaned(split):
            print(f"{split}: {count} photographs were read as they are; evaluate.py cleans them first")
    print(f"\nsummary {run.folder / 'summary.json'}\ncurves  {run.folder / 'curves.png'}")
    print(f"sheet   {run.folder / 'sheet.png'}\nweights {run.best(config.stages[-1].name)}", flush=True)
