"""Faults are told in words: the suite's share of the campaign (tests/faults/), and each fault that it once found."""

import errno
import json
import os
import re
import resource
import signal
import struct
import time
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save

from dataset.formats.inkml import rasterise, read_inkml
from dataset.formats.labels import read_labels
from dataset.formats.predictions import read_predictions
from dataset.formats.preparation import Options, prepare
from dataset.formats.text_files import decoded_lines
from dataset.images.sample import make_sample
from dataset.images.store import FILES, ImageStore, fresh_store
from dataset.latex.mathml import to_mathml
from dataset.vocabulary import Vocabulary
from recognize import Reader
from tests.faults.campaign import Finding, Kind, run, run_case
from tests.faults.kinds import MODULES, kind_of
from tests.faults.kinds.images import DATA, preparer
from tests.made_up_ink import encoded, written
from tests.made_up_packages import LABELS, caption, inkml, make_can, make_comer, make_plain
from tests.test_reader import recognizer, saved
from tests.test_training import STAGE, TRAINING, Batches, Objective, train
from tests.test_training import Reader as Counter
from utils.config.loading import load_config
from utils.errors import CheckpointError, ConfigError, DataError, LossError, MemoryLimitError
from utils.evaluation.scores import Reference
from utils.files import atomic_write
from utils.reading.images import find_ink, read_image
from utils.script import keep_freed_memory, run_script
from utils.training.compare import open_runs
from utils.training.memory import take_step
from utils.training.publish import publish
from utils.training.run_folder import Run, open_run
from utils.training.trainer import Loaders, StagePlan, Trainer

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", MODULES)
def test_faults_are_told_in_words_or_survived(name, tmp_path):
    kind = kind_of(name)
    if not kind.share:
        pytest.skip(f"takes minutes; run it with: python -m tests.faults --count 100 {name}")
    result = run(kind, 0, range(kind.share), tmp_path / "run")
    assert not result.findings, "\n".join(map(str, [result, *result.findings]))


# ---- the campaign sees what it looks for -----------------------------------------------------------------------------


def crash(random, folder):
    raise KeyError("a crash")


def hang(random, folder):
    end = time.process_time() + 30
    while time.process_time() < end:
        pass


def fill(random, folder):
    np.ones(80_000_000, np.uint8)


def stray(random, folder):
    (folder.parent / "elsewhere").touch()


def end(random, folder):
    os._exit(3)


def refuse(random, folder):
    raise DataError("not this one")


def refuse_without_words(random, folder):
    raise DataError("")


@pytest.mark.parametrize(
    ("case", "expected"),
    [(crash, "KeyError: 'a crash'"), (hang, "Hang: takes far too long"), (fill, "MB of memory"),
     (stray, "written outside its folder: .*elsewhere"), (end, "the process ended with 3"),
     (refuse_without_words, "DataError without a word")],
)  # fmt: skip
def test_the_campaign_finds_what_it_looks_for(tmp_path, case, expected):
    kind = Kind("made up", lambda folder: case, 3, cpu_seconds=0.2, memory_bytes=50_000_000)
    result = run(kind, 0, range(2), tmp_path / "run")
    assert result.counts == {"finding": 2} and [finding.number for finding in result.findings] == [0, 1]
    assert all(re.search(expected, finding.what) for finding in result.findings), result.findings


def test_memory_that_was_free_before_counts_where_a_case_takes_it(tmp_path):
    def make(folder):
        keep_freed_memory()  # as scripts do
        np.ones(200_000_000, np.uint8)
        return fill

    result = run(Kind("made up", make, 3, memory_bytes=50_000_000), 0, range(2), tmp_path / "run")
    assert result.counts == {"finding": 2}
    assert all("MB of memory" in finding.what for finding in result.findings), result.findings


def test_what_is_refused_in_words_is_no_finding_and_a_case_is_the_same_again(tmp_path):
    assert run_case(Kind("made up", None, 1), refuse, 0, 0, tmp_path / "case") == "told"
    drawn = []
    kind = Kind("made up", None, 1)
    for seed in (0, 0, 1):
        run_case(kind, lambda random, folder: drawn.append(random.random()), seed, 7, tmp_path / "case")
    assert drawn[0] == drawn[1] != drawn[2]
    assert isinstance(run_case(kind, crash, 0, 0, tmp_path / "case"), Finding)


def test_a_case_leaves_no_limit_behind(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_CPU), signal.getsignal(signal.SIGALRM)
    run_case(Kind("made up", None, 1), refuse, 0, 0, tmp_path / "case")
    assert (resource.getrlimit(resource.RLIMIT_CPU), signal.getsignal(signal.SIGALRM)) == before


# ---- files of data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["UTF256", "cp037x", "utf-7", "hex"])
def test_ink_in_an_encoding_that_nobody_knows_is_named(tmp_path, encoding):
    path = tmp_path / "a.inkml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>' + inkml("x"))
    with pytest.raises(DataError, match="a.inkml"):
        read_inkml(path)


def test_two_points_far_apart_do_not_make_an_image_of_gigabytes():
    traces = [np.array([[0, 0], [5, 28.0]]), np.array([[15_000, 15_000], [15_005, 15_028.0]])]
    with pytest.raises(DataError, match="a point lies far off: expected at most 50,000,000 pixels"):
        rasterise(traces)


def broken_zip(tmp_path: Path, start: bytes, offset: int, value: bytes) -> Path:
    """The zip of BTTR and CoMER with some bytes replaced, counted from the last place where `start` stands."""
    path = make_comer(tmp_path / "package")
    data = bytearray(path.read_bytes())
    place = data.rindex(start) + offset
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


def test_a_zip_whose_records_point_nowhere_is_named(tmp_path):
    path = broken_zip(tmp_path, b"PK\x01\x02", 42, struct.pack("<I", 2**32 - 2))
    try:
        bad = prepare(path, tmp_path / "NAME", progress=False)
        assert bad
    except DataError as error:
        assert "data.zip" in str(error)


@pytest.mark.parametrize("file", ["train/caption.txt", "a.txt"])
def test_what_is_packed_to_a_thousandth_is_refused(tmp_path, file):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file, b"x\ty\n" * 6_000_000)
        archive.writestr("train/img/x.bmp", b"BM")
    with pytest.raises(DataError, match=f"{file}: is packed .* more than 100 times as much is refused"):
        if file == "a.txt":
            read_predictions(path, [Reference("a", ["x"], "here", "", "a")])
        else:
            prepare(path, tmp_path / "NAME", progress=False)


@pytest.mark.parametrize(
    ("file", "text"),
    [("a.jsonl", '{"id": "a", "prediction": "x", "score": 1' + "0" * 5000 + "}"), ("a.jsonl", "[" * 100_000),
     ("a.json", "{" * 1000), ("a.csv", "a," + "x" * 200_000)],
)  # fmt: skip
def test_predictions_of_odd_numbers_depth_and_length_are_named(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=file):
        read_predictions(tmp_path / file, [Reference("a", ["x"], "here", "", "a")])


def test_scores_and_alternatives_of_another_program_are_left_out(tmp_path):
    rows = [{"id": "a", "prediction": "x", "score": 10**400, "alternatives": 7},
            {"id": "b", "prediction": "x", "score": None, "alternatives": [["y", "high"], ["z", 10**400]]}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    references = [Reference(name, ["x"], "here", "", name) for name in "ab"]
    found = read_predictions(tmp_path / "a.jsonl", references)
    assert found["a"].score is None and found["a"].alternatives == ()
    assert found["b"].alternatives == ((["y"], None), (["z"], None))


@pytest.mark.parametrize("line", ['a.png,"' + "x " * 100_000 + '"', 'a.png,"x\nb.png,' + "y" * 200_000])
def test_a_table_with_a_cell_that_does_not_end_is_named(line):
    with pytest.raises(DataError, match="labels.csv, line 2: not a table of cells .*is there a quote"):
        list(read_labels(["name,label", line], "labels.csv", kind="table"))


@pytest.mark.parametrize("text", ["[" * 100_000, "[[[1" + "0" * 400 + ", 1], [2, 2]]]", "[[[1" + "0" * 5000 + ", 1]]]"])
def test_strokes_of_odd_numbers_and_depth_are_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="a.json"):
        preparer().prepare(tmp_path / "a.json")


def test_half_a_character_in_a_name_or_label_leaves_that_item_out(tmp_path):
    """JSON can write one; no text file can hold it."""
    rows = [{"name": "a_1.png", "tex": "x \ud800"}, {"name": "\udfff", "tex": "x"}, {"name": "b.3.png", "tex": "x"}]
    source = make_plain(tmp_path / "plain") / "train"
    (source / "labels.txt").unlink()
    (source / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = prepare(source, tmp_path / "NAME", "train", progress=False)
    assert len(bad) == 3  # the two, and an image that no label asks for
    assert (tmp_path / "NAME" / "train" / "labels.txt").read_text() == "b.3\tx\n"


def test_a_name_that_no_file_can_have_leaves_that_item_out():
    name = "x" * 300
    labels = list(read_labels([f"{name}\tx", "a\tx"], "labels.txt"))
    assert "cannot be a file's name" in labels[0].problem and not labels[1].problem


@pytest.mark.parametrize("encoding", ["hex", "rot13", "idna", "punycode", "\0", "nothing"])
@pytest.mark.parametrize("data", [b"a\tx\n", b"\xef\xbb\xbfa\tx\n"])
def test_an_encoding_that_is_none_of_text_is_named(encoding, data):
    with pytest.raises(DataError, match="encoding: .* is not known"):
        list(decoded_lines(data, "labels.txt", encoding))


@pytest.mark.parametrize("text", ["{", "[]", '{"left_out": "x", "files": []}', '{"left_out": 0}', "[" * 100_000])
def test_a_damaged_record_of_a_split_is_named_with_the_remedy(tmp_path, text):
    package = make_can(tmp_path / "can", False, "\t")
    prepare(package, tmp_path / "NAME", progress=False)
    (tmp_path / "NAME" / "train" / "prepared.json").write_text(text)
    with pytest.raises(DataError, match="prepared.json: damaged; delete it"):
        prepare(package, tmp_path / "NAME", progress=False)


@pytest.mark.parametrize("name", ["pixel_ends", "sizes", "token_ends", "name_ends"])
def test_a_store_whose_files_do_not_fit_together_is_built_again(tmp_path, name):
    """Workers open it without reading it."""
    prepare(make_plain(tmp_path / "plain"), tmp_path / "NAME", progress=False)
    vocabulary, split = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt"), tmp_path / "NAME" / "train"
    path = split / "store" / f"{name}.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 0x7F
    path.write_bytes(data)
    with pytest.raises(DataError, match="its files do not fit together"):
        ImageStore(split / "store")
    assert fresh_store(split, vocabulary) is None


@pytest.mark.parametrize("name", sorted(set(FILES) - {"pixels"}))
def test_a_store_with_a_damaged_file_is_built_again(tmp_path, name):
    prepare(make_plain(tmp_path / "plain"), tmp_path / "NAME", progress=False)
    vocabulary, split = Vocabulary.from_file(tmp_path / "NAME" / "vocabulary.txt"), tmp_path / "NAME" / "train"
    path = split / "store" / f"{name}.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert fresh_store(split, vocabulary) is None
    (split / "store" / "store.json").write_text("[]")
    assert fresh_store(split, vocabulary) is None


# ---- images ----------------------------------------------------------------------------------------------------------


def test_a_format_that_takes_another_program_to_draw_is_not_drawn():
    """Pillow has Ghostscript run what an EPS file says."""
    data = encoded(255 - written(), "EPS")
    with pytest.raises(DataError, match="a.eps: is EPS, which only a program can draw"):
        read_image(data, "a.eps")


def test_the_ink_of_an_image_is_leveled_without_copies_in_64_bits():
    image = cv2.GaussianBlur(255 - written(), (5, 5), 0)
    ink = find_ink(image)[0]
    assert ink.dtype == np.uint8 and ink.max() == 255 and len(np.unique(ink)) > 10


@pytest.mark.parametrize("shape", [(3, 20_000), (20_000, 3), (1, 60_000), (1, 1), (3, 20_000, 3)])
def test_an_image_as_long_as_a_street_is_read_or_named(shape):
    image = np.full(shape, 255, np.uint8)
    image[shape[0] // 2, shape[1] // 2 :] = 0
    try:
        assert preparer().prepare(image, clean_when="always").views
    except DataError as error:
        assert str(error)


def test_a_deep_image_may_have_fewer_pixels(tmp_path):
    data = encoded(np.zeros((5000, 5000), np.uint16), "PNG")
    with pytest.raises(DataError, match="5000 x 5000 pixels; expected at most 20,000,000 of more than 8 bits"):
        read_image(data)


def test_limits_without_a_script_are_written_as_mathml():
    assert "<mo" in to_mathml(r"\sum \limits") and "munder" not in to_mathml(r"\sum \limits")


@pytest.mark.parametrize("character", ["\x01", "\x7f", "\x0b", "\ufffe", "\ud800"])
def test_mathml_of_a_character_that_xml_does_not_have_is_xml(character):
    assert ElementTree.fromstring(to_mathml(f"x + {character}")) is not None


# ---- settings, runs and networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["seed: !!int x", "seed: 2001-99-99", "seed: 0b_", "? [a, b]\n: 1", "seed: &a [*a]", "stages: &s\n  - *s",
    "seed: " + "[" * 3000,
     "1: 2", "presets: [a]", "datasets: {SAMPLE: 1}", "datasets: {SAMPLE: {preset: [a]}}", "model: 1", "data: [x]",
     "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n"
                                                     for a, b in zip("abcdefgh", "bcdefghi", strict=True))],
)  # fmt: skip
def test_a_configuration_that_is_no_table_of_values_is_named(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError, match="config.yaml"):
        load_config(path, "SAMPLE")
    assert time.process_time() - started < 20  # not without end


def test_an_assignment_below_what_is_no_table_is_named():
    with pytest.raises(ConfigError):
        load_config(ROOT / "config.yaml", "SAMPLE", None, ["data=1", "data.root=x"])
    with pytest.raises(ConfigError, match="--set seed: not a YAML value"):
        load_config(ROOT / "config.yaml", "SAMPLE", None, ["seed=!!int x"])


def stopped_run(folder: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(folder, stop_after=7)
    return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.yaml", b"["), ("config.yaml", b"seed: !!int x"), ("config.yaml", b"\xff"), ("config.yaml", b"1"),
     ("vocabulary.txt", b"\xff"), ("log.jsonl", b"{}{\n" * 9), ("log.jsonl", b"\xff")],
)  # fmt: skip
def test_a_run_with_a_damaged_file_says_so_when_it_is_resumed(tmp_path, file, content):
    (stopped_run(tmp_path / "run") / file).write_bytes(content)
    with pytest.raises((CheckpointError, ConfigError), match=file.replace(".", r"\.")):
        train(tmp_path / "run", resume=True)


def test_a_state_that_holds_something_else_is_named(tmp_path):
    torch.save([1, 2], stopped_run(tmp_path / "run") / "state.pt")
    with pytest.raises(CheckpointError, match="state.pt"):
        train(tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("swa", ...),
        ("epoch", True),
        ("ema", 7),
        ("processes", [{}]),
        ("loader", 3),
        ("best", 0.5),
        ("versions", 1),
        ("log_lines", "x"),
    ],
)
def test_a_state_that_lacks_something_is_named(tmp_path, key, value):
    path = stopped_run(tmp_path / "run") / "state.pt"
    state = torch.load(path, weights_only=True)
    if value is ...:
        del state[key]
    torch.save(state if value is ... else state | {key: value}, path)
    with pytest.raises(CheckpointError, match="state.pt: damaged"):
        train(tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("file", "content"), [("summary.json", b"{"), ("log.jsonl", b"\xff"), ("config.yaml", b"stages: 1")]
)
def test_a_run_with_a_damaged_file_is_named_when_runs_are_compared(tmp_path, file, content):
    train(tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(CheckpointError, match="run"):
        open_runs(["run"], tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"architecture": 1}, {"vocabulary": 7}, {"data": []}, {"data": {"image_scale": "x", "max_height": 9,
    "max_width": 9}},
     {"data": DATA | {"scales": 3}}, {"data": DATA | {"scales": ["x"]}}, {"data": DATA | {"confidence_exponent": "x"}},
     {"data": {"image_scale": 0, "max_height": 9, "max_width": 9}},
     {"data": {"image_scale": float("nan"), "max_height": 9, "max_width": 9}}],
)  # fmt: skip
def test_a_checkpoint_that_says_what_cannot_be_is_named(tmp_path, changes):
    path = saved(tmp_path / "a.safetensors", recognizer(), **changes)
    with pytest.raises(CheckpointError, match="a.safetensors"):
        Reader.load(path)


@pytest.mark.parametrize("growth", [-6, 0, 10**7, 2.5])
def test_a_checkpoint_of_sizes_that_cannot_be_takes_no_memory(tmp_path, growth):
    network = recognizer()
    architecture = network.architecture()
    architecture["encoder"] = {**architecture["encoder"], "growth": growth}
    path = saved(tmp_path / "a.safetensors", network, architecture=architecture)
    with pytest.raises(CheckpointError, match="a.safetensors"):
        Reader.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_read_with_nor_published(tmp_path, value):
    network = recognizer()
    with torch.no_grad():
        next(network.decoder.parameters()).view(-1)[3] = value
    path = saved(tmp_path / "a.safetensors", network)
    for use in (Reader.load, lambda path: publish(path, tmp_path / "b.safetensors")):
        with pytest.raises(CheckpointError, match="a.safetensors: decoder.* not finite"):
            use(path)
    assert not (tmp_path / "b.safetensors").exists()


def test_weights_that_are_far_too_large_are_told_when_something_is_read(tmp_path):
    network = recognizer()
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter.mul_(1e30)
    reader = Reader.load(saved(tmp_path / "a.safetensors", network))
    with pytest.raises(CheckpointError, match="the network's probabilities are no numbers"):
        reader.read(written())


def test_a_checkpoint_that_describes_itself_without_end_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, {"about": "[" * 100_000}))
    with pytest.raises(CheckpointError, match="a.safetensors"):
        Reader.load(path)


@pytest.mark.parametrize("place", ["weights", "averaged weights"])
def test_weights_that_are_no_numbers_are_never_saved(tmp_path, place):
    """In the very last step, after which no loss would tell."""
    torch.manual_seed(7)
    model, run = Counter(), Run(tmp_path / "run")
    run.begin({"seed": 1}, [], {"architecture": {}, "vocabulary": [], "data": {}})
    plan = StagePlan(STAGE, 3, "stage")
    trainer = Trainer(Objective(model), Loaders(Batches(), Batches(), "handwritten"), plan, TRAINING, run)
    count_step = trainer.count_step

    def spoil():
        count_step()
        if trainer.epoch == 2 and trainer.step == 4:
            spoilt = model if place == "weights" else trainer.ema.model
            next(spoilt.decoder.parameters()).data.view(-1)[0] = float("nan")

    trainer.count_step = spoil
    with pytest.raises(LossError, match=f"stage only, epoch 3: the {place} decoder.* are not finite"):
        trainer.fit()


# ---- memory, disks and others ----------------------------------------------------------------------------------------


def test_a_step_of_the_optimizer_that_found_no_memory_is_taken_again_only_if_it_changed_nothing():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer, calls = torch.optim.SGD([weight], 0.5), []
    step = optimizer.step

    def fails_at_first():
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step()

    optimizer.step = fails_at_first
    take_step(optimizer, torch.device("cpu"))
    assert weight.tolist() == [0.5] * 3 and len(calls) == 2

    def fails_half_way():
        step()
        raise torch.OutOfMemoryError("CUDA out of memory")

    optimizer.step = fails_half_way
    with pytest.raises(MemoryLimitError, match="the optimizer's step needs more memory"):
        take_step(optimizer, torch.device("cpu"))
    assert weight.tolist() == [0.0] * 3


def test_an_image_that_cannot_be_validated_for_want_of_memory_is_named(tmp_path, monkeypatch):
    def read(self, images, *rest, **more):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Counter, "read", read)
    with pytest.raises(MemoryLimitError, match=r"image \d+: this image alone"):
        train(tmp_path / "run")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_memory_that_runs_out_anywhere_is_one_line(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 2
    assert re.search(": out of memory: .*\n", capsys.readouterr().err)
    error.args = ("something else",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            run_script(main)


def test_under_torchrun_the_end_of_another_process_is_one_line(capsys, monkeypatch):
    def main():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:36547. GLHF!")

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(": another process of this run has ended; it says why\n")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RuntimeError):
        run_script(main)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device: '.*a.txt'"):
        atomic_write(tmp_path / "a.txt", "x")


def test_a_split_that_is_replaced_stays_until_the_other_one_is_whole(tmp_path, monkeypatch):
    """The record of what it was made from is the last that is written, and the disk is full there."""
    package = make_can(tmp_path / "can", False, "\t")
    prepare(package, tmp_path / "NAME", "train", progress=False)
    (package / "train_labels.txt").write_text(caption("train").replace("x + y", "y + x"))
    written_whole = atomic_write

    def full(path, content):
        if "prepared.json" in Path(path).name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written_whole(path, content)

    monkeypatch.setattr("dataset.formats.preparation.atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(package, tmp_path / "NAME", "train", progress=False, options=Options(existing="replace"))
    split = tmp_path / "NAME" / "train"
    assert (split / "labels.txt").read_text() == caption("train")
    assert len(list((split / "images").iterdir())) == len(LABELS["train"])
    assert not list(split.glob("*.partial"))


def test_a_run_folder_has_one_process_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.run_folder.LOCK_SECONDS", 0.2)
    about = {"architecture": {}, "vocabulary": [], "data": {}}
    first = open_run(tmp_path / "run", {"seed": 1}, about, is_writer=True, is_resumed=False)
    child = os.fork()
    if not child:
        try:
            open_run(tmp_path / "run", {"seed": 1}, about, is_writer=True, is_resumed=True)
        except CheckpointError as error:
            os._exit(7 if "another process trains in this run" in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    del first
    with pytest.raises(CheckpointError, match="another process has begun this run meanwhile"):
        open_run(tmp_path / "run", {"seed": 1}, about, is_writer=True, is_resumed=False)


def test_sample_is_made_by_one_process_at_a_time(tmp_path):
    from utils.files import locked

    with locked(tmp_path / ".SAMPLE.lock", "held"):
        child = os.fork()
        if not child:
            make_sample(tmp_path / "SAMPLE", 3, 1, workers=1, progress=False)
            os._exit(0)
        time.sleep(0.5)
        assert not (tmp_path / "SAMPLE").exists() and not (tmp_path / "SAMPLE.partial").exists()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "SAMPLE" / "sample.json").exists()
