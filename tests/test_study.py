"""The study of the arms: what its tables say of made-up runs, that the arms are comparable, what the runner does."""

import functools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.benchmarks import study as runner
from tests.script_process import run_script
from tests.tiny_training import TINY, make_home
from utils.config.loading import load_config
from utils.errors import ConfigError, DataError, UserError
from utils.evaluation import study
from utils.evaluation.metrics import mcnemar

ROOT = Path(__file__).resolve().parents[1]

# ---- tables of made-up runs ------------------------------------------------------------------------------------------


def write_run(folder: Path, arm: str, seed: int, right: str, curve=((60, 5.0), (600, 50.0)), changes=None) -> Path:
    """Items are letters: `right` are those that were read, of a to j."""
    wrong = [letter for letter in "abcdefghij" if letter not in right]
    scores = {"items": 10, "exprate": 10.0 * len(right), "token_error_rate": 50.0 - len(right)}
    values = {
        "arm": arm, "about": f"about {arm}", "seed": seed, "minutes": 10.0, "commit": "abc",
        "curve": [{"stage": "s", "seconds": seconds, "exprate": exprate} for seconds, exprate in curve],
        "splits": {"validation": scores | {"right": list(right), "wrong": wrong}},
        "config": {"seed": seed, "stages": [arm], "training": {"ema": 0.9, "minutes": 10.0}, "data": {"root": "a"}},
    }  # fmt: skip
    path = folder / f"{arm}-{seed}.json"
    path.write_text(json.dumps(values | (changes or {})))
    return path


@pytest.fixture
def made_up(tmp_path) -> list[Path]:
    """Two seeds of two arms. Pooled, `bridge` alone reads c and d and c, `ink` alone reads b."""
    return [
        write_run(tmp_path, "bridge", 0, "abcd", [(60, 3.0), (300, 20.0), (600, 40.0)]),
        write_run(tmp_path, "bridge", 1, "ac", [(60, 3.0), (300, 10.0), (600, 20.0)]),
        write_run(tmp_path, "ink", 0, "ab", [(60, 1.0), (450, 20.0), (600, 18.0)]),
        write_run(tmp_path, "ink", 1, "ab", [(60, 1.0), (450, 25.0), (600, 20.0)]),
    ]


def compared(paths, arm="ink"):
    groups = study.read_groups(paths)
    baseline = study.choose_baseline(groups, arm)
    return groups, baseline, next(group for group in groups if group is not baseline)


def test_items_are_paired_within_a_seed_and_pooled_over_seeds(made_up):
    """The names are the same in both seeds: pooled by name alone, c would count once and b would be right in both."""
    _, baseline, bridge = compared(made_up)
    test = study.paired_test(bridge, baseline, "validation")
    assert (test.only_here, test.only_there) == (3, 1)
    assert test.points == [20.0, 0.0]
    assert test.p == mcnemar(3, 1) == 0.625


def test_the_time_is_that_of_the_first_validation_as_good_as_the_best_of_the_same_seed(made_up):
    """Seed 0: 20 % after 300 of 600 s. Seed 1: the best of ink is 25 %, which its bridge never reaches."""
    _, baseline, bridge = compared(made_up)
    assert study.time_to_best(bridge, baseline) == [0.5, None]
    assert study.time_to_best(baseline, baseline) == [0.75, 0.75]


def test_a_shorter_run_is_compared_with_the_time_of_the_baseline(made_up, tmp_path):
    short = write_run(tmp_path, "short", 0, "a", [(60, 30.0)], {"minutes": 5.0})
    groups = study.read_groups([*made_up, short])
    baseline = study.choose_baseline(groups, "ink")
    assert study.time_to_best(groups[-1], baseline) == [0.1]
    assert study.title(groups[-1], groups) == "short, 5 min" and study.title(baseline, groups) == "ink, 10 min"


def test_the_table_says_mean_spread_test_and_time(made_up):
    groups, baseline, _ = compared(made_up)
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in study.table(groups, baseline, "validation").splitlines()]  # fmt: skip
    assert rows[0][:5] == ["arm", "stages", "seeds", "ExpRate, %", "wrong tokens, %"]
    assert set(rows[1]) == {"---"}
    assert rows[2] == ["ink", "about ink", "2", "20.0 ± 0.0", "48.0 ± 0.0", "", "", "", "75 %"]
    spread, wrong = statistics.stdev([40, 20]), statistics.stdev([46, 48])
    assert rows[3] == ["bridge", "about bridge", "2", f"30.0 ± {spread:.1f}", f"47.0 ± {wrong:.1f}",
                       "+10.0 (+20.0, +0.0)", "3, 1", "0.62", "50 % (1 of 2 seeds)"]  # fmt: skip
    assert all(len(row) == len(rows[0]) for row in rows)


def test_one_seed_has_no_spread_and_a_score_that_is_not_reached_is_told(tmp_path):
    paths = [write_run(tmp_path, "ink", 0, "abc", [(60, 30.0)]), write_run(tmp_path, "worse", 0, "a", [(60, 10.0)])]
    groups, baseline, _ = compared(paths)
    last = study.table(groups, baseline, "validation").splitlines()[-1]
    assert last == "| worse | about worse | 1 | 10.0 | 49.0 | -20.0 | 0, 2 | 0.5 | not reached |"


def test_a_baseline_that_reads_nothing_is_no_score_to_reach(tmp_path):
    paths = [write_run(tmp_path, "ink", 0, "", [(60, 0.0)]), write_run(tmp_path, "better", 0, "a", [(60, 10.0)])]
    groups, baseline, _ = compared(paths)
    assert all(line.endswith("|  |") for line in study.table(groups, baseline, "validation").splitlines()[2:])


def test_the_best_arms_come_first_and_a_test_split_only_for_those_that_have_read_it(made_up, tmp_path):
    tested = {"exprate": 30.0, "token_error_rate": 9.0, "right": ["x"], "wrong": ["y"]}
    paths = [*made_up, write_run(tmp_path, "best", 0, "abcdefgh")]
    for path in paths[2:4]:
        values = json.loads(path.read_text())
        values["splits"]["2014"] = tested
        path.write_text(json.dumps(values))
    groups = study.read_groups(paths)
    baseline = study.choose_baseline(groups, "ink")
    arms = [line.split("|")[1].strip() for line in study.table(groups, baseline, "validation").splitlines()[2:]]
    assert arms == ["ink", "best", "bridge"]
    assert study.table(groups, baseline, "2014").splitlines()[2:] == [
        "| ink | about ink | 2 | 30.0 ± 0.0 | 9.0 ± 0.0 |  |  |  |"
    ]
    told = " ".join(study.notes(groups, baseline))
    assert "not corrected for 2 comparisons" in told and "Other seeds than ink: best." in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"seed": 2, "stages": [], "training": {"ema": 0.5}}}, "only the stages may differ, not .*ema"),
        ({"arm": "ink", "seed": 0}, "both are ink with seed 0"),
        ({"arm": "ink", "seed": 2}, "the stages of ink are not the same in both"),
        ({"seed": 0, "splits": {"validation": {"exprate": 1, "right": ["a"], "wrong": []}}},
         "one seed, but other images in validation"),
        ({"curve": []}, "expected scores of validation and a curve"),
        ({"splits": {"validation": {}}}, "expected a run of the study .KeyError: 'right'."),
    ],
)  # fmt: skip
def test_runs_that_do_not_belong_together_are_named(made_up, tmp_path, changes, message):
    bad = write_run(tmp_path, "other", 2, "a", changes=changes)
    with pytest.raises(DataError, match=f"other-2.json.*{message}"):
        study.read_groups([*made_up, bad])


def test_a_missing_baseline_and_a_foreign_file_are_named(made_up, tmp_path):
    with pytest.raises(DataError, match="^no run of ink to compare with; there are: bridge$"):
        compared(made_up[:2])
    (tmp_path / "foreign.json").write_text("[]")
    for name in ("foreign.json", "missing.json"):
        with pytest.raises(DataError, match=name):
            study.read_groups([tmp_path / name])


def test_a_mean_curve_goes_as_far_as_all_seeds_do(tmp_path):
    """Straight between validations: at 5 minutes the first is at 20 %, the second at 10 %."""
    paths = [
        write_run(tmp_path, "ink", 0, "a", [(60, 4.0), (540, 36.0)]),
        write_run(tmp_path, "ink", 1, "a", [(120, 0.0), (300, 10.0), (600, 30.0)]),
    ]
    runs = list(study.read_groups(paths)[0].runs.values())
    minutes, values = study.mean_curve(runs, points=15)
    assert (minutes[0], minutes[-1], values.shape) == (2.0, 9.0, (2, 15))
    assert values[:, minutes == 5.0].ravel().tolist() == pytest.approx([20.0, 10.0])
    assert np.isfinite(values).all()


def test_the_script_prints_the_tables_and_draws_the_curves(made_up):
    command = [sys.executable, "-m", "utils.evaluation.study", *map(str, made_up)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("validation:\n\n| arm |") and "| bridge | about bridge | 2 |" in done.stdout
    assert (made_up[0].parent / "curves.png").read_bytes().startswith(b"\x89PNG")
    done = run_script("utils/evaluation/study.py", str(made_up[0]), folder=ROOT, expected=2)
    assert "no run of ink to compare with" in done.stderr


# ---- the arms of results/study/arms.yaml -----------------------------------------------------------------------------


def shipped(**changes) -> runner.Study:
    given = {"minutes": None, "seeds": None, "arms": None, "dataset": None, "settings": ()} | changes
    return runner.read_study(runner.ARMS, **given)


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> list[runner.PlannedRun]:
    folder = tmp_path_factory.mktemp("planned")
    return list(runner.plan(shipped(), ROOT / "config.yaml", folder / "checkpoints", folder / "out"))


def test_the_arms_differ_in_their_stages_and_in_nothing_else(planned):
    assert len(planned) == 18 and len({run.result for run in planned}) == len({run.folder for run in planned}) == 18
    rest = [run.config | {"stages": None, "seed": None} for run in planned]
    assert all(each == rest[0] for each in rest)
    preset = load_config(ROOT / "config.yaml", "CROHME_INK", "small").as_dict()
    for part in ("model", "augment", "batch", "data"):
        assert rest[0][part] == preset[part]
    training = {"clock": "cpu", "minutes": 40.0, "validate_minutes": 1.0}
    assert rest[0]["training"] == preset["training"] | training
    assert rest[0]["threads"] == 1


def test_a_stage_that_stands_in_two_arms_is_the_same_in_both(planned):
    """But for where the handwritten encoder begins. And the stages on ink have the same proportions, in all arms."""
    seen = {}
    for run in planned:
        stages = run.config["stages"]
        for stage in stages:
            stage = stage | {"starts_from_standard": None}
            assert seen.setdefault(stage["name"], stage) == stage
        on_ink = [stage["name"] for stage in stages if stage["images"] == "ink"]
        assert on_ink == ["ink", "handwritten", "clean"] == [stage["name"] for stage in stages][-3:]


def test_ink_alone_sees_ink_alone_and_nobody_mixes_synthetic_ink_into_it(planned):
    for run in planned:
        stages = run.config["stages"]
        if run.arm == "ink":
            assert {stage["images"] for stage in stages} == {"ink"}
        for stage in stages:
            if stage["images"] == "ink":
                assert stage["synthetic"] == {"first": 0, "last": 0} and stage["replay"] == {"first": 0, "last": 0}
                assert stage["expressions"] == {"synthetic": 0}


def test_the_stages_on_ink_are_the_presets_without_its_synthetic_ink(planned):
    """And the time of its stage `symbols` is that of `ink`."""
    preset = {stage["name"]: stage for stage in load_config(ROOT / "config.yaml", "X", "small").as_dict()["stages"]}
    preset["ink"]["share"] += preset["symbols"]["share"]
    own = {"synthetic": None, "expressions": None, "starts_from_standard": None, "share": None}
    for stage in planned[0].config["stages"]:
        assert stage | own == preset[stage["name"]] | own
        assert stage["share"] == pytest.approx(100 * preset[stage["name"]]["share"])


def test_feature_map_is_three_stages_with_the_papers_alignment(planned):
    stages = {run.arm: run.config["stages"] for run in planned}
    pairs = [(one, other) for one, other in zip(stages["three-stages"], stages["feature-map"], strict=True)
             if one != other]  # fmt: skip
    ((by_token, by_map),) = pairs
    paper = load_config(ROOT / "config.yaml", "X", "paper").as_dict()["stages"][1]["losses"]
    of_pairs = {name: weight for name, weight in paper.items() if weight and name != "label"}
    ours = load_config(ROOT / "config.yaml", "X").as_dict()["stages"][1]["losses"]
    assert by_map == by_token | {"name": by_map["name"], "losses": by_map["losses"]}
    common = {"label": 1.0, "attention": 1.0, "symbols": 1.0}
    assert by_map["losses"] == common | of_pairs == common | {"feature_map": 1.0}
    assert by_token["losses"] == common | ours


def test_the_first_stage_that_trains_the_handwritten_encoder_copies_the_standard_one_where_there_is_one(planned):
    copying = {run.arm: [stage["name"] for stage in run.config["stages"] if stage["starts_from_standard"]]
               for run in planned}  # fmt: skip
    assert copying == {
        "ink": [],
        "standard": ["ink"],
        "three-stages": ["alignment"],
        "synthetic": [],
        "bridge": ["synthetic-for-teacher"],
        "feature-map": ["alignment-of-maps"],
    }


def test_a_decoder_that_is_to_be_a_teacher_learns_from_standard_images_alone(planned):
    for run in planned:
        stages = run.config["stages"]
        pairs = [index for index, stage in enumerate(stages) if stage["images"] == "pairs"]
        for index in pairs:
            teaching = [stage for stage in stages[: index + 1] if "decoder" in stage["trains"]]
            assert [stage["images"] for stage in teaching] == ["standard"]
        assert bool(pairs) == (run.arm in ("three-stages", "bridge", "feature-map"))


def test_the_minutes_of_the_page_of_results_are_those_of_the_arms(planned):
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    kinds = {"standard": "standard images", "synthetic": "synthetic ink", "pairs": "alignment by token", "ink": "ink"}
    for run in planned[:5]:
        whole, minutes = sum(stage["share"] for stage in run.config["stages"]), {}
        for stage in run.config["stages"]:
            kind = kinds[stage["images"]]
            minutes[kind] = minutes.get(kind, 0) + 40 * stage["share"] / whole
        told = ", ".join(f"{kind} {value:.1f}".replace("40.0", "40") for kind, value in minutes.items())
        assert f"| `{run.arm}` | {told} |" in page


def test_all_arms_of_a_seed_come_before_the_next_seed(planned):
    assert [run.seed for run in planned] == [0] * 6 + [1] * 6 + [2] * 6
    assert [run.arm for run in planned[:6]] == [run.arm for run in planned[6:12]]


def test_a_study_that_is_cut_down_lies_in_a_folder_of_its_own():
    assert runner.folder_of_results(shipped()) == ROOT / "results" / "study"
    assert runner.folder_of_results(shipped(minutes=40.0)) == ROOT / "results" / "study"
    assert runner.folder_of_results(shipped(minutes=3.0)) == ROOT / "results" / "study" / "3-minutes"
    assert runner.describe(shipped(minutes=95.0, arms=["ink"])).splitlines()[-1].split() == [
        "ink", "55.0", "25.0", "15.0"
    ]  # fmt: skip


def test_an_unknown_arm_or_stage_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--arms inc: unknown; .*arms.yaml has: ink, standard"):
        shipped(arms=["inc"])
    values = yaml.safe_load(runner.ARMS.read_text())
    values["arms"]["ink"]["stages"].append("magic")
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="arms.ink: no stage is called magic"):
        runner.read_study(tmp_path / "arms.yaml", None, None, None, None, ())


# ---- what a run leaves -----------------------------------------------------------------------------------------------


def test_the_curve_counts_the_time_of_all_stages_and_leaves_out_standard_images():
    def scored(exprate):
        return {"exprate": exprate, "at_most_1": 0.0, "token_error_rate": 9.0, "items": 4}

    lines = [
        {"stage": "standard", "seconds_used": 100.0, "validation": scored(90.0)},
        {"stage": "symbols", "seconds_used": 50.0},
        {"stage": "ink", "seconds_used": 200.0, "validation": scored(7.0),
         "validations_inside": [{"seconds_used": 60.0} | scored(3.0), {"seconds_used": 120.0} | scored(5.0)]},
        {"stage": "ink", "seconds_used": 260.0},
        {"stage": "clean", "seconds_used": 30.0, "validation": scored(8.0)},
    ]  # fmt: skip
    points = runner.curve_of(lines, ["symbols", "ink", "clean"])
    assert [(point["stage"], point["seconds"], point["exprate"]) for point in points] == [
        ("ink", 210.0, 3.0), ("ink", 270.0, 5.0), ("ink", 350.0, 7.0), ("clean", 440.0, 8.0)
    ]  # fmt: skip
    assert runner.seconds_of_stages(lines) == {"standard": 100.0, "symbols": 50.0, "ink": 260.0, "clean": 30.0}


def test_an_item_is_right_without_an_edit_and_never_without_a_prediction():
    rows = [{"id": "a", "prediction": "x", "errors": 0}, {"id": "b", "prediction": "x", "errors": 1},
            {"id": "c", "prediction": None, "errors": 0}]  # fmt: skip
    assert runner.right_and_wrong(iter(rows)) == {"right": ["a"], "wrong": ["b", "c"]}


# ---- the runner, with a training that only pretends ------------------------------------------------------------------

PRETENDED = """
import json, os, signal, sys, time
from pathlib import Path
values = dict(zip(sys.argv, sys.argv[1:]))
folder = Path(values["--checkpoints"]) / values["--run"]
with open(folder / "starts.txt", "a") as file:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    file.write(json.dumps({"resumed": "--resume" in sys.argv, "cores": cores,
                           "threads": os.environ["OMP_NUM_THREADS"], "arguments": sys.argv[1:]}) + "\\n")
(folder / "config.yaml").write_text("{}")
if (folder.parent / "wait").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("waiting", flush=True)
    time.sleep(60)
if "ink" in values["--run"] and (folder.parent / "fail").exists():
    sys.exit("this is what went wrong")
scores = {"items": 1, "exprate": 100.0, "at_most_1": 100.0, "token_error_rate": 0.0}
line = {"stage": "clean", "seconds_used": 6.0, "images": 5, "validation": scores}
(folder / "log.jsonl").write_text(json.dumps(line) + "\\n")
(folder / "validation-predictions.jsonl").write_text('{"id": "a", "prediction": "x", "errors": 0}\\n')
(folder / "summary.json").write_text(json.dumps({"splits": {"validation": scores}, "versions": {}}))
"""


@pytest.fixture
def pretending(tmp_path, monkeypatch) -> list[runner.PlannedRun]:
    """Two arms of one seed, whose training is the script above."""
    (tmp_path / "train_stage_ABS.py").write_text(PRETENDED)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    chosen = shipped(arms=["ink", "bridge"], seeds=[4], minutes=3.0)
    return list(runner.plan(chosen, ROOT / "config.yaml", tmp_path / "checkpoints", tmp_path / "out"))


def starts(run: runner.PlannedRun) -> list[dict]:
    path = run.folder / "starts.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


CORES = runner.cores_for(None)


def test_every_run_has_a_core_and_a_thread_of_its_own_and_is_not_run_again(pretending, tmp_path):
    assert runner.Runner(CORES[:1]).run(pretending) == []
    for run in pretending:
        (start,) = starts(run)
        assert start["threads"] == "1" and not start["resumed"]
        assert start["cores"] in (CORES[:1], [])
        assert {"--minutes", "3", "--validation-only", "training.clock=cpu", "threads=1", "seed=4"} <= {
            *start["arguments"]
        }
    kept = [run.result.read_bytes() for run in pretending]
    assert runner.Runner(CORES[:1]).run(pretending) == []
    assert [len(starts(run)) for run in pretending] == [1, 1]
    assert [run.result.read_bytes() for run in pretending] == kept
    groups, baseline, bridge = compared([run.result for run in pretending])
    assert baseline.runs[4].curve == (study.Point(6.0, 100.0),) and baseline.runs[4].right == {
        "validation": {"a": True}
    }
    assert bridge.about == "standard images, synthetic ink, alignment, ink"


def test_a_result_of_other_settings_is_not_taken_for_this_one(pretending):
    runner.Runner(CORES[:1]).run(pretending)
    values = json.loads(pretending[0].result.read_text())
    values["config"]["training"]["ema"] = 0.5
    values["config"]["training"]["save_minutes"] = 5.0  # may change
    pretending[0].result.write_text(json.dumps(values))
    (failure,) = runner.Runner(CORES[:1]).run(pretending)
    assert "ink-4.json: made with other settings, training.ema; move it away" in failure


def test_a_run_that_fails_is_told_with_its_last_words_and_the_others_go_on(pretending, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "fail").touch()
    assert [run.arm for run in pretending] == ["ink", "bridge"]
    (failure,) = runner.Runner(CORES[:1]).run(pretending)
    assert failure.startswith("ink, seed 4: failed with code 1; ") and failure.endswith("this is what went wrong")
    assert [run.result.is_file() for run in pretending] == [False, True]
    (tmp_path / "checkpoints" / "fail").unlink()
    assert runner.Runner(CORES[:1]).run(pretending) == []
    assert [start["resumed"] for start in starts(pretending[0])] == [False, True]


def test_a_training_that_ended_before_its_result_was_written_is_not_trained_again(pretending):
    runner.Runner(CORES[:1]).run(pretending)
    pretending[1].result.unlink()
    assert runner.Runner(CORES[:1]).run(pretending) == []
    assert pretending[1].result.is_file() and len(starts(pretending[1])) == 1


def test_a_signal_ends_the_trainings_and_the_next_call_resumes_them(pretending, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "wait").touch()
    started, process, output = time.monotonic(), os.getpid(), pretending[0].folder / "output.txt"

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def tell_when_it_waits():
        while not output.exists() or "waiting" not in output.read_text():
            time.sleep(0.01)
        os.kill(process, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=tell_when_it_waits)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.Runner(CORES[:1]).run(pretending)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - started < 40
    assert [len(starts(run)) for run in pretending] == [1, 0]  # the second was not begun
    (tmp_path / "checkpoints" / "wait").unlink()
    assert runner.Runner(CORES[:1]).run(pretending) == []
    assert [start["resumed"] for start in starts(pretending[0])] == [False, True]


def test_a_training_that_outlived_its_runner_is_not_started_twice(pretending):
    """The lock is on the training's own output: it lasts as long as the training, not as long as the runner."""
    pytest.importorskip("fcntl")
    run = pretending[0]
    run.folder.mkdir(parents=True)
    with open(run.folder / "output.txt", "a") as output:
        runner.hold(output, run)
        outliving = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=output)
    try:
        (failure,) = runner.Runner(CORES[:1]).run(pretending)
        assert failure.startswith("ink, seed 4: another program trains it at this moment") and not starts(run)
    finally:
        outliving.kill()
        outliving.wait()
    assert runner.Runner(CORES[:1]).run(pretending) == []


def test_more_jobs_than_cores_are_refused():
    assert runner.cores_for(1) == CORES[-1:]
    with pytest.raises(ConfigError, match=f"--jobs {len(CORES) + 1}: expected 1 to {len(CORES)}"):
        runner.cores_for(len(CORES) + 1)


def test_a_test_split_is_not_read_before_all_runs_are_done(pretending, tmp_path, monkeypatch):
    arguments = ["study.py", "--test", "2014", "--arms", "ink", "--seeds", "4", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(runner, "read_test", lambda *_: pytest.fail("the test split was read"))
    with pytest.raises(UserError, match="first all runs, then the test split; not done: ink with seed 4"):
        runner.main()


# ---- a real study of a few steps -------------------------------------------------------------------------------------


def test_a_whole_study_of_a_few_steps_is_run_compared_and_tested(tmp_path):
    """The real scripts, with tiny networks, by counted steps; and the test split by its own command, once."""
    make_home(tmp_path, {name: TINY[name] for name in ("data", "model")})
    common = {"losses": {"label": 1.0}, "epochs": 1, "learning_rate": 1e-3}
    arms = {
        "dataset": "TINY", "preset": "tiny", "minutes": 1, "seeds": [0], "baseline": "ink",
        "settings": ["training.clock=steps", "training.step_seconds=10", "training.validate_minutes=0.3"],
        "arms": {"ink": {"about": "ink alone", "stages": ["ink"]},
                 "standard": {"about": "standard images, ink", "stages": ["standard", "ink"]}},
        "stages": {
            "standard": common | {"images": "standard", "trains": ["standard_encoder", "decoder"], "share": 1},
            "ink": common | {"images": "ink", "trains": ["handwritten_encoder", "decoder"], "share": 2},
        },
    }  # fmt: skip
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump(arms))
    out = tmp_path / "results"
    names = {"study": "arms.yaml", "config": "config.yaml", "checkpoints": "checkpoints", "out": "results"}
    places = [each for flag, name in names.items() for each in (f"--{flag}", str(tmp_path / name))]
    run = functools.partial(run_script, "tests/benchmarks/study.py", *places, "--jobs", "1", folder=tmp_path)
    done = run()
    assert "| standard | standard images, ink | 1 |" in done.stdout and (out / "curves.png").is_file()
    ink, standard = (json.loads((out / f"{arm}-0.json").read_text()) for arm in ("ink", "standard"))
    assert ink["stages"] == {"ink": 60.0} and standard["stages"] == {"standard": 20.0, "ink": 40.0}
    assert [point["seconds"] for point in ink["curve"]][-1] == 60.0
    assert all(point["stage"] == "ink" and point["seconds"] > 20 for point in standard["curve"])
    found = ink["splits"]["validation"]
    assert len(found["right"]) + len(found["wrong"]) == found["items"]
    assert math.isclose(found["exprate"], 100 * len(found["right"]) / found["items"], abs_tol=1e-3)
    assert "2014" not in ink["splits"] and list(ink["splits"]) == ["validation"]
    assert run().stdout.count("done before") == 2
    tested = run("--test", "test")
    assert tested.stdout.count("| standard | standard images, ink | 1 |") == 2  # validation, and test
    for arm in ("ink", "standard"):
        found = json.loads((out / f"{arm}-0.json").read_text())["splits"]["test"]
        assert found["items"] == len(found["right"]) + len(found["wrong"]) == 8
        assert found["exprate"] == pytest.approx(100 * len(found["right"]) / 8)
