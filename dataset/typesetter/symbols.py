"""What a token looks like in a font family: its class, which decides the spaces around it, its glyphs, its measures."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dataset.typesetter import computer_modern, fonts
from dataset.typesetter.fonts import NUMBER, USER_FONT
from dataset.typesetter.symbol_table import TABLE

FAMILIES = ("cm", "stix", "dejavusans", "dejavuserif")

INTEGRALS = frozenset(r"\int \oint \iint \iiint \iiiint \oiint \oiiint \smallint".split())

FUNCTIONS = frozenset(
    r"""\arccos \arcsin \arctan \arccot \arcsec \arccsc \arctg \arg \arcosh \arsinh \artanh \bmod \ch \cos \cosec \cosh
    \cot \coth \csc \csch \ctg \cth \deg \diag \dim \erf \exp \hom \ker \lcm \lg \ln \log \mod \rank \Res \sec \sech
    \sgn \sh \sin \sinh \tan \tanh \tg \th \tr
    \argmax \argmin \det \gcd \inf \injlim \lim \liminf \limsup \max \min \Pr \projlim \sup""".split()
)
FUNCTIONS_WITH_LIMITS = frozenset(
    r"\argmax \argmin \det \gcd \inf \injlim \lim \liminf \limsup \max \min \Pr \projlim \sup".split()
)
SPELLING = {  # of those that are not spelt as they are called
    r"\liminf": "lim inf",
    r"\limsup": "lim sup",
    r"\injlim": "inj lim",
    r"\projlim": "proj lim",
    r"\argmax": "arg max",
    r"\argmin": "arg min",
    r"\bmod": "mod",
}

ALIASES = {
    r"\le": r"\leq",
    r"\ge": r"\geq",
    r"\ne": r"\neq",
    r"\lt": "<",
    r"\gt": ">",
    r"\to": r"\rightarrow",
    r"\gets": r"\leftarrow",
    r"\land": r"\wedge",
    r"\lor": r"\vee",
    r"\lnot": r"\neg",
    r"\owns": r"\ni",
    r"\dots": r"\ldots",
    r"\dotsc": r"\ldots",
    r"\dotsb": r"\cdots",
    r"\dotsm": r"\cdots",
    r"\dotsi": r"\cdots",
    r"\dotso": r"\ldots",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\dag": r"\dagger",
    r"\ddag": r"\ddagger",
    r"\intop": r"\int",
    r"\restriction": r"\upharpoonright",
    r"\doublecap": r"\Cap",
    r"\doublecup": r"\Cup",
    r"\Rarr": r"\Rightarrow",
    r"\rarr": r"\rightarrow",
    r"\larr": r"\leftarrow",
    r"\ang": r"\angle",
    r"\infin": r"\infty",
    r"\leadsto": r"\rightsquigarrow",
    r"\diameter": r"\varnothing",
    r"\hdots": r"\ldots",
    r"\mathellipsis": r"\ldots",
    r"\textunderscore": r"\_",
    r"\textbackslash": r"\backslash",
    r"\textasciitilde": r"\sim",
    r"\textperthousand": r"\permil",
    "√": r"\surd",
    "−": "-",
    "–": "-",
    "′": "'",
    "⋅": r"\cdot",
    "·": r"\cdot",
    "．": ".",
    "，": ",",
    "（": "(",
    "）": ")",
    "＋": "+",
    "－": "-",
    "＝": "=",
    "：": ":",
    "；": ";",
    "！": "!",
    "？": "?",
}


class Entry(NamedTuple):
    """A line of the table."""

    kind: str  # ord, op, bin, rel, open, close, punct, inner
    code: int
    computer_modern: str = ""  # its glyphs there
    display: str = ""  # of a large operator: the larger form
    shape: str = "upright"  # or "italic": a letter that leans in mathematics


def _read_table() -> dict[str, Entry]:
    entries, kind = {}, ""
    for line in TABLE.strip().split("\n"):
        if line.startswith("# ") and ":" in line:
            kind = line[2:].split(":")[0]
        elif line:
            command, code, *glyphs = line.split()
            text, display = (*glyphs, "", "")[:2]
            shape = "italic" if kind == "italic" else "upright"
            spaced_as = "ord" if kind in ("italic", "capital") else kind
            entries[command] = Entry(spaced_as, int(code, 16), text, display, shape)
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        entries[letter] = Entry("ord", ord(letter), f"mi.{letter}", "", "italic")
    for digit, name in zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True):
        entries[digit] = Entry("ord", ord(digit), f"r.{name}")
    entries.update({alias: entries[command] for alias, command in ALIASES.items() if command in entries})
    return entries


ENTRIES = _read_table()
LARGE_OPERATORS = frozenset(token for token, entry in ENTRIES.items() if entry.kind == "op")
_COMMANDS = {
    chr(entry.code): command
    for command, entry in reversed(ENTRIES.items())  # of several the first is kept
    if command.startswith("\\") and entry.code > 127
}


def is_drawn(command: str) -> bool:
    """Whether there is a sign, or the name of a function, for a command."""
    return command in ENTRIES or command in FUNCTIONS


def command_of_character(character: str) -> str | None:
    r"""The command that draws a character beyond ASCII, such as `\leq` for ≤."""
    return _COMMANDS.get(character)


# ---- from a token to its glyphs --------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One glyph of a symbol, displaced by (x, y) em."""

    font: int
    glyph: int
    x: float
    y: float


class Symbol(NamedTuple):
    """A token's looks, in em. left, right: the edges of its ink; the rest as in a Box."""

    kind: str
    parts: tuple[Part, ...]
    width: float
    height: float
    depth: float
    italic: float
    skew: float
    left: float
    right: float


# The fonts of each family, by what they are used for, and those that are tried for signs that it lacks.
_ROLES = ("rm", "it", "bf", "bfit", "sf", "tt", "textit")
_FAMILY_FONTS = {
    family: dict(zip(_ROLES, (NUMBER[name] for name in names), strict=True))
    for family, names in {
        "cm": ["cmr10", "cmmi10", "cmb10", "STIXGeneralBolIta", "cmss10", "cmtt10", "cmti10"],
        "stix": [
            *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
            *("cmss10", "cmtt10", "STIXGeneralItalic"),
        ],
        "dejavusans": [
            *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
            *("DejaVuSans", "DejaVuSansMono", "DejaVuSans-Oblique"),
        ],
        "dejavuserif": [
            *("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
            *("DejaVuSans", "DejaVuSansMono", "DejaVuSerif-Italic"),
        ],
    }.items()
}
_FALLBACK = {
    "cm": ("STIXGeneral", "DejaVuSans"),
    "stix": ("STIXGeneral", "STIXNonUni", "DejaVuSans"),
    "dejavusans": ("DejaVuSans", "STIXGeneral"),
    "dejavuserif": ("DejaVuSerif", "DejaVuSans", "STIXGeneral"),
}
_CM_PREFIX = {"r": NUMBER["cmr10"], "mi": NUMBER["cmmi10"], "sy": NUMBER["cmsy10"], "ex": NUMBER["cmex10"]}
_STIX = NUMBER["STIXGeneral"]

# Unicode's mathematical alphabets: where A, a and 0 start, and the letters that live elsewhere.
_MATH_ALPHABETS = {
    "bb": (0x1D538, 0x1D552, 0x1D7D8, dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True))),
    "scr": (0x1D49C, 0x1D4B6, None, dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ", strict=True))),
    "frak": (0x1D504, 0x1D51E, None, dict(zip("CHIRZ", "ℭℌℑℜℨ", strict=True))),
}


def find(token: str, alphabet: str, family: str, user_font: str = "", is_script: bool = False) -> Symbol | None:
    """The looks of a token, or None where no font has it.

    alphabet: "" for mathematics, or rm, bf, it, sf, tt, bb, cal, scr, frak, bfit; with a leading "text " inside text.
    is_script: in a script, where the dots of an ellipsis stand close.
    """
    entry = ENTRIES.get(token)
    role = alphabet.removeprefix("text ")
    if entry is None:
        return _unlisted(token, family, user_font) if len(token) == 1 else None
    if role and len(token) == 1 and token.isascii() and (token.isalnum() or alphabet != role):
        symbol = _in_alphabet(token, role, family)
        if symbol:
            return symbol
    if role == "bfit":
        symbol = _bold(entry, family)
        if symbol:
            return symbol
    return from_entry(entry, family, entry.computer_modern.replace(",", "+") if is_script else entry.computer_modern)


def find_operator(token: str, family: str) -> Symbol:
    """A large operator as it is in text."""
    entry = ENTRIES[token]
    symbol = from_entry(entry, family, entry.computer_modern)
    is_upright = token in INTEGRALS and symbol.parts[0].font != _CM_PREFIX["ex"]
    return _with_room_for_limits(symbol) if is_upright else symbol


def find_display(token: str, family: str) -> Symbol:
    """The larger form that it takes in display style; where a family has none, the text form enlarged."""
    entry = ENTRIES[token]
    if family == "cm" and entry.display:
        return composed("op", entry.display)
    symbol = find_operator(token, family)
    if family in ("cm", "stix"):
        font = NUMBER["STIXSizOneSymReg"]
        larger = _single("op", font, fonts.glyph_of_character(font, entry.code))
        if larger:
            symbol = _with_room_for_limits(larger) if token in INTEGRALS else larger
    return symbol


def display_growth(token: str, symbol: Symbol) -> float:
    """By how much the display form must still be enlarged."""
    height = symbol.height + symbol.depth
    return 1.0 if height > 1.3 or token == r"\smallint" else (2.2 if token in INTEGRALS else 1.4) / height


def _with_room_for_limits(symbol: Symbol) -> Symbol:
    """An integral sign whose metrics do not tell that it leans: its lower limit stands closer than its upper one."""
    ((font, glyph, _, _),) = symbol.parts
    points = fonts.outline(font, glyph).points
    foot = float(points[points[:, 1] < 0.3 * symbol.height - 0.7 * symbol.depth, 0].max())
    return symbol._replace(width=foot + 0.04, italic=symbol.right - foot)


def of_character(code: int, family: str) -> Symbol:
    """A character from the fonts of a family or their fallbacks."""
    return from_entry(Entry("ord", code), family)


def from_entry(entry: Entry, family: str, computer_modern_glyphs: str = "") -> Symbol | None:
    if entry.code == _PRIME:  # other families draw it small and high, as if it were a script already
        return composed(entry.kind, "sy.prime")
    if family == "cm" and entry.code == _ROOT:
        return _on_axis(composed(entry.kind, computer_modern_glyphs))
    if family == "cm" and entry.code in _DOTS:
        return _dots(entry)
    if family == "cm" and computer_modern_glyphs:
        return composed(entry.kind, computer_modern_glyphs)
    if entry.shape == "italic":
        italic = _FAMILY_FONTS[family]["it"]
        symbol = _single(entry.kind, italic, fonts.glyph_of_character(italic, entry.code), leans=True)
        if symbol and family != "cm":
            return symbol
    for name in _FALLBACK[family]:
        symbol = _single(entry.kind, NUMBER[name], fonts.glyph_of_character(NUMBER[name], entry.code))
        if symbol:
            return symbol
    return composed(entry.kind, computer_modern_glyphs) if computer_modern_glyphs else None


# Where the three dots of \vdots, \ddots and \iddots stand in plain TeX.
_DOTS = {
    0x22EE: [(0.0, 0.8), (0.0, 0.4), (0.0, 0.0)],
    0x22F1: [(1 / 18, 0.7), (1 / 18 + 0.389, 0.4), (1 / 18 + 0.778, 0.1)],
    0x22F0: [(1 / 18, 0.1), (1 / 18 + 0.389, 0.4), (1 / 18 + 0.778, 0.7)],
}
_PRIME, _ROOT = 0x2032, 0x221A


def _on_axis(symbol: Symbol) -> Symbol:
    """Computer Modern's radical sign hangs from the baseline, because roots place it by its top."""
    y = computer_modern.AXIS - (symbol.height - symbol.depth) / 2
    parts = tuple(part._replace(y=y) for part in symbol.parts)
    return symbol._replace(parts=parts, height=symbol.height + y, depth=symbol.depth - y)


def _dots(entry: Entry) -> Symbol:
    dot = composed("ord", "mi.period")
    ((font, glyph, _, _),) = dot.parts
    parts = tuple(Part(font, glyph, x, y) for x, y in _DOTS[entry.code])
    last = max(part.x for part in parts)
    height = 1.4 if last == 0 else 0.82
    return Symbol(entry.kind, parts, last + dot.width, height, 0.0, 0.0, 0.0, dot.left, last + dot.right)


def _single(kind: str, font: int, glyph: int, leans: bool = False, user_font: str = "") -> Symbol | None:
    """One glyph of a Unicode font; None for glyph 0, and for one without ink. What leans out of its width is italic."""
    ink = fonts.metrics(font, glyph, user_font)
    if not glyph or ink.right <= ink.left:
        return None
    parts = (Part(font, glyph, 0.0, 0.0),)
    italic = max(0.0, ink.right - ink.advance) if leans else 0.0
    return Symbol(kind, parts, ink.advance, ink.top, -ink.bottom, italic, italic / 2, ink.left, ink.right)


def composed(kind: str, glyphs: str) -> Symbol:
    """Glyphs of Computer Modern set one after another, as the symbol table says."""
    parts, x, height, depth, left, right, italic, skew = [], 0.0, -1.0, -1.0, 9.0, -9.0, 0.0, 0.0
    start = advance = 0.0  # of the last glyph
    is_overlaid = False
    for piece in re.findall(r"[+<,;~]|[^+<,;~]+", glyphs):
        if piece in _DISTANCES:
            x += _DISTANCES[piece]
            is_overlaid = piece == "~"
            continue
        prefix, name = piece.split(".")
        font = _CM_PREFIX[prefix]
        file = fonts.FONTS[font]
        glyph = fonts.glyph_of_name(font, name)
        ink = fonts.metrics(font, glyph)
        if is_overlaid:
            start += (advance - ink.advance) / 2
        else:
            start, advance, x = x, ink.advance, x + ink.advance
        parts.append(Part(font, glyph, start, 0.0))
        glyph_height, glyph_depth = computer_modern.EXTENT.get(file, {}).get(name, (ink.top, -ink.bottom))
        height, depth = max(height, glyph_height), max(depth, glyph_depth)
        left, right = min(left, start + ink.left), max(right, start + ink.right)
        italic = computer_modern.ITALIC[file].get(name, 0.0)
        skew = computer_modern.SKEW.get(file, {}).get(name, 0.0)
    return Symbol(kind, tuple(parts), x, height, depth, italic, skew, left, right)


_DISTANCES = {"+": 0.0, "<": -3 / 18, ",": 3 / 18, ";": 5 / 18, "~": 0.0}


def _in_alphabet(character: str, role: str, family: str) -> Symbol | None:
    """A letter, digit or text character in another alphabet; None where the alphabet lacks it."""
    if role == "cal" and family == "cm" and character.isupper():
        return composed("ord", f"sy.{character}")
    if role in ("bb", "scr", "frak", "cal"):
        capital, small, digit, elsewhere = _MATH_ALPHABETS["scr" if role == "cal" else role]
        if character in elsewhere:
            code = ord(elsewhere[character])
        elif character.isupper():
            code = capital + ord(character) - ord("A")
        elif character.islower():
            code = small + ord(character) - ord("a")
        elif digit is not None and character.isdigit():
            code = digit + int(character)
        else:
            return None
        return _single("ord", _STIX, fonts.glyph_of_character(_STIX, code))
    font = _FAMILY_FONTS[family]["textit" if role == "it" else role]
    return _single("ord", font, fonts.glyph_of_character(font, character), leans=role in ("it", "bfit"))


def _bold(entry: Entry, family: str) -> Symbol | None:
    """Greek letters and signs from a bold font, where it has them."""
    leans = entry.shape == "italic"
    font = _FAMILY_FONTS["stix" if family == "cm" else family]["bfit" if leans else "bf"]
    return _single(entry.kind, font, fonts.glyph_of_character(font, entry.code), leans)


def is_chinese(character: str) -> bool:
    """Han characters, their punctuation and full-width forms: what the fonts of Western mathematics never have."""
    code = ord(character)
    return any(low <= code <= high for low, high in _CHINESE)


_CHINESE = [(0x2E80, 0x9FFF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF)]
_FIRST_EMOJI = 0x1F000


def _unlisted(character: str, family: str, user_font: str) -> Symbol | None:
    """A character that no table names: Chinese from the user's font, other signs from the fallback fonts."""
    if is_chinese(character):
        glyph = fonts.glyph_of_character(USER_FONT, character, user_font) if user_font else 0
        if glyph:
            return _single("ord", USER_FONT, glyph, user_font=user_font)
        return {"、": find(",", "", family), "。": _low_ring()}.get(character)
    if character.isascii() or ord(character) >= _FIRST_EMOJI:
        return None
    for name in _FALLBACK[family]:
        symbol = _single("ord", NUMBER[name], fonts.glyph_of_character(NUMBER[name], character))
        if symbol:
            return symbol
    return None


def missing_characters(user_font: str, tokens: Sequence[str]) -> list[str]:
    """The Chinese characters among tokens, whole or inside of one, that neither this font nor another one can draw.

    Raises DataError for what is no font.
    """
    characters = dict.fromkeys(character for token in tokens for character in token if is_chinese(character))
    fonts.glyph_of_character(USER_FONT, " ", user_font)  # a DataError, although there may be no character to look for
    return [character for character in characters if _unlisted(character, "cm", user_font) is None]


def _low_ring() -> Symbol:
    """A small ring on the baseline, the Chinese full stop."""
    ring = _single("punct", _STIX, fonts.glyph_of_character(_STIX, "°"))
    (part,) = ring.parts
    return ring._replace(parts=(part._replace(y=ring.depth),), height=ring.height + ring.depth, depth=0.0)
