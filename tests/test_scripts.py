"""The scripts as a person runs them: from nothing to scores, and told off in one line."""

import functools
import json
import os
import subprocess
import sys

import pytest

from tests.tiny_training import PLACES, ROOT, TRAINING, run
from utils.training.epoch_log import with_exprate
from utils.training.run_folder import load_checkpoint


def test_training_leaves_everything_a_run_should(trained):
    names = {path.name for path in trained.iterdir()}
    kinds = [(stage, kind) for stage in ("standard", "alignment", "handwritten") for kind in ("best", "last")]
    weights = {f"{stage}-{kind}.safetensors" for stage, kind in kinds}
    assert names - weights == {
        "config.yaml", "vocabulary.txt", "log.jsonl", "curves.png", "sheet.png", "state.pt", "summary.json",
        "validation-predictions.jsonl", "test-predictions.jsonl", ".lock"
    }  # fmt: skip
    assert weights <= names
    for stage, scale in (("standard", 0.2), ("alignment", 0.25), ("handwritten", 0.25)):
        assert load_checkpoint(trained / f"{stage}-best.safetensors").about["data"]["image_scale"] == scale
    summary = json.loads((trained / "summary.json").read_text())
    assert set(summary["splits"]) == {"validation", "test"}
    assert summary["splits"]["test"]["items"] == 8
    assert 0 <= summary["splits"]["test"]["exprate"] <= 100
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        ("standard", 1), ("alignment", 1), ("handwritten", 1), ("handwritten", 2)
    ]  # fmt: skip
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_run_has_read_agrees_with_its_scores_and_serves_a_paired_test(home, trained):
    summary = json.loads((trained / "summary.json").read_text())
    for split, scores in summary["splits"].items():
        rows = [json.loads(line) for line in (trained / f"{split}-predictions.jsonl").read_text().splitlines()]
        assert len({row["id"] for row in rows}) == len(rows) == scores["items"]
        right = [row for row in rows if row["errors"] == 0]
        assert all(row["prediction"] == row["reference"] for row in right)
        assert 100 * len(right) / len(rows) == pytest.approx(scores["exprate"], abs=1e-3)
        tokens = sum(len(row["reference"].split()) for row in rows)
        assert 100 * sum(row["errors"] for row in rows) / tokens == pytest.approx(scores["token_error_rate"], abs=1e-3)
    checkpoint, path = str(trained / "handwritten-best.safetensors"), str(trained / "test-predictions.jsonl")
    arguments = ["--checkpoint", checkpoint, "--dataset", "TINY", "--root", "datasets", "--json", "--against", path]
    against = json.loads(run("evaluate.py", *arguments, folder=home).stdout)["against"]
    assert (against["only_here"], against["only_there"]) == (0, 0)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_agrees_with_the_training_script(home, trained, split):
    checkpoint = str(trained / "handwritten-best.safetensors")
    arguments = ["--checkpoint", checkpoint, "--dataset", "TINY", "--root", "datasets", "--split", split]
    done = run("evaluate.py", *arguments, "--json", "--out", split, folder=home, fresh=split == "test")
    scores = json.loads(done.stdout)
    exact = with_exprate({"items": scores["items"], **scores["exact"]})
    del exact["interval"]
    assert exact == json.loads((trained / "summary.json").read_text())["splits"][split]
    assert (home / split / "report.html").stat().st_size > 10_000
    predictions = [json.loads(line) for line in (home / split / "predictions.jsonl").read_text().splitlines()]
    labels = [f"{line['id']}\t{line['reference']}" for line in predictions]
    source = "train" if split == "validation" else split
    known = (home / "datasets" / "TINY" / source / "labels.txt").read_text().splitlines()
    assert labels == [label for label in known if label in labels] and (len(labels) < len(known)) == (source != split)


def test_defaults_do_not_depend_on_the_folder_one_is_in(tmp_path, monkeypatch):
    """config.yaml, datasets/ and checkpoints/ are those beside the scripts; a path that is typed is relative."""
    from utils.project import from_root
    from utils.script import open_config, parse_training_options

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_stage.py", "--dataset", "SAMPLE"])
    options = parse_training_options("")
    config, _ = open_config(options)
    assert options.checkpoints == ROOT / "checkpoints"
    assert config.data.root == "datasets" and from_root(config.data.root) == ROOT / "datasets"
    monkeypatch.setattr(sys, "argv", ["train_stage.py", "--dataset", "SAMPLE", "--set", "data.root=mine"])
    config, _ = open_config(parse_training_options(""))
    assert from_root(config.data.root) == tmp_path / "mine"


def test_the_adaptive_script_trains_the_same_stages(home):
    arguments = [*TRAINING, "--run", "adaptive", "--set", "batch.max_pixels=30000"]
    done = run("train_stage_ABS.py", *arguments, folder=home, fresh=True)
    assert "adaptive batches" in done.stdout
    lines = [json.loads(line) for line in (home / "checkpoints" / "adaptive" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert lines[0]["largest_batch"] > 1
    assert all(line["max_pixels"] == 30000 and line["oversize"] == 0 for line in lines)
    assert all(line["largest_padded"] <= 30000 for line in lines if line["stage"] != "alignment")


def test_label_smoothing_reaches_the_objective(home, monkeypatch):
    """The first stage's objective is made of the config's settings; training is not begun."""
    import models.losses
    import train_stage

    class Made(Exception):
        pass

    def note(self, model, names, label_smoothing, *_):
        raise Made(names, label_smoothing)

    monkeypatch.setattr(models.losses.Objective, "__init__", note)
    monkeypatch.chdir(home)
    arguments = "--dataset TINY --preset tiny --device cpu --run smooth --config config.yaml".split()
    monkeypatch.setattr(sys, "argv", ["train_stage.py", *arguments, *PLACES, "--set", "training.label_smoothing=0.125"])
    with pytest.raises(Made) as made:
        train_stage.main()
    assert made.value.args[1] == 0.125


@pytest.mark.parametrize("starts", ["true", "false"])
def test_the_encoder_of_ink_starts_from_the_standard_one_where_a_stage_says_so(home, monkeypatch, starts):
    """Every stage is made as its config says; instead of training, it moves the encoders that it trains."""
    import train_stage
    import utils.training.trainer

    begun = []

    class Done(Exception):
        pass

    class Moving:
        def __init__(self, objective, loaders, plan, *_):
            self.model, self.stage = objective.model, plan.stage

        def fit(self):
            encoders = self.model.standard_encoder, self.model.handwritten_encoder
            pairs = zip(*(encoder.state_dict().values() for encoder in encoders), strict=True)
            begun.append((self.stage.name, all(one.equal(other) for one, other in pairs)))
            if self.stage.name == "handwritten":
                raise Done
            for part in self.stage.trains:
                for weight in getattr(self.model, part).parameters():
                    weight.data.add_(1.0)

    monkeypatch.setattr(utils.training.trainer, "Trainer", Moving)
    monkeypatch.chdir(home)
    arguments = f"--dataset TINY --preset tiny --device cpu --run starts-{starts} --config config.yaml".split()
    change = f"stages.alignment.starts_from_standard={starts}"
    monkeypatch.setattr(sys, "argv", ["train_stage.py", *arguments, *PLACES, "--set", change])
    with pytest.raises(Done):
        train_stage.main()
    assert begun[1:] == [("alignment", starts == "true"), ("handwritten", False)]


def test_a_single_stage_from_ink_alone_is_one_command(home):
    stage = "{name: handwritten, images: ink, trains: [handwritten_encoder, decoder], losses: {label: 1}, "
    stage += "epochs: 1, learning_rate: 1e-3}"
    done = run("train_stage.py", *TRAINING, "--run", "ink-only", "--set", f"stages=[{stage}]", folder=home)
    assert "alignment" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dataset", "NOWHERE"], "datasets/NOWHERE"),
        (["--dataset", "TINY", "--set", "stages.0.epochs=0"], "--set stages.0.epochs: expected a positive integer"),
        (["--dataset", "NOWHERE", "--set", "augment.scale=[1.4, 0.7]"], "augment.scale: expected two positive factors"),
        (["--dataset", "TINY", "--preset", "huge"], "--preset huge"),
        (["--dataset", "TINY", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["--dataset", "TINY", "--device", "abacus"], "--device abacus"),
        (["--dataset", "TINY", "--run", "none", "--resume"], "no run to resume"),
        (["--dataset", "TINY", "--minutes", "soon"], "--minutes: expected a positive number, got 'soon'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_2(home, arguments, expected):
    """Before torch is imported, and after it: one of each with an interpreter of its own."""
    is_fresh = expected in ("datasets/NOWHERE", "--preset huge")
    done = run("train_stage.py", *arguments, folder=home, expected=2, fresh=is_fresh)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_name_that_a_stream_cannot_show_is_no_traceback(tmp_path):
    """As where output goes into a file on Windows, in an encoding of few characters."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes((ROOT / "results" / "sample-sheet.png").read_bytes())
    (tmp_path / "photos" / "labels.csv").write_text("name,label\na.png,x\n")
    arguments = ["photos", "--dataset", "数学", "--split", "train", "--root", "."]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run("prepare.py", *arguments, folder=tmp_path, fresh=True, env=environment)
    assert done.stdout == "\\u6570\\u5b66: ready\n"


@pytest.mark.parametrize("script", ["train_stage.py", "train_stage_ABS.py", "evaluate.py", "prepare.py"])
def test_help_does_not_wait_for_heavy_imports(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    modules = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert not modules & {"torch", "matplotlib", "cv2"}


def test_a_disk_without_room_is_one_line(home):
    """A limit on the size of files fails a write half-way, as a full disk does."""
    resource = pytest.importorskip("resource", reason="needs limits of a Unix system")
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    done = run("train_stage.py", *TRAINING, "--run", "full", folder=home, expected=2, before=limit)
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
