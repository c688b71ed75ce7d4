"""InkML: pen strokes with their truth, as CROHME distributes them.

An InkML file holds traces (the pen's path from touching down to lifting off), the truth as LaTeX and as MathML, and
groups that say which traces make which symbol. Read here: traces, symbols, and the truth as a label in CROHME's 110
tokens. `rasterise` draws traces by the rule of the official picture package.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import cv2
import numpy as np

from utils.errors import DataError

# The height, in pixels, that a trace of ordinary size gets, and the paper around the ink of a picture.
TRACE_HEIGHT = 28
LEFT_TOP, RIGHT_BOTTOM = 12, 11
PEN = 3
# No trace is drawn longer than this many ordinary heights (39.4 is the longest in CROHME): without it a lone minus
# sign, whose height is nearly zero, would become thousands of pixels wide.
LONGEST_TRACE = 40
MAX_SIDE = 20_000
MAX_DEPTH = 200  # of XML elements and of LaTeX groups; CROHME has less than 60

CROHME_TOKENS = frozenset(
    r"""! ' ( ) + , - . / 0 1 2 3 4 5 6 7 8 9 < = > A B C E F G H I L M N P R S T V X Y [ ] ^ _ { | }
    a b c d e f g h i j k l m n o p q r s t u v w x y z \Delta \alpha \beta \cdot \cdots \cos \div \exists \forall
    \frac \gamma \geq \in \infty \int \lambda \ldots \leq \lim \limits \log \mu \neq \phi \pi \pm \prime \rightarrow
    \sigma \sin \sqrt \sum \tan \theta \times \{ \}""".split()
)


@dataclass(frozen=True)
class Symbol:
    """One written symbol. label: its token.   traces: indices of its traces.   token: place in the label or None."""

    label: str
    traces: tuple[int, ...]
    token: int | None = None


@dataclass(frozen=True)
class Ink:
    """One written expression. traces: each float64 (points, 2), x to the right and y down, in the units of the pen.

    tokens: the label, None where the file has no truth.   symbols: in the order of the file, empty without groups.
    """

    name: str
    traces: list[np.ndarray]
    tokens: list[str] | None
    symbols: list[Symbol]


def read_inkml(path: str | Path, needs_truth: bool = False) -> Ink:
    """Read one InkML file.

    Raises DataError, naming the file and what was expected, when it is missing, empty, truncated or not XML, defines
    entities, has no traces, or a trace that is not a list of finite numbers; with `needs_truth` also without truth.
    """
    path = Path(path)
    root = _parse_xml(path)
    if _tag(root) != "ink":
        raise DataError(f"{path}: expected an InkML file, whose outermost element is <ink>, got <{_tag(root)}>")
    elements = [element for element in root.iter() if _tag(element) == "trace"]
    if not elements:
        raise DataError(f"{path}: has no traces; expected at least one <trace> with points `x y, x y, …`")
    channels = [element.get("name") for element in root.iter() if _tag(element) == "channel"]
    columns = [channels.index(name) if name in channels else place for place, name in enumerate("XY")]
    traces = [_points(element, columns, path) for element in elements]
    trace_index = {element.get("id", element.get("xml:id", "")): index for index, element in enumerate(elements)}

    latex = next((e.text for e in root if _tag(e) == "annotation" and e.get("type") == "truth"), None)
    math = next((element for element in root.iter() if _tag(element) == "math"), None)
    tokens = None
    if latex or math is not None:
        try:
            tokens = truth_tokens(latex, math)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    elif needs_truth:
        raise DataError(f'{path}: has no truth; expected <annotation type="truth"> with LaTeX, or <math> with MathML')
    try:
        symbols = list(_symbols(root, trace_index, _token_of_id(math, tokens)))
    except KeyError as error:
        raise DataError(f"{path}: a <traceView> refers to the trace {error}, which is not in the file") from None
    return Ink(path.stem, traces, tokens, symbols)


# ---------------------------------------------------------------------------------------------------------------- XML


def _parse_xml(path: Path) -> Element:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not data.strip():
        raise DataError(f"{path}: is empty; expected an InkML file")
    try:
        return _build(data)
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]:
            try:  # files that say UTF-8, or nothing, and are Latin-1
                return _build(data, "iso-8859-1")
            except expat.ExpatError:
                pass
        problem = f"is truncated or not XML ({expat.ErrorString(error.code)})"
        raise DataError(f"{path}, line {error.lineno}: {problem}; expected an InkML file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _build(data: bytes, encoding: str | None = None) -> Element:
    """The tree of an XML file. Nothing outside the file is ever read, and entities of its own are refused."""
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(encoding), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"elements are nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(name: str, *_: object) -> None:
        raise DataError(f"defines the XML entity {name!r}; InkML needs none, and they can grow without bound")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, refuse
    parser.Parse(data, True)
    return builder.close()


def _tag(element: Element) -> str:
    return element.tag.rpartition(":")[2]  # without a namespace prefix


def _points(element: Element, columns: Sequence[int], path: Path) -> np.ndarray:
    x, y = columns
    where = f"{path}: trace {element.get('id', element.get('xml:id', '?'))!r}"
    try:
        points = [point.split() for point in (element.text or "").strip().rstrip(",").split(",")]
        trace = np.array([(float(point[x]), float(point[y])) for point in points])
    except (ValueError, IndexError):
        raise DataError(f"{where} is not a list of points `x y, x y, …`") from None
    if not np.isfinite(trace).all():
        raise DataError(f"{where} has a coordinate that is not a finite number")
    return trace


def _symbols(root: Element, trace_index: dict[str, int], token_of_id: dict[str, int]) -> Iterator[Symbol]:
    for group in root.iter():
        views = [view for view in group if _tag(view) == "traceView"]
        if _tag(group) != "traceGroup" or not views:
            continue
        label = next((e.text or "" for e in group if _tag(e) == "annotation" and e.get("type") == "truth"), "")
        link = next((e.get("href", "") for e in group if _tag(e) == "annotationXML"), "")
        traces = tuple(trace_index[view.get("traceDataRef", "").lstrip("#")] for view in views)
        yield Symbol("".join(_leaf(label)), traces, token_of_id.get(link))


def _token_of_id(math: Element | None, tokens: list[str] | None) -> dict[str, int]:
    """Where in the label each MathML element stands; only elements on which label and MathML agree are in it."""
    try:
        written = [] if math is None else _mathml(math)
    except DataError:
        return {}
    blocks = SequenceMatcher(None, [token for token, _ in written], tokens or [], autojunk=False).get_matching_blocks()
    pairs = ((written[a + i][1], b + i) for a, b, size in blocks for i in range(size))
    return {identity: place for identity, place in pairs if identity}


# -------------------------------------------------------------------------------------------------------------- truth


def truth_tokens(latex: str | None, math: Element | None = None) -> list[str]:
    """The label of an expression: braces always, subscript before superscript, `\\limits` after `\\int` only.

    latex: the LaTeX truth.   math: the `<math>` element. The published labels follow the LaTeX truth, so it comes
    first; where it cannot be read, or uses a token that CROHME does not have, the MathML is taken instead.
    Raises DataError when neither can be read.
    """
    labels, problems = [], []
    for read, truth in ((_latex, latex), (lambda math: [token for token, _ in _mathml(math)], math)):
        if truth is None or (isinstance(truth, str) and not truth.strip(" $\n\t")):
            continue
        try:
            labels.append(read(truth))
        except DataError as error:
            problems.append(str(error))
    if not labels:
        raise DataError("; ".join(problems) or "the truth is empty")
    return next((label for label in labels if CROHME_TOKENS.issuperset(label)), labels[0])


_PIECE = re.compile(r"\\[A-Za-z]+|\\.|\S", re.DOTALL)
# What changes how a formula looks and not what it says, and `\left.`, a bracket that is not there.
_LOOKS = re.compile(
    r"\\(left|right) *\.|\\(left|right|[bB]igg?[lr]?|mbox|text|mathrm|mathit|mathbf|displaystyle|q?quad)(?![A-Za-z])"
    r"|\\[ ,:;!]|\$"
)
_SAME = {r"\lt": "<", r"\gt": ">", r"\to": r"\rightarrow", r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq",
         r"\lbrack": "[", r"\rbrack": "]", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|"}  # fmt: skip


def _latex(latex: str) -> list[str]:
    pieces = [_SAME.get(piece, piece) for piece in _PIECE.findall(_LOOKS.sub(" ", latex).replace(r"\parallel", "||"))]
    # Empty groups go: some truths write `_ {} ,` for a comma that hangs low, and its label is `_ { , }`.
    pieces = re.sub(r"(?<!\S)\{ \}(?!\S)", "", " ".join(pieces)).split()
    tokens = _LatexReader(pieces).row(None)
    for name in (r"\log", r"\lim"):  # written as letters in some truths, never in a label
        tokens = f" {' '.join(tokens)} ".replace(f" {' '.join(name[1:])} ", f" {name} ").split()
    return tokens


class _LatexReader:
    """A recursive-descent reader of the LaTeX in CROHME's truths."""

    def __init__(self, pieces: list[str]):
        self.pieces, self.next, self.depth = pieces, 0, 0

    def peek(self) -> str | None:
        return self.pieces[self.next] if self.next < len(self.pieces) else None

    def take(self) -> str:
        self.next += 1
        if self.next > len(self.pieces):
            raise DataError("the LaTeX truth ends too early")
        return self.pieces[self.next - 1]

    def row(self, end: str | None) -> list[str]:
        """Everything up to the closing piece, which is taken too."""
        tokens: list[str] = []
        while (piece := self.peek()) != end:
            if piece == "}":
                raise DataError("the LaTeX truth has a } without {")
            if piece in ("_", "^"):
                tokens += self.scripts()
            elif piece == r"\limits" and tokens[-1:] != [r"\int"]:  # sums and limits have theirs there anyway
                self.take()
            else:
                tokens += self.item()
        if end:
            self.take()
        return tokens

    def scripts(self) -> list[str]:
        scripts = []
        while self.peek() in ("_", "^"):
            scripts.append((self.take(), self.item()))
        scripts.sort(key=lambda script: script[0] == "^")
        return [token for mark, content in scripts for token in (mark, "{", *content, "}")]

    def item(self) -> list[str]:
        """One token, one group without its braces, or one command with its arguments."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise DataError(f"the LaTeX truth is nested more than {MAX_DEPTH} deep")
        piece = self.take()
        if piece == "{":
            tokens = self.row("}")
        elif piece == r"\frac":
            tokens = [piece, "{", *self.item(), "}", "{", *self.item(), "}"]
        elif piece == r"\sqrt":
            degree = []
            if self.peek() == "[":
                degree = [self.take(), *self.row("]"), "]"]
            tokens = [piece, *degree, "{", *self.item(), "}"]
        else:
            tokens = [piece]
        self.depth -= 1
        return tokens


_MATHML_NAMES = {"infin": r"\infty", "im": r"\lim", "ctdot": r"\cdots", "hellip": r"\ldots", "exist": r"\exists",
                 "rarr": r"\rightarrow", "{": r"\{", "}": r"\}"}  # fmt: skip
# What stands before, between and after the children of an element.
_MATHML_FORMS = {
    "mfrac": [r"\frac {", "} {", "}"],
    "msub": ["", "_ {", "}"],
    "munder": ["", "_ {", "}"],
    "msup": ["", "^ {", "}"],
    "msubsup": ["", "_ {", "} ^ {", "}"],
    "munderover": ["", "_ {", "} ^ {", "}"],
}


def _leaf(text: str) -> list[str]:
    """The tokens of a MathML leaf or a symbol's name: `alpha`, `\\alpha`, `≤`'s name `le`, or letters and digits."""
    text = text.strip()
    name = text.removeprefix("\\")
    word = _MATHML_NAMES.get(name, _SAME.get(f"\\{name}", f"\\{name}"))
    return [word] if word in CROHME_TOKENS or (text.startswith("\\") and len(name) > 1) else list(text)


def _mathml(element: Element) -> list[tuple[str, str | None]]:
    """The label of a MathML element: each token with the id of the element that it comes from, where it has one."""
    tag, identity = _tag(element), element.get("xml:id")
    if tag in ("mi", "mo", "mn", "mtext"):
        return [(token, identity) for token in _leaf(element.text or "")]
    children = [_mathml(child) for child in element]
    if tag == "mroot" and len(children) == 2:
        return [(r"\sqrt", identity), ("[", None), *children[1], ("]", None), ("{", None), *children[0], ("}", None)]
    if tag == "msqrt":
        forms, children = [r"\sqrt {", "}"], [sum(children, [])]
    elif tag in ("math", "mrow", "mstyle", "mpadded"):
        forms = [""] * (len(children) + 1)
    elif tag in _MATHML_FORMS:
        forms = _MATHML_FORMS[tag]
    else:
        raise DataError(f"the MathML truth has a <{tag}>, which CROHME does not use")
    if len(forms) != len(children) + 1:
        raise DataError(f"the MathML truth has a <{tag}> with {len(children)} children, expected {len(forms) - 1}")
    # The element's symbol is the first token, a bar or a root; the brace after it is nobody's.
    tokens = [(token, None if place else identity) for place, token in enumerate(forms[0].split())]
    for child, form in zip(children, forms[1:], strict=True):
        tokens += [*child, *((token, None) for token in form.split())]
    return tokens


# ----------------------------------------------------------------------------------------------------------- pictures


def pixel_traces(traces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scale traces to pixels, an ordinary trace being 28 high, and move them so that they begin at (0, 0).

    The rule of the official picture package: the mean is over traces at least a tenth as high as the highest one, and
    it is rounded down where all coordinates are integers. (That is the training set's rule, to the pixel. The test set
    of 2014 was drawn by another program, which leaves out a height of exactly a tenth and rounds points differently.)
    Raises DataError when a picture would have no sane size.
    """
    if not len(traces):
        raise DataError("expected at least one trace")
    extents = np.array([np.ptp(trace, axis=0) for trace in traces])
    heights = extents[:, 1]
    height = heights[heights >= heights.max() / 10].mean()
    if all((trace == np.floor(trace)).all() for trace in traces):
        height = np.floor(height)
    height = max(height, extents.max() / LONGEST_TRACE)
    scale = TRACE_HEIGHT / height if height else 1.0  # dots alone have no height
    corner = np.min([trace.min(axis=0) for trace in traces], axis=0)
    scaled = [(trace - corner) * scale for trace in traces]
    size = np.max([trace.max(axis=0) for trace in scaled], axis=0)
    if not (size < MAX_SIDE).all():
        raise DataError(f"a point lies far off: expected a picture below {MAX_SIDE} pixels, got {size.max():.0f}")
    return scaled


def draw_traces(traces: Sequence[np.ndarray], pen: int = PEN) -> np.ndarray:
    """Draw traces given in pixels: uint8 (H, W), ink 255 on paper 0. pen: width of a stroke in pixels, at least 1.

    Points are rounded, joined by lines of 1 px and dilated by a square; margins are 12 px left and top, 11 px right
    and bottom.
    """
    points = [np.floor(trace + 0.5).astype(np.int32) for trace in traces]
    low = np.min([trace.min(axis=0) for trace in points], axis=0)
    high = np.max([trace.max(axis=0) for trace in points], axis=0)
    width, height = high - low + pen + LEFT_TOP + RIGHT_BOTTOM
    offset = (LEFT_TOP + (pen - 1) // 2 - low).astype(np.int32)
    return draw_pixels([trace + offset for trace in points], (height, width), pen)


def draw_pixels(traces: Sequence[np.ndarray], size: Sequence[int], pen: int = PEN) -> np.ndarray:
    """uint8 (H, W), ink 255 on paper 0.   traces: int32 (points, 2), pixels of the picture.   size: H and W."""
    picture = np.zeros(size, np.uint8)
    cv2.polylines(picture, traces, False, 255, 1)
    columns, rows = np.concatenate(traces).T
    picture[rows, columns] = 255  # a line through a single point draws nothing
    return cv2.dilate(picture, np.ones((pen, pen), np.uint8))


def rasterise(traces: Sequence[np.ndarray], pen: int = PEN) -> np.ndarray:
    """Draw traces in any units as the official package does: uint8 (H, W), ink 255 on paper 0. See `pixel_traces`."""
    return draw_traces(pixel_traces(traces), pen)
