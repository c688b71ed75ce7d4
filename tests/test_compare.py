"""Runs beside each other: what differs in their settings, their best scores, and their curves in one picture."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.script_process import run_script
from utils.config.loading import load_config
from utils.errors import CheckpointError
from utils.training import compare
from utils.training.compare import best_of_stages, different_settings, open_runs, table_of_scores, table_of_settings

ROOT = Path(__file__).resolve().parents[1]


def line(stage: str, epoch: int, exprate: float | None = None, **rest) -> dict:
    scores = {"validation": {"items": 9, "exprate": exprate, "token_error_rate": 30.0}} if exprate is not None else {}
    losses = {"label": 1 / epoch, "total": 9.0}
    return {"stage": stage, "epoch": epoch, "losses": losses, "seconds": 30.0} | scores | rest


def write_run(folder: Path, lines: list[dict], *changes: str, tests: dict | None = None) -> dict:
    config = load_config(ROOT / "config.yaml", "CROHME", None, changes).as_dict() | {"batching": "fixed"}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    if tests:
        (folder / "summary.json").write_text(json.dumps({"splits": tests}))
    return config


@pytest.fixture
def two_runs(tmp_path) -> Path:
    lines = [line("standard", 1, 90.0), line("handwritten", 1), line("handwritten", 2, 50.0)]
    scores = {"validation": {"exprate": 1.0}, "2014": {"exprate": 44.44}}
    write_run(tmp_path / "a", lines, tests=scores)
    write_run(tmp_path / "b", lines[:2], "stages.handwritten.epochs=9", "training.ema=0.5")
    return tmp_path


def test_the_settings_that_differ_are_shown_and_no_others(two_runs):
    rows = [row.split() for row in table_of_settings(open_runs(["a", "b"], two_runs)).splitlines()]
    assert rows[0] == ["setting", "a", "b"]
    assert rows[2:] == [["training.ema", "0.999", "0.5"], ["stages.handwritten.epochs", "160", "9"]]
    assert table_of_settings(open_runs(["a", "a"], two_runs)) == "no setting differs"


def test_a_stage_that_only_some_runs_have_is_one_row_and_compared_among_them():
    configs = [{"stages": {"x": {"epochs": 1, "losses": {"label": 1}}}}, {"stages": {}}]
    assert different_settings(configs) == [("stages.x", ["yes", "-"])]
    configs.append({"stages": {"x": {"epochs": 2, "losses": {"label": 1, "attention": 0}}}})
    assert different_settings(configs) == [
        ("stages.x", ["yes", "-", "yes"]),
        ("stages.x.epochs", [1, "-", 2]),
        ("stages.x.losses.attention", ["-", "-", 0]),
    ]


def test_the_best_scores_are_those_of_each_stage_and_the_tests_stand_beside_the_last(two_runs):
    rows = [row.split() for row in table_of_scores(open_runs(["a", "b"], two_runs)).splitlines()[2:]]
    assert rows == [
        ["a", "standard", "1", "0.5", "90.00", "1", "30.00", "-"],
        ["a", "handwritten", "2", "1.0", "50.00", "2", "30.00", "44.44"],
        ["b", "standard", "1", "0.5", "90.00", "1", "30.00", "-"],
        ["b", "handwritten", "1", "0.5", "-", "-", "-", "-"],
    ]


def test_averaged_weights_that_score_better_are_the_best_and_ties_go_to_fewer_wrong_tokens():
    swa = {"exprate": 60.0, "token_error_rate": 9.0}
    tie = {"exprate": 60.0, "token_error_rate": 8.0}
    lines = [line("a", 1, 50.0), line("a", 2, 40.0, validation_of_swa=swa)]
    assert (best_of_stages(lines)[0].epoch, best_of_stages(lines)[0].exprate) == (2, 60.0)
    assert best_of_stages([*lines, line("a", 3, validation=tie)])[0].epoch == 3


def test_runs_of_earlier_versions_are_read_under_todays_names(two_runs):
    """Former keys, former names of the log, and no word of keys that came later."""
    folder = two_runs / "b"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["picture_scale"] = config["data"].pop("image_scale")
    config["training"]["validation_pictures"] = config["training"].pop("validation_images")
    del config["training"]["muon_factor"]
    for stage in config["stages"]:
        stage["pictures"] = stage.pop("images")
        if "context_cosine" in stage["losses"]:
            stage["losses"]["glimpse_cosine"] = stage["losses"].pop("context_cosine")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    old = {"validation": {"exrate": 12.0, "token_error_rate": 1.0}, "validation_of_mean": {"exrate": 13.0}}
    old["validation_of_mean"]["token_error_rate"] = 1.0
    old["losses"] = {"glimpse_contrast": 1.0}
    (folder / "log.jsonl").write_text(json.dumps(line("handwritten", 1) | old) + "\n")
    runs = open_runs(["a", "b"], two_runs)
    assert [key for key, _ in different_settings([run.config for run in runs])] == [
        "training.ema", "stages.handwritten.epochs"
    ]  # fmt: skip
    assert best_of_stages(runs[1].lines)[0].exprate == 13.0
    assert runs[1].lines[0]["losses"] == {"context_contrast": 1.0}


def test_a_line_that_is_being_written_is_left_out_and_a_broken_one_is_named(two_runs):
    log = two_runs / "b" / "log.jsonl"
    text = log.read_text()
    log.write_text(text + '{"stage": "hand')
    assert len(open_runs(["b"], two_runs)[0].lines) == 2
    log.write_text(text + "{]\n")
    with pytest.raises(CheckpointError, match="log.jsonl, line 3: expected an epoch as a JSON object"):
        open_runs(["b"], two_runs)
    log.write_text("")
    with pytest.raises(CheckpointError, match="log.jsonl: no epoch of this run is finished yet"):
        open_runs(["b"], two_runs)
    with pytest.raises(CheckpointError, match="^c: no run; expected a folder with config.yaml"):
        open_runs(["c"], two_runs)


def test_runs_of_one_name_in_two_places_are_told_apart(two_runs):
    write_run(two_runs / "elsewhere" / "a", [line("handwritten", 1)])
    names = [run.name for run in open_runs(["a", str(two_runs / "elsewhere" / "a")], two_runs)]
    assert names == [str(two_runs / "a"), str(two_runs / "elsewhere" / "a")]


def test_curves_stand_at_their_epochs_and_minutes_and_are_interrupted_between_stages(two_runs, monkeypatch):
    figures = []
    make = compare.new_figure
    monkeypatch.setattr(compare, "new_figure", lambda *size: figures.append(make(*size)) or figures[-1])
    compare.draw_comparison(open_runs(["a", "b"], two_runs), two_runs / "curves.png")
    exprate, exprate_by_time, label, label_by_time = figures[0].axes
    points = [curve.get_xydata().tolist() for curve in exprate.get_lines() if curve.get_marker() == "."]
    assert points[:2] == [[[1, 90.0]], [[3, 50.0]]]
    assert [text.get_text() for text in exprate.get_legend().get_texts()] == ["a", "b"]
    points = [curve.get_xydata().tolist() for curve in label_by_time.get_lines() if curve.get_marker() == "."]
    assert points[:2] == [[[0.5, 1.0]], [[1.0, 1.0], [1.5, 0.5]]]
    assert (two_runs / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_prints_both_tables_and_tells_when_validation_differs(two_runs):
    write_run(two_runs / "c", [line("handwritten", 1, 10.0)], "seed=5")

    places = ["--checkpoints", str(two_runs)]
    command = [sys.executable, "-m", "utils.training.compare", "a", "c", "--out", str(two_runs / "both.png"), *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "seed" in done.stdout and "44.44" in done.stdout and "both.png" in done.stdout
    assert "not validated on the same images (seed): compare test splits" in done.stderr
    done = run_script("utils/training/compare.py", "a", "nothing", *places, folder=ROOT, expected=2)
    assert not done.stdout and "nothing: no run" in done.stderr and "Traceback" not in done.stderr
