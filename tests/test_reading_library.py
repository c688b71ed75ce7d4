"""The Reader in a program: from several threads, with progress, and as docs/reading.md shows it."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.test_reader import reader, written
from utils.reading import batches

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_threads_read_what_each_would_read_alone():
    """Images of different sizes at the same time; the network is never asked by two threads at once."""
    one = reader()
    images = [255 - written(seed, 60, 100 + 20 * seed) for seed in range(8)]
    alone = [one.read(image) for image in images]
    at_once, most = 0, 0
    counting, encode = threading.Lock(), one.model.encode

    def watched(*arguments):
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)  # time for another thread to come in
        try:
            return encode(*arguments)
        finally:
            with counting:
                at_once -= 1

    one.model.encode = watched
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one.read, images))
    assert [reading.latex for reading in together] == [reading.latex for reading in alone]
    assert [reading.confidences for reading in together] == [reading.confidences for reading in alone]
    assert most == 1


def test_an_error_in_one_thread_leaves_the_reader_to_the_others():
    one = reader()
    encode = one.model.encode
    one.model.encode = lambda *arguments: 1 / 0
    with pytest.raises(ZeroDivisionError):
        one.read(255 - written())
    one.model.encode = encode
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(one.read, 255 - written()).result(timeout=300).tokens


def test_progress_counts_every_image_and_may_cancel(monkeypatch):
    monkeypatch.setattr(batches, "MAX_IMAGES", 4)
    one = reader()
    images = [255 - written(seed) for seed in range(5)] + [255 - written(9, 60, 380)]
    told = []
    readings = one.read_many(images, progress=lambda *counts: told.append(counts))
    assert told == [(0, 6), (4, 6), (6, 6)]
    assert [reading.latex for reading in readings] == [one.read(image).latex for image in images]
    assert one.read_many([], progress=lambda *counts: told.append(counts)) == []
    assert told[-1] == (0, 0)

    def cancel(done: int, total: int) -> None:
        if done:
            raise InterruptedError(f"{done} of {total}")

    with pytest.raises(InterruptedError, match="4 of 6"):
        one.read_many(images, progress=cancel)


def test_progress_may_read_too():
    """The callback is called while no thread computes, so it may use the reader itself."""
    one, found = reader(), []
    one.read_many([255 - written()], progress=lambda done, total: found.append(one.read(255 - written(1)).latex))
    assert len(found) == 2


# ---- docs/reading.md -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples() -> list[str]:
    return BLOCK.findall((ROOT / "docs" / "reading.md").read_text(encoding="utf-8"))


def test_every_example_of_the_page_runs(examples, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in (*(f"photos/{number}.jpg" for number in range(3)), "photo.jpg"):
        cv2.imwrite(path, 255 - written(len(path)))
    cv2.imwrite("page.png", 255 - np.vstack([written(1), np.zeros((60, 150), np.uint8), written(2)]))
    stroke = "<trace>0 0, 10 40, 20 0</trace><trace>30 0, 30 40</trace>"
    Path("notes.inkml").write_text(f'<ink xmlns="http://www.w3.org/2003/InkML">{stroke}</ink>')
    Path("strokes.json").write_text("[[[0, 0], [10, 40]], [[20, 0], [20, 40]]]")
    Path("notes.txt").write_text("no image")
    names: dict = {}
    for number, example in enumerate(examples, start=1):
        exec(compile(example, f"example {number} of docs/reading.md", "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out
    assert "3 of 3" in printed and "left out: notes.txt" in printed
    assert (tmp_path / "what-the-network-saw.png").exists()
    assert len(names["readings"]) == 3


def test_the_page_shows_what_the_reader_can_do(examples):
    """Every public method of a Reader that is meant for users, and every field of a Reading, stands on the page."""
    page = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    from recognize import Reader, Reading

    used = ("load", "read", "read_many", "read_lines", "read_strokes", "prepare", "prepare_strokes")
    assert all(hasattr(Reader, name) and re.search(rf"\b{name}\(", page) for name in used)
    fields = set(Reading.__dataclass_fields__) - {"score"}  # shown of alternatives
    assert {name for name in fields if not re.search(rf"\b{name}\b", page)} == set()
    assert len(examples) >= 10
