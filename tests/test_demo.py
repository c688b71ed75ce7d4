"""The page to write on, in a real browser: what is drawn goes to the server as strokes, and what was read is shown."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the packages of requirements-demo.txt")
pytest.importorskip("python_multipart", reason="needs the packages of requirements-demo.txt")
uvicorn = pytest.importorskip("uvicorn", reason="needs the packages of requirements-demo.txt")

import demo  # noqa: E402
from tests.browser import Browser, open_browser  # noqa: E402
from tests.test_reader import encoded, recognizer, saved, written  # noqa: E402
from tests.test_recognize import INKML  # noqa: E402
from utils.errors import ConfigError  # noqa: E402
from utils.serving.answers import Typesetting  # noqa: E402
from utils.serving.application import make_application  # noqa: E402
from utils.serving.limits import Limits  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TYPESETTING = Typesetting(demo.draw_svg, demo.write_mathml, demo.draw_png)


def curve(*points: tuple[float, float], steps: int = 24) -> list[list[float]]:
    """A smooth stroke through points (Catmull-Rom), as a pen gives it: many points, close together."""
    p = np.array([points[0], *points, points[-1]], float)
    t = np.linspace(0, 1, max(2, steps // (len(points) - 1)), endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*parts, p[-1:]]).round(1).tolist()


# x ^ { 2 }, as somebody may write it on a paper of 300 x 240
X = [
    curve((70, 110), (86, 104), (98, 130), (110, 160), (128, 154)),
    curve((126, 106), (112, 118), (88, 146), (70, 158)),
]
TWO = [curve((142, 74), (150, 62), (164, 64), (166, 78), (154, 94), (142, 106), (156, 104), (174, 104))]
X_SQUARED = [*X, *TWO]


class Server:
    """The demo's application behind a real socket, in a thread."""

    def __init__(self, reader, limits: Limits = Limits()):  # noqa: B008
        self.application = make_application(reader, TYPESETTING, limits)
        self.server = uvicorn.Server(uvicorn.Config(self.application, log_level="warning"))
        self.socket = demo.listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 60
        while not self.server.started:
            assert self.thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def reader():
    return demo.Reader.load()  # the published weights


@pytest.fixture(scope="module")
def server(reader):
    made = Server(reader)
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


READ = "!document.querySelector('[aria-busy=true]') && document.querySelector('.reading')"


def wait_for(browser: Browser, condition: str, seconds: float = 60):
    """The value of a script, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while not (value := browser.value(f"(() => {{ const v = {condition}; return v instanceof Element || v; }})()")):
        assert time.monotonic() < deadline, f"never came true: {condition}; {browser.texts('body')}"
        time.sleep(0.05)
    return value


def write(browser: Browser, strokes, kind: str = "mouse") -> None:
    """Move the pointer over the paper as a hand does."""
    left, top = browser.value("(({ x, y }) => [x, y])(document.querySelector('#ink').getBoundingClientRect())")
    for stroke in strokes:
        for number, (x, y) in enumerate([*stroke, stroke[-1]]):
            event = "Pressed" if number == 0 else "Released" if number == len(stroke) else "Moved"
            browser.ask("Input.dispatchMouseEvent", type=f"mouse{event}", x=left + x, y=top + y, button="left",
                        buttons=int(event != "Released"), clickCount=1, pointerType=kind)  # fmt: skip


def screenshot(browser: Browser, name: str) -> None:
    """Keep what the page looks like, where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        data = browser.ask("Page.captureScreenshot", captureBeyondViewport=False)["data"]
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))


def window(browser: Browser, width: int, height: int, scheme: str = "light") -> None:
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                mobile=width < 500)  # fmt: skip
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=width < 500)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.fixture
def page(browser, server):
    """The page, freshly opened in a wide window; afterwards nothing may have failed in it."""
    window(browser, 1280, 800)
    browser.open(server.address)
    yield browser
    assert_nothing_failed(browser, server)


def assert_nothing_failed(browser: Browser, server: Server) -> None:
    assert browser.value("'ready' in document.documentElement.dataset")
    assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
    entries = [event["params"]["entry"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    # That a request was refused is logged as an error of the network; what the page makes of it is tested.
    assert not [entry for entry in entries if entry["level"] == "error" and entry["source"] != "network"]
    asked = [event["params"]["request"]["url"] for event in browser.events
             if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    assert all(url.startswith((f"{server.address}/", "data:", f"blob:{server.address}/", "about:")) for url in asked)


def requests(browser: Browser, path: str = "/recognize") -> list[dict]:
    browser.value("0")  # takes in what came meanwhile
    sent = [event["params"]["request"] for event in browser.events
            if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    return [request for request in sent if path in request["url"]]


def latex(browser: Browser) -> str:
    return browser.value("document.querySelector('.reading textarea')?.value ?? ''")


def read_by_server(browser: Browser, reader) -> str:
    """What the network makes of the strokes that the page sent last."""
    return reader.read_strokes(json.loads(requests(browser)[-1]["postData"]), beam=5).latex


def choose(browser: Browser, path: Path, selector: str = "#file") -> None:
    root = browser.ask("DOM.getDocument")["root"]["nodeId"]
    node = browser.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    browser.ask("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


def rectangle(browser: Browser, selector: str) -> list[float]:
    """Left, top, right, bottom of an element, in CSS pixels of the paper."""
    return browser.value(f"""(() => {{
      const paper = document.querySelector("#ink").getBoundingClientRect();
      const {{ left, top, right, bottom }} = document.querySelector({json.dumps(selector)}).getBoundingClientRect();
      return [left - paper.left, top - paper.top, right - paper.left, bottom - paper.top];
    }})()""")


# ---- ink -------------------------------------------------------------------------------------------------------------


def test_what_is_drawn_goes_to_the_server_as_strokes_and_what_it_read_is_shown(page, reader):
    write(page, X_SQUARED)
    wait_for(page, f"{READ} && document.querySelectorAll('.token').length")
    *_, last = requests(page)
    sent = json.loads(last["postData"])
    assert last["headers"]["Content-Type"] == "application/json"
    assert [len(stroke) > 10 for stroke in sent] == [True] * 3
    assert np.abs(np.array(sent[0][0]) - X_SQUARED[0][0]).max() < 1
    reading = reader.read_strokes(sent, beam=5)
    assert latex(page) == reading.latex == "x ^ { 2 }"
    assert page.texts(".token b") == list(reading.tokens)
    assert page.texts(".token small") == [f"{100 * sure:.0f}" for sure in reading.confidences]
    assert page.value("document.querySelector('.typeset').ariaLabel") == reading.latex
    drawn = page.value("[...document.querySelectorAll('.typeset path')].map((path) => path.dataset.token)")
    assert drawn == ["0", "3"]
    assert re.fullmatch(r"Read in \d+ ms.", page.texts("#status")[0])
    screenshot(page, "read-light")


def test_it_is_read_again_while_one_writes(page, reader):
    write(page, X)
    wait_for(page, READ)
    assert latex(page) == read_by_server(page, reader)
    count = len(requests(page))
    write(page, TWO)
    wait_for(page, READ)
    assert latex(page) == read_by_server(page, reader)
    assert len(requests(page)) == count + 1


# The answer to the first question comes last.
LATE = """(() => {
  const { fetch } = window;
  let number = 0;
  window.fetch = async (address, { signal, ...request }) => {
    const response = await fetch(address, request), mine = number++;
    if (mine === 0) await new Promise((done) => setTimeout(() => done(window.wasLate = true), 1500));
    return response;
  };
})()"""


def test_an_answer_that_comes_too_late_is_dropped(page, reader):
    page.value(LATE)
    write(page, X)
    wait_for(page, "performance.getEntriesByType('resource').some(({ name }) => name.includes('recognize'))")
    write(page, TWO)
    wait_for(page, READ)
    wait_for(page, "window.wasLate")
    time.sleep(0.1)
    assert latex(page) == read_by_server(page, reader) and len(requests(page)) == 2
    assert len(json.loads(requests(page)[-1]["postData"])) == 3


def test_undo_and_clear_go_back_and_forth(page):
    write(page, X_SQUARED)
    wait_for(page, READ)
    first = latex(page)
    page.click("#undo")
    page.click("#undo")
    wait_for(page, f"{READ} && document.querySelector('textarea').value !== {json.dumps(first)}")
    page.press("Escape")
    wait_for(page, "!document.querySelector('.reading')")
    assert page.value("document.querySelector('#clear').disabled")
    assert page.texts("#hint p")[0].startswith("Your formula appears here")
    page.ask("Input.dispatchKeyEvent", type="keyDown", key="z", code="KeyZ", modifiers=2)
    wait_for(page, READ)
    assert len(json.loads(requests(page)[-1]["postData"])) == 1
    page.click("#clear")
    page.click("#undo")
    page.click("#undo")
    wait_for(page, "document.querySelector('#undo').disabled")
    wait_for(page, "!document.querySelector('.reading')")


def test_a_single_dot_and_a_second_pointer_break_nothing(page):
    write(page, [[[50, 50]]])
    wait_for(page, f"{READ} || !document.querySelector('#message').hidden")
    page.ask("Input.dispatchMouseEvent", type="mousePressed", x=200, y=200, button="right", buttons=2, clickCount=1)
    page.ask("Input.dispatchMouseEvent", type="mouseReleased", x=200, y=200, button="right", buttons=0, clickCount=1)
    assert page.value("document.querySelector('#undo').disabled") is False
    assert len(json.loads(requests(page)[-1]["postData"])) == 1


# ---- what is shown of a reading --------------------------------------------------------------------------------------


def test_each_token_is_shown_where_it_was_seen(page):
    write(page, X_SQUARED)
    wait_for(page, READ)
    page.mouse(".token:nth-child(4)", "Moved")
    assert page.texts(".token.here b") == ["2"]
    assert page.value("document.querySelector('.typeset path.here').dataset.token") == "3"
    left, top, right, bottom = rectangle(page, "rect.here")
    (low_x, low_y), (high_x, high_y) = np.concatenate(TWO).min(0), np.concatenate(TWO).max(0)
    assert left < high_x and right > low_x and top < high_y and bottom > low_y
    assert left > 90 and bottom < 160 and right < 220 and top > 30  # the 2, and not all of it
    screenshot(page, "pointed-at")
    page.mouse("h1", "Moved")
    assert page.value("document.querySelectorAll('.here').length") == 0
    x, y = page.value("(({ x, y }) => [x, y])(document.querySelector('#ink').getBoundingClientRect())")
    page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x + (left + right) / 2, y=y + (top + bottom) / 2)
    assert page.value("document.querySelectorAll('.token.here').length") == 1  # and the other way round


def test_an_alternative_can_be_chosen(page):
    write(page, X_SQUARED)
    wait_for(page, READ)
    others = page.value("[...document.querySelectorAll('.alternative')].map(({ title }) => title)")
    assert len(others) == 5 and others[0] == latex(page)
    page.click(".alternative:nth-child(2)")
    assert latex(page) == others[1] and page.texts(".token") == []
    assert page.value("document.querySelector('.alternative[aria-checked=true]').title") == others[1]
    page.click(".alternative:nth-child(1)")
    assert latex(page) == others[0] and len(page.texts(".token")) == 5


def test_latex_that_a_person_changes_is_typeset_as_they_type(page):
    write(page, X_SQUARED)
    wait_for(page, READ)
    page.click("textarea")
    page.press("End")
    half = latex(page) + r" + \frac"
    page.ask("Input.insertText", text=r" + \frac")
    wait_for(page, "document.querySelector('.typeset .nothing')")
    assert page.texts(".typeset")[0].startswith(f"It cannot be drawn: cannot draw {half!r}")
    page.ask("Input.insertText", text="{1}{y}")
    wait_for(page, "document.querySelectorAll('.typeset path').length > 5")
    assert page.texts(".source em") == ["edited"]
    screenshot(page, "edited")


def test_a_formula_is_copied_in_four_forms(page, server):
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.ask("Browser.grantPermissions", permissions=permissions, origin=server.address)
    write(page, X_SQUARED)
    wait_for(page, READ)
    for kind, start in (("latex", latex(page)), ("mathml", "<math "), ("svg", "<svg ")):
        page.click(f"[data-copy={kind}]")
        wait_for(page, f"document.querySelector('[data-copy={kind}]').textContent === 'Copied ✓'")
        copied = page.value("navigator.clipboard.readText()")
        assert copied.startswith(start) and "currentColor" not in copied
    page.click("[data-copy=png]")
    wait_for(page, "document.querySelector('[data-copy=png]').textContent === 'Copied ✓'")
    types = page.value("navigator.clipboard.read().then(([item]) => item.types)")
    assert types == ["image/png"]
    wait_for(page, "document.querySelector('[data-copy=png]').textContent === 'PNG'")


# ---- images and files ------------------------------------------------------------------------------------------------


def test_an_image_is_uploaded_shown_and_read(page, reader, tmp_path):
    (tmp_path / "formula.png").write_bytes(encoded(255 - reader.language.draw_ink([np.array(x) for x in X_SQUARED])))
    choose(page, tmp_path / "formula.png")
    wait_for(page, READ)
    assert latex(page) == reader.read(tmp_path / "formula.png", beam=5).latex
    assert page.value("document.querySelector('#image').naturalWidth > 0")
    page.mouse(".token:nth-child(1)", "Moved")
    left, top, right, bottom = rectangle(page, "rect.here")
    width, height = page.value(
        "[document.querySelector('#ink').clientWidth, document.querySelector('#ink').clientHeight]"
    )
    assert 0 <= left < right < 0.75 * width and 0.2 * height < (top + bottom) / 2 and bottom <= height
    screenshot(page, "image")
    page.click("#undo")
    wait_for(page, "!document.querySelector('.reading')")
    assert page.value("document.querySelector('#image').hidden")


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_is_pasted_and_dropped(page, way):
    data = base64.b64encode(encoded(written())).decode()
    page.value(f"""(() => {{
      const bytes = Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0)), carried = new DataTransfer();
      carried.items.add(new File([bytes], "a.png", {{ type: "image/png" }}));
      const about = {{ bubbles: true, cancelable: true, clipboardData: carried, dataTransfer: carried }};
      document.body.dispatchEvent(new {{ paste: ClipboardEvent, drop: DragEvent }}.{way}("{way}", about));
    }})()""")
    wait_for(page, READ)
    assert page.value("document.querySelector('#drop').hidden && !document.querySelector('#image').hidden")


def test_a_file_of_ink_becomes_ink_to_write_on(page, tmp_path):
    (tmp_path / "a.inkml").write_text(INKML)
    choose(page, tmp_path / "a.inkml")
    wait_for(page, READ)
    *_, last = requests(page)
    strokes = [np.array(stroke) for stroke in json.loads(last["postData"])]
    assert [len(stroke) for stroke in strokes] == [3, 2]
    points = np.concatenate(strokes)
    assert np.ptp(points, axis=0).max() > 300  # it fills the paper
    write(page, [[[20, 20], [60, 60]]])
    wait_for(page, READ)
    wait_for(page, "document.querySelector('#undo').disabled === false")


ATTACK = "<img src=x onerror=hit=1>"


def test_a_wrong_file_is_refused_in_words_and_its_name_is_not_run(page, tmp_path):
    (tmp_path / f"{ATTACK}.png").write_bytes(b"hello")
    choose(page, tmp_path / f"{ATTACK}.png")
    wait_for(page, "!document.querySelector('#message').hidden")
    [message] = page.texts("#message")
    assert message.startswith(f"{ATTACK}.png is no image; expected an image (PNG, JPEG")
    assert page.value("typeof hit") == "undefined"
    assert page.value("document.querySelectorAll('img').length") == 1
    assert page.texts("#empty p")[0] == "Write a formula here"  # what was on the paper before
    screenshot(page, "wrong-file")
    write(page, X_SQUARED)
    wait_for(page, "document.querySelector('#message').hidden && document.querySelector('.reading')")


def test_an_image_that_the_browser_cannot_show_is_read_all_the_same(page, tmp_path):
    Image.fromarray(255 - written()).save(tmp_path / "a.tiff")
    choose(page, tmp_path / "a.tiff")
    wait_for(page, READ)
    assert page.texts("#unseen p")[0] == "This browser cannot show the image."
    assert page.value("document.querySelector('#image').hidden") and page.texts(".token")
    page.click("#undo")
    wait_for(page, "document.querySelector('#unseen').hidden")


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    (tmp_path / "large.png").write_bytes(b" " * (10 * 2**20 + 1))
    choose(page, tmp_path / "large.png")
    wait_for(page, "!document.querySelector('#message').hidden")
    assert page.texts("#message") == ["large.png has 10.0 MB; expected at most 10 MB"]
    assert requests(page) == []


BUSY = """(() => {
  const { fetch } = window;
  let isBusy = true;
  window.fetch = async (...request) => {
    if (!isBusy) return fetch(...request);
    isBusy = false;
    return new Response('{"detail": "busy"}', { status: 503, headers: { "Retry-After": "0" } });
  };
})()"""


def test_a_busy_server_is_asked_again(page, reader):
    page.value(BUSY)
    write(page, X_SQUARED)
    wait_for(page, READ)
    assert latex(page) == read_by_server(page, reader)


# ---- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_one_writes_with_a_finger_and_nothing_is_cut_off(browser, server, reader, scheme):
    window(browser, 390, 844, scheme)
    browser.open(server.address)
    screenshot(browser, f"phone-empty-{scheme}")
    left, top = browser.value("(({ x, y }) => [x, y])(document.querySelector('#ink').getBoundingClientRect())")
    for stroke in X_SQUARED:
        for number, (x, y) in enumerate(stroke):
            kind = "touchMove" if number else "touchStart"
            browser.ask("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": left + x, "y": top + y}])
        browser.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    wait_for(browser, READ)
    assert latex(browser) == read_by_server(browser, reader) and len(json.loads(requests(browser)[-1]["postData"])) == 3
    assert browser.value("document.documentElement.scrollWidth") <= 390
    touched = browser.value("getComputedStyle(document.querySelector('#ink')).touchAction")
    assert touched == "none"  # a finger writes, and does not scroll
    assert browser.texts(".camera span") == ["Photo"]
    assert browser.value("document.querySelector('#camera').getAttribute('capture')") == "environment"
    screenshot(browser, f"phone-{scheme}")
    browser.value("document.querySelector('.others').scrollIntoView({ block: 'end' })")
    screenshot(browser, f"phone-below-{scheme}")
    browser.open(server.address + "/docs")
    assert browser.value("document.documentElement.scrollWidth") <= 390
    assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]


def test_ink_stays_whole_when_the_window_becomes_smaller(page):
    write(page, [[[600, 60], [620, 90]]])
    wait_for(page, READ)
    window(page, 700, 800)
    wait_for(page, "document.querySelector('#ink').width < 700")  # drawn again, not only laid out again
    window(page, 390, 844)
    units = "document.querySelector('#boxes').viewBox.baseVal.width"
    wait_for(page, f"document.querySelector('#ink').width < 390 && {units} > 600")
    write(page, [[[100, 100], [140, 120]]])
    wait_for(page, READ)
    [_, second] = json.loads(requests(page)[-1]["postData"])
    assert second[0][0] > 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_colour_schemes(scheme):
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3) wherever text of one color stands on another."""
    style = (ROOT / "utils" / "serving" / "page" / "static" / "page.css").read_text(encoding="utf-8")
    parts = style.split("* { box-sizing")[0].split("prefers-color-scheme: dark")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in parts)
    colors = light if scheme == "light" else light | dark

    def luminance(color: str) -> float:
        parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        )

    pairs = [
        ("text", "page"),
        ("text", "card"),
        ("text", "soft"),
        ("quiet", "page"),
        ("quiet", "card"),
        ("ink", "paper"),
    ]
    pairs += [("quiet", "paper"), ("accent", "card"), ("accent", "accent-soft"), ("on-accent", "accent")]
    pairs += [(name, f"{name}-soft") for name in ("sure", "fair", "poor")]
    pairs += [(name, f"{level}-soft") for name in ("text", "quiet") for level in ("sure", "fair", "poor", "accent")]
    for text, ground in pairs:
        one, other = sorted((luminance(colors[text]), luminance(colors[ground])))
        assert (other + 0.05) / (one + 0.05) >= 4.5, (text, ground, colors[text], colors[ground])


# ---- the script ------------------------------------------------------------------------------------------------------


def test_the_script_serves_what_it_says_and_ends_with_ctrl_c(tmp_path):
    checkpoint = saved(tmp_path / "tiny.safetensors", recognizer("transformer"))
    command = [sys.executable, "demo.py", "--port", "0", "--checkpoint", str(checkpoint), "--device", "cpu"]
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and children inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    try:
        assert process.stderr.readline() == f"reading with {checkpoint}\n"
        address = re.fullmatch(r"open (http://127\.0\.0\.1:\d+) \(API: \1/docs\)\n", process.stderr.readline())[1]
        request = urllib.request.Request(f"{address}/recognize", encoded(written()), {"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["readings"][0]["tokens"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == "\nstopped\n"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_port_that_is_taken_or_is_none_is_told():
    with demo.listen("127.0.0.1", 0) as taken:
        with pytest.raises(ConfigError, match=r"cannot listen there: Address already in use"):
            demo.listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="--port: expected a number from 0 to 65535, got 99999"):
        demo.listen("127.0.0.1", 99999)


def test_only_this_machine_may_connect_unless_it_is_told_otherwise(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    assert demo.parse_options().host == "127.0.0.1"
    assert demo.addresses("127.0.0.1", 8000) == ["http://127.0.0.1:8000"]
    assert demo.addresses("::1", 8000) == ["http://[::1]:8000"]
    assert demo.addresses("0.0.0.0", 8000)[0] == "http://127.0.0.1:8000"


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError, match="fastapi is not installed; .*requirements-demo.txt"):
        demo.import_uvicorn()
