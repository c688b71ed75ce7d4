"""Several processes that do the same at once: prepare a data set, make SAMPLE, fill layouts, train in one folder."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

from dataset.formats.preparation import prepare, prepare_if_needed
from dataset.images.store import open_split
from dataset.vocabulary import Vocabulary
from tests.faults.campaign import Case, Kind
from tests.faults.kinds.kills import STAGES, forked, make_home, train
from tests.made_up_packages import LABELS, caption, make_can
from utils.training.run_folder import load_checkpoint

AT_ONCE = 3


def at_once(random: random.Random, *works) -> list[int]:
    """Do works in processes of their own, begun within some hundredths of a second. Returns their exit codes."""
    children = []
    for work in works:
        children.append(forked(work))
        time.sleep(random.choice((0, 0, 0.01, 0.05)))
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def make_preparing(folder: Path) -> Case:
    package = make_can(folder / "package", False, "\t")

    def check(folder: Path) -> None:
        vocabulary = Vocabulary.from_file(folder / "vocabulary.txt")
        for split in LABELS:
            assert (folder / split / "labels.txt").read_text() == caption(split)
            assert len(open_split(folder, split, vocabulary, progress=False)) == len(LABELS[split])
            assert not list((folder / split).glob("*.partial"))

    def case(random: random.Random, folder: Path) -> None:
        shutil.copytree(package, folder / "NAME")

        def by_training() -> None:
            prepare_if_needed(folder / "NAME", progress=False)
            check(folder / "NAME")

        def by_hand() -> None:
            prepare(package, folder / "OTHER", progress=False)
            check(folder / "OTHER")

        codes = at_once(random, *[by_training] * AT_ONCE, *[by_hand] * AT_ONCE)
        assert codes == [0] * 2 * AT_ONCE, Path("made/forked.txt").read_text()[-2000:]
        check(folder / "NAME")
        check(folder / "OTHER")

    return case


def make_layouts(folder: Path) -> Case:
    """SAMPLE is made, and the layouts of its labels are filled, by several processes."""
    import numpy as np

    from dataset.images.sample import make_labels, make_sample
    from dataset.images.standard import LayoutCache, key_of

    labels = make_labels(30, 0)
    keys = np.array([key_of(label) for label in labels], np.uint64)
    make_sample(folder / "SAMPLE", 12, 4, workers=1, progress=False)
    wanted = {path.relative_to(folder): path.read_bytes() for path in (folder / "SAMPLE").rglob("*") if path.is_file()}

    def case(random: random.Random, folder: Path) -> None:
        def work() -> None:
            make_sample(folder / "SAMPLE", 12, 4, workers=1, progress=False)
            cache = LayoutCache(folder / "layouts", "cm")
            cache.fill(labels, keys, False, 1)
            for row in cache.find(keys):
                assert row >= 0 and cache.layout(row).width > 0

        codes = at_once(random, *[work] * AT_ONCE)
        assert codes == [0] * AT_ONCE, Path("made/forked.txt").read_text()[-2000:]
        found = {
            path.relative_to(folder): path.read_bytes() for path in (folder / "SAMPLE").rglob("*") if path.is_file()
        }
        assert found == wanted

    return case


def make_runs(folder: Path) -> Case:
    """Two processes begin, or resume, one run: one trains, the other is told."""
    make_home(folder)

    def case(random: random.Random, place: Path) -> None:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        Path("made/forked.txt").unlink(missing_ok=True)
        codes = at_once(random, *[lambda: train(folder, "fixed", "run", False)] * 2)
        said = Path("made/forked.txt").read_text()
        assert sorted(codes) == [0, 3], said[-2000:]
        assert "another process" in said or "this run exists" in said, said[-2000:]
        for stage in STAGES:
            load_checkpoint(folder / "runs" / "run" / f"{stage}-best.safetensors")
        assert len((folder / "runs" / "run" / "log.jsonl").read_text().splitlines()) == 4

    return case


KINDS = [
    Kind("races", make_preparing, share=2, cpu_seconds=20), Kind("races_layouts", make_layouts, share=1,
    cpu_seconds=20),
    Kind("races_runs", make_runs, share=0, cpu_seconds=60, memory_bytes=4_000_000_000),
]  # fmt: skip
