"""What a Reader is given to know about ink and LaTeX. What it needs is imported once it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.reading.reader import Language


def language() -> Language:
    """See utils/reading/reader.py."""
    from dataset.vocabulary import Vocabulary

    return Language(Vocabulary, read_ink, draw_ink, is_well_formed)


def read_ink(path: Path) -> list[np.ndarray]:
    from dataset.formats.inkml import read_inkml

    return read_inkml(path).traces


def draw_ink(strokes: Sequence[np.ndarray]) -> np.ndarray:
    from dataset.formats.inkml import rasterise

    return rasterise(strokes)


def is_well_formed(tokens: Sequence[str]) -> bool:
    from dataset.latex.parser import LatexError, parse

    try:
        parse(tokens)
    except LatexError:
        return False
    return len(tokens) > 0
