"""Runs that are stopped, killed, moved or made longer, and go on: every weight and every score stays the same."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.script_process import ScriptProcess
from tests.tiny_training import PLACES, STAGES, TRAINING, run


def wait_for_states(process: ScriptProcess, folder: Path, count: int) -> None:
    """Until so many states were saved, or the process has ended."""
    seen, states = None, 0
    while process.poll() is None and states < count:
        time.sleep(0.002)
        path = folder / "state.pt"
        if path.exists() and (now := path.stat().st_mtime_ns) != seen:
            seen, states = now, states + 1


def test_a_run_killed_at_any_moment_and_resumed_ends_in_the_same_weights(home, trained):
    """kill -9, again and again, until the run comes through; then every weight and every score is the same."""
    arguments = [*TRAINING, "--run", "killed", "--config", "config.yaml", *PLACES]
    folder = home / "checkpoints" / "killed"
    kills = 0
    for more_states in (1, 9, 17, 10**9):
        process = ScriptProcess("train_stage.py", *arguments, folder=home)
        wait_for_states(process, folder, more_states)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, errors = process.communicate()
        assert process.poll() in (0, -signal.SIGKILL), errors
        if "--resume" not in arguments:
            arguments.append("--resume")
    assert kills >= 2
    for name in STAGES:
        whole, killed = (path / f"{name}-best.safetensors" for path in (trained, folder))
        assert whole.read_bytes() == killed.read_bytes(), name
    scores = [json.loads((path / "summary.json").read_text())["splits"] for path in (trained, folder)]
    assert scores[0] == scores[1]


def test_a_run_by_time_that_is_told_to_stop_and_resumed_ends_in_the_same_weights(home):
    """By counted steps; SIGTERM in the middle, and the run's name alone to go on."""
    arguments = [*TRAINING, "--minutes", "0.5", "--set", "training.clock=steps"]
    run("train_stage.py", *arguments, "--run", "counted", folder=home)
    arguments += ["--run", "told", "--config", "config.yaml", *PLACES]
    process, folder = ScriptProcess("train_stage.py", *arguments, folder=home), home / "checkpoints" / "told"
    wait_for_states(process, folder, 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.poll() == 143, errors
    assert "stopped by SIGTERM, state saved; --resume continues" in errors
    run("train_stage.py", "--run", "told", "--resume", folder=home)
    whole = home / "checkpoints" / "counted"
    for name in STAGES:
        assert (whole / f"{name}-best.safetensors").read_bytes() == (folder / f"{name}-best.safetensors").read_bytes()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [sum(line["batches"] for line in lines if line["stage"] == name) for name in STAGES]
    assert steps == [8, 8, 14]  # of 30, by their epochs: 1, 1 and 2; a step that has begun is finished


def test_a_run_that_is_stopped_with_its_workers_and_moved_ends_in_the_same_weights(home, trained, tmp_path):
    """SIGTERM to all its processes, as clusters send it; then another place for the run, and another for the data."""
    arguments = [*TRAINING, "--run", "group", "--config", "config.yaml", *PLACES, "--set", "data.workers=1"]
    process = ScriptProcess("train_stage.py", *arguments, folder=home, before=os.setsid)
    folder = home / "checkpoints" / "group"
    wait_for_states(process, folder, 5)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.poll() == 143, errors
    assert "Traceback" not in errors and "stopped by SIGTERM, state saved; --resume continues" in errors
    moved = shutil.move(folder, tmp_path / "moved")
    shutil.copytree(home / "datasets", tmp_path / "machine" / "data")
    set_root = ["--set", "data.root=data", "data.workers=0"]
    run("train_stage.py", "--run", str(moved), "--resume", *set_root, folder=tmp_path / "machine")
    for name in STAGES:
        whole, other = (path / f"{name}-best.safetensors" for path in (trained, moved))
        assert whole.read_bytes() == other.read_bytes(), name
    assert not (tmp_path / "machine" / "checkpoints").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the worker in /proc")
def test_a_worker_that_is_killed_is_told_in_one_line(home):
    stage = (
        "{name: ink, images: ink, trains: [handwritten_encoder, decoder], losses: {label: 1}, "
        "epochs: 2000, learning_rate: 1e-4}"
    )
    arguments = [*TRAINING, "--run", "worker", "--config", "config.yaml", *PLACES, "--set", "data.workers=1"]
    process = ScriptProcess("train_stage.py", *arguments, f"stages=[{stage}]", folder=home)
    log = home / "checkpoints" / "worker" / "log.jsonl"
    while process.poll() is None and not log.exists():
        time.sleep(0.01)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.poll() == 2 and "Traceback" not in errors, errors
    told = errors.splitlines()[-1]
    assert f"stage 1/1 ink: a process that reads images (pid {worker}) is killed by signal: Killed. The system" in told
    assert "data.workers" in told and "--resume" in told


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
    arguments = [*TRAINING, "--dataset", "OTHER", "--set", f"stages=[{FINETUNE}]"]
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
