"""A training of seconds: a configuration of tiny sizes, a data set of its own, and the scripts run with them."""

import subprocess
from pathlib import Path

import yaml

from tests.script_process import ROOT, run_script

TINY = {
    "data": {"image_scale": 0.25, "scales": [1.0, 1.3], "validation_share": 0.2, "workers": 0},
    "model": {
        "encoder": {"growth": 4, "layers": [1, 1]},
        "decoder": "gru",
        "counting": 4,
        "gru": {"hidden": 8, "embedding": 8, "attention": 8, "coverage_kernel": 3},
    },
    "training": {"save_minutes": 1e-6},
    "stages": {
        "standard": {"epochs": 1, "losses": {"counting": 1.0}, "expressions": {"synthetic": 20}, "image_scale": 0.2},
        "alignment": {"epochs": 1},
        "handwritten": {"epochs": 2, "losses": {"counting": 1.0}, "replay": {"first": 0.5, "last": 0.0}},
    },
}
PLACES = ["--checkpoints", "checkpoints"]
TRAINING = ["--dataset", "TINY", "--preset", "tiny", "--device", "cpu"]
STAGES = ("standard", "alignment", "handwritten")


def make_home(folder: Path, preset: dict = TINY) -> Path:
    """Make a working directory with config.yaml, whose preset `tiny` is as given, and the data set TINY."""
    from dataset.images.sample import make_sample

    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["presets"]["tiny"] = preset
    values["datasets"]["TINY"] = {"preset": "tiny"}
    values["data"]["root"] = str(folder / "datasets")
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    make_sample(folder / "datasets" / "TINY", train_labels=40, test_labels=8, workers=1, progress=False)
    return folder


def run(script: str, *arguments: str, folder: Path, **options) -> subprocess.CompletedProcess:
    """Run a script in such a directory. A training gets its places from there. options: those of run_script."""
    if script.startswith("train"):
        arguments += (*PLACES,)
        if "--config" not in arguments and "--resume" not in arguments:
            arguments += ("--config", "config.yaml")
    return run_script(script, *arguments, folder=folder, **options)
