"""What prepare.py and the training scripts keep beside a data set: stores, records, vocabularies, after a bad disk."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from dataset.formats.preparation import Options, prepare
from dataset.images.store import open_split
from dataset.vocabulary import Vocabulary
from tests.faults.campaign import Case, Kind
from tests.faults.mutation import BINARY, TEXT, mutated, mutated_value
from tests.made_up_packages import make_plain


def make(folder: Path) -> Case:
    package = make_plain(folder / "package")
    whole = folder / "NAME"
    assert prepare(package, whole, progress=False) == []
    trusted = (".lock", "pixels.bin")  # all else in a store has a checksum
    files = [
        path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file() and path.name not in trusted
    ]

    def case(random: random.Random, folder: Path) -> None:
        shutil.copytree(whole, folder / "NAME")
        name = random.choice(files)
        path = folder / "NAME" / name
        data = path.read_bytes()
        if path.suffix == ".json" and random.random() < 0.7:
            data = json.dumps(mutated_value(random, json.loads(data))).encode()
        else:
            data = mutated(random, data, BINARY if path.suffix in (".bin", ".png") else TEXT)
        path.write_bytes(data)
        if random.random() < 0.3:
            prepare(
                package,
                folder / "NAME",
                progress=False,
                options=Options(existing=random.choice(("refuse", "add", "replace"))),
            )
        vocabulary = Vocabulary.from_file(folder / "NAME" / "vocabulary.txt")
        for split in ("train", "2014"):
            store = open_split(folder / "NAME", split, vocabulary, progress=False)
            for index in range(len(store)):
                store.name(index), store.image(index).sum(), vocabulary.decode(store.tokens(index))

    return case


KINDS = [Kind("stores", make, share=40)]
