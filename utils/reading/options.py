"""The options that evaluate.py and recognize.py share, so that both read alike."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from utils.errors import ConfigError
from utils.reading.scaling import check_scales

if TYPE_CHECKING:
    from utils.reading.reader import Reader, Search

CLEANING = ("auto", "always", "never")
DIRECTIONS = {"left-to-right": 1, "both": 2}


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beam", type=partial(at_least, 1), default=1, metavar="N",
                        help="width of the search; default: 1, greedy")  # fmt: skip
    parser.add_argument("--direction", choices=DIRECTIONS,
                        help="default: left to right if greedy, else all that the network knows")  # fmt: skip
    add_scales_option(parser)
    parser.add_argument("--prefer-well-formed", action=argparse.BooleanOptionalAction, default=True,
                        help="of a beam's readings with close scores, take the best that is LaTeX")  # fmt: skip
    parser.add_argument("--clean", choices=CLEANING, default="auto",
                        help="clean photographs before they are read; default: auto, what was not drawn")  # fmt: skip
    parser.add_argument("--device", default="auto", metavar="NAME",
                        help="cpu, cuda, cuda:1, mps …; default: %(default)s")  # fmt: skip


def add_scales_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scales", type=scales_of, metavar="S[,S…]",
                        help="sizes to read in together, times the usual one; default: as the weights say")  # fmt: skip


def search_of(options: argparse.Namespace, reader: Reader) -> Search:
    """The search that was asked for. Raises ConfigError for one that the network cannot do."""
    from utils.reading.reader import Search  # heavy: --help should not wait for it

    search = Search(options.beam, DIRECTIONS.get(options.direction), options.prefer_well_formed)
    reader.check(search)
    return search


def scales_of(text: str) -> tuple[float, ...]:
    """The type of an option that names scales, with commas between them."""
    try:
        return check_scales([float(part) for part in text.split(",")])
    except (ValueError, ConfigError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def at_least(least: int, text: str) -> int:
    """The type of an option that is a whole number."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least {least}, got {text}")
    return int(text)
