"""A run's folder: whole files only, and nothing that is loaded can run code."""

import copy
import json
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from utils.config.loading import load_config
from utils.errors import CheckpointError, ConfigError
from utils.training import tensorboard
from utils.training.inference import Prediction, chosen_for_sheet
from utils.training.report import log_sheet
from utils.training.run_folder import (
    Run,
    find_run,
    load_checkpoint,
    load_weights,
    new_folder,
    open_run,
    save_checkpoint,
)
from utils.training.versions import present_versions, version_changes

SHIPPED = Path(__file__).resolve().parents[1] / "config.yaml"
ABOUT = {"architecture": {"width": 2}, "vocabulary": ["x"], "data": {"image_scale": 1.0}}


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


def test_epochs_logged_after_the_saved_state_are_forgotten(tmp_path):
    run = begun(tmp_path / "run")
    run.log({"epoch": 1})
    run.save_state("a", False, epoch=1)
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
    with pytest.raises(ConfigError, match=r"changed: seed \(was 1, is 2\), stages.0.epochs \(was 2, is 1\)$"):
        Run(tmp_path / "run").resume({"seed": 2, "data": {"root": "a"}, "stages": [{"epochs": 1}]}, ["x", "+"], ABOUT)
    moved = {"seed": 1, "data": {"root": "elsewhere"}, "stages": [{"epochs": 2}]}
    Run(tmp_path / "run").resume(moved, ["x", "+"], ABOUT)
    with pytest.raises(CheckpointError, match="vocabulary"):
        Run(tmp_path / "run").resume(moved, ["x"], ABOUT)


def test_a_run_of_an_earlier_version_is_resumed_and_its_weights_are_read(tmp_path):
    run = begun(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": {"picture_scale": 1.0}, "seed": 1}))
    again = Run(tmp_path / "run")
    again.resume({"data": {"image_scale": 1.0}, "seed": 1}, ["x", "+"], ABOUT)
    run.about = ABOUT | {"data": {"picture_scale": 0.5}}
    run.save_weights("a", "best", {"w": torch.zeros(1)})
    assert load_checkpoint(run.best("a")).about["data"] == {"image_scale": 0.5}


def test_a_run_from_before_a_key_is_resumed_with_the_default_of_that_key(tmp_path):
    config = load_config(SHIPPED, "CROHME", "paper").as_dict()
    Run(tmp_path / "run").begin(config, ["x", "+"], ABOUT)
    kept = copy.deepcopy(config)
    del kept["model"]["gru"]["location"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(kept))
    Run(tmp_path / "run").resume(config, ["x", "+"], ABOUT)
    config["model"]["gru"]["location"] = 24
    with pytest.raises(ConfigError, match="changed: model.gru.location .was 0, is 24."):
        Run(tmp_path / "run").resume(config, ["x", "+"], ABOUT)


def test_a_state_that_would_run_code_is_refused(tmp_path):
    begun(tmp_path / "run")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "run" / "state.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="state.pt: cannot be read"):
        Run(tmp_path / "run").resume({"seed": 1, "data": {"root": "a"}, "stages": [{"epochs": 2}]}, ["x", "+"], ABOUT)
    assert not (tmp_path / "owned").exists()


def test_runs_are_numbered_and_the_newest_is_resumed_whatever_its_name(tmp_path):
    config = {"dataset": "SAMPLE"}
    assert new_folder(tmp_path, "SAMPLE", None) == tmp_path / "SAMPLE"
    begun(tmp_path / "SAMPLE", config)
    assert new_folder(tmp_path, "SAMPLE", None) == tmp_path / "SAMPLE-2"
    begun(tmp_path / "mine", config)
    begun(tmp_path / "other", {"dataset": "CROHME"})
    for file in (tmp_path / "SAMPLE").iterdir():
        os.utime(file, (1, 1))
    assert find_run(tmp_path, "SAMPLE", None) == tmp_path / "mine"
    assert find_run(tmp_path, None, "SAMPLE") == tmp_path / "SAMPLE"
    with pytest.raises(CheckpointError, match="this run exists; add --resume"):
        new_folder(tmp_path, "SAMPLE", "SAMPLE")
    with pytest.raises(CheckpointError, match="no run to resume here"):
        find_run(tmp_path, "SAMPLE", "nothing")
    with pytest.raises(CheckpointError, match="no run of HME100K to resume"):
        find_run(tmp_path, "HME100K", None)


def test_a_log_for_tensorboard_holds_what_the_log_holds(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = open_run(tmp_path / "run", {"seed": 1}, ABOUT, True, False, with_tensorboard=True)
    line = {"stage": "a", "learning_rate": 0.5, "losses": {"label": 2.0}, "images_per_second": 7.0}
    run.log(line)
    run.log(line | {"validation": {"items": 3, "exprate": 25.0}})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("a/loss/label")] == [1, 2]
    assert [(event.step, event.value) for event in events.Scalars("a/validation/exprate")] == [(2, 25.0)]


def test_what_batches_were_like_is_logged_for_tensorboard_too(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = open_run(tmp_path / "run", {"seed": 1}, ABOUT, True, False, with_tensorboard=True)
    line = {"stage": "a", "learning_rate": 0.5, "losses": {"label": 2.0}, "images_per_second": 7.0}
    run.log(line | {"padding": 0.25, "mean_batch": 8.0, "splits": [[3, 100]], "validation_seconds": 1.5})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    found = {name: events.Scalars(f"a/{name}")[0].value for name in ("padding", "mean_batch", "validation_seconds")}
    assert found == {"padding": 0.25, "mean_batch": 8.0, "validation_seconds": 1.5}
    assert events.Scalars("a/batches_out_of_memory")[0].value == 1


class Validated:
    """A loader of images of so many columns as their number says."""

    def __init__(self, count: int):
        self.items = self.source = self
        self.count, self.drawn = count, []

    def image(self, index: int, seed: int, epoch: int) -> np.ndarray:
        self.drawn.append(index)
        return np.full((20, 30 + index), 255, np.uint8)


def test_a_sheet_of_validation_images_with_predictions_comes_after_each_validation(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = open_run(tmp_path / "run", {"seed": 1}, ABOUT | {"vocabulary": ["x", "+"]}, True, False, True)
    hypotheses = [SimpleNamespace(tokens=tokens) for tokens in ([3, 4, 3], [4], [])]
    predictions = [Prediction("a", [3, 4, 3], hypotheses[0]), Prediction("b", [3, -1], hypotheses[1])]
    predictions.append(Prediction("c", [3], hypotheses[2]))
    shown = []
    draw = tensorboard.draw_sheet
    monkeypatch.setattr(tensorboard, "draw_sheet", lambda items, *rest: shown.append(items) or draw(items, *rest))
    for _ in range(2):
        log_sheet(run, "a", predictions, Validated(3))
        run.log({"stage": "a", "learning_rate": 0.5, "losses": {}, "images_per_second": 7.0})
    assert [(label, prediction) for _, label, prediction in shown[0]] == [("x + x", "x + x"), ("x ?", "+"), ("x", "")]
    sheets = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Images("a/predictions")
    assert [sheet.step for sheet in sheets] == [1, 2]
    assert sheets[0].encoded_image_string.startswith(b"\x89PNG") and sheets[0].width > 1000


@pytest.mark.parametrize(("items", "chosen"), [(5, range(5)), (12, range(12)), (23, range(0, 23, 2))])
def test_images_of_a_sheet_are_evenly_chosen(items, chosen):
    loader = Validated(items)
    predictions = [Prediction(str(index), [3], SimpleNamespace(tokens=[3])) for index in range(items)]
    chosen_for_sheet(predictions, loader, str, count=12)
    assert loader.drawn == list(chosen)


def test_tensorboard_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="--tensorboard: it is not installed; expected: pip install tensorboard"):
        open_run(tmp_path / "run", {"seed": 1}, ABOUT, True, False, with_tensorboard=True)


def test_a_finished_stage_that_others_went_on_from_cannot_grow(tmp_path):
    def config(*epochs):
        return {"stages": [{"name": name, "epochs": number} for name, number in zip("ab", epochs, strict=True)]}

    run = begun(tmp_path / "run", config(2, 3))
    run.save_state("a", True, epoch=2)
    run.save_state("b", False, epoch=1)
    with pytest.raises(ConfigError, match="stages.0.epochs cannot grow from 2 to 3: stage a is finished, and b has"):
        Run(tmp_path / "run").resume(config(3, 3), ["x", "+"], ABOUT)
    longer = Run(tmp_path / "run")
    longer.resume(config(2, 9), ["x", "+"], ABOUT)
    assert longer.is_extended
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == config(2, 9)


def test_a_state_of_an_earlier_version_is_refused_in_one_clear_line(tmp_path):
    begun(tmp_path / "run")
    torch.save({"stage": "a", "finished": [], "log_lines": 0, "batch": 3}, tmp_path / "run" / "state.pt")
    with pytest.raises(CheckpointError, match="saved by another version of this program.*safetensors. can be read"):
        Run(tmp_path / "run").resume({"seed": 1}, ["x", "+"], ABOUT)


def test_a_log_of_an_earlier_version_is_read_under_todays_names(tmp_path):
    run = begun(tmp_path / "run")
    line = {"epoch": 1, "pictures": 7, "pictures_per_second": 2.5}
    line |= {"validation": {"items": 2, "exrate": 50.0}, "validation_of_mean": {"exrate": 25.0}}
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps(line) + "\n")
    found = {"epoch": 1, "images": 7, "images_per_second": 2.5}
    found |= {"validation": {"items": 2, "exprate": 50.0}, "validation_of_swa": {"exprate": 25.0}}
    assert run.lines() == [found]


def test_resuming_with_other_versions_tells_what_changed(tmp_path, capsys):
    config = {"seed": 1, "data": {"root": "a"}, "stages": [{"epochs": 2}]}

    def resumed() -> str:
        run = Run(tmp_path / "run")
        run.resume(config, ["x", "+"], ABOUT)
        return capsys.readouterr().err

    run = begun(tmp_path / "run", config)
    run.save_state("a", False)
    assert resumed() == ""
    run.versions = run.versions | {
        "torch": "1.0",
        "code": run.versions["code"] | {"models/losses.py": "0", "old.py": "1"},
    }
    run.save_state("a", False)
    told = resumed()
    assert f"changed since its state was saved: torch was 1.0, is {torch.__version__}; " in told
    assert "the code: models/losses.py, old.py. It goes on from that state" in told
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    del state["versions"]  # as of a state that was saved before versions were noted
    torch.save(state, tmp_path / "run" / "state.pt")
    assert resumed() == ""


def test_every_file_that_decides_a_training_counts_as_code(tmp_path):
    for name in ("train_stage.py", "models/losses.py", "dataset/images/store.py", "tests/test_x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = present_versions(tmp_path)
    assert sorted(before["code"]) == ["dataset/images/store.py", "models/losses.py", "train_stage.py"]
    (tmp_path / "models" / "losses.py").write_text("2")
    (tmp_path / "models" / "new.py").write_text("1")
    assert version_changes(before, present_versions(tmp_path)) == ["the code: models/losses.py, models/new.py"]
    many = {"code": {f"models/{number}.py": "a" for number in range(9)}}
    assert version_changes(many, {"code": {}})[0].endswith("models/4.py and 4 more")


def test_a_run_that_lies_elsewhere_is_found_by_its_path(tmp_path):
    begun(tmp_path / "elsewhere" / "run")
    assert (
        find_run(tmp_path / "checkpoints", None, str(tmp_path / "elsewhere" / "run")) == tmp_path / "elsewhere" / "run"
    )


def test_the_summary_names_its_versions(tmp_path):
    run = begun(tmp_path / "run")
    run.summarize({"splits": {"test": {"exprate": 50.0}}})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["splits"]["test"]["exprate"] == 50.0
    assert summary["versions"]["torch"] == torch.__version__
