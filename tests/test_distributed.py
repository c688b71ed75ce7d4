"""Training in several processes, started by torchrun: every picture once in all of them together, one that writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = {
    "data": {"picture_scale": 0.25, "validation_share": 0.2, "workers": 0},
    "batch": {"max_pixels": 20000},
    "model": {
        "encoder": {"growth": 4, "layers": [1, 1]},
        "decoder": "gru",
        "counting": 4,
        "gru": {"hidden": 8, "embedding": 8, "attention": 8, "coverage_kernel": 3},
    },
    "stages": {
        "standard": {"epochs": 1, "losses": {"counting": 1.0}, "expressions": {"synthetic": 0}},
        "alignment": {"epochs": 1},
        "handwritten": {"epochs": 1, "losses": {"counting": 1.0}},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    from dataset.images.sample import make_sample

    folder = tmp_path_factory.mktemp("ranks")
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["presets"]["tiny"] = OVERRIDES
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    make_sample(folder / "datasets" / "TINY", train_labels=31, test_labels=4, workers=1, progress=False)
    return folder


def test_two_processes_train_one_model(home):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--"]
    command += [str(ROOT / "train_stage_ABS.py")]
    command += ["--dataset", "TINY", "--preset", "tiny", "--run", "two", "--device", "cpu"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    folder = home / "checkpoints" / "two"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    sizes = json.loads((folder / "summary.json").read_text())["sizes"]
    assert [line["stage"] for line in lines] == ["standard", "alignment", "handwritten"]
    assert [line["pictures"] for line in lines[1:]] == [sizes["train"]] * 2
    assert all(line["validation"]["items"] > 0 for line in lines)
    assert lines[2]["validation"]["items"] == sizes["validation"]
    assert json.loads((folder / "summary.json").read_text())["splits"]["test"]["items"] == 4
