"""`make gpu`: each part has its limit, nothing is lost when all is cut off, a second call goes on with the first."""

import dataclasses
import json
import subprocess
import sys
import time
from argparse import Namespace
from types import SimpleNamespace

import pytest
import yaml

from tests.benchmarks import gpu, gpu_speed


@pytest.fixture
def report(tmp_path):
    return gpu.Report(tmp_path / "gpu", 1)


# ---- the folder of results -------------------------------------------------------------------------------------------


def test_a_second_call_adds_to_the_summary_of_the_first(report):
    report.summary["speed"] = {"chosen": ["data.workers=4"]}
    report.add("speed", time.monotonic() - 7, 60, "done")
    again = gpu.Report(report.folder, 2, goes_on=True)
    again.add("stages", time.monotonic(), 60, "done")
    summary = json.loads((report.folder / "summary.json").read_text())
    assert [row["part"] for row in summary["times"]] == ["speed", "stages"]
    assert summary["speed"] == {"chosen": ["data.workers=4"]} and summary["begun"] == report.summary["begun"]
    assert "speed" in again.table() and "stages" in again.table()


def test_a_fresh_call_moves_earlier_results_aside(report):
    report.add("speed", time.monotonic(), 60, "done")
    for _ in range(2):
        fresh = gpu.Report(report.folder, 1)
        assert fresh.summary["times"] == []
        fresh.write()
    kept = sorted(path.name for path in report.folder.parent.iterdir())
    assert len(kept) == 3 and kept[0] == "gpu"
    first = json.loads((report.folder.parent / min(kept[1:], key=len) / "summary.json").read_text())
    assert [row["part"] for row in first["times"]] == ["speed"]


# ---- programs with a limit -------------------------------------------------------------------------------------------


def test_a_program_is_stopped_at_its_limit_with_all_that_it_has_started(report):
    """The program starts another one that would go on."""
    inner = "import time; time.sleep(60)"
    start = f"print(subprocess.Popen([sys.executable, '-c', {inner!r}]).pid, flush=True)"
    outer = f"import subprocess, sys, time; {start}; time.sleep(60)"
    with open(report.folder / "out.txt", "w") as output:
        program = gpu.Program("speed", 3, ["-c", outer], output)
    started = time.monotonic()
    assert program.wait(report) == "stopped at its limit"
    assert time.monotonic() - started < 30 and gpu.Program.running == []
    number = (report.folder / "out.txt").read_text().strip()
    states = subprocess.run(["ps", "-o", "stat=", "-p", number], capture_output=True, text=True).stdout
    assert number and states.strip()[:1] in ("", "Z")
    assert report.summary["times"][-1]["outcome"] == "stopped at its limit"


@pytest.mark.parametrize(("code", "outcome"), [(0, "done"), (3, "failed with code 3, see log.txt")])
def test_how_a_program_ended_is_told(report, code, outcome):
    assert gpu.Program("data", 60, ["-c", f"exit({code})"], report.log).wait(report) == outcome


def test_every_part_has_a_limit_and_the_parts_before_training_leave_it_half_of_the_time():
    for minutes in (3, 8, 15):
        limits = {part: min(seconds, share * 60 * minutes) for part, (seconds, share) in gpu.LIMITS.items()}
        assert set(limits) == {"data", "tests", "speed"}
        assert max(limits["data"], limits["tests"]) + limits["speed"] <= 0.85 * 60 * minutes


def test_going_on_leaves_out_tests_and_speed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--resume", "--minutes", "5"])
    assert gpu.parse().parts == ["data", "stages", "ink"]


# ---- a run's results -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run with three stages; its weights are texts, which are copied as they are."""
    folder = tmp_path / "run"
    folder.mkdir()
    parts = {"standard": ["decoder"], "handwritten": ["handwritten_encoder"], "clean": ["handwritten_encoder"]}
    stages = [{"name": name, "trains": trains} for name, trains in parts.items()]
    (folder / "config.yaml").write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.setattr("utils.training.publish.publish", lambda best, out: out.write_text(best.read_text()))
    return folder


def test_log_and_weights_are_brought_over_while_a_run_goes_on(report, run):
    (report.folder / "runs.jsonl").write_text('{"run": "ink", "epoch": 1}\n')
    collector, weights = gpu.Collector(report, run, "stages"), report.folder / "stages.safetensors"
    (run / "standard-best.safetensors").write_text("standard")
    (run / "log.jsonl").write_text('{"epoch": 1}\n')
    collector.collect()
    assert not weights.exists()  # the encoder of handwriting has learnt nothing yet
    for name in ("handwritten", "clean"):
        (run / f"{name}-best.safetensors").write_text(name)
        (run / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
        collector.collect()
        assert weights.read_text() == name
    lines = [json.loads(line) for line in (report.folder / "runs.jsonl").read_text().splitlines()]
    assert [(line["run"], line["epoch"]) for line in lines] == [("ink", 1), ("stages", 1), ("stages", 2)]


def test_an_error_in_bringing_results_over_never_ends_the_run(report, run, monkeypatch):
    def fail(best, out):
        raise OSError("no space left")

    monkeypatch.setattr("utils.training.publish.publish", fail)
    (run / "clean-best.safetensors").write_text("clean")
    (run / "log.jsonl").write_text('{"epoch": 1}\n')
    gpu.Collector(report, run, "stages").collect()
    assert "no space left" in (report.folder / "log.txt").read_text()
    assert (report.folder / "runs.jsonl").read_text()


def test_results_are_brought_over_when_all_is_told_to_stop(report, run, monkeypatch):
    def stop(*arguments):
        (run / "log.jsonl").write_text('{"epoch": 9}\n')
        raise SystemExit(143)

    monkeypatch.setattr(gpu, "CHECKPOINTS", run.parent)
    monkeypatch.setattr(gpu, "Program", lambda *arguments: SimpleNamespace(wait=stop))
    with pytest.raises(SystemExit):
        gpu.train(report, Namespace(device="cpu", processes=1), "stages", run.name, [])
    assert '"epoch": 9' in (report.folder / "runs.jsonl").read_text()


def test_several_processes_are_started_by_torchrun_and_share_one_device(report, monkeypatch):
    started = []
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--processes", "3"])
    program = SimpleNamespace(wait=lambda *_: "done")
    monkeypatch.setattr(gpu, "Program", lambda name, limit, command, output: started.append(command) or program)
    options = gpu.parse()
    gpu.train(report, options, "stages", "no-such-run", gpu.passed_on(options))
    (command,) = started
    torchrun, script = command[: command.index("--")], command[command.index("--") + 1 :]
    assert torchrun[:2] == ["-m", "torch.distributed.run"] and "--nproc_per_node=3" in torchrun
    assert script[0] == "train_stage_ABS.py" and script[script.index("--device") + 1] == "cuda:0"


def test_weights_that_learn_on_bring_their_network_to_every_part(monkeypatch, tmp_path):
    """Paths are of the folder that the command is typed in; the parts run in that of the project."""
    monkeypatch.chdir(gpu.CHECKPOINTS)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--preset", "further", "--init", "crohme.safetensors"])
    options = gpu.parse()
    monkeypatch.chdir(tmp_path)
    config = gpu.configuration(options, "CROHME_INK")
    assert config.model.encoder.layers == (12, 32) and config.data.image_scale == 0.85
    assert [stage.trains for stage in config.stages] == [("handwritten_encoder", "decoder", "backwards")]
    gpu_settings = gpu.configuration(Namespace(preset="gpu", init=None, set=[]), "CROHME_INK")
    strokes = dataclasses.replace(gpu_settings.augment.strokes, exchange=0.3)
    assert config.augment == dataclasses.replace(gpu_settings.augment, strokes=strokes)
    assert config.training == gpu_settings.training


def test_training_is_planned_within_what_is_left(report, monkeypatch):
    planned = {}
    monkeypatch.setattr(gpu, "train", lambda report, options, name, run, arguments: planned.update({name: arguments}))
    monkeypatch.setattr(gpu, "choose_dataset", lambda: "SAMPLE")
    options = Namespace(
        preset="small",
        init=None,
        device="cpu",
        train_minutes=None,
        resume=False,
        validation_only=False,
        parts=["stages", "ink"],
        set=["seed=1"],
    )
    report.seconds = 8 * 60
    gpu.train_all(report, options, ["batch.max_pixels=2000000"])
    assert list(planned) == ["stages"]  # ink alone wants to know how long
    minutes = float(planned["stages"][planned["stages"].index("--minutes") + 1])
    assert 4 < minutes < (8 * 60 - gpu.STARTING - gpu.SCORING) / 60
    assert planned["stages"][-3:] == ["--set", "batch.max_pixels=2000000", "seed=1"]
    assert "--validation-only" not in planned["stages"]
    options.init, options.validation_only = "/weights.safetensors", True
    gpu.train_all(report, options, [])
    assert planned["stages"][planned["stages"].index("--init") + 1] == "/weights.safetensors"
    assert "--validation-only" in planned["stages"]
    report.seconds = 5
    gpu.train_all(report, options, [])
    assert report.summary["times"][-1]["outcome"] == "no time left"


# ---- the fastest settings --------------------------------------------------------------------------------------------


def speed_of(rates):
    """A Speed that measures nothing: images a second by (budget, precision, is_compiled)."""
    speed = gpu_speed.Speed.__new__(gpu_speed.Speed)
    speed.is_gpu, speed.chosen, speed.results = True, {}, {}
    speed.config = SimpleNamespace(batch=SimpleNamespace(cpu_max_pixels=0))
    speed.has_time, speed.write = lambda: True, lambda: None

    def measure(max_pixels, precision, is_compiled=False, has_met_all=False):
        rate = rates[max_pixels, precision, is_compiled]
        row = {"max_pixels": max_pixels, "precision": precision, "images_per_second": rate, "first_steps": 20}
        return row

    speed.measure = measure
    return speed


def test_the_smallest_budget_within_a_tenth_of_the_best_is_chosen():
    small, middle, large = gpu_speed.GPU_BUDGETS
    for rates, wanted in (((100, 105, 108), small), ((80, 100, 108), middle), ((50, 80, 100), large)):
        speed = speed_of(dict(zip([(budget, "bf16", False) for budget in gpu_speed.GPU_BUDGETS], rates, strict=True)))
        assert speed.choose_budget()["max_pixels"] == speed.chosen["batch.max_pixels"] == wanted


@pytest.mark.parametrize(("rate", "seconds", "is_worth_it"), [(150, 420, True), (150, 30, False), (104, 4200, False)])
def test_compiling_is_chosen_where_it_pays_for_itself(rate, seconds, is_worth_it):
    speed = speed_of({(1, "bf16", False): 100, (1, "bf16", True): rate})
    speed.options = SimpleNamespace(training_seconds=seconds)
    speed.choose_compile(speed.measure(1, "bf16"))
    assert speed.chosen["training.compile"] is is_worth_it


def test_a_precision_that_is_not_faster_changes_nothing():
    for fp32, wanted in ((103, "bf16"), (120, "fp32")):
        speed = speed_of({(1, "bf16", False): 100, (1, "fp32", False): fp32})
        speed.chosen = {"training.precision": "bf16"}
        assert (
            speed.choose_precision(speed.measure(1, "bf16"))["precision"]
            == wanted
            == speed.chosen["training.precision"]
        )
