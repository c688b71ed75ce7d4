"""What stands above and below: superscripts, subscripts, limits, the labels of arrows (rules 13a and 18)."""

from dataset.latex.parser import Node
from dataset.typesetter import decorations, symbols
from dataset.typesetter.boxes import DISPLAY, ORD, REL, SCALE, Box, Context
from dataset.typesetter.computer_modern import DIMENSIONS, SPACING1, SPACING2, SPACING3, SPACING4, X_HEIGHT

SCRIPT_SPACE = 0.05  # \scriptspace, 0.5 pt
BRACES = frozenset(r"\underbrace \overbrace \underbracket \overbracket".split())  # their scripts are labels


def set_scripts(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    base_node, below, above = node.children
    limits, _, primes = node.details
    kind, base = (ORD, Box()) if base_node is None else typesetter.set(base_node, context)
    superscript = _superscript(typesetter, above, primes, context.superscript())
    subscript = None if below is None else typesetter.row(below, context.subscript())
    place = with_limits if _takes_limits(base_node, limits, context) else with_scripts
    return ORD if kind is None else kind, place(base, superscript, subscript, context)


def _superscript(typesetter, above: Node | None, primes: tuple[int, ...], context: Context) -> Box | None:
    if not primes:
        return None if above is None else typesetter.row(above, context)
    parts = [typesetter.character("'", context.with_(alphabet=""), token) for token in primes]
    if above is not None:
        parts.append(typesetter.row(above, context))
    return typesetter.joined([ORD] * len(parts), parts, context)


def _takes_limits(base: Node | None, limits: str, context: Context) -> bool:
    if limits:
        return limits == r"\limits"
    if base is None:
        return False
    if base.kind == "accent":
        return base.name in BRACES
    if context.style != DISPLAY:
        return False
    if base.kind == "symbol":
        return base.name in symbols.FUNCTIONS_WITH_LIMITS or base.name in symbols.LARGE_OPERATORS - symbols.INTEGRALS
    return base.kind == "alphabet" and base.name in (r"\operatorname*", r"\mathop")


def with_scripts(base: Box, superscript: Box | None, subscript: Box | None, context: Context) -> Box:
    """Rule 18."""
    if superscript is None and subscript is None:
        return base
    scale, dimensions = context.scale, DIMENSIONS[context.size]
    script_size = context.subscript().size
    script_scale, script_dimensions = SCALE[script_size], DIMENSIONS[script_size]
    x_height, rule = X_HEIGHT * scale, dimensions.rule * scale
    up = down = 0.0
    if not base.is_character:
        up = base.height - script_dimensions.sup_drop * script_scale
        down = base.depth + script_dimensions.sub_drop * script_scale
    result = Box(base.width, base.height, base.depth, [(0.0, 0.0, base)])
    if superscript is None:
        down = max(down, dimensions.sub1 * scale, subscript.height - 0.8 * x_height)
    else:
        shift = dimensions.sup3 if context.cramped else dimensions.sup1 if context.style == DISPLAY else dimensions.sup2
        up = max(up, shift * scale, superscript.depth + 0.25 * x_height)
        if subscript is not None:
            down = max(down, dimensions.sub2 * scale)
            gap = (up - superscript.depth) - (subscript.height - down)
            if gap < 4 * rule:
                down += 4 * rule - gap
                lift = 0.8 * x_height - (up - superscript.depth)
                if lift > 0:
                    up, down = up + lift, down - lift
        result.boxes.append((base.width + base.italic, up, superscript))
        result.height = max(result.height, up + superscript.height)
        result.depth = max(result.depth, superscript.depth - up)
        result.width = base.width + base.italic + superscript.width
    if subscript is not None:
        result.boxes.append((base.width, -down, subscript))
        result.height = max(result.height, subscript.height - down)
        result.depth = max(result.depth, down + subscript.depth)
        result.width = max(result.width, base.width + subscript.width)
    result.width += SCRIPT_SPACE
    return result


def with_limits(base: Box, above: Box | None, below: Box | None, context: Context) -> Box:
    """Rule 13a. A slanted operator's upper limit stands a little to the right, its lower one to the left."""
    padding = DIMENSIONS[context.size].spacing5
    base_width = base.width + base.italic
    width = max([base_width, *(box.width for box in (above, below) if box is not None)])
    result = Box(width, base.height, base.depth, [((width - base_width) / 2, 0.0, base)])
    if above is not None:
        y = base.height + max(SPACING1, SPACING3 - above.depth) + above.depth
        result.boxes.append(((width - above.width + base.italic) / 2, y, above))
        result.height = y + above.height + padding
    if below is not None:
        y = -base.depth - max(SPACING2, SPACING4 - below.height) - below.height
        result.boxes.append(((width - below.width - base.italic) / 2, y, below))
        result.depth = below.depth - y + padding
    return result


def set_stack(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    r"""\overset, \underset and \stackrel: the first argument is small, the second keeps its class."""
    first, second = node.children
    base = typesetter.row(second, context)
    kind = REL if node.name == r"\stackrel" else typesetter.class_of(second)
    if node.name == r"\underset":
        return kind, with_limits(base, None, typesetter.row(first, context.subscript()), context)
    return kind, with_limits(base, typesetter.row(first, context.superscript()), None, context)


def set_arrow(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    r"""\xrightarrow and its kin: an arrow as long as its labels, and 14 mu."""
    above_node, below_node = node.children
    above = typesetter.row(above_node, context.superscript())
    below = None if below_node is None else typesetter.row(below_node, context.subscript())
    width = max(above.width, below.width if below else 0.0) + 14 * typesetter.mu(context.superscript())
    arrow = decorations.long_arrow(typesetter, "\\" + node.name.removeprefix(r"\x"), width, context, node.token)
    return REL, with_limits(arrow, above if above_node.children else None, below, context)
