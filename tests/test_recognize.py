"""recognize.py as a person runs it: whatever comes in, a line for each input, and what is bad is named."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import recognize
from recognize import Reader
from tests.script_process import run_script
from tests.test_reader import encoded, recognizer, saved, written
from utils.errors import CheckpointError, ConfigError
from utils.reading import checkpoints

ROOT = Path(__file__).resolve().parents[1]
INKML = """<ink xmlns="http://www.w3.org/2003/InkML"><trace id="0">0 0, 10 40, 20 0</trace>
<trace id="1">30 0, 30 40</trace></ink>"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("run") / "a-best.safetensors", recognizer("transformer"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images, ink, and things that are neither."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for seed, name in enumerate(("c.png", "a.png", "b.jpeg")):
        (folder / name).write_bytes(encoded(written(seed), "JPEG" if name.endswith("jpeg") else "PNG"))
    (folder / "d.inkml").write_text(INKML)
    (folder / "notes.txt").write_text("not for reading")
    (folder / ".hidden.png").write_text("neither")
    return folder


def run(monkeypatch, capsys, *arguments) -> tuple[int, list[str], str]:
    """Exit code, lines on stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["recognize.py", *map(str, arguments)])
    code = recognize.main()
    out, errors = capsys.readouterr()
    return code, out.splitlines(), errors


def test_a_folder_gives_its_images_and_ink_in_the_order_of_their_names(folder, checkpoint, monkeypatch, capsys):
    code, lines, errors = run(monkeypatch, capsys, folder, "--checkpoint", checkpoint)
    reader = Reader.load(checkpoint)
    names = ("a.png", "b.jpeg", "c.png", "d.inkml")
    wanted = [reader.read(folder / name).latex for name in names]
    assert code == 0 and all("doubtful" in line for line in errors.splitlines())
    assert lines == [f"{folder / name}\t{latex}" for name, latex in zip(names, wanted, strict=True)]
    assert len(set(wanted)) > 1


def test_one_input_is_its_latex_alone(folder, checkpoint, monkeypatch, capsys):
    _, lines, _ = run(monkeypatch, capsys, folder / "a.png", "--checkpoint", checkpoint)
    assert lines == [Reader.load(checkpoint).read(folder / "a.png").latex]


def test_a_bad_file_among_good_ones_is_named_and_the_rest_goes_on(folder, checkpoint, monkeypatch, capsys):
    (folder / "b.jpeg").write_bytes(b"no image")
    (folder / "bomb.png").write_bytes(encoded(np.zeros((2, 2), np.uint8)))
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "empty.png").write_bytes(encoded(np.full((90, 90), 255, np.uint8)))
    (folder / "d.inkml").write_text("<ink>")
    missing = folder / "missing.png"
    code, lines, errors = run(monkeypatch, capsys, folder, missing, "--checkpoint", checkpoint)
    assert code == 1
    assert [bool(line.split("\t")[1]) for line in lines] == [True, False, False, True, False, False, False]
    for name, reason in (("b.jpeg", "not an image"), ("bomb.png", "too large"), ("empty.png", "no ink"),
                         ("d.inkml", "truncated or not XML"), ("missing.png", "No such file")):  # fmt: skip
        assert any(f"{name}" in line and reason in line for line in errors.splitlines()), errors
    assert len([line for line in errors.splitlines() if "doubtful" not in line]) == 5


def test_json_tells_everything_about_each_input(folder, checkpoint, monkeypatch, capsys):
    (folder / "b.jpeg").write_bytes(b"no image")
    arguments = (folder, "--checkpoint", checkpoint, "--json", "--beam", 3, "--direction", "both")
    code, lines, _ = run(monkeypatch, capsys, *arguments)
    first, bad, *_ = rows = [json.loads(line) for line in lines]
    assert code == 1 and len(rows) == 4
    assert set(bad) == {"input", "error"} and "b.jpeg" in bad["input"] and "not an image" in bad["error"]
    reading = Reader.load(checkpoint).read(folder / "a.png", beam=3, directions=2)
    assert first["input"] == str(folder / "a.png")
    assert first["latex"] == reading.latex and first["tokens"] == list(reading.tokens)
    assert first["confidence"] == pytest.approx(reading.confidence, abs=1e-4)
    assert first["confidences"] == pytest.approx(reading.confidences, abs=1e-4)
    assert [other["latex"] for other in first["alternatives"]] == [other.latex for other in reading.alternatives]
    assert first["alternatives"] and first["alternatives"][0]["score"] <= first["score"]
    assert first["size"] == list(reading.image.shape)
    assert first["boxes"] == [list(box) for box in reading.boxes] and first["warnings"] == list(reading.warnings)
    assert (first["is_truncated"], first["is_cleaned"]) == (reading.is_truncated, reading.is_cleaned)
    assert (first["line"], first["lines"]) == (1, 1)


def test_what_the_network_saw_is_written(folder, checkpoint, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes(encoded(written(7)))
    seen = tmp_path / "seen"
    arguments = (folder, other / "a.png", "--checkpoint", checkpoint, "--show-input", seen)
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    assert {path.name for path in seen.iterdir()} == {"a.png", "b.png", "c.png", "d.png", "a-2.png"}
    reader = Reader.load(checkpoint)
    assert np.array_equal(cv2.imread(str(seen / "a-2.png"), 0), reader.read(other / "a.png").image)


def test_a_sheet_shows_what_was_read_even_where_it_cannot_be_drawn(folder, checkpoint, tmp_path, monkeypatch, capsys):
    sheet = tmp_path / "sheet.png"
    code, _, errors = run(monkeypatch, capsys, folder, "--checkpoint", checkpoint, "--sheet", sheet)
    assert code == 0 and "sheet.png" in errors
    assert Image.open(sheet).size[0] > 500


def test_ink_is_drawn_as_training_images_are(tmp_path, checkpoint, monkeypatch, capsys):
    from dataset.formats.inkml import rasterise, read_inkml
    from utils.reading.images import normalize_image, resize

    (tmp_path / "a.inkml").write_text(INKML)
    arguments = (tmp_path / "a.inkml", "--checkpoint", checkpoint, "--show-input", tmp_path / "seen")
    run(monkeypatch, capsys, *arguments)
    drawn = resize(normalize_image(rasterise(read_inkml(tmp_path / "a.inkml").traces)), 0.5)
    assert np.array_equal(cv2.imread(str(tmp_path / "seen" / "a.png"), 0), drawn)


# ---- strokes, lines of writing, doubts -------------------------------------------------------------------------------


def test_strokes_as_json_are_read_like_the_same_inkml(tmp_path, checkpoint, monkeypatch, capsys):
    (tmp_path / "a.inkml").write_text(INKML)
    (tmp_path / "a.json").write_text("[[[0, 0], [10, 40], [20, 0]], [[30, 0, 7], [30, 40, 8]]]")
    (tmp_path / "b.json").write_text("[1, 2]")
    files = [tmp_path / name for name in ("a.inkml", "a.json", "b.json")]
    code, lines, errors = run(monkeypatch, capsys, *files, "--checkpoint", checkpoint)
    first, second, bad = (line.split("\t")[1] for line in lines)
    assert first == second != "" == bad and code == 1
    assert "b.json: expected strokes [[[x, y], [x, y], …], …]" in errors


def test_each_line_of_writing_is_read_by_itself_and_that_is_told(tmp_path, checkpoint, monkeypatch, capsys):
    above, below = written(0, 60, 150), written(3, 60, 150)
    (tmp_path / "a.png").write_bytes(encoded(np.concatenate([above, np.zeros((40, 150), np.uint8), below])))
    arguments = (tmp_path / "a.png", "--checkpoint", checkpoint)
    code, lines, errors = run(monkeypatch, capsys, *arguments)
    reader = Reader.load(checkpoint)
    assert code == 0 and lines == [reader.read(above).latex, reader.read(below).latex]
    assert "a.png: 2 lines of writing" in errors
    _, rows, _ = run(monkeypatch, capsys, *arguments, "--json")
    rows = [json.loads(row) for row in rows]
    assert [(row["line"], row["lines"]) for row in rows] == [(1, 2), (2, 2)]
    scores = [reader.read(image).score for image in (above, below)]
    assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-3) and abs(scores[0] - scores[1]) > 0.01
    _, lines, errors = run(monkeypatch, capsys, *arguments, "--lines", "join")
    assert lines == [reader.read(tmp_path / "a.png").latex]
    assert "a.png: doubtful: 2 lines of writing, read as one formula" in errors


def test_a_reading_to_doubt_is_told_with_the_reason(tmp_path, checkpoint, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(encoded(written()))
    monkeypatch.setattr("dataset.language.is_well_formed", lambda tokens: False)
    code, lines, errors = run(monkeypatch, capsys, tmp_path / "a.png", "--checkpoint", checkpoint, "--json")
    assert code == 0 and "not well-formed LaTeX" in json.loads(lines[0])["warnings"]
    assert "a.png: doubtful: " in errors and "not well-formed LaTeX" in errors


def test_an_empty_folder_is_named(tmp_path, checkpoint, monkeypatch, capsys):
    code, lines, errors = run(monkeypatch, capsys, tmp_path, "--checkpoint", checkpoint)
    assert (code, lines) == (1, [f"{tmp_path}\t"]) and "without images" in errors


# ---- which checkpoint ------------------------------------------------------------------------------------------------


def make_run(root: Path, name: str, stages: list[str], finished: list[str], age: float) -> Path:
    import os

    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"stages": [{"name": stage} for stage in stages]}))
    for stage in finished:
        path = saved(folder / f"{stage}-best.safetensors", recognizer("transformer"))
        os.utime(path, (2e9 - age, 2e9 - age))
    return folder


def test_newest_is_the_last_stage_of_the_newest_finished_run_and_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(encoded(written()))
    make_run(tmp_path, "old", ["ink"], ["ink"], age=50)
    newest = make_run(tmp_path, "new", ["standard", "ink"], ["standard", "ink"], age=20)
    make_run(tmp_path, "running", ["standard", "ink"], ["standard"], age=5)
    (make_run(tmp_path, "broken", [], [], age=1) / "config.yaml").write_text(": [")
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path / "checkpoints")
    code, _, errors = run(monkeypatch, capsys, tmp_path / "a.png", "--checkpoint", "newest")
    assert code == 0
    assert errors.splitlines()[0] == f"reading with {newest / 'ink-best.safetensors'}"


def test_the_published_weights_are_taken_unless_others_are_asked_for(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    make_run(tmp_path, "mine", ["ink"], ["ink"], age=50)
    with pytest.raises(CheckpointError, match="crohme.safetensors: the published weights are not there"):
        checkpoints.find_checkpoint(None, folder)
    (folder / "crohme.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert checkpoints.find_checkpoint(None, folder) == folder / "crohme.safetensors"
    assert checkpoints.find_checkpoint("any/path", folder) == Path("any/path")
    assert checkpoints.find_checkpoint(None) == ROOT / "checkpoints" / "crohme.safetensors"
    with pytest.raises(CheckpointError, match="no run that finished"):
        checkpoints.find_checkpoint("newest", tmp_path)


def test_the_folder_of_a_run_stands_for_the_best_weights_of_its_last_stage(tmp_path):
    finished = make_run(tmp_path, "done", ["standard", "ink"], ["standard", "ink"], age=1)
    assert checkpoints.find_checkpoint(str(finished)) == finished / "ink-best.safetensors"
    begun = make_run(tmp_path, "begun", ["standard", "ink"], ["standard"], age=1)
    with pytest.raises(CheckpointError, match="begun: this run has no weights of its last stage yet; name a file"):
        checkpoints.find_checkpoint(str(begun))


def test_a_missing_checkpoint_is_an_error_that_names_it(monkeypatch, capsys):
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint"):
        run(monkeypatch, capsys, "a.png", "--checkpoint", "none.safetensors")


def test_searches_that_cannot_be_are_told(tmp_path, checkpoint, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, "a.png", "--checkpoint", checkpoint, "--beam", 0)
    assert "--beam: expected a whole number, at least 1, got 0" in capsys.readouterr().err
    gru = saved(tmp_path / "gru.safetensors", recognizer("gru"))
    with pytest.raises(ConfigError, match="from left to right only"):
        run(monkeypatch, capsys, "a.png", "--checkpoint", gru, "--direction", "both")


# ---- as a process ----------------------------------------------------------------------------------------------------


def test_stdin_is_read_without_loading_what_only_a_sheet_needs(tmp_path, checkpoint):
    command = [sys.executable, "-X", "importtime", ROOT / "recognize.py", "-", "--checkpoint", checkpoint]
    done = subprocess.run(command, cwd=tmp_path, input=encoded(written()), capture_output=True, timeout=300)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [Reader.load(checkpoint).read(written()).latex]
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.decode().splitlines()}
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "torchvision", "dataset.renderer", "dataset.formats.inkml"}


def test_a_foreign_checkpoint_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "foreign").write_bytes(b"PK\x03\x04 a pickle")
    done = run_script("recognize.py", "a.png", "--checkpoint", "foreign", folder=tmp_path, expected=2)
    assert not done.stdout and len(done.stderr.splitlines()) == 1 and "foreign" in done.stderr
