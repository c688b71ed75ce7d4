"""Lines and columns: matrices, arrays, cases, aligned equations, stacked limits (LaTeX's array, and amsmath)."""

from itertools import pairwise
from typing import NamedTuple

from dataset.latex.parser import FENCES, LatexError, Node
from dataset.typesetter.boxes import DISPLAY, INNER, ORD, SCRIPT, TEXT, Box, Context
from dataset.typesetter.computer_modern import AXIS, DIMENSIONS
from dataset.typesetter.delimiters import enclosed

STRUT = 0.84, 0.36  # the least height and depth of a line, for lines of 12 pt
_EMPTY = Node("group", "{", -1, 0, 0, (Node("row", "", -1, 0, 0),))


class Grid(NamedTuple):
    """How an environment sets its cells; lengths in em.

    columns: l, c or r for each column, repeated.
    gaps: before the second column, before the third, and so on in turn.   border: at both ends.
    style: of the cells, the surrounding one where it is None.   stretch: of the least height of a line.
    is_equation: every second column goes on where the one before it stopped, so a relation there keeps its distance.
    """

    columns: str = "c"
    gaps: tuple[float, float] = (1.0, 1.0)
    border: float = 0.0
    style: int | None = None
    stretch: float = 1.0
    is_equation: bool = False

    def gap(self, column: int) -> float:
        return self.gaps[(column + 1) % 2] if column else self.border

    def letter(self, column: int) -> str:
        return self.columns[column % len(self.columns)]


_ALIGNED = Grid("rl", (0.0, 1.0), style=DISPLAY, stretch=1.25, is_equation=True)
_GRIDS = {
    "array": Grid(border=0.5),
    "cases": Grid("l", stretch=1.2),
    "dcases": Grid("l", stretch=1.2, style=DISPLAY),
    "rcases": Grid("l", stretch=1.2),
    "smallmatrix": Grid(gaps=(0.28, 0.28), style=SCRIPT, stretch=0.75),
    "aligned": _ALIGNED,
    "align": _ALIGNED,
    "alignedat": _ALIGNED,
    "split": _ALIGNED,
    "eqnarray": Grid("rcl", (0.5, 0.5), style=DISPLAY, stretch=1.25, is_equation=True),
    "gathered": Grid(style=DISPLAY, stretch=1.25),
    "gather": Grid(style=DISPLAY, stretch=1.25),
    "equation": Grid(style=DISPLAY, stretch=1.25),
}


def set_matrix(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    _, columns, closing = node.details
    grid = _GRIDS.get(node.name.rstrip("*"), Grid())
    if node.name == "array":
        grid = grid._replace(columns=columns.replace("|", ""))
    inner = Context(max(context.style, TEXT) if grid.style is None else grid.style)
    strut = [side * grid.stretch * (context.scale if context.style >= SCRIPT else 1.0) for side in STRUT]
    cells, height = [], 0.0
    for line in node.children:
        if node.name == "array" and len(line.children) > len(grid.columns):
            raise LatexError(line.start, f"{len(line.children)} cells in a line of {len(grid.columns)} columns")
        cells.append(_line(typesetter, line, grid, inner))
        height += sum(strut)
        typesetter.check_size(0.0, height, line.start)  # what is far too large is refused before all of it is set
    table = _table(cells, grid, strut, columns if node.name == "array" else "", node.token)
    if node.name not in FENCES:
        return ORD, table
    left, right = FENCES[node.name]
    return INNER, enclosed(typesetter, [table], [(left, node.token), (right, closing)], context)


def _line(typesetter, line: Node, grid: Grid, context: Context) -> list[Box]:
    cells, width = [], 0.0
    for column, cell in enumerate(line.children):
        if grid.is_equation and column % 2:
            cell = cell._replace(children=(_EMPTY, *cell.children))
        cells.append(typesetter.row(cell, context))
        width += grid.gap(column) + cells[-1].width
        typesetter.check_size(width, 0.0, cell.start)
    return cells


def _table(cells: list[list[Box]], grid: Grid, strut: list[float], columns: str, token: int) -> Box:
    """Lines of cells in columns, the whole centred on the axis. columns: those of an array, with its rules, or ""."""
    count = max(len(line) for line in cells)
    widths = [max((line[column].width for line in cells if column < len(line)), default=0.0) for column in range(count)]
    starts, x = [], 0.0
    for column, width in enumerate(widths):
        starts.append(x + grid.gap(column))
        x = starts[-1] + width
    total = x + grid.border
    heights = [max([strut[0], *(cell.height for cell in line)]) for line in cells]
    depths = [max([strut[1], *(cell.depth for cell in line)]) for line in cells]
    height = sum(heights) + sum(depths)
    result = Box(total, height / 2 + AXIS, height / 2 - AXIS)
    y = result.height
    for line, above, below in zip(cells, heights, depths, strict=True):
        y -= above
        for column, cell in enumerate(line):
            share = {"l": 0.0, "c": 0.5, "r": 1.0}[grid.letter(column)]
            result.boxes.append((starts[column] + share * (widths[column] - cell.width), y, cell))
        y -= below
    column = 0
    for letter in columns:
        if letter == "|":  # an upright rule, in the middle of the gap
            edge = 0.0 if column == 0 else total if column >= count else starts[column] - grid.gaps[0] / 2
            result.rules.append((edge - 0.02, -result.depth, 0.04, height, token))
        else:
            column += 1
    return result


def set_substack(typesetter, node: Node, context: Context) -> tuple[int, Box]:
    """Lines close together, the whole centred on the axis."""
    scale, dimensions = context.scale, DIMENSIONS[context.size]
    distance, gap = (dimensions.num3 + dimensions.denom2) * scale, 3 * dimensions.rule * scale
    lines = [typesetter.row(line, context) for line in node.children]
    baselines = [0.0]
    for upper, lower in pairwise(lines):
        baselines.append(baselines[-1] - max(distance, upper.depth + gap + lower.height))
    width = max(line.width for line in lines)
    shift = AXIS * scale - (lines[0].height + baselines[-1] - lines[-1].depth) / 2
    result = Box(width, lines[0].height + shift, lines[-1].depth - baselines[-1] - shift)
    result.boxes = [((width - line.width) / 2, y + shift, line) for line, y in zip(lines, baselines, strict=True)]
    return ORD, result
