"""An exported network reads as its checkpoint does, and without torch."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import export
import recognize
from recognize import Reader, language
from tests.test_reader import OPTIONS, VOCABULARY, encoded, ensemble, recognizer, saved, some_images, written
from tests.test_recognize import run
from utils.errors import CheckpointError, ConfigError
from utils.reading import reader
from utils.reading.onnx_network import ABOUT, OnnxNetwork, file_names

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).resolve().parents[1]
USUAL, TOGETHER = "gru-location", "together"
each_decoder = pytest.mark.parametrize("kind", [*OPTIONS, TOGETHER])
ENCODER, DECODER, BACKWARDS = file_names(0)
slow = pytest.mark.slow  # exporting takes a minute of a core
SIZES = [(60, 150), (60, 400), (90, 150), (50, 90), (60, 390)]


def run_export(monkeypatch: pytest.MonkeyPatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    return export.main()


class Exported:
    """A random network as a checkpoint and as a folder; the usual one has a second decoder, as published ones have."""

    def __init__(self, folder: Path, kind: str):
        network = ensemble() if kind == TOGETHER else recognizer(kind, backwards=kind == USUAL)
        self.checkpoint = saved(folder / "a.safetensors", network)
        self.folder = folder / "exported"
        with pytest.MonkeyPatch.context() as monkeypatch:
            # torch traces what it exports wherever somebody listens, and pytest does: to every record of every shape.
            monkeypatch.setattr(logging.getLogger("torch.__trace"), "handlers", [])
            assert run_export(monkeypatch, self.checkpoint, "--out", self.folder) == 0

    def readers(self) -> tuple[reader.Reader, reader.Reader]:
        return Reader.load(self.checkpoint), Reader.load(self.folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Of each decoder, made when it is first asked for."""
    made: dict[str, Exported] = {}

    def get(kind: str) -> Exported:
        if kind not in made:
            made[kind] = Exported(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return get


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """A folder to break."""
    shutil.copytree(exported(USUAL).folder, tmp_path / "copied")
    return tmp_path / "copied"


# ---- reading ---------------------------------------------------------------------------------------------------------


@slow
@each_decoder
def test_images_of_all_sizes_are_read_as_torch_reads_them(kind, exported):
    by_torch, by_onnx = exported(kind).readers()
    images = [written(seed, *size) for seed, size in enumerate(SIZES)]
    wanted = by_torch.read_many(images)
    assert len({one.latex for one in wanted}) > 1
    for one, other in zip(wanted, by_onnx.read_many(images), strict=True):
        assert (one.tokens, one.is_truncated, one.warnings) == (other.tokens, other.is_truncated, other.warnings)
        assert one.confidences == pytest.approx(other.confidences, rel=1e-3)
        assert one.score == pytest.approx(other.score, rel=1e-3)
        assert np.abs(np.subtract(one.boxes, other.boxes)).max() <= 1
    alone = [by_onnx.read(image) for image in images]
    assert [one.tokens for one in alone] == [one.tokens for one in wanted]


@slow
@each_decoder
@pytest.mark.parametrize("beam", [2, 5])
def test_a_beam_finds_the_same_hypotheses_as_torch_in_the_same_order(kind, beam, exported):
    by_torch, by_onnx = exported(kind).readers()
    images = [written(seed, *size) for seed, size in enumerate(SIZES)]
    for one, other in zip(by_torch.read_many(images, beam), by_onnx.read_many(images, beam), strict=True):
        assert one.tokens == other.tokens
        assert [found.tokens for found in one.alternatives] == [found.tokens for found in other.alternatives]
        assert one.score == pytest.approx(other.score, rel=1e-3)


@slow
@each_decoder
def test_padding_does_not_change_what_an_exported_network_computes(kind, exported):
    network = OnnxNetwork(exported(kind).folder)
    images, padding = (part.numpy() for part in some_images())
    together = network.explain(images, padding, [[3, 4, 5], [8, 3], [9]])
    for index, tokens in enumerate([[3, 4, 5], [8, 3], [9]]):
        rows, columns = (~padding[index]).any(1).sum(), (~padding[index]).any(0).sum()
        [alone] = network.explain(images[[index], :, :rows, :columns], padding[[index], :rows, :columns], [tokens])
        assert alone.confidences == pytest.approx(together[index].confidences, rel=1e-3)
        assert np.abs(alone.attention - together[index].attention).max() < 1e-4


@slow
def test_recognize_reads_an_exported_folder_line_by_line_like_the_checkpoint(exported, tmp_path, monkeypatch, capsys):
    one = exported(USUAL)
    (tmp_path / "a.png").write_bytes(encoded(written(2)))
    arguments = (tmp_path / "a.png", "--json", "--beam", 3)
    capsys.readouterr()  # what exporting printed
    code, [wanted], _ = run(monkeypatch, capsys, *arguments, "--checkpoint", one.checkpoint)
    assert code == 0
    code, [found], errors = run(monkeypatch, capsys, *arguments, "--onnx", one.folder)
    wanted, found = json.loads(wanted), json.loads(found)
    assert code == 0 and "reading with" not in errors
    for key in ("latex", "tokens", "is_truncated", "warnings", "size"):
        assert found[key] == wanted[key], key
    assert found["confidence"] == pytest.approx(wanted["confidence"], abs=1e-3)


@slow
def test_reading_imports_nothing_that_training_needs(exported, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(written()))
    (tmp_path / "b.json").write_text("[[[0, 0], [10, 40], [20, 0]], [[30, 0], [30, 40]]]")
    code = """
import sys
import recognize
assert recognize.main() == 0
heavy = {"torch", "onnx", "safetensors", "pydantic", "yaml", "matplotlib", "jinja2", "filelock", "tqdm", "rapidfuzz"}
sys.exit(", ".join(heavy & set(sys.modules)) or 0)
"""
    arguments = [tmp_path / "a.png", tmp_path / "b.json", "--onnx", exported(USUAL).folder]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


# ---- int8 ------------------------------------------------------------------------------------------------------------


@slow
@each_decoder
def test_in_8_bits_it_computes_nearly_the_same(kind, exported, tmp_path, monkeypatch):
    one, small = exported(kind), tmp_path / "small"

    def copy(model, *paths: Path) -> None:
        for path in paths:
            shutil.copyfile(one.folder / path.name, path)

    monkeypatch.setattr(export, "export_network", copy)
    assert run_export(monkeypatch, one.checkpoint, "--out", small, "--int8") == 0
    assert json.loads((small / ABOUT).read_text())["precision"] == "int8"
    network = Reader.load(one.checkpoint).model
    fine, coarse = (export.compare(network, OnnxNetwork(folder)) for folder in (one.folder, small))
    assert fine < 1e-4 < coarse < 0.3
    assert Reader.load(small).read(written()).tokens


# ---- the folder ------------------------------------------------------------------------------------------------------


@slow
def test_the_folder_says_what_the_network_is(exported):
    one = exported(USUAL)
    about = json.loads((one.folder / ABOUT).read_text(encoding="utf-8"))
    assert about["vocabulary"] == VOCABULARY and about["data"]["image_scale"] == 0.5
    assert about["backwards"] is True and about["precision"] == "fp32" and about["architecture"]["decoder"] == "gru"
    assert about["origin"]["checkpoint"] == "a.safetensors" and "MIT" in about["license"]
    assert "MIT License" in (one.folder / "LICENSE").read_text()


@slow
def test_networks_that_read_together_lie_side_by_side(exported):
    folder = exported(TOGETHER).folder
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    assert (about["format"], about["networks"]) == (2, 2) and len(about["architecture"]["networks"]) == 2
    graphs = {path.name for path in folder.glob("*.onnx")}
    assert graphs == {"encoder.onnx", "decoder_step.onnx", "encoder-2.onnx", "decoder_step-2.onnx"}


@slow
def test_a_folder_that_is_no_exported_network_is_an_error_in_words(copied, tmp_path):
    def fails(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            Reader.load(copied)

    about = json.loads((copied / ABOUT).read_text(encoding="utf-8"))
    for change, match in (
        ({"stride": None}, f"{ABOUT}: expected the key stride, of type int"),
        ({"networks": 0}, "expected the number of networks, got 0"),
        ({"networks": 2}, "encoder-2.onnx: onnxruntime cannot open it: it is missing"),
        ({"backwards": 2}, "backwards: expected true or false, got 2"),
        ({"format": 99}, "newer version .*format 99"),
        ({"data": {}}, "says that its data.image_scale is None"),
        ({"vocabulary": ["a", "a"]}, "copied: vocabulary: 'a' occurs twice"),
        ({"vocabulary": ["a"]}, "its vocabulary has another size than its network"),
    ):
        (copied / ABOUT).write_text(json.dumps({**about, **change}))
        fails(match)
    (copied / ABOUT).write_text("{")
    fails("not JSON")
    (copied / ABOUT).unlink()
    fails(r"copied: not an exported network: it has no readable model.json .* python export.py CHECKPOINT --out")
    with pytest.raises(CheckpointError, match="nowhere: not an exported network"):
        reader.Reader.from_onnx(tmp_path / "nowhere", language())


@slow
def test_a_broken_or_foreign_graph_is_named(copied):
    (copied / BACKWARDS).unlink()
    with pytest.raises(CheckpointError, match="backwards_step.onnx: it is missing"):
        Reader.load(copied)
    (copied / ENCODER).write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="encoder.onnx: onnxruntime cannot open it"):
        Reader.load(copied)
    shutil.copyfile(copied / DECODER, copied / ENCODER)
    with pytest.raises(CheckpointError, match="encoder.onnx: a graph of another program: it has no input named images"):
        Reader.load(copied)
    (copied / ENCODER).unlink()
    with pytest.raises(CheckpointError, match="encoder.onnx: onnxruntime cannot open it: it is missing"):
        Reader.load(copied)


@slow
def test_without_onnxruntime_it_says_what_to_install(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match="needs onnxruntime: pip install -r requirements-inference.txt"):
        Reader.load(copied)


def test_an_export_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    checkpoint = saved(tmp_path / "a.safetensors", recognizer(USUAL))
    monkeypatch.setattr(export, "export_network", lambda model, *paths: [path.write_bytes(b"") for path in paths])
    monkeypatch.setattr(export, "OnnxNetwork", lambda folder: None)
    monkeypatch.setattr(export, "compare", lambda model, exported: 0.02)
    with pytest.raises(CheckpointError, match="the network there differs from torch by 0.02 of its logits"):
        run_export(monkeypatch, checkpoint, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / ABOUT).exists()


def test_exporting_says_what_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match="exporting needs onnxscript: pip install -r requirements-dev.txt"):
        run_export(monkeypatch, tmp_path / "a.safetensors", "--out", tmp_path / "out")


def test_checkpoint_and_onnx_are_a_choice(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recognize.py", "a.png", "--onnx", "a", "--checkpoint", "b"])
    with pytest.raises(SystemExit):
        recognize.main()
    assert "not allowed with argument" in capsys.readouterr().err
