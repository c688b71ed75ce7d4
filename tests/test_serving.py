"""The server: whatever is sent is read or refused in words, what waits is read together, and nobody waits for ever."""

import asyncio
import json
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the packages of requirements-demo.txt")
pytest.importorskip("httpx", reason="needs the packages of requirements-dev.txt")
multipart = pytest.importorskip("python_multipart", reason="needs the packages of requirements-demo.txt")

with warnings.catch_warnings():  # Starlette prefers a successor of httpx; both work
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.filterwarnings("ignore", "Using `httpx`")
    from fastapi.testclient import TestClient  # noqa: E402
from starlette.requests import Request  # noqa: E402

import demo  # noqa: E402
from dataset.formats.inkml import rasterise  # noqa: E402
from tests.test_page import Reader as Page  # noqa: E402
from tests.test_reader import encoded, reader, written  # noqa: E402
from tests.test_recognize import INKML  # noqa: E402
from utils.reading.inputs import Input  # noqa: E402
from utils.reading.outputs import json_line  # noqa: E402
from utils.reading.reader import Search  # noqa: E402
from utils.serving.answers import Typesetting  # noqa: E402
from utils.serving.application import Service, make_application, unless_gone  # noqa: E402
from utils.serving.batching import BatchingQueue  # noqa: E402
from utils.serving.inputs import boxes_in_strokes  # noqa: E402
from utils.serving.limits import Limits, Refused, WaitingRoom  # noqa: E402

TYPESETTING = Typesetting(demo.draw_svg, demo.write_mathml, demo.draw_png)
STROKES = [[[0, 0], [10, 40], [20, 0]], [[30, 0], [30, 40]]]
PNG = encoded(written())


@pytest.fixture(scope="module")
def network():
    return reader("transformer")


@pytest.fixture(scope="module")
def client(network):
    with TestClient(make_application(network, TYPESETTING)) as client:
        yield client


def recognized(client, settings="", **request) -> dict:
    response = client.post(f"/recognize?{settings}", **request)
    assert response.status_code == 200, response.text
    return response.json()


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_an_image_ink_and_strokes_are_answered_as_recognize_prints_them(client, network, tmp_path):
    (tmp_path / "a.inkml").write_text(INKML)
    for name, content, kind in (("a.png", PNG, "image/png"), ("a.inkml", INKML.encode(), "text/xml"),
                                ("a.json", json.dumps(STROKES).encode(), "application/json")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        prepared = network.prepare(tmp_path / name)
        [reading] = network.read_many([prepared], 3)
        wanted = json.loads(json_line(Input(name, prepared), reading))
        as_form = recognized(client, "beam=3", files={"file": (name, content)})["readings"]
        as_body = recognized(client, "beam=3", content=content, headers={"Content-Type": kind})["readings"]
        assert [{key: one[key] for key in wanted} for one in as_form] == [wanted]
        assert as_form == [one | {"input": name} for one in as_body]


def test_the_content_says_what_it_is_whatever_the_client_calls_it(client):
    right = recognized(client, content=json.dumps(STROKES).encode())["readings"][0]["latex"]
    assert recognized(client, files={"file": ("a.png", json.dumps(STROKES))})["readings"][0]["latex"] == right
    assert recognized(client, json={"strokes": STROKES})["readings"][0]["latex"] == right


def test_each_line_of_writing_is_read_unless_they_shall_be_joined(client):
    two = encoded(np.concatenate([written(1), np.zeros((40, 150), np.uint8), written(2)]))
    readings = recognized(client, content=two)["readings"]
    assert [(one["line"], one["lines"]) for one in readings] == [(1, 2), (2, 2)]
    [joined] = recognized(client, "lines=join", content=two)["readings"]
    assert joined["warnings"][0] == "2 lines of writing, read as one formula"


def test_typeset_formulas_and_strokes_come_where_they_are_asked_for(client):
    plain = recognized(client, "beam=3", content=INKML)
    assert "typeset" not in plain["readings"][0] and "strokes" not in plain
    full = recognized(client, "beam=3&include=typeset,strokes", content=INKML)
    assert full["strokes"][1] == [[30, 0], [30, 40]]
    for one in (full["readings"][0], *full["readings"][0]["alternatives"]):
        assert one["typeset"].keys() == {"error"} or one["typeset"]["svg"].startswith("<svg ")


def test_boxes_of_ink_lie_on_its_strokes():
    strokes = [np.array([[100.0, 500.0], [300.0, 900.0]]), np.array([[700.0, 520.0], [700.0, 900.0]])]
    drawn = rasterise(strokes)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    whole = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    [box] = boxes_in_strokes([whole], drawn, strokes)
    assert np.allclose(box, [100, 500, 700, 900], atol=25)
    assert boxes_in_strokes([], drawn, strokes) == []
    dot = [np.array([[5.0, 7.0]])]
    [[left, top, right, bottom]] = boxes_in_strokes([[11, 11, 17, 17]], rasterise(dot), dot)
    assert left < 5 < right and top < 7 < bottom


def test_formulas_are_drawn_as_svg_png_and_mathml(client):
    for kind, start in (("svg", b"<svg "), ("png", b"\x89PNG"), ("mathml", b"<math ")):
        response = client.get("/typeset", params={"latex": "x ^ { 2 }", "format": kind})
        assert response.content.startswith(start) and kind in response.headers["content-type"]
    refused = client.get("/typeset", params={"latex": r"\frac { 1 }"})
    assert refused.status_code == 422 and r"\frac" in refused.json()["detail"]


# ---- what is refused -------------------------------------------------------------------------------------------------

BLANK = encoded(np.full((90, 90), 255, np.uint8))
BROKEN = {
    "nothing": (b"", 422, "the file is empty"),
    "text": (b"hello", 415, "is no image; expected an image (PNG"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "is no image"),
    "blank": (BLANK, 422, "has no ink"),
    "half an image": (PNG[:200], 422, "truncated"),
    "half InkML": (b"<ink><trace>", 422, "not XML"),
    "no ink in XML": (b"<ink/>", 422, "has no traces"),
    "entities": (b'<!DOCTYPE ink [<!ENTITY a "b">]><ink><trace>&a;</trace></ink>', 422, "entity"),
    "half JSON": (b"[[[0, 0]", 422, "is no JSON"),
    "deep JSON": (b"[" * 100_000, 422, "nested too deeply"),
    "other JSON": (b'{"a": 1}', 422, "expected strokes"),
    "no strokes": (b"[]", 422, "no strokes"),
    "not a number": (b"[[[NaN, 0], [1, 1]]]", 422, "not a finite number"),
    "far off": (b"[[[0, 0], [1, 1]], [[1e9, 0], [1e9, 1]]]", 422, "lies far off"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_refused_in_a_sentence(client, name):
    content, status, sentence = BROKEN[name]
    response = client.post("/recognize", files={"file": ("the file", content)})
    assert (response.status_code, sentence in response.json()["detail"]) == (status, True), response.text
    assert "Traceback" not in response.text and "/tmp" not in response.text


def test_an_image_of_too_many_pixels_is_not_unpacked(network, monkeypatch):
    monkeypatch.setattr(network, "prepare", lambda *arguments: pytest.fail("unpacked"))
    with TestClient(make_application(network, TYPESETTING, Limits(max_pixels=5000))) as client:
        response = client.post("/recognize", content=PNG)
    assert response.status_code == 422 and "150 x 60 pixels; expected at most 5,000" in response.json()["detail"]


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        ({"data": {"file": "x"}}, 415, "is no image"),
        ({"files": {"other": ("a.png", PNG)}}, 422, "called `file`"),
        ({"content": b"--x--", "headers": {"Content-Type": "multipart/form-data"}}, 422, "form cannot be read"),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 422, "form"),
    ],
)
def test_forms_without_a_file_are_refused(client, request_, status, sentence):
    response = client.post("/recognize", **request_)
    assert (response.status_code, sentence in response.json()["detail"]) == (status, True), response.text


@pytest.mark.parametrize("settings", ["beam=0", "beam=999", "beam=x", "lines=all", "direction=up", "include=all"])
def test_settings_that_are_not_known_are_named(client, settings):
    response = client.post(f"/recognize?{settings}", content=PNG)
    assert response.status_code == 422 and response.json()["detail"].startswith(settings.split("=")[0])


def test_a_direction_that_the_network_does_not_know_is_refused():
    with TestClient(make_application(reader("gru"), TYPESETTING)) as client:
        response = client.post("/recognize?direction=both", content=PNG)
    assert response.status_code == 422 and "left to right only" in response.json()["detail"]


def test_ten_megabytes_are_taken_and_not_a_byte_more(client):
    limit = 10 * 2**20
    strokes = b"[[[0,0],[9,9]]]"
    assert recognized(client, content=strokes + b" " * (limit - len(strokes)))["readings"]
    for body in (strokes + b" " * (limit + 1 - len(strokes)), iter([b" " * limit, strokes])):
        response = client.post("/recognize", content=body)
        assert response.status_code == 413 and "at most 10 MB" in response.json()["detail"]


def test_a_name_is_told_without_folders_and_line_breaks(client):
    response = client.post("/recognize", files={"file": ("../../etc/<b>" + "a" * 300, b"hello")})
    detail = response.json()["detail"]
    assert detail.startswith("<b>aaa") and "…" in detail and "etc" not in detail
    assert response.headers["content-type"] == "application/json"  # which no browser takes for a page


def test_an_upload_that_never_ends_is_given_up(network):
    async def trickle():
        return {"type": "http.request", "body": await asyncio.sleep(0.01, b" "), "more_body": True}

    service = Service(network, TYPESETTING, Limits(max_upload_seconds=0.1))
    request = Request({"type": "http", "headers": []}, trickle)
    with pytest.raises(Refused, match="had not arrived after 0.1 seconds") as refused:
        asyncio.run(service.recognize(request, Search(), "join", "auto", ()))
    assert refused.value.status == 408 and service.waiting.taken == 0


# ---- many at once ----------------------------------------------------------------------------------------------------


class Gate:
    """A network that reads nothing before it is opened, and remembers its batches."""

    def __init__(self, read_many=None):
        self.read_many_ = read_many or (lambda images, *search: [f"read {image}" for image in images])
        self.opened, self.entered, self.batches = threading.Event(), threading.Event(), []

    def read_many(self, images, *search):
        self.entered.set()
        assert self.opened.wait(30)
        self.batches.append(len(images))
        return self.read_many_(images, *search)


def test_what_waits_is_read_in_one_batch_and_everyone_gets_their_own():
    gate = Gate()
    queue = BatchingQueue(gate.read_many, max_batch=8)
    first = queue.submit("a", Search())
    assert gate.entered.wait(10)
    others = [queue.submit(name, Search(beam)) for name, beam in zip("bcdefghijk", [1, 1, 2, 1, 2] * 2, strict=True)]
    gate.opened.set()
    assert [future.result(10) for future in (first, *others)] == [f"read {name}" for name in "abcdefghijk"]
    assert gate.batches == [1, 5, 3, 1, 1]  # of the eight that came first those of one search together; then the rest
    queue.close()


def test_an_image_that_fails_takes_no_other_with_it():
    def read(images, *search):
        if "bad" in images:
            raise RuntimeError("out of memory")
        return images

    gate = Gate(read)
    queue = BatchingQueue(gate.read_many)
    futures = [queue.submit(name, Search()) for name in ("a", "bad", "c")]
    gate.opened.set()
    assert futures[0].result(10) == "a" and futures[2].result(10) == "c"
    with pytest.raises(RuntimeError, match="out of memory"):
        futures[1].result(10)
    assert queue.submit("d", Search()).result(10) == "d"  # the thread goes on
    queue.close()


def test_what_nobody_waits_for_any_longer_is_not_read():
    gate = Gate()
    queue = BatchingQueue(gate.read_many)
    first = queue.submit("a", Search())
    assert gate.entered.wait(10)
    late = [queue.submit(name, Search()) for name in "bc"]
    assert late[0].cancel()
    gate.opened.set()
    assert first.result(10) == "read a" and late[1].result(10) == "read c"
    queue.close()
    assert gate.batches == [1, 1]


def test_closing_the_queue_reads_what_waits():
    queue = BatchingQueue(lambda images, *search: images)
    futures = [queue.submit(number, Search()) for number in range(50)]
    queue.close()
    assert [future.result(0) for future in futures] == list(range(50))


def test_fifty_clients_at_once_are_all_answered_in_a_few_batches(network, monkeypatch):
    gate = Gate(network.read_many)
    monkeypatch.setattr(network, "read_many", gate.read_many)
    with TestClient(make_application(network, TYPESETTING)) as client, ThreadPoolExecutor(50) as clients:
        waiting = [clients.submit(client.post, "/recognize", content=PNG) for _ in range(50)]
        time.sleep(0.3)
        gate.opened.set()
        answers = [future.result(60) for future in waiting]
    assert [answer.status_code for answer in answers] == [200] * 50
    # Batches of other sizes round scores otherwise: what is read is the same.
    assert len({answer.json()["readings"][0]["latex"] for answer in answers}) == 1
    assert sum(gate.batches) == 50 and len(gate.batches) <= 10


def test_who_comes_to_a_full_queue_is_told_when_to_come_again(network, monkeypatch):
    gate = Gate(network.read_many)
    monkeypatch.setattr(network, "read_many", gate.read_many)
    application = make_application(network, TYPESETTING, Limits(max_waiting=3))
    deadline = time.monotonic() + 30

    def post_until(is_enough, content: bytes):
        while not is_enough(response := client.post("/recognize", content=content)):
            assert time.monotonic() < deadline
        return response

    with TestClient(application) as client, ThreadPoolExecutor(3) as clients:
        # The one that looks whether the three are in may be in the way of the third, which then comes again.
        waiting = [clients.submit(post_until, lambda response: response.status_code != 503, PNG) for _ in range(3)]
        refused = post_until(lambda response: response.status_code == 503, b"x")
        assert refused.headers["retry-after"] == "1" and "3 requests are waiting" in refused.json()["detail"]
        gate.opened.set()
        assert [future.result(60).status_code for future in waiting] == [200] * 3
        assert client.post("/recognize", content=PNG).status_code == 200  # there is room again


def test_a_place_is_free_again_after_an_error():
    room = WaitingRoom(1)
    with pytest.raises(ZeroDivisionError), room.place():
        with pytest.raises(Refused), room.place():
            pass
        raise ZeroDivisionError
    assert room.taken == 0


def test_work_for_a_client_that_left_is_cancelled():
    messages = [{"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async def ask():
        work = asyncio.get_running_loop().create_future()
        with pytest.raises(Refused):
            await unless_gone(Request({"type": "http"}, receive), work)
        with pytest.raises(asyncio.CancelledError):
            await work
        done = asyncio.get_running_loop().create_future()
        done.set_result("read")
        messages.append({"type": "http.disconnect"})
        return await unless_gone(Request({"type": "http"}, receive), done)

    assert asyncio.run(ask()) == "read"


def test_an_error_of_ours_is_told_too(network, monkeypatch):
    def fail(images, *search):
        raise RuntimeError("secret")

    monkeypatch.setattr(network, "read_many", fail)
    with TestClient(make_application(network, TYPESETTING), raise_server_exceptions=False) as client:
        response = client.post("/recognize", content=PNG)
    assert response.status_code == 500 and "secret" not in response.text and response.json()["detail"]


# ---- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere_and_the_browser_is_told_so(client, address):
    response = client.get(address)
    page = Page(response.text)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href", "action"):
            if name in attributes:
                assert attributes[name].startswith(("/", "#")) and not attributes[name].startswith("//")
                local = attributes[name].startswith("/")
                assert not local or client.get(attributes[name]).status_code == 200, attributes[name]
    assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")


def test_every_answer_has_the_headers_of_a_page_that_trusts_nothing(client):
    for response in (client.get("/nowhere"), client.post("/recognize"), client.get("/page/page.js")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
    assert client.get("/nowhere").json() == {"detail": "Not Found"}
    assert client.get("/page/../../application.py").status_code == 404


def test_the_api_page_tells_what_openapi_tells(client):
    api, page = client.get("/openapi.json").json(), client.get("/docs").text
    operation = api["paths"]["/recognize"]["post"]
    assert {"multipart/form-data", "application/json"} <= operation["requestBody"]["content"].keys()
    assert {"200", "413", "415", "422", "503"} <= operation["responses"].keys()
    for told in ("/recognize", "/typeset", "stroke_boxes", "width of the search", "application/inkml+xml",
                 *(parameter["name"] for parameter in operation["parameters"])):  # fmt: skip
        assert told in page


def test_answers_are_as_openapi_describes_them(client):
    from utils.serving.answers import Answer

    answer = recognized(client, "beam=3&include=typeset,strokes", content=INKML)
    Answer.model_validate(answer, strict=True, extra="forbid")
