"""A disk that is full from some write on: at every write of preparing, training, evaluating and publishing, in turn."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dataset.formats.preparation import Options, prepare
from tests.faults.campaign import Case, Kind
from tests.made_up_packages import inkml, make_can
from tests.test_reader import recognizer, saved
from tests.test_training import same, train
from utils.script import run_script
from utils.training.publish import publish
from utils.training.run_folder import load_checkpoint


class Disk:
    """Every file below `folder` that is opened for writing while full() holds; from write `first` on, none succeeds."""

    def __init__(self, folder: Path):
        self.folder, self.writes, self.first, self.errno = folder.resolve(), 0, 10**9, errno.ENOSPC
        self.open = io.open

    def has(self, path: object) -> bool:
        return isinstance(path, (str, Path)) and Path(path).resolve().is_relative_to(self.folder)

    @contextlib.contextmanager
    def full(self, first: int, number: int = errno.ENOSPC) -> Iterator[None]:
        """number: of the error: no room, a limit on the size of files, or a disk that became read-only."""
        self.writes, self.first, self.errno = 0, first, number
        io.open = builtins.open = self._open
        try:
            yield
        finally:
            io.open = builtins.open = self.open

    def _open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if not (set(mode) & set("wax+")) or not self.has(file):
            return self.open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if self.writes >= self.first and self.errno == errno.EROFS:
            raise OSError(errno.EROFS, "Read-only file system", str(file))
        raw = FullFile(file, mode.replace("b", "").replace("t", ""), self)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class FullFile(io.FileIO):
    """A file on a Disk: a write that does not fit is written by half, and told."""

    def __init__(self, file: object, mode: str, disk: Disk):
        super().__init__(file, mode)
        self._disk = disk

    def write(self, data: bytes) -> int:
        disk = self._disk
        disk.writes += 1
        if disk.writes > disk.first:
            if disk.writes == disk.first + 1:
                super().write(memoryview(data).cast("B")[: len(data) // 2])
            raise OSError(disk.errno, {errno.ENOSPC: "No space left on device", errno.EFBIG: "File too large"}.get(
                disk.errno, "Read-only file system"))  # fmt: skip
        return super().write(data)


def told(work: Callable[[], object]) -> str:
    """What a script says that does this work; it must be one line, with exit code 2. "" where it came through."""
    quiet, code = io.StringIO(), 0
    with contextlib.redirect_stderr(quiet):
        try:
            run_script(lambda: work() and None)
        except SystemExit as exit:
            code = exit.code or 0
    lines = quiet.getvalue().strip().splitlines()
    assert code in (0, 2), f"exit code {code}: {lines[-1:]}"
    assert "Traceback" not in quiet.getvalue()
    return lines[-1] if code else ""


# Each job: begin(folder) makes what is there before; work(folder) writes; check(folder) looks at what the disk left.


class Preparing:
    """A data set is brought in, or one that is there is replaced by another one, with strokes."""

    def __init__(self, made: Path, replaces: bool):
        self.replaces = replaces
        self.old, self.new = make_can(made / f"old-{replaces}", False, "\t"), made / f"new-{replaces}" / "train"
        self.new.mkdir(parents=True)
        for name in "abc":
            (self.new / f"{name}.inkml").write_text(inkml("x + y", f"0 0, 10 {ord(name)}, 20 0"))
        self.labels = ("a_1", "a_2", "b.3")

    def begin(self, folder: Path) -> None:
        if self.replaces:
            prepare(self.old, folder / "NAME", "train", progress=False)

    def work(self, folder: Path) -> None:
        assert prepare(self.new.parent, folder / "NAME", progress=False, options=Options(existing="replace")) == []

    def check(self, folder: Path) -> None:
        """The split is the old one or the new one, and there is no third."""
        split = folder / "NAME" / "train"
        if not (split / "labels.txt").is_file():
            assert not self.replaces, "what was there before is gone"
            return
        names = [line.split("\t")[0] for line in (split / "labels.txt").read_text().splitlines()]
        assert sorted(path.stem for path in (split / "images").iterdir()) == sorted(names)
        assert sorted(names) in ([*"abc"], sorted(self.labels)), names
        json.loads((split / "prepared.json").read_text())
        assert not list(split.glob("*.partial")), "it keeps room that it has no use for"

    def is_done(self, folder: Path) -> None:
        self.check(folder)
        assert (folder / "NAME" / "train" / "labels.txt").read_text().startswith("a\tx + y\n")
        assert (folder / "NAME" / "train" / "store" / "store.json").is_file()


class Training:
    """A run of three epochs that saves its state at every step."""

    def __init__(self, made: Path):
        self.model, _ = train(made / "whole")

    def begin(self, folder: Path) -> None:
        pass

    def work(self, folder: Path) -> None:
        self.trained, _ = train(folder / "run", resume=(folder / "run" / "config.yaml").exists())

    def check(self, folder: Path) -> None:
        for path in (folder / "run").glob("*.safetensors"):
            load_checkpoint(path)
        if (path := folder / "run" / "state.pt").exists():
            torch.load(path, weights_only=True)
        assert not list((folder / "run").glob("*.partial*")) and not list((folder / "run").glob(".*.partial*"))

    def is_done(self, folder: Path) -> None:
        self.check(folder)
        assert same(self.model, self.trained), "other weights than those of a run never stopped"


class Reporting:
    """evaluate.py --out into a folder that holds an earlier report."""

    def __init__(self, made: Path):
        import evaluate
        from dataset.formats.predictions import read_predictions
        from utils.evaluation.report import write_report
        from utils.evaluation.scores import Reference
        from utils.evaluation.sources import FileSource

        references = [Reference(name, [*"x+y"], f"line {name}", "", name) for name in "abc"]
        (made / "theirs.txt").write_text("a\tx + y\nb\tx\n")
        source = FileSource("theirs.txt", read_predictions(made / "theirs.txt", references), {})
        items = [evaluate.score_item(one, source.predictions.get(one.name)) for one in references]
        scores = {"dataset": "NAME", "split": "test", "items": 3, **source.about}
        self.write = lambda folder: write_report(folder, items, scores, source, evaluate.draw_label)
        self.names = ("predictions.jsonl", "scores.json", "report.html")

    def begin(self, folder: Path) -> None:
        self.write(folder)
        self.good = {name: (folder / name).read_bytes() for name in self.names}

    def work(self, folder: Path) -> None:
        self.write(folder)

    def check(self, folder: Path) -> None:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == self.good

    is_done = check


class Publishing:
    """Weights are published over older ones."""

    def __init__(self, made: Path):
        self.source, self.old = (
            saved(made / "a.safetensors", recognizer()),
            saved(made / "b.safetensors", recognizer("transformer")),
        )

    def begin(self, folder: Path) -> None:
        shutil.copy(self.old, folder / "out.safetensors")

    def work(self, folder: Path) -> None:
        publish(self.source, folder / "out.safetensors")

    def check(self, folder: Path) -> None:
        assert [path.name for path in folder.iterdir()] == ["out.safetensors"]
        load_checkpoint(folder / "out.safetensors")

    is_done = check


def make(folder: Path) -> Case:
    jobs = [Preparing(folder, False), Preparing(folder, True), Training(folder), Reporting(folder), Publishing(folder)]
    plan = []  # (job, the write that fails)
    for number, job in enumerate(jobs):
        place = folder / f"place-{number}"
        place.mkdir()
        job.begin(place)
        disk = Disk(place)
        with disk.full(10**9):
            job.work(place)
        job.is_done(place)
        plan += [(job, write) for write in range(disk.writes)]

    def case(random: random.Random, folder: Path) -> None:
        job, write = plan[random.number % len(plan)]
        kind = random.choice((errno.ENOSPC, errno.ENOSPC, errno.EFBIG, errno.EROFS))
        job.begin(folder)
        with Disk(folder).full(write, kind):
            line = told(lambda: job.work(folder))
        assert line, f"{type(job).__name__}: nobody said that write {write} failed"
        assert str(folder) in line, f"{type(job).__name__}: the line does not name the file: {line}"
        job.check(folder)
        job.work(folder)
        job.is_done(folder)

    return case


KINDS = [Kind("writes", make, share=8, cpu_seconds=5)]
