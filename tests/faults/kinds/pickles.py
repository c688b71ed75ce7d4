"""Pickles: a program each, made of the instructions of good ones and of bad ones, in the package of CROHME."""

from __future__ import annotations

import pickle
import random
import shutil
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np

from dataset.formats.preparation import prepare
from tests.faults.campaign import CANARY, Case, Kind
from tests.faults.mutation import BINARY, mutated
from tests.made_up_packages import LABELS, ink, make_can

GLOBALS = [
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray",
    "scalar"),
    ("numpy._core.numeric", "_frombuffer"), ("_codecs", "encode"), ("collections", "OrderedDict"), ("os", "system"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("subprocess", "call"), ("numpy", "load"),
    ("numpy.ndarray", "tofile"), ("numpy", "ndarray.tofile"), ("numpy", "dtype.__new__"), ("", "x"), ("numpy",
    "__name__"),
]  # fmt: skip
ARGUMENTS = ["b", "|u1", "O", "uint8", "latin1", "x" * 99, f"touch {CANARY}", 0, 1, -1, 7, 255, 2**31, 2**40, 10**30,
             b"", b"b", b"\x00" * 9, (0,), (3, 4), (30_000, 60_000), (1 << 40,), (-1,), None, True, 0.5,
             np.nan]  # fmt: skip


def instructions(random: random.Random) -> bytes:
    """A pickle of protocol 2 that nobody wrote: it may call anything with anything."""
    program = b"\x80\x02" + (b"}" if random.random() < 0.5 else b"")
    for _ in range(random.randint(1, 30)):
        choice = random.random()
        if choice < 0.3:
            module, name = random.choice(GLOBALS)
            program += f"c{module}\n{name}\n".encode()
        elif choice < 0.65:
            program += pickle.dumps(random.choice(ARGUMENTS), 2)[2:-1]
        elif choice < 0.8:
            program += b"R" if random.random() < 0.8 else random.choice((b"b", b"\x81", b"o", b"\x92"))
        else:
            simple = [b"(", b"t", b"\x85", b"\x86", b"\x87", b"]", b"}", b"s", b"u", b"a", b"e", b"0", b"2", b"1", b"l"]
            memory = [b"q\x01", b"h\x01", b"j" + struct.pack("<I", 9), b"r" + struct.pack("<I", 2**31), b"Q", b"P0\n"]
            program += random.choice(simple * 3 + memory)
    return program + b"."


def calls(random: random.Random) -> bytes:
    """Well-formed: one name is called with a few arguments, in the place of an image."""
    module, name = random.choice(GLOBALS)
    arguments = b"".join(pickle.dumps(random.choice(ARGUMENTS), 2)[2:-1] for _ in range(random.randint(0, 4)))
    state = b"(" + pickle.dumps(random.choice(ARGUMENTS), 2)[2:-1] + b"tb" if random.random() < 0.3 else b""
    return b"\x80\x02}X\x03\x00\x00\x00a_1" + f"c{module}\n{name}\n(".encode() + arguments + b"tR" + state + b"s."


def contents(random: random.Random) -> bytes:
    """A good pickle of what is no image, or not one for each name."""
    image = ink("a_1", "x + y")
    kinds = [image.astype(np.float32), image.astype(">i8"), image[None, None], image[:0], np.zeros((1, 1), np.uint8),
             np.zeros((3, 20_000), np.uint8) + (image[0, 0] + 1), np.zeros((900, 900), np.uint8), image.T,
             image[::2, ::-1],
             np.array([image, None], object), image.view("V1"), np.array("x"), np.ma.masked_array(image), "x", None,
             [image],
             {"a_1": image}, image.tobytes(), np.full((40, 40), 7, np.uint8), np.datetime64("now"),
             np.complex64(1)]  # fmt: skip
    names = ["a_1", "a_2", "b.3", "../a_1", "a/b", "", "\0", 1, None, ("a_1",), b"a_1", "x" * 300, "é", "é", "\ud800"]
    images = {random.choice(names): random.choice(kinds) for _ in range(random.randint(0, 5))}
    whole = [images, OrderedDict(images), list(images.items()), set(names[:3]), images and next(iter(images.values()))]
    nested = images
    for _ in range(random.choice((1, 50, 300))):
        nested = [nested]
    return pickle.dumps(random.choice((*whole * 3, nested)), random.randrange(6))


def make(folder: Path) -> Case:
    package = make_can(folder / "package", False, "\t")
    assert prepare(package, folder / "NAME", progress=False) == []
    image = {name: ink(name, label) for name, label in LABELS["train"].items()}
    good = [pickle.dumps(image, protocol) for protocol in range(6)]

    def case(random: random.Random, folder: Path) -> object:
        shutil.copytree(package, folder / "package")
        kind = random.choice((instructions, calls, calls, contents, contents, None, None, None))
        data = kind(random) if kind else mutated(random, random.choice(good), BINARY)
        (folder / "package" / "train_images.pkl").write_bytes(data)
        return prepare(folder / "package", folder / "NAME", "train", progress=False)

    return case


KINDS = [Kind("pickles", make, share=60)]
