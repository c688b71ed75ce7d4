r"""Characters beyond ASCII in a label, and the LaTeX that they mean.

    to_latex("x − α ≤ 𝟐²")  ->  x - \alpha \leq 2^{2}

People paste formulas from word processors and web pages, with signs that look like others: a minus of its own
(U+2212), a Cyrillic x, full-width commas, characters that cannot be seen. Each would become a token of its own, which a
network learns apart from the true one. Where the meaning is certain the sign is replaced; where it is not, it is named.
Letters of scripts without capitals, such as Chinese, are tokens and stay.
"""

import unicodedata
from collections.abc import Container
from functools import cache
from typing import NamedTuple

from dataset.typesetter.symbols import command_of_character

_DASHES, _PRIMES = "‐‑‒–—―−﹣－", "′’ʹʼ´"
# What the typesetter's table does not have, or where another command is the usual one.
_CHARACTERS = {
    **dict.fromkeys(_DASHES, "-"),
    **dict.fromkeys(_PRIMES, "'"),
    "″": "''",
    "‴": "'''",
    "∕": "/",
    "⁄": "/",
    "∶": ":",
    "∗": "*",
    "·": r"\cdot",
    "⋅": r"\cdot",
    "•": r"\bullet",
    "∆": r"\Delta",
    "∣": r"\mid",
    "∥": r"\parallel",
    "‖": r"\|",
    "∅": r"\emptyset",
    "∼": r"\sim",
    "≈": r"\approx",
    "∝": r"\propto",
    "△": r"\triangle",
    "□": r"\square",
    "⊥": r"\perp",
    "…": r"\ldots",
    "°": r"^{\circ}",
    "℃": r"^{\circ}C",
    "〈": r"\langle",
    "〉": r"\rangle",
    "⟨": r"\langle",
    "⟩": r"\rangle",
    # Greek letters that are written as Latin ones
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo", strict=True)),
}
# Cyrillic letters that are written exactly as Latin ones. Others (к, п, т, З) may be one of several signs.
_CYRILLIC = dict(zip("АВЕЅІЈКМНОРСТХаеѕіјорсхуһԁԛԝ", "ABESIJKMHOPCTXaesijopcxyhdqw", strict=True))
_MARKS = {"\u0302": r"\hat", "\u0303": r"\tilde", "\u0304": r"\bar", "\u0305": r"\bar", "\u0306": r"\breve",
          "\u0307": r"\dot", "\u0308": r"\ddot", "\u030c": r"\check", "\u20d7": r"\vec",
          "\u0332": r"\underline"}  # fmt: skip
_FONTS = {"DOUBLE-STRUCK": r"\mathbb", "FRAKTUR": r"\mathfrak", "BLACK-LETTER": r"\mathfrak", "SCRIPT": r"\mathcal"}
_SCRIPTS = {"<super>": "^", "<sub>": "_"}
_ROOTS = "√∛∜"  # of what follows, but nothing says where that ends
_CJK_PUNCTUATION = range(0x3000, 0x3040)


class Replaced(NamedTuple):
    """A label in LaTeX.

    notes: what was replaced, such as `− (U+2212) is read as -`.   problems: the characters of no certain meaning.
    """

    text: str
    notes: list[str]
    problems: list[str]


def to_latex(text: str, known: Container[str] = ()) -> Replaced:
    """Replace every character that has a certain meaning in LaTeX. known: tokens that stay as they are."""
    if text.isascii():
        return Replaced(text, [], [])
    text = unicodedata.normalize("NFC", text)
    is_latin = all(letter in _CYRILLIC for letter in text if unicodedata.name(letter, "").startswith("CYRILLIC"))
    pieces: list[str] = []
    notes: dict[str, None] = {}
    problems: list[str] = []
    script = ""  # the mark of the script that is being written, or empty
    for index, character in enumerate(text, start=1):
        mark = _SCRIPTS.get(unicodedata.decomposition(character).partition(" ")[0], "")
        if character in known:
            mark = ""
        if script and mark != script:
            pieces.append("}")
        if mark and mark != script:
            pieces.append(f"{mark}{{")
        script = mark
        if character.isascii() or character in known:
            pieces.append(character)
            continue
        if character in _MARKS and pieces and len(pieces[-1]) == 1 and pieces[-1].isalnum():
            pieces[-1] = f"{_MARKS[character]}{{{pieces[-1]}}}"
            notes[f"{shown(character)} is read as {_MARKS[character]}"] = None
            continue
        latex = _CYRILLIC.get(character) if is_latin else None
        latex = meaning_of(character) if latex is None else latex
        if latex is None:
            problems.append(f"character {index}, {shown(character)}, has no certain meaning in LaTeX")
        elif latex != character:
            read_as = f"{mark}{{{latex}}}" if mark else latex
            notes[f"{shown(character)} is " + (f"read as {read_as}" if latex.strip() else "left out")] = None
            # A command is set apart from the letter behind it.
            pieces.append(f"{latex} " if latex.startswith("\\") else latex)
        else:
            pieces.append(character)
    if script:
        pieces.append("}")
    return Replaced("".join(pieces), list(notes), problems)


def shown(character: str) -> str:
    """A character with its code point; by its name where it cannot be seen."""
    is_seen = unicodedata.category(character)[0] not in "CZM"
    return f"{character} (U+{ord(character):04X})" if is_seen else f"U+{ord(character):04X} ({_name(character)})"


def _name(character: str) -> str:
    return unicodedata.name(character, "without a name").lower()


@cache
def meaning_of(character: str) -> str | None:
    """The LaTeX of one character: empty where it cannot be seen, itself where it is a token, None where none is sure.

    Superscripts and subscripts come without their mark.
    """
    category = unicodedata.category(character)
    if category == "Cf" or character == "\u034f" or 0xFE00 <= ord(character) <= 0xFE0F:
        return ""
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if character in _ROOTS:
        return None
    known = _CHARACTERS.get(character) or command_of_character(character)
    if known is not None:
        return known
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    if kind.startswith("<"):
        return _meaning_of_variant(character, kind, "".join(chr(int(code, 16)) for code in codes))
    if category == "Lo" or ord(character) in _CJK_PUNCTUATION:
        return character
    return None


def _meaning_of_variant(character: str, kind: str, base: str) -> str | None:
    """The LaTeX of a character that Unicode defines as a variant of others: wide, circled, double-struck …"""
    meanings = [letter if letter.isascii() else meaning_of(letter) for letter in base]
    if None in meanings:
        return None
    latex = "".join(meanings)
    if kind == "<circle>":
        return rf"\textcircled{{{latex}}}"
    if kind == "<fraction>":
        above, _, below = latex.partition("/")
        return rf"\frac{{{above}}}{{{below}}}"
    if kind == "<font>":
        name = unicodedata.name(character)
        alphabet = next((command for word, command in _FONTS.items() if word in name), None)
        return rf"{alphabet}{{{latex}}}" if alphabet and latex.isalpha() else latex
    return latex if kind in ("<wide>", "<super>", "<sub>") or latex.isascii() else None
