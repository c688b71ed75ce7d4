"""What goes on, under, around and through a piece: accents, lines, frames, arrows and braces (rules 9, 10 and 12)."""

from dataset.latex.parser import Node
from dataset.typesetter import fonts, symbols
from dataset.typesetter.boxes import DISPLAY, LEAST_RULE, OP, ORD, TEXT, Box, Context, stacked
from dataset.typesetter.computer_modern import AXIS, DIMENSIONS, X_HEIGHT
from dataset.typesetter.fonts import NUMBER

# Accents: the glyph of Computer Modern, "" for none, and the character in the other families.
ACCENTS = {
    r"\hat": ("r.circumflex", 0x2C6),
    r"\check": ("r.caron", 0x2C7),
    r"\tilde": ("r.tilde", 0x2DC),
    r"\acute": ("r.acute", 0xB4),
    r"\grave": ("r.grave", 0x60),
    r"\dot": ("r.dotaccent", 0x2D9),
    r"\ddot": ("r.dieresis", 0xA8),
    r"\dddot": ("r.dotaccent+r.dotaccent+r.dotaccent", 0x20DB),
    r"\breve": ("r.breve", 0x2D8),
    r"\bar": ("r.macron", 0xAF),
    r"\vec": ("mi.vector", 0x20D7),
    r"\mathring": ("r.ring", 0x2DA),
    r"\widehat": ("ex.hatwide", 0x2C6),
    r"\widetilde": ("ex.tildewide", 0x2DC),
    r"\widecheck": ("", 0x2C7),
    r"\wideparen": ("", 0x23DC),
    r"\overparen": ("", 0x23DC),
    r"\overarc": ("", 0x23DC),
}
_WIDE = (r"\wide", r"\over")
_STROKES = {r"\cancel": ["mi.slash"], r"\bcancel": ["sy.backslash"], r"\xcancel": ["mi.slash", "sy.backslash"]}
_BRACKETS = {"brace": (0x23DE, 0x23DF), "bracket": (0x23B4, 0x23B5), "paren": (0x23DC, 0x23DD)}
_STIX_SIZES = ["STIXGeneral"] + [f"STIXSiz{size}SymReg" for size in ("One", "Two", "Three", "Four", "Five")]


def set_accent(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    """Everything that takes one argument and decorates it."""
    name, child, token = node.name, node.children[0], node.token
    if name in ACCENTS:
        return ORD, _accented(typesetter, node, context)
    if name in (r"\boxed", r"\fbox"):
        return ORD, _boxed(typesetter.row(child, Context(DISPLAY if name == r"\boxed" else TEXT)), token)
    if name == r"\textcircled":
        return ORD, _circled(typesetter.row(child, context.with_(alphabet="text rm")), context, token)
    is_brace, is_above = name.endswith(("brace", "bracket")), name.startswith(r"\over")
    if name == r"\overline":
        context = context.with_(cramped=True)
    content = typesetter.row(child, context.with_(style=DISPLAY) if is_brace else context)
    if name.endswith("phantom"):
        return ORD, _phantom(content, name)
    if name.endswith("cancel"):
        return ORD, _cancelled(content, _STROKES[name], token)
    if name.endswith("line"):
        return ORD, _lined(content, is_above, context, token)
    if name.endswith("arrow"):
        arrow = "\\" + name.removeprefix(r"\over").removeprefix(r"\under")
        mark = long_arrow(typesetter, arrow, content.width, context, token)
        return ORD, stacked(content, mark, is_above, 0.0 if is_above else 0.13)
    mark = _long_bracket(typesetter, name, content.width, token)
    if is_brace:
        return OP, stacked(content, mark, is_above, 0.3, 0.3)
    return ORD, stacked(content, mark, is_above, 0.1)


# ---- accents ---------------------------------------------------------------------------------------------------------


def _accented(typesetter, node: Node, context: Context) -> Box:
    """Rule 12."""
    name, row = node.name, node.children[0]
    context = context.with_(cramped=True)
    skew = 0.0
    if len(row.children) == 1 and row.children[0].kind == "symbol":
        symbol = row.children[0]
        dotless = {"i": r"\imath", "j": r"\jmath"}.get(symbol.name)
        if dotless and not context.alphabet and not name.startswith(_WIDE):
            symbol = symbol._replace(name=dotless)
            row = row._replace(children=(symbol,))
        skew = typesetter.set(symbol, context)[1].skew
    content = typesetter.row(row, context)
    has_tex_metrics = typesetter.is_computer_modern and ACCENTS[name][0] != ""
    if has_tex_metrics:
        mark = _computer_modern_accent(typesetter, name, content.width, context, node.token)
        y = content.height - min(content.height, X_HEIGHT * context.scale)
    else:
        mark = _inked_accent(typesetter, name, content.width, context, node.token)
        y = content.height + (0.12 if name.startswith(_WIDE) else 0.08) * context.scale + mark.depth
    width = content.width if content.width > 0 else mark.width  # over nothing it stands alone
    result = Box(width, max(content.height, y + mark.height), content.depth)
    result.boxes = [(0.0, 0.0, content), (skew + (width - mark.width) / 2, y, mark)]
    return result


def _computer_modern_accent(typesetter, name: str, width: float, context: Context, token: int) -> Box:
    """An accent with TeX's metrics: drawn to stand above an x.

    Of three wide ones the widest that is no wider than its base.
    """
    glyph = ACCENTS[name][0]
    if glyph.startswith("ex."):
        for wider in (glyph + "r", glyph + "st"):
            if symbols.composed("ord", wider).width * context.scale <= width:
                glyph = wider
    symbol = symbols.composed("ord", glyph)
    box = typesetter.box_of(typesetter.scaled(symbol, context.size, ORD), token)
    box.width, box.is_character = box.width + box.italic, False
    return _widened(box, width) if name.startswith(_WIDE) and width > 1.25 * box.width else box


def _inked_accent(typesetter, name: str, width: float, context: Context, token: int) -> Box:
    """An accent of another family, as wide as its ink; the wide ones as wide as what they cover."""
    family = "stix" if typesetter.is_computer_modern else typesetter.family
    symbol = symbols.of_character(ACCENTS[name][1], family)
    box = typesetter.box_of(typesetter.scaled(symbol, context.size, ORD), token)
    left, right = symbol.left * context.scale, symbol.right * context.scale
    box.marks = [(x - left, *rest) for x, *rest in box.marks]
    box.width, box.is_character = right - left, False
    return _widened(box, width) if name.startswith(_WIDE) and width > box.width else box


def _widened(box: Box, width: float) -> Box:
    growth = width / box.width
    box.marks = [(x * growth, y, font, glyph, sx * growth, sy, token) for x, y, font, glyph, sx, sy, token in box.marks]
    box.width = width
    return box


# ---- lines, frames, strokes ------------------------------------------------------------------------------------------


def _lined(content: Box, is_above: bool, context: Context, token: int) -> Box:
    """Rules 9 and 10."""
    rule, width = DIMENSIONS[context.size].rule * context.scale, max(content.width, LEAST_RULE * context.scale)
    result = Box(width, content.height, content.depth, [(0.0, 0.0, content)])
    y = content.height + 3 * rule if is_above else -content.depth - 4 * rule
    result.rules = [(0.0, y, width, rule, token)]
    if is_above:
        result.height += 5 * rule
    else:
        result.depth += 5 * rule
    return result


def _boxed(content: Box, token: int) -> Box:
    gap, rule = 0.3, 0.04  # \fboxsep 3 pt, \fboxrule 0.4 pt
    border = gap + rule
    width, height, depth = max(content.width, 0.0) + 2 * border, content.height + border, content.depth + border
    result = Box(width, height, depth, [(border, 0.0, content)])
    for x, y, along, up in [
        (0.0, -depth, width, rule),
        (0.0, height - rule, width, rule),
        (0.0, -depth, rule, height + depth),
        (width - rule, -depth, rule, height + depth),
    ]:
        result.rules.append((x, y, along, up, token))
    return result


def _circled(content: Box, context: Context, token: int) -> Box:
    """A circle of 1 em, larger where the content needs it."""
    ((font, glyph, _, _),) = symbols.composed("ord", "sy.circlecopyrt").parts
    ink = fonts.metrics(font, glyph)
    growth = max(context.scale, max(content.width, content.height + content.depth) * 1.35 / (ink.right - ink.left))
    y = (content.height - content.depth) / 2 - (ink.top + ink.bottom) / 2 * growth
    result = Box(ink.advance * growth, ink.top * growth + y, -ink.bottom * growth - y)
    result.boxes = [((result.width - content.width) / 2, 0.0, content)]
    result.marks = [(0.0, y, font, glyph, growth, growth, token)]
    return result


def _phantom(content: Box, name: str) -> Box:
    """The room of something that is not drawn."""
    width = 0.0 if name == r"\vphantom" else content.width
    height, depth = (0.0, 0.0) if name == r"\hphantom" else (content.height, content.depth)
    return Box(width, height, depth)


def _cancelled(content: Box, strokes: list[str], token: int) -> Box:
    """Strokes through the whole of it."""
    result = Box(content.width, content.height, content.depth, [(0.0, 0.0, content)])
    for stroke in strokes:
        ((font, glyph, _, _),) = symbols.composed("ord", stroke).parts
        ink = fonts.metrics(font, glyph)
        wide = max(content.width, 0.3) / (ink.right - ink.left)
        tall = (content.height + content.depth + 0.1) / (ink.top - ink.bottom)
        y = -content.depth - 0.05 - ink.bottom * tall
        result.marks.append((-ink.left * wide, y, font, glyph, wide, tall, token))
    return result


def set_negation(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    r"""\not: a stroke through the middle of what follows."""
    struck = node.children[0]
    base = typesetter.row(struck, context)
    stroke = typesetter.scaled(symbols.composed("rel", "sy.negationslash"), context.size, ORD)
    ((_, y, font, glyph, wide, tall),) = stroke.marks
    ink = fonts.metrics(font, glyph)
    result = Box(base.width, max(base.height, stroke.height), max(base.depth, stroke.depth), [(0.0, 0.0, base)])
    result.marks = [(base.width / 2 - (ink.left + ink.right) / 2 * wide, y, font, glyph, wide, tall, node.token)]
    return typesetter.class_of(struck), result


# ---- arrows and braces of any length ---------------------------------------------------------------------------------

# What a long arrow is made of: the head at its left, its line, the head at its right.
_ARROWS = {
    r"\rightarrow": ("", "-", r"\rightarrow"),
    r"\leftarrow": (r"\leftarrow", "-", ""),
    r"\leftrightarrow": (r"\leftarrow", "-", r"\rightarrow"),
    r"\Rightarrow": ("", "=", r"\Rightarrow"),
    r"\Leftarrow": (r"\Leftarrow", "=", ""),
    r"\Leftrightarrow": (r"\Leftarrow", "=", r"\Rightarrow"),
    r"\longequal": ("", "=", ""),
    r"\mapsto": ("", "-", r"\rightarrow"),
    r"\hookrightarrow": ("", r"\hookrightarrow", ""),
    r"\hookleftarrow": ("", r"\hookleftarrow", ""),
    r"\rightleftharpoons": ("", r"\rightleftharpoons", ""),
    r"\leftrightharpoons": ("", r"\leftrightharpoons", ""),
}
_HEAD_BEARING, _TAIL_BEARING = 0.056, 0.083  # paper in front of a head, and behind a line


def long_arrow(typesetter, name: str, width: float, context: Context, token: int) -> Box:
    """An arrow at least this wide; amsmath's shortest is 1 em long, with two heads 1.22 em."""
    scale = context.scale
    left_head, line, right_head = _ARROWS[name]
    width = max(width, (1.222 if left_head and right_head else 1.0) * scale)
    result = Box(width, 0.367 * scale, 0.0)  # TeX counts less than the ink, which sets arrows close to what they cover
    start = (0.3 if left_head else _TAIL_BEARING) * scale
    end = width - (0.3 if right_head else _TAIL_BEARING) * scale
    _put_on_axis(typesetter, result, line, start, end, scale, token)
    if left_head:
        _put_on_axis(typesetter, result, left_head, _HEAD_BEARING * scale, None, scale, token)
    if right_head:
        _put_on_axis(typesetter, result, right_head, None, width - _HEAD_BEARING * scale, scale, token)
    if name == r"\mapsto":
        result.rules.append((start, (AXIS - 0.2) * scale, 0.04 * scale, 0.4 * scale, token))
    return result


def _put_on_axis(
    typesetter, box: Box, name: str, left: float | None, right: float | None, scale: float, token: int
) -> None:
    """Add a symbol with its middle on the axis, its ink from `left` to `right`, stretched where both are given."""
    family = typesetter.family
    symbol = symbols.find(name, "", family)
    if len(symbol.parts) > 1:
        symbol = symbols.of_character(symbols.ENTRIES[name].code, "stix")
    ((font, glyph, _, _),) = symbol.parts
    ink = fonts.metrics(font, glyph)
    wide = scale if left is None or right is None else (right - left) / (ink.right - ink.left)
    x = left - ink.left * wide if left is not None else right - ink.right * wide
    box.marks.append((x, (AXIS - (ink.top + ink.bottom) / 2) * scale, font, glyph, wide, scale, token))


def _long_bracket(typesetter, name: str, width: float, token: int) -> Box:
    """Computer Modern's braces are tips joined by rules; all others are the widest form that fits, stretched."""
    is_above, width = name.startswith(r"\over"), max(width, LEAST_RULE)
    if typesetter.is_computer_modern and name.endswith("brace"):
        return _tipped_brace(is_above, width, token)
    codes = next(codes for ending, codes in _BRACKETS.items() if name.endswith(ending))
    forms = [
        (NUMBER[font], fonts.glyph_of_character(NUMBER[font], codes[0 if is_above else 1])) for font in _STIX_SIZES
    ]
    forms = [(font, glyph, fonts.metrics(font, glyph)) for font, glyph in forms if glyph]
    fitting = [form for form in forms if form[2].right - form[2].left <= width]
    font, glyph, ink = (fitting or forms[:1])[-1]
    stretch = width / (ink.right - ink.left)
    box = Box(width, ink.top - ink.bottom, 0.0)
    box.marks = [(-ink.left * stretch, -ink.bottom, font, glyph, stretch, 1.0, token)]
    return box


def _tipped_brace(is_above: bool, width: float, token: int) -> Box:
    r"""\downbracefill and \upbracefill of plain TeX. The tips reach out of the box, into the gaps around it."""
    tips = (
        ("downleft", "upright", "upleft", "downright") if is_above else ("upleft", "downright", "downleft", "upright")
    )
    font = NUMBER["cmex10"]
    tip_width, thickness = 0.45, 0.12
    width = max(width, 4 * tip_width)
    rule = (width - 4 * tip_width) / 2
    box, x = Box(width, thickness, 0.0), 0.0
    for place, tip in enumerate(tips):
        box.marks.append((x, 0.0, font, fonts.glyph_of_name(font, f"bracehtip{tip}"), 1.0, 1.0, token))
        x += tip_width
        if place in (0, 2):
            if rule > 0:
                box.rules.append((x - 0.01, 0.0, rule + 0.02, thickness, token))
            x += rule
    return box
