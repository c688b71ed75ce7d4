"""Zips: broken, hostile, and with contents that are."""

from __future__ import annotations

import io
import random
import stat
import zipfile
from pathlib import Path

from dataset.formats.preparation import prepare
from tests.faults.campaign import CANARY, Case, Kind
from tests.faults.mutation import BINARY, TEXT, TEXTS, mutated
from tests.made_up_packages import LABELS, caption, image, make_comer

BOMB_BYTES = 60_000_000  # unpacked
NAMES = ["../{}", "/tmp/{}", "a/../../{}", "..\\{}", "C:\\{}", "train/{}/", "train/img/{}", "{}\0.bmp", "train//{}",
         "./{}",
         "train/caption.txt", "train/img/a_1.bmp", "data.zip", "\\\\host\\{}", "x" * 5000, "train/img/",
         "{}.pkl"]  # fmt: skip


def odd_entry(random: random.Random, archive: zipfile.ZipFile) -> None:
    """An entry with a name, a kind, a size or a content of its own."""
    name = random.choice((*NAMES, *TEXTS)).replace("{}", CANARY) or "x"
    entry = zipfile.ZipInfo(name)
    content: bytes = random.choice((b"", b"x", b"a_1\tx\n", image("a_1", "x", ".bmp")))
    choice = random.random()
    if choice < 0.2:
        entry.external_attr = (random.choice((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)) | 0o777) << 16
        content = random.choice((b"/etc/passwd", b"../../x", b"/dev/zero"))
    elif choice < 0.35:  # a bomb: nearly nothing in the zip
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.filename = random.choice(("train/caption.txt", "train/img/a_1.bmp", "words_dict.txt", "train/labels.txt"))
        pattern = random.choice((b"\0", b"\n", b"a_1\tx\n", b"x"))
        content = pattern * (BOMB_BYTES // len(pattern))
    elif choice < 0.5:
        entry.flag_bits |= random.choice((1, 0x800, 0x2000, 0x40))
    archive.writestr(entry, content, compresslevel=1)


def make(folder: Path) -> Case:
    good = make_comer(folder / "package").read_bytes()
    assert prepare(folder / "package" / "data.zip", folder / "NAME", progress=False) == []

    def rebuilt(random: random.Random) -> bytes:
        """The same package with entries of another kind, another content, or another order."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", random.choice((0, 8, 12, 14))) as archive:
            entries = [("data/train/caption.txt", caption("train").encode(), TEXT)]
            entries += [(f"data/train/img/{name}.bmp", image(name, label, ".bmp"), BINARY)
                        for name, label in LABELS["train"].items()]  # fmt: skip
            random.shuffle(entries)
            for name, content, mutations in entries:
                archive.writestr(name, mutated(random, content, mutations) if random.random() < 0.3 else content)
            if random.random() < 0.6:
                odd_entry(random, archive)
        return file.getvalue()

    def case(random: random.Random, folder: Path) -> object:
        data = rebuilt(random) if random.random() < 0.6 else good
        if random.random() < 0.5 or data is good:
            data = mutated(random, data, BINARY)
        (folder / "data.zip").write_bytes(data)
        return prepare(folder / "data.zip", folder / "NAME", random.choice((None, "train")), progress=False)

    return case


KINDS = [Kind("zips", make, share=40)]
