"""Images of all formats that Pillow writes here, broken in every way, read as recognize.py does; and bombs."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

from PIL import Image

from dataset.vocabulary import Vocabulary
from recognize import Reader, language
from tests.faults.campaign import Case, Kind, measure_memory_from_here
from tests.faults.mutation import BINARY, Original, file_cases
from tests.made_up_ink import written

DATA = {"image_scale": 0.5, "max_height": 200, "max_width": 400}
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB", "HSV", "PA")


def preparer() -> Reader:
    """A reader that has no network: it cleans images and draws strokes."""
    return Reader(None, Vocabulary([]), DATA, language(), device=None)


def all_formats() -> list[tuple[str, bytes]]:
    """(format and mode, bytes) of one image in each format and mode that can be written."""
    Image.init()
    grey = Image.fromarray(255 - written())
    found = []
    for mode in MODES:
        try:
            image = grey.convert(mode) if mode not in ("LAB", "HSV", "PA") else grey.convert("RGB").convert(mode)
        except ValueError:
            continue
        for kind in sorted(Image.SAVE):
            if kind in ("PDF", "PALM"):  # cannot be read
                continue
            options = [{}]
            if kind == "TIFF":
                options += [
                    {"compression": name} for name in ("tiff_lzw", "jpeg", "group4", "packbits", "tiff_deflate")
                ]
            if kind in ("WEBP", "AVIF", "JPEG2000"):
                options += [{"lossless": True}]
            for each in options:
                file = io.BytesIO()
                try:
                    image.save(file, kind, **each)
                except Exception:  # this format has no such mode
                    continue
                found.append((f"{kind} {mode} {each}", file.getvalue()))
    film = io.BytesIO()
    grey.save(film, "GIF", save_all=True, append_images=[grey.rotate(9), grey.rotate(90)])
    exif = Image.Exif()
    exif[274] = 6
    turned = io.BytesIO()
    grey.save(turned, "JPEG", exif=exif)
    return [*found, ("a film", film.getvalue()), ("turned", turned.getvalue())]


def make(folder: Path) -> Case:
    network = preparer()
    originals = []
    for name, data in all_formats():
        try:
            network.prepare(data)
            originals.append(Original(f"{name.split()[0].lower()}.img", data, BINARY))
        except ValueError:  # a format or mode that is not read, and is said so
            continue
    return file_cases(originals, lambda path: network.prepare(path.read_bytes(), path.name), check_original=False)


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG file, a good one or not, of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def make_bombs(folder: Path) -> Case:
    """Small files that say, or have, very many pixels; and images of extreme shapes."""
    network = preparer()
    channels = {0: 1, 2: 3, 4: 2, 6: 4}

    def case(random: random.Random, folder: Path) -> object:
        width, height = random.choice(((9400, 9400), (1, 1), (20_000, 3), (3, 20_000), (1, 60_000), (5000, 5000),
                                       (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (10**5, 800), (2, 2), (12_000,
                                       300)))  # fmt: skip
        color, bits = random.choice(((0, 8), (0, 16), (0, 1), (2, 8), (2, 16), (4, 8), (6, 8), (6, 16)))
        row = 1 + (width * channels[color] * bits + 7) // 8
        ink = random.choice((b"\0", b"\xff", b"\x80"))
        if row * height < 800_000_000:
            rows = bytearray(ink * (row * min(height, 2000)))
            for top in range(0, len(rows), row):
                rows[top] = 0
            for _ in range(random.choice((0, 1, 3000))):
                place = random.randrange(len(rows))
                rows[place] = rows[place] if place % row == 0 else random.randrange(256)
            rest = (b"\0" + ink * (row - 1)) * max(0, height - 2000) if random.random() < 0.7 else b""
            rows = bytes(rows) + rest
            del rest
        else:
            rows = ink * 1000
        data = png(width, height, bits, color, rows)
        if random.random() < 0.3 and width * height < 9e7:
            file = io.BytesIO()
            mode = random.choice(("L", "RGB", "RGBA", "CMYK", "F", "P", "1"))
            image = Image.new(mode, (width, height))
            kind = random.choice(("TIFF", "GIF", "BMP") if width * height < 3e7 else ("TIFF",))
            try:
                image.save(file, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
                data = file.getvalue()
            except (OSError, ValueError):
                pass
        del rows
        measure_memory_from_here()
        return network.prepare(data, "bomb")

    return case


KINDS = [Kind("images", make, share=40, cpu_seconds=3), Kind("bombs", make_bombs, share=3, cpu_seconds=20)]
