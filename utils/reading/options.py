"""The options that evaluate.py and recognize.py share, so that both read alike."""

from __future__ import annotations

import argparse
from typing import Any

from utils.reading.reader import CLEANING, Reader, Search

DIRECTIONS = {"left-to-right": 1, "both": 2}


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beam", type=int, default=1, metavar="N", help="width of the search; default: 1, greedy")
    parser.add_argument("--direction", choices=DIRECTIONS,
                        help="default: left to right if greedy, else all that the network knows")  # fmt: skip
    parser.add_argument("--clean", choices=CLEANING, default="auto",
                        help="clean photographs before they are read; default: auto, what was not drawn")  # fmt: skip
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 …; default: %(default)s")


def search_of(options: argparse.Namespace, reader: Reader) -> Search:
    """The search that was asked for. Raises ConfigError for one that the network cannot do."""
    search = Search(options.beam, DIRECTIONS.get(options.direction))
    reader.check(search)
    return search


def describe_search(search: Search, reader: Reader) -> dict[str, Any]:
    """What is used, as plain values: beam, and directions, 1 or 2."""
    is_greedy = search.beam == 1 and search.directions in (None, 1)
    return {"beam": search.beam, "directions": 1 if is_greedy else search.directions or reader.model.decoder.directions}
