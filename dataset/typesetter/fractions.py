"""Fractions, binomials and roots (rules 11 and 15)."""

from dataset.latex.parser import Node
from dataset.typesetter import fonts
from dataset.typesetter.boxes import DISPLAY, LEAST_RULE, ORD, SCRIPTSCRIPT, TEXT, Box, Context, beside, raised, space
from dataset.typesetter.computer_modern import AXIS, DIMENSIONS, X_HEIGHT
from dataset.typesetter.delimiters import NULL_DELIMITER, delimiter, fitted

STYLE_OF = {r"\dfrac": DISPLAY, r"\dbinom": DISPLAY, r"\cfrac": DISPLAY, r"\tfrac": TEXT, r"\tbinom": TEXT}
STRUT = 0.85, 0.35  # \strut: height, depth


def set_fraction(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    """Rule 15."""
    name = node.name
    inner = context.with_(style=STYLE_OF.get(name))
    is_continued, has_rule = name == r"\cfrac", "binom" not in name
    above = typesetter.row(node.children[0], inner if is_continued else inner.numerator())
    below = typesetter.row(node.children[1], inner.with_(cramped=True) if is_continued else inner.denominator())
    if is_continued:
        above.height, above.depth = max(above.height, STRUT[0]), max(above.depth, STRUT[1])
    scale, dimensions = inner.scale, DIMENSIONS[inner.size]
    axis, rule = AXIS * scale, dimensions.rule * scale
    if inner.style == DISPLAY:
        up, down, clearance = dimensions.num1 * scale, dimensions.denom1 * scale, (3 if has_rule else 7) * rule
    else:
        up = (dimensions.num2 if has_rule else dimensions.num3) * scale
        down, clearance = dimensions.denom2 * scale, (1 if has_rule else 3) * rule
    if has_rule:
        up = max(up, axis + rule / 2 + clearance + above.depth)
        down = max(down, clearance + below.height + rule / 2 - axis)
    else:
        lack = max(0.0, clearance - (up - above.depth) + (below.height - down))
        up, down = up + lack / 2, down + lack / 2
    width = max(above.width, below.width, LEAST_RULE * scale)
    fraction = Box(width, up + above.height, down + below.depth)
    fraction.boxes = [((width - above.width) / 2, up, above), ((width - below.width) / 2, -down, below)]
    if has_rule:
        fraction.rules = [(0.0, axis - rule / 2, width, rule, node.token)]
        return ORD, beside([space(NULL_DELIMITER), fraction, space(0.0 if is_continued else NULL_DELIMITER)])
    height = (dimensions.delim1 if inner.style == DISPLAY else dimensions.delim2) * scale
    left, right = (delimiter(typesetter, sign, node.token, height, context) for sign in "()")
    return ORD, beside([left, fraction, right])


def set_root(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    r"""Rule 11, and \root of plain TeX for the degree."""
    radicand_node, degree_node = node.children
    radicand = typesetter.row(radicand_node, context.with_(cramped=True))
    scale = context.scale
    rule = DIMENSIONS[context.size].rule * scale
    clearance = rule + (X_HEIGHT * scale if context.style == DISPLAY else rule) / 4
    needed = radicand.height + radicand.depth + clearance + rule
    sign, thickness, elbow = _radical(typesetter, needed, context, node.token)
    excess = sign.height + sign.depth - thickness - (radicand.height + radicand.depth + clearance)
    clearance += max(excess, 0.0) / 2
    top = radicand.height + clearance + thickness
    body = Box(max(radicand.width, LEAST_RULE * scale), top, radicand.depth, [(0.0, 0.0, radicand)])
    body.rules = [(0.0, top - thickness, body.width, thickness, node.token)]
    root = beside([raised(sign, top - sign.height), body])
    root.height = top + rule
    if degree_node is None:
        return ORD, root
    degree = typesetter.row(degree_node, context.with_(style=SCRIPTSCRIPT, cramped=False))
    lift = 0.6 * (root.height - root.depth)
    shift = max(0.0, degree.width - elbow + 5 / 18 * scale)
    result = Box(shift + root.width, max(root.height, lift + degree.height), root.depth)
    result.boxes = [(shift, 0.0, root), (shift + elbow - degree.width, lift, degree)]
    return ORD, result


def _radical(typesetter, height: float, context: Context, token: int) -> tuple[Box, float, float]:
    """A radical sign at least this high, the thickness of the rule that continues it, and where a degree ends."""
    font, glyph, wide, tall = fitted(typesetter, r"\surd", height, context.size)
    ink = fonts.metrics(font, glyph)
    box = Box(0.0, ink.top * tall, -ink.bottom * tall, marks=[(0.0, 0.0, font, glyph, wide, tall, token)])
    if typesetter.is_computer_modern:
        box.width = ink.advance * wide
        thickness = 0.04 * wide / typesetter.widening(font, context.size)
        return box, thickness, 10 / 18 * context.scale  # \root: the degree reaches 10 mu into the sign
    box.width = (ink.right - 0.01) * wide  # the rule starts inside the sign's tip, so that no gap shows
    return box, 0.05 * context.scale, _upstroke(font, glyph) * wide


def _upstroke(font: int, glyph: int) -> float:
    """Where the long stroke of a radical sign stands at 60 % of its height, in em: the place left of it is free."""
    points = fonts.outline(font, glyph).points
    low, high = points[:, 1].min(), points[:, 1].max()
    foot = points[points[:, 1] < low + 0.1 * (high - low), 0].min()
    head = points[points[:, 1] > high - 0.1 * (high - low), 0].min()
    return float(foot + 0.6 * (head - foot))


def set_modulus(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    r"""\pmod and \pod of amsmath; the letters and the parentheses are the command's own."""
    mu = context.scale / 18
    content = typesetter.row(node.children[0], context)
    opening, closing = (typesetter.character(sign, context.with_(alphabet=""), node.token) for sign in "()")
    parts = [space((18 if context.style == DISPLAY else 8) * mu), opening]
    if node.name == r"\pmod":
        parts += [typesetter.character(r"\mod", context, node.token), space(6 * mu)]
    return ORD, beside([*parts, content, closing])
