"""A run's folder: whole files only, and nothing that is loaded can run code."""

import json
import os
import pickle

import pytest
import torch

from utils.errors import CheckpointError, ConfigError
from utils.training.run_folder import Run, choose_folder, load_checkpoint, load_weights, save_checkpoint, write_whole

ABOUT = {"architecture": {"width": 2}, "vocabulary": ["x"], "data": {"picture_scale": 1.0}}


def begun(folder, config=None) -> Run:
    run = Run(folder)
    run.begin(config or {"seed": 1, "data": {"root": "a"}, "stages": [{"epochs": 2}]}, ["x", "+"], ABOUT)
    return run


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", {"w": torch.arange(3.0)}, ABOUT)
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.about == ABOUT
    assert torch.equal(checkpoint.weights["w"], torch.arange(3.0))
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_or_foreign_checkpoint_is_named(tmp_path, content):
    (path := tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="bad.safetensors"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("weights", [{"weight": torch.zeros(3, 3)}, {"other": torch.zeros(1)}])
def test_weights_of_another_model_are_refused(tmp_path, weights):
    save_checkpoint(tmp_path / "a.safetensors", weights, ABOUT)
    with pytest.raises(CheckpointError, match="a.safetensors: weights of another model"):
        load_weights(torch.nn.Linear(2, 2), load_checkpoint(tmp_path / "a.safetensors"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    (path := tmp_path / "file").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_epochs_logged_after_the_saved_state_are_forgotten(tmp_path):
    run = begun(tmp_path / "run")
    run.log({"epoch": 1})
    run.save_state("a", [], epoch=1)
    run.log({"epoch": 2})
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"epoch": 3, "lo')  # killed while writing
    again = Run(tmp_path / "run")
    again.resume({"seed": 1, "data": {"root": "a"}, "stages": [{"epochs": 2}]}, ["x", "+"], ABOUT)
    assert again.lines() == [{"epoch": 1}]
    assert again.state_of("a")["epoch"] == 1
    assert again.state_of("b") is None


def test_resuming_another_configuration_names_what_changed(tmp_path):
    begun(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"changed: seed, stages.0.epochs$"):
        Run(tmp_path / "run").resume({"seed": 2, "data": {"root": "a"}, "stages": [{"epochs": 3}]}, ["x", "+"], ABOUT)
    moved = {"seed": 1, "data": {"root": "elsewhere"}, "stages": [{"epochs": 2}]}
    Run(tmp_path / "run").resume(moved, ["x", "+"], ABOUT)
    with pytest.raises(CheckpointError, match="vocabulary"):
        Run(tmp_path / "run").resume(moved, ["x"], ABOUT)


def test_a_state_that_would_run_code_is_refused(tmp_path):
    begun(tmp_path / "run")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "run" / "state.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="state.pt: cannot be read"):
        Run(tmp_path / "run").resume({"seed": 1, "data": {"root": "a"}, "stages": [{"epochs": 2}]}, ["x", "+"], ABOUT)
    assert not (tmp_path / "owned").exists()


def test_runs_are_numbered_and_the_newest_is_resumed(tmp_path):
    assert choose_folder(tmp_path, "SAMPLE", None, False) == tmp_path / "SAMPLE"
    begun(tmp_path / "SAMPLE")
    assert choose_folder(tmp_path, "SAMPLE", None, False) == tmp_path / "SAMPLE-2"
    begun(tmp_path / "SAMPLE-2")
    os.utime(tmp_path / "SAMPLE" / "config.yaml", (1, 1))
    assert choose_folder(tmp_path, "SAMPLE", None, True) == tmp_path / "SAMPLE-2"
    assert choose_folder(tmp_path, "SAMPLE", "SAMPLE", True) == tmp_path / "SAMPLE"
    with pytest.raises(CheckpointError, match="this run exists; add --resume"):
        choose_folder(tmp_path, "SAMPLE", "SAMPLE", False)
    with pytest.raises(CheckpointError, match="no run to resume here"):
        choose_folder(tmp_path, "SAMPLE", "other", True)
    with pytest.raises(CheckpointError, match="no run of CROHME to resume"):
        choose_folder(tmp_path, "CROHME", None, True)


def test_the_summary_names_its_versions(tmp_path):
    run = begun(tmp_path / "run")
    run.summarize({"splits": {"test": {"exprate": 50.0}}})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["splits"]["test"]["exprate"] == 50.0
    assert summary["versions"]["torch"] == torch.__version__
