"""InkML: pen strokes with their truth, as CROHME and MathWriting distribute them, and how they are drawn.

An InkML file holds traces (the pen's path from touching down to lifting off), the truth as LaTeX and as MathML, and
groups that say which traces make which symbol. `rasterise` draws traces by the rule of the official image package.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import cv2
import numpy as np

from dataset.formats.ink_traces import read_traces, tag_of
from dataset.formats.ink_truth import leaf_tokens, mathml_tokens, tree_tokens, truth_tokens
from utils.errors import DataError
from utils.reading.images import MAX_PIXELS

# The height, in pixels, that a trace of ordinary size gets, and the paper around the ink of an image.
TRACE_HEIGHT = 28
LEFT_TOP, RIGHT_BOTTOM = 12, 11
PEN = 3
# No trace is drawn longer than this many ordinary heights (39.4 is the longest in CROHME): without it a lone minus
# sign, whose height is nearly zero, would become thousands of pixels wide.
LONGEST_TRACE = 40
MAX_SIDE = 20_000
MAX_DEPTH = 200  # of XML elements; CROHME has less than 60
# The annotations that hold the truth: of CROHME, then of MathWriting; the first that a file has is taken.
CROHME_TRUTH = "truth"
TRUTHS = (CROHME_TRUTH, "normalizedLabel", "label")


@dataclass(frozen=True)
class Symbol:
    """One written symbol. label: its token.   traces: indices of its traces.   token: index in the label or None."""

    label: str
    traces: tuple[int, ...]
    token: int | None = None


@dataclass(frozen=True)
class Ink:
    """One written expression. traces: each float64 (points, 2), x to the right and y down, in the units of the pen.

    tokens: the label, None where the file has no truth.   symbols: in the order of the file, empty without groups.
    writer: as the file calls the person who wrote it, "" where it does not.
    """

    name: str
    traces: list[np.ndarray]
    tokens: list[str] | None
    symbols: list[Symbol]
    writer: str = ""


def read_inkml(path: str | Path, needs_truth: bool = False, truths: Sequence[str] = TRUTHS) -> Ink:
    """Read one InkML file.

    truths: the types of annotations that may hold the truth; the first that the file has is taken.
    Raises DataError, naming the file and what was expected, when it is missing, empty, truncated or not XML, defines
    entities, has no traces, or a trace that is not a list of finite numbers; with `needs_truth` also where there is no
    truth or none that can be a label.
    """
    path = Path(path)
    root = _parse_xml(path)
    if tag_of(root) != "ink":
        raise DataError(f"{path}: expected an InkML file, whose outermost element is <ink>, got <{tag_of(root)}>")
    try:
        traces, index_of_id = read_traces(root)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if not traces:
        raise DataError(f"{path}: has no traces; expected at least one <trace> with points `x y, x y, …`")
    math = next((element for element in root.iter() if tag_of(element) == "math"), None)
    tokens = _label_of(root, math, path, needs_truth, truths)
    try:
        symbols = list(_symbols(root, index_of_id, _token_of_id(math, tokens)))
    except KeyError as error:
        raise DataError(f"{path}: a <traceView> refers to the trace {error}, which is not in the file") from None
    return Ink(path.stem, traces, tokens, symbols, " ".join(_annotations(root).get("writer", "").split()))


def _label_of(
    root: Element, math: Element | None, path: Path, needs_truth: bool, truths: Sequence[str]
) -> list[str] | None:
    """The tokens of the truth. None where there is none, or none that can be read and none is needed."""
    written = _annotations(root)
    kind = next((kind for kind in truths if kind in written), None)
    if kind is None and (math is None or CROHME_TRUTH not in truths):
        if needs_truth:
            expected = ", ".join(f'<annotation type="{kind}">' for kind in truths)
            with_math = ", or <math> with MathML" if CROHME_TRUTH in truths else ""
            raise DataError(f"{path}: has no truth; expected {expected} with LaTeX{with_math}")
        return None
    try:
        return truth_tokens(written.get(kind), math) if kind in (CROHME_TRUTH, None) else tree_tokens(written[kind])
    except DataError as error:
        if needs_truth:
            raise DataError(f"{path}: {error}") from None
        return None


def _annotations(root: Element) -> dict[str, str]:
    """What the file says of the ink as a whole, by type; the first of each type that is not empty."""
    return {e.get("type"): e.text for e in reversed(root) if tag_of(e) == "annotation" and (e.text or "").strip()}


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
    except (DataError, LookupError, ValueError) as error:  # the last two: of an encoding that Python does not know
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


def _symbols(root: Element, trace_index: dict[str, int | None], token_of_id: dict[str, int]) -> Iterator[Symbol]:
    for group in root.iter():
        views = [view for view in group if tag_of(view) == "traceView"]
        if tag_of(group) != "traceGroup" or not views:
            continue
        label = next((e.text or "" for e in group if tag_of(e) == "annotation" and e.get("type") == "truth"), "")
        link = next((e.get("href", "") for e in group if tag_of(e) == "annotationXML"), "")
        traces = [trace_index[view.get("traceDataRef", "").lstrip("#")] for view in views]
        traces = tuple(index for index in traces if index is not None)
        yield Symbol("".join(leaf_tokens(label)), traces, token_of_id.get(link))


def _token_of_id(math: Element | None, tokens: list[str] | None) -> dict[str, int]:
    """Where in the label each MathML element stands; only elements on which label and MathML agree are in it."""
    try:
        written = [] if math is None else mathml_tokens(math)
    except DataError:
        return {}
    blocks = SequenceMatcher(None, [token for token, _ in written], tokens or [], autojunk=False).get_matching_blocks()
    pairs = ((written[a + i][1], b + i) for a, b, size in blocks for i in range(size))
    return {identity: index for identity, index in pairs if identity}


# ----------------------------------------------------------------------------------------------------------- images


def pixel_traces(traces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scale traces to pixels, an ordinary trace being 28 high, and move them so that they begin at (0, 0).

    The rule of the official image package: the mean is over traces at least a tenth as high as the highest one, and
    it is rounded down where all coordinates are integers. (That is the training set's rule, to the pixel. The test set
    of 2014 was drawn by another program, which leaves out a height of exactly a tenth and rounds points differently.)
    Raises DataError when an image would have no sane size.
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
        raise DataError(f"a point lies far off: expected an image below {MAX_SIDE} pixels, got {size.max():.0f}")
    if size.prod() > MAX_PIXELS:
        raise DataError(
            f"a point lies far off: expected at most {MAX_PIXELS:,} pixels, got {size[0]:.0f} x {size[1]:.0f}"
        )
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
    """uint8 (H, W), ink 255 on paper 0.   traces: int32 (points, 2), pixels of the image.   size: H and W."""
    image = np.zeros(size, np.uint8)
    cv2.polylines(image, traces, False, 255, 1)
    columns, rows = np.concatenate(traces).T
    image[rows, columns] = 255  # a line through a single point draws nothing
    return cv2.dilate(image, np.ones((pen, pen), np.uint8))


def rasterise(traces: Sequence[np.ndarray], pen: int = PEN) -> np.ndarray:
    """Draw traces in any units as the official package does: uint8 (H, W), ink 255 on paper 0. See `pixel_traces`."""
    return draw_traces(pixel_traces(traces), pen)
