r"""A tree of LaTeX becomes a box, by The TeXbook's appendix G and what amsmath adds to it.

Here are symbols and rows of them; each other kind of node has a setter, `(typesetter, node, context) -> (class, Box)`,
in the room that its name says. Every glyph and every rule carries the index of the token that drew it.
"""

from typing import NamedTuple

from dataset.latex.parser import LatexError, Node
from dataset.typesetter import computer_modern, decorations, delimiters, fractions, matrices, scripts, symbols
from dataset.typesetter.boxes import (
    BIN,
    CLASS,
    CLOSE,
    DISPLAY,
    INNER,
    OP,
    OPEN,
    ORD,
    PUNCT,
    REL,
    SCALE,
    SCRIPT,
    SCRIPTSCRIPT,
    SPACING,
    TEXT,
    Box,
    Context,
    space,
)
from dataset.typesetter.computer_modern import AXIS, DIMENSIONS
from dataset.typesetter.fonts import FONTS

SPACE_MU = {r"\!": -3, r"\negthinspace": -3, r"\qquad": 36, r"\quad": 18, r"\enspace": 9, "~": 6, "\\ ": 6}
SPACE_MU |= dict.fromkeys([r"\,", r"\thinspace"], 3) | dict.fromkeys([r"\:", r"\>", r"\medspace"], 4)
SPACE_MU |= dict.fromkeys([r"\;", r"\thickspace"], 5)

STYLES = {r"\displaystyle": DISPLAY, r"\textstyle": TEXT, r"\scriptstyle": SCRIPT, r"\scriptscriptstyle": SCRIPTSCRIPT}
DECLARED = {r"\rm": "rm", r"\bf": "bf", r"\it": "it", r"\sf": "sf", r"\tt": "tt", r"\cal": "cal", r"\frak": "frak"}
DECLARED[r"\boldmath"] = "bfit"

ALPHABET = {
    r"\mathrm": "rm",
    r"\mathbf": "bf",
    r"\mathit": "it",
    r"\mathsf": "sf",
    r"\mathtt": "tt",
    r"\mathbb": "bb",
    r"\mathcal": "cal",
    r"\mathscr": "scr",
    r"\mathfrak": "frak",
    r"\mathnormal": "",
    r"\operatorname": "rm",
    r"\operatorname*": "rm",
    r"\textbf": "text bf",
    r"\textit": "text it",
    r"\emph": "text it",
    r"\textsf": "text sf",
    r"\texttt": "text tt",
}
ALPHABET |= dict.fromkeys([r"\boldsymbol", r"\bm", r"\pmb"], "bfit")
ALPHABET |= dict.fromkeys([r"\text", r"\textrm", r"\textnormal", r"\textup", r"\mbox", r"\hbox"], "text rm")

CLASS_COMMANDS = {
    r"\mathop": OP,
    r"\operatorname": OP,
    r"\operatorname*": OP,
    r"\mathrel": REL,
    r"\mathbin": BIN,
    r"\mathord": ORD,
    r"\mathopen": OPEN,
    r"\mathclose": CLOSE,
    r"\mathpunct": PUNCT,
    r"\mathinner": INNER,
}


class Sized(NamedTuple):
    """A symbol at one size: its class, its measures in em, its glyphs as marks that lack their token."""

    kind: int
    width: float
    height: float
    depth: float
    italic: float
    skew: float
    marks: tuple

    def grown(self, growth: float) -> "Sized":
        marks = [
            (growth * x, growth * y, font, glyph, growth * sx, growth * sy) for x, y, font, glyph, sx, sy in self.marks
        ]
        return Sized(self.kind, *(growth * measure for measure in self[1:6]), tuple(marks))


class Typesetter:
    """Sets trees in one font family. It remembers what it has looked up, so one should serve many labels.

    user_font: path of a font for Chinese, or "".
    max_width, max_height: em beyond which a label is refused, as early as that is known.
    """

    def __init__(self, family: str, user_font: str = "", max_width: float = 300.0, max_height: float = 100.0):
        self.family, self.user_font, self.max_width, self.max_height = family, user_font, max_width, max_height
        self.is_computer_modern = family == "cm"
        self.sizes: dict[tuple, Sized] = {}
        self.delimiters: dict[str, list] = {}

    def set_label(self, tree: Node, is_display: bool) -> Box:
        """The box of a whole label. Raises LatexError for what has no looks, and for what is too large."""
        box = self.row(tree, Context(DISPLAY if is_display else TEXT))
        self.check_size(box.width, box.height + box.depth, 0)
        return box

    def set(self, node: Node, context: Context) -> tuple[int | None, Box]:
        """The class and the box of one node; the class of a space is None."""
        return SETTERS[node.kind](self, node, context)

    def check_size(self, width: float, height: float, token: int) -> None:
        if width > self.max_width:
            raise LatexError(token, f"wider than the style's max_width_em = {self.max_width:g}")
        if height > self.max_height:
            raise LatexError(token, f"higher than the style's max_height_em = {self.max_height:g}")

    # ---- rows --------------------------------------------------------------------------------------------------------

    def row(self, node: Node, context: Context) -> Box:
        kinds, parts, width = [], [], 0.0
        for child in node.children:
            if child.kind == "declaration":
                context = declare(child.name, context)
                continue
            kind, box = SETTERS[child.kind](self, child, context)
            kinds.append(kind)
            parts.append(box)
            width += box.width
            if width > self.max_width:
                self.check_size(width, 0.0, child.start)
        return self.joined(kinds, parts, context)

    def joined(self, kinds: list[int | None], parts: list[Box], context: Context) -> Box:
        """Atoms to a row: binary signs without two operands are ordinary (rules 5, 6), spaces go between (rule 20)."""
        previous = None
        for index, kind in enumerate(kinds):
            if kind is None:
                continue
            if kind == BIN and (previous is None or kinds[previous] in (BIN, OP, REL, OPEN, PUNCT)):
                kinds[index] = ORD
            elif kind in (REL, CLOSE, PUNCT) and previous is not None and kinds[previous] == BIN:
                kinds[previous] = ORD
            previous = index
        if previous is not None and kinds[previous] == BIN:
            kinds[previous] = ORD
        mu, is_script = self.mu(context), context.style >= SCRIPT
        row = Box()
        x = height = depth = 0.0
        before = None
        for kind, box in zip(kinds, parts, strict=True):
            if kind is not None:
                if before is not None:
                    x += SPACING[before][kind][is_script] * mu
                before = kind
            if box.is_character:
                for left, bottom, *rest in box.marks:
                    row.marks.append((x + left, bottom, *rest))
            else:
                row.boxes.append((x, 0.0, box))
            x += box.width + box.italic
            if box.height > height:
                height = box.height
            if box.depth > depth:
                depth = box.depth
        row.width, row.height, row.depth = x, height, depth
        return row

    def mu(self, context: Context) -> float:
        """An eighteenth of the symbol font's quad, which grows against the letters in Computer Modern's small sizes."""
        quad = DIMENSIONS[context.size].quad if self.is_computer_modern else 1.0
        return context.scale * quad / 18

    def class_of(self, row: Node) -> int:
        """The class of a row that holds one symbol; ordinary otherwise."""
        if len(row.children) == 1 and row.children[0].kind == "symbol":
            name = row.children[0].name
            if name in symbols.FUNCTIONS:
                return OP
            if name in symbols.ENTRIES:
                return CLASS[symbols.ENTRIES[name].kind]
        return ORD

    # ---- symbols -----------------------------------------------------------------------------------------------------

    def character(self, name: str, context: Context, token: int) -> Box:
        return self.box_of(self.sized(name, context.alphabet, context.size, token), token)

    def box_of(self, sized: Sized, token: int) -> Box:
        box = Box(sized.width, sized.height, sized.depth)
        box.italic, box.skew, box.is_character = sized.italic, sized.skew, True
        box.marks = [(*mark, token) for mark in sized.marks]
        return box

    def sized(self, name: str, alphabet: str, size: int, token: int = 0) -> Sized:
        key = (name, alphabet, size)
        found = self.sizes.get(key)
        if found is None:
            found = self.sizes[key] = self.look_up(name, alphabet, size, token)
        return found

    def look_up(self, name: str, alphabet: str, size: int, token: int) -> Sized:
        if name in symbols.FUNCTIONS:
            return self.function_name(name, size)
        symbol = symbols.find(name, alphabet, self.family, self.user_font, is_script=size > 0)
        if symbol is None:
            raise LatexError(token, self.why_unknown(name))
        return self.scaled(symbol, size, ORD if alphabet.startswith("text ") else CLASS[symbol.kind])

    def why_unknown(self, name: str) -> str:
        if len(name) == 1 and symbols.is_chinese(name):
            if self.user_font:
                return f"the font {self.user_font} lacks '{name}'"
            return f"Chinese needs a font to draw '{name}': name a font file in data.chinese_font of the config"
        return f"unknown command '{name}'" if name.startswith("\\") else f"no font has a glyph for {name!r}"

    def scaled(self, symbol: symbols.Symbol, size: int, kind: int) -> Sized:
        scale = wide = SCALE[size]
        marks = []
        for font, glyph, x, y in symbol.parts:
            wide = scale * self.widening(font, size)
            marks.append((x * wide, y * scale, font, glyph, wide, scale))
        italic, skew = symbol.italic * wide, symbol.skew * wide
        return Sized(kind, symbol.width * wide, symbol.height * scale, symbol.depth * scale, italic, skew, tuple(marks))

    def widening(self, font: int, size: int) -> float:
        return computer_modern.WIDENING[FONTS[font]][size] if size and font < 4 else 1.0

    def function_name(self, name: str, size: int) -> Sized:
        marks, x, height, depth = [], 0.0, 0.0, 0.0
        for letter in symbols.SPELLING.get(name, name[1:]):
            if letter == " ":
                x += SCALE[size] * 3 / 18
                continue
            sized = self.sized(letter, "rm", size)
            ((left, bottom, *glyph),) = sized.marks
            marks.append((x + left, bottom, *glyph))
            x, height, depth = x + sized.width, max(height, sized.height), max(depth, sized.depth)
        if name == r"\bmod":  # 5 mu on both sides, one more than other binary operators
            mu = SCALE[size] / 18
            marks = [(left + mu, *rest) for left, *rest in marks]
            return Sized(BIN, x + 2 * mu, height, depth, 0.0, 0.0, tuple(marks))
        return Sized(OP, x, height, depth, 0.0, 0.0, tuple(marks))

    def large_operator(self, name: str, context: Context, token: int) -> Box:
        """Rule 13: the larger form in display style, its middle on the axis."""
        is_display = context.style == DISPLAY
        key = (name, "display" if is_display else "operator", context.size)
        sized = self.sizes.get(key)
        if sized is None:
            symbol = (symbols.find_display if is_display else symbols.find_operator)(name, self.family)
            sized = self.scaled(symbol, context.size, OP)
            if is_display:
                sized = sized.grown(symbols.display_growth(name, symbol))
            self.sizes[key] = sized
        box = self.box_of(sized, token)
        shift = (box.depth - box.height) / 2 + AXIS * context.scale
        box.marks = [(x, y + shift, *rest) for x, y, *rest in box.marks]
        box.height, box.depth, box.is_character = box.height + shift, box.depth - shift, False
        return box


# ---- the setters of this room ----------------------------------------------------------------------------------------


def declare(name: str, context: Context) -> Context:
    r"""The context after \displaystyle, \bf or their like."""
    return context.with_(style=STYLES[name]) if name in STYLES else context.with_(alphabet=DECLARED[name])


def set_symbol(typesetter: Typesetter, node: Node, context: Context) -> tuple[int, Box]:
    name = node.name
    if name in symbols.LARGE_OPERATORS:
        return OP, typesetter.large_operator(name, context, node.token)
    sized = typesetter.sized(name, context.alphabet, context.size, node.token)
    box = typesetter.box_of(sized, node.token)
    box.is_character = name not in symbols.FUNCTIONS  # to TeX a function's name is a box: its scripts stand higher
    return sized.kind, box


def set_group(typesetter: Typesetter, node: Node, context: Context) -> tuple[int, Box]:
    return ORD, typesetter.row(node.children[0], context)


def set_space(typesetter: Typesetter, node: Node, context: Context) -> tuple[None, Box]:
    return None, space(SPACE_MU[node.name] * context.scale / 18)


def set_alphabet(typesetter: Typesetter, node: Node, context: Context) -> tuple[int, Box]:
    name, row = node.name, node.children[0]
    alphabet = ALPHABET.get(name, context.alphabet)
    if name in (r"\mbox", r"\hbox"):
        context = context.with_(style=TEXT)
    box = typesetter.row(row, context.with_(alphabet=alphabet))
    if name in CLASS_COMMANDS:
        return CLASS_COMMANDS[name], box
    return ORD if alphabet.startswith("text") else typesetter.class_of(row), box


SETTERS = {
    "symbol": set_symbol,
    "group": set_group,
    "space": set_space,
    "alphabet": set_alphabet,
    "scripts": scripts.set_scripts,
    "stack": scripts.set_stack,
    "arrow": scripts.set_arrow,
    "fraction": fractions.set_fraction,
    "root": fractions.set_root,
    "modulus": fractions.set_modulus,
    "delimited": delimiters.set_delimited,
    "big": delimiters.set_big,
    "accent": decorations.set_accent,
    "negation": decorations.set_negation,
    "matrix": matrices.set_matrix,
    "substack": matrices.set_substack,
}
