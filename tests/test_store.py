"""A store opens at once, says what the labels say, and is never half a store."""

import os
import pickle
import time
import tracemalloc

import cv2
import numpy as np
import pytest

from dataset.formats.labels import read_labels
from dataset.images.store import (
    FILES,
    ImageStore,
    StoreWriter,
    build_store,
    open_split,
)
from dataset.loading.validation import HeldOut, split_validation
from dataset.vocabulary import UNKNOWN, Vocabulary
from utils.errors import DataError
from utils.parallel import in_threads
from utils.reading.images import normalize_image

VOCABULARY = Vocabulary(["a", "b", "c"])


def ink(length):
    image = np.zeros((20, 30 + length), np.uint8)
    image[8:11, 8 : 18 + length] = 255
    return image


def make_split(folder, labels):
    (folder / "images").mkdir(parents=True)
    (folder / "labels.txt").write_text("".join(f"{name}\t{label}\n" for name, label in labels.items()))
    for index, name in enumerate(labels):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), ink(index))


@pytest.fixture
def data_set(tmp_path):
    make_split(tmp_path / "train", {"one": "a b", "two.1": "c", "three": "a b", "four": "b a c c"})
    return tmp_path


def test_a_store_gives_back_what_labels_and_images_say(data_set):
    store = open_split(data_set, "train", VOCABULARY, progress=False)
    assert [store.name(i) for i in range(len(store))] == ["one", "two.1", "three", "four"]
    assert [VOCABULARY.decode(store.tokens(i)) for i in range(4)] == [
        ["a", "b"],
        ["c"],
        ["a", "b"],
        ["b", "a", "c", "c"],
    ]
    assert store.lengths.tolist() == [2, 1, 2, 4] and store.lengths.dtype == np.int32
    for index in range(4):
        assert np.array_equal(store.image(index), normalize_image(ink(index)))
        assert store.image(index).shape == tuple(store.sizes[index])
    assert store.name(-1) == "four" and store.name(-4) == "one"
    with pytest.raises(IndexError):
        store.image(4)


def test_labels_are_equal_where_their_hashes_are(data_set):
    one, two, three, four = open_split(data_set, "train", VOCABULARY, progress=False).label_hash
    assert one == three and len({one, two, four}) == 3


def test_a_worker_gets_the_same_store_from_a_few_bytes(data_set):
    store = open_split(data_set, "train", VOCABULARY, progress=False)
    message = pickle.dumps(store)
    again = pickle.loads(message)
    assert len(message) < 500
    assert np.array_equal(again.image(3), store.image(3)) and again.name(1) == store.name(1)


def test_a_million_images_open_at_once_and_without_memory(tmp_path):
    count = 1_000_000
    ends = {"pixels": 4000, "tokens": 15, "names": 12}
    nbytes = {}
    for name, kind in FILES.items():
        if name.endswith("_ends"):
            each = ends.get(name.removesuffix("_ends") + "s", 0)
            (np.arange(1, count + 1, dtype=kind) * each).tofile(tmp_path / f"{name}.bin")
        elif name == "pixels":  # a file with a hole: 4 GB of paper that take no room on the disk
            with open(tmp_path / "pixels.bin", "wb") as file:
                file.truncate(count * ends["pixels"])
        else:
            size = {"sizes": 2, "label_hash": 1}.get(name) or ends[name]
            np.resize(np.array([40, 100], kind), count * size).tofile(tmp_path / f"{name}.bin")
        nbytes[name] = (tmp_path / f"{name}.bin").stat().st_size
    with StoreWriter(tmp_path / "empty") as writer:
        pass
    about = (writer.folder / "store.json").read_text()
    start = about.index('"bytes"')
    (tmp_path / "store.json").write_text(about[:start] + f'"bytes": {nbytes}'.replace("'", '"') + "}")

    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        store = ImageStore(tmp_path)
        seconds.append(time.perf_counter() - started)
    assert len(store) == count and min(seconds) < 0.2
    assert store.image(count - 1).shape == (40, 100) and len(store.tokens(count - 1)) == 15
    tracemalloc.start()
    store = ImageStore(tmp_path)
    assert tracemalloc.get_traced_memory()[0] < 8 * count  # a few bytes an item, not an object
    tracemalloc.stop()


@pytest.mark.parametrize("change", ["label", "vocabulary", "lost pixels", "lost index"])
def test_a_store_is_built_again_when_it_no_longer_holds(data_set, capsys, change):
    vocabulary = VOCABULARY
    store = open_split(data_set, "train", vocabulary, progress=False)
    capsys.readouterr()
    if change == "label":
        text = (data_set / "train" / "labels.txt").read_text()
        (data_set / "train" / "labels.txt").write_text(text.replace("two.1\tc", "two.1\tb"))
    elif change == "vocabulary":
        vocabulary = Vocabulary(["x", "a", "b", "c"])
    elif change == "lost pixels":
        with open(store.folder / "pixels.bin", "r+b") as file:
            file.truncate(100)
    else:
        (store.folder / "sizes.bin").unlink()
    store = open_split(data_set, "train", vocabulary, progress=False)
    assert "building the store" in capsys.readouterr().err
    assert vocabulary.decode(store.tokens(1)) == ["b" if change == "label" else "c"]
    assert store.image(3).max() == 255


def test_a_copied_data_set_keeps_its_store(data_set, capsys):
    open_split(data_set, "train", VOCABULARY, progress=False)
    os.utime(data_set / "train" / "labels.txt", (1, 1))
    capsys.readouterr()
    open_split(data_set, "train", VOCABULARY, progress=False)
    assert capsys.readouterr().err == ""


def test_what_fails_while_writing_leaves_the_old_store(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        writer.add("old", ink(3), [3], "a")
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "store") as writer:
        writer.add("new", ink(5), [4], "b")
        raise RuntimeError("stopped")
    assert ImageStore(tmp_path / "store").name(0) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_every_bad_item_is_named_with_file_and_line(tmp_path):
    make_split(tmp_path / "train", {"good": "a b", "unknown": "a x", "broken": "a", "blank": "c", "nolabel": "a"})
    folder = tmp_path / "train"
    (folder / "labels.txt").write_text(
        "good\ta b\nunknown\ta x\n\nbroken\ta\nblank\tc\ngood\tb\ngone\tb\nempty\n../up\tc\n"
    )
    (folder / "images" / "broken.png").write_bytes((folder / "images" / "broken.png").read_bytes()[:40])
    cv2.imwrite(str(folder / "images" / "blank.png"), np.zeros((9, 9), np.uint8))
    store, bad = build_store(tmp_path, "train", VOCABULARY, progress=False)
    assert [store.name(i) for i in range(len(store))] == ["good"]
    told = "\n".join(map(str, bad))
    for words in (
        "train/labels.txt, line 2: token 2 of 2, x, is not in the vocabulary",
        "train/labels.txt, line 4: images/broken.png: is truncated",
        "train/labels.txt, line 5: images/blank.png: has no ink",
        "train/labels.txt, line 6: duplicate name 'good', first in line 1",
        "train/labels.txt, line 7: no image 'gone' in train/images",
        "train/labels.txt, line 8: no label after 'empty'",
        "train/labels.txt, line 9: no image '../up' in train/images",
        "train/images, nolabel.png: an image without a label",
    ):
        assert words in told
    assert len(bad) == 8
    with pytest.raises(DataError, match=r"(?s)8 bad items.*line 2.*prepare\.py .* --skip-bad"):
        os.remove(store.folder / "store.json")
        open_split(tmp_path, "train", VOCABULARY, progress=False)


def test_a_test_label_with_an_unknown_token_stays_and_counts(tmp_path, capsys):
    make_split(tmp_path / "2014", {"one": "a b", "two": "a x"})
    store = open_split(tmp_path, "2014", VOCABULARY, progress=False)
    assert store.tokens(1).tolist() == [3, UNKNOWN]
    assert "1 of 2 labels have a token that train lacks" in capsys.readouterr().err


def test_a_name_may_carry_its_suffix_and_hold_spaces_when_a_tab_ends_it():
    lines = ["train_0.jpg\tx + y\n", "my formula.PNG\tx\n", "plain x  +\ty\n", "a.b\t、 x\n"]
    labels = [(label.name, label.tokens, label.problem) for label in read_labels(lines, "labels.txt")]
    assert labels == [
        ("train_0", ["x", "+", "y"], ""),
        ("my formula", ["x"], ""),
        ("plain x  +", ["y"], ""),
        ("a.b", ["、", "x"], ""),
    ]
    assert next(read_labels(["plain x  + y\n"], "labels.txt")).tokens == ["x", "+", "y"]


def test_validation_is_split_by_expression_and_fixed_by_the_seed(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        for item in range(3000):
            writer.add(str(item), ink(0), [3, item % 1000], f"a {item % 1000}")
    store = ImageStore(tmp_path / "store")
    train, validation = split_validation(store.label_hash, HeldOut(0.05, 1))
    assert sorted([*train, *validation]) == list(range(3000))
    assert not set(store.label_hash[train]) & set(store.label_hash[validation])
    assert 90 <= len(validation) <= 210
    assert np.array_equal(validation, split_validation(store.label_hash, HeldOut(0.05, 1))[1])
    assert not np.array_equal(validation, split_validation(store.label_hash, HeldOut(0.05, 2))[1])
    assert len(split_validation(store.label_hash, HeldOut(0.0, 1))[1]) == 0


def test_the_same_expressions_validate_whatever_the_vocabulary(tmp_path):
    labels = [["a", *"bc"[: 1 + item % 2], *["a"] * (item // 2)] for item in range(40)]
    sides = []
    for number, vocabulary in enumerate([Vocabulary("abc"), Vocabulary("xcyba")]):
        with StoreWriter(tmp_path / str(number)) as writer:
            for item, label in enumerate(labels):
                writer.add(str(item), ink(0), vocabulary.encode(label), " ".join(label))
        sides.append(split_validation(ImageStore(tmp_path / str(number)).label_hash, HeldOut(0.3, 0))[1].tolist())
    assert sides[0] == sides[1] and 4 < len(sides[0]) < 24


def test_no_side_of_the_validation_split_is_empty(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        for item in range(2):
            writer.add(str(item), ink(0), [3, item], f"a {item}")
    for seed in range(20):
        assert [
            len(side) for side in split_validation(ImageStore(tmp_path / "store").label_hash, HeldOut(0.05, seed))
        ] == [1, 1]


def test_threads_keep_the_order_and_pass_errors_on():
    def square(number):
        time.sleep(0.001 * (number % 3))
        return number**2

    assert list(in_threads(square, range(100))) == [number**2 for number in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, [1, 0]))


def test_crohme_comes_through_pixel_by_pixel(shared_data, tmp_path):
    folder = tmp_path / "2014"
    folder.mkdir()
    (folder / "labels.txt").write_bytes((shared_data / "CROHME/2014/labels.txt").read_bytes())
    (folder / "images").symlink_to(shared_data / "CROHME/2014/images")
    labels = [line.split() for line in open(folder / "labels.txt", encoding="utf-8")]
    vocabulary = Vocabulary.from_labels(tokens for _, *tokens in labels)
    store = open_split(tmp_path, "2014", vocabulary, progress=False)
    assert len(store) == 986 and store.lengths.max() == 204
    for index in range(0, 986, 29):
        given = cv2.imread(str(folder / "images" / f"{labels[index][0]}.png"), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(store.image(index)[4:-4, 4:-4], given[12:-11, 12:-11])
        assert vocabulary.decode(store.tokens(index)) == labels[index][1:]
