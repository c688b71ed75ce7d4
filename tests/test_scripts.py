"""The scripts as a person runs them: from nothing to scores, stopped, resumed, and told off in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from utils.training.epoch_log import with_exprate
from utils.training.run_folder import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
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


def run(script: str, *arguments: str, folder: Path, expected: int = 0, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / script, *arguments]
    if script.startswith("train"):
        command += PLACES
        if "--config" not in arguments and "--resume" not in arguments:
            command += ["--config", "config.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, **options)
    assert done.returncode == expected, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with a config of tiny sizes and a data set of its own."""
    from dataset.images.sample import make_sample

    folder = tmp_path_factory.mktemp("home")
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["presets"]["tiny"] = TINY
    values["datasets"]["TINY"] = {"preset": "tiny"}
    values["data"]["root"] = str(folder / "datasets")
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    make_sample(folder / "datasets" / "TINY", train_labels=40, test_labels=8, workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def trained(home) -> Path:
    """A run that was never stopped."""
    run("train_stage.py", "--dataset", "TINY", "--preset", "tiny", "--run", "whole", "--device", "cpu", folder=home)
    return home / "checkpoints" / "whole"


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
    scores = json.loads(run("evaluate.py", *arguments, "--json", "--out", split, folder=home).stdout)
    exact = with_exprate({"items": scores["items"], **scores["exact"]})
    del exact["interval"]
    assert exact == json.loads((trained / "summary.json").read_text())["splits"][split]
    assert (home / split / "report.html").stat().st_size > 10_000
    predictions = [json.loads(line) for line in (home / split / "predictions.jsonl").read_text().splitlines()]
    labels = [f"{line['id']}\t{line['reference']}" for line in predictions]
    source = "train" if split == "validation" else split
    known = (home / "datasets" / "TINY" / source / "labels.txt").read_text().splitlines()
    assert labels == [label for label in known if label in labels] and (len(labels) < len(known)) == (source != split)


def test_a_run_killed_at_any_moment_and_resumed_ends_in_the_same_weights(home, trained):
    """kill -9, again and again, until the run comes through; then every weight and every score is the same."""
    arguments = [sys.executable, str(ROOT / "train_stage.py"), "--dataset", "TINY", "--preset", "tiny"]
    arguments += ["--run", "killed", "--device", "cpu", "--config", "config.yaml", *PLACES]
    folder = home / "checkpoints" / "killed"
    kills = 0
    for more_states in (1, 9, 17, 10**9):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = subprocess.Popen(arguments, cwd=home, **pipes)
        seen, states = None, 0
        while process.poll() is None and states < more_states:
            time.sleep(0.002)
            path = folder / "state.pt"
            if path.exists() and (now := path.stat().st_mtime_ns) != seen:
                seen, states = now, states + 1
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        if "--resume" not in arguments:
            arguments.append("--resume")
    assert kills >= 2
    for name in ("standard", "alignment", "handwritten"):
        whole, killed = (path / f"{name}-best.safetensors" for path in (trained, folder))
        assert whole.read_bytes() == killed.read_bytes(), name
    scores = [json.loads((path / "summary.json").read_text())["splits"] for path in (trained, folder)]
    assert scores[0] == scores[1]


def test_a_run_by_time_that_is_told_to_stop_and_resumed_ends_in_the_same_weights(home):
    """By counted steps; SIGTERM in the middle, and the run's name alone to go on."""
    arguments = ["--dataset", "TINY", "--preset", "tiny", "--device", "cpu", "--minutes", "0.5"]
    arguments += ["--set", "training.clock=steps"]
    run("train_stage.py", *arguments, "--run", "counted", folder=home)
    process = subprocess.Popen(
        [sys.executable, ROOT / "train_stage.py", *arguments, "--run", "told", "--config", "config.yaml", *PLACES],
        cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = home / "checkpoints" / "told"
    while not (folder / "state.pt").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 143, errors
    assert "stopped by SIGTERM, state saved; --resume continues" in errors
    run("train_stage.py", "--run", "told", "--resume", folder=home)
    whole = home / "checkpoints" / "counted"
    for name in ("standard", "alignment", "handwritten"):
        assert (whole / f"{name}-best.safetensors").read_bytes() == (folder / f"{name}-best.safetensors").read_bytes()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    stages = ("standard", "alignment", "handwritten")
    steps = [sum(line["batches"] for line in lines if line["stage"] == name) for name in stages]
    assert steps == [8, 8, 14]  # of 30, by their epochs: 1, 1 and 2; a step that has begun is finished


def test_a_run_that_is_stopped_with_its_workers_and_moved_ends_in_the_same_weights(home, trained, tmp_path):
    """SIGTERM to all its processes, as clusters send it; then another place for the run, and another for the data."""
    arguments = [
        "--dataset",
        "TINY",
        "--preset",
        "tiny",
        "--device",
        "cpu",
        "--run",
        "group",
        "--config",
        "config.yaml",
    ]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train_stage.py", *arguments, *PLACES, "--set", "data.workers=1"],
        cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder, seen, states = home / "checkpoints" / "group", None, 0
    while process.poll() is None and states < 5:
        time.sleep(0.002)
        if (folder / "state.pt").exists() and (now := (folder / "state.pt").stat().st_mtime_ns) != seen:
            seen, states = now, states + 1
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors and "stopped by SIGTERM, state saved; --resume continues" in errors
    moved = shutil.move(folder, tmp_path / "moved")
    shutil.copytree(home / "datasets", tmp_path / "machine" / "data")
    set_root = ["--set", "data.root=data", "data.workers=0"]
    run("train_stage.py", "--run", str(moved), "--resume", *set_root, folder=tmp_path / "machine")
    for name in ("standard", "alignment", "handwritten"):
        whole, other = (path / f"{name}-best.safetensors" for path in (trained, moved))
        assert whole.read_bytes() == other.read_bytes(), name
    assert not (tmp_path / "machine" / "checkpoints").exists()


def test_a_finished_run_becomes_longer_by_its_name_alone(home, trained):
    lines = (trained / "log.jsonl").read_text()
    shutil.copytree(trained, home / "checkpoints" / "longer")
    run("train_stage.py", "--run", "longer", "--resume", "--set", "stages.handwritten.epochs=3", folder=home)
    longer = (home / "checkpoints" / "longer" / "log.jsonl").read_text()
    assert longer.startswith(lines)
    assert [json.loads(line)["epoch"] for line in longer.removeprefix(lines).splitlines()] == [3]


FINETUNE = "{name: finetune, images: ink, trains: [handwritten_encoder, decoder], losses: {label: 1}, epochs: 1, "
FINETUNE += "learning_rate: 1e-4}"


def test_a_run_starts_from_the_weights_of_another_with_other_labels_and_is_resumed_without_them(home, trained):
    """The vocabulary is that of the weights, with what is new behind it; what the weights knew is told."""
    tokens = (trained / "vocabulary.txt").read_text().splitlines()
    shutil.copytree(home / "datasets" / "TINY", home / "datasets" / "OTHER", ignore=shutil.ignore_patterns("st*"))
    for path in (home / "datasets" / "OTHER").rglob("*.txt"):
        path.write_text(path.read_text().replace("+", "\\aleph"))
    start = shutil.copytree(trained, home / "start")
    arguments = ["--dataset", "OTHER", "--preset", "tiny", "--device", "cpu", "--set", f"stages=[{FINETUNE}]"]
    done = run("train_stage.py", *arguments, "--init", "start", "--run", "other", folder=home)
    assert "starts from " in done.stdout and "handwritten-best.safetensors, stage handwritten" in done.stdout
    assert "new to the weights, and untrained: 1 token (\\aleph)" in done.stdout
    assert "known to the weights alone: 1 token (+); they stay" in done.stdout
    folder = home / "checkpoints" / "other"
    assert (folder / "vocabulary.txt").read_text().splitlines() == [*tokens, "\\aleph"]
    shutil.rmtree(start)
    longer = ["--run", "other", "--resume", "--set", "stages.finetune.epochs=2"]
    run("train_stage.py", *longer, folder=home)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    scores = run("evaluate.py", "--checkpoint", str(folder / "finetune-best.safetensors"), "--dataset", "OTHER",
                 "--root", "datasets", "--json", folder=home)  # fmt: skip
    assert json.loads(scores.stdout)["items"] == 8


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
    arguments = ["--dataset", "TINY", "--preset", "tiny", "--run", "adaptive", "--device", "cpu"]
    done = run("train_stage_ABS.py", *arguments, "--set", "batch.max_pixels=30000", folder=home)
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
    arguments = ["--dataset", "TINY", "--preset", "tiny", "--run", "ink-only", "--device", "cpu"]
    done = run("train_stage.py", *arguments, "--set", f"stages=[{stage}]", folder=home)
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
    done = run("train_stage.py", *arguments, folder=home, expected=2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_name_that_a_stream_cannot_show_is_no_traceback(tmp_path):
    """As where output goes into a file on Windows, in an encoding of few characters."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes((ROOT / "results" / "sample-sheet.png").read_bytes())
    (tmp_path / "photos" / "labels.csv").write_text("name,label\na.png,x\n")
    arguments = ["photos", "--dataset", "数学", "--split", "train", "--root", "."]
    done = run("prepare.py", *arguments, folder=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
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
    arguments = ["--dataset", "TINY", "--preset", "tiny", "--run", "full", "--device", "cpu"]
    done = run("train_stage.py", *arguments, folder=home, expected=2,
               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))  # fmt: skip
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
