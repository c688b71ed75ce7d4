"""The server: a page to write on, and POST /recognize for programs. Both ask the same queue before the same network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from utils.errors import UserError
from utils.reading.options import CLEANING, DIRECTIONS
from utils.reading.reader import Reader, Reading, Search
from utils.serving import answers
from utils.serving.answers import Answer, Problem, Typesetting
from utils.serving.batching import BatchingQueue
from utils.serving.inputs import Opened, open_given, receive
from utils.serving.limits import Limits, Refused, WaitingRoom

PAGE = Path(__file__).parent / "page"
MAX_BEAM = 20
MAX_LATEX = 4000  # characters of a formula to typeset
PREPARING = 2  # threads that unpack and clean images, and typeset
# The page loads its own files and nothing else; what a formula or a file's name says is never run.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
ACCEPTED = {
    "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": {
        "file": {"type": "string", "format": "binary", "description": "an image, InkML, or strokes as JSON"}}}},
    "image/*": {"schema": {"type": "string", "format": "binary",
                           "description": "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, or HEIC with pillow-heif"}},
    "application/inkml+xml": {"schema": {"type": "string", "description": "its traces are read"}},
    "application/json": {
        "schema": {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                   "description": "strokes: each a list of points [x, y], x to the right and y down"},
        "example": [[[0, 0], [10, 20]], [[10, 0], [0, 20]]]},
}  # fmt: skip
FORMATS = {"svg": "image/svg+xml", "mathml": "application/mathml+xml", "png": "image/png"}
PROBLEMS = {
    400: "the connection was closed too early",
    408: "the upload took too long",
    413: "larger than the server takes",
    415: "neither an image nor ink",
    422: "an image without ink, ink that cannot be read, or a setting that is not known",
    500: "an error of the server",
    503: "too many requests wait; Retry-After says when to come again",
}


def make_application(reader: Reader, typesetting: Typesetting, limits: Limits = Limits()) -> FastAPI:  # noqa: B008
    """The application. Its network starts and ends with it: use it with uvicorn, or with a `with` of a test client."""
    service = Service(reader, typesetting, limits)
    application = FastAPI(
        title="Handwritten formulas to LaTeX",
        version="1",
        summary="Images, InkML or pen strokes in, LaTeX out.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=service.lifespan,
    )
    application.add_middleware(WithHeaders)
    _tell_problems(application)
    _add_doors(application, service)
    _add_pages(application, limits)
    return application


class Service:
    """What the doors share: the network behind its queue, threads that prepare for it, and a bounded waiting room."""

    def __init__(self, reader: Reader, typesetting: Typesetting, limits: Limits):
        self.reader, self.typesetting, self.limits = reader, typesetting, limits
        self.waiting = WaitingRoom(limits.max_waiting)
        self.queue: BatchingQueue | None = None
        self.preparing: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def lifespan(self, application: FastAPI):
        self.queue = BatchingQueue(self.reader.read_many, self.limits.max_batch, self.limits.max_wait)
        self.preparing = ThreadPoolExecutor(PREPARING, "prepare")
        try:
            yield
        finally:
            self.queue.close()
            self.preparing.shutdown()

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.preparing, work, *arguments)

    async def recognize(
        self, request: Request, search: Search, lines: str, clean_when: str, include: Sequence[str]
    ) -> dict[str, Any]:
        """An Answer to what a request brings. Raises Refused, or ConfigError for a search that is not possible."""
        self.reader.check(search)
        with self.waiting.place():
            given = await receive(request, self.limits)
            opened: Opened = await self.in_thread(open_given, self.reader, given, self.limits, clean_when)
            parts = opened.prepared.each_line() if lines == "split" else (opened.prepared,)
            futures = [asyncio.wrap_future(self.queue.submit(part, search)) for part in parts]
            readings: list[Reading] = await unless_gone(request, asyncio.gather(*futures))
            draw_ink = self.reader.language.draw_ink
            return await self.in_thread(answers.answer_of, opened, readings, include, self.typesetting, draw_ink)


async def unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of some work; it is cancelled where the client goes away, as a page does that has newer strokes."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Refused(400, "the connection was closed before there was an answer")
        return work.result()
    finally:
        work.cancel()
        leaving.cancel()


def _tell_problems(application: FastAPI) -> None:
    """Whatever is wrong is a status and a sentence."""

    @application.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"detail": error.reason}, error.status, error.headers)

    @application.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": " ".join(str(error).split())}, 422)

    @application.exception_handler(RequestValidationError)
    async def wrong_setting(request: Request, error: RequestValidationError) -> JSONResponse:
        sentences = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(sentences)}, 422)

    @application.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    @application.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> JSONResponse:  # its traceback is in the server's log
        return JSONResponse({"detail": "the server failed; its log says why"}, 500)


class WithHeaders:
    """The application, with HEADERS in every answer. (FastAPI's own middleware for this hides that a client left.)"""

    def __init__(self, application: ASGIApp):
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.application(scope, receive, send_with_headers)


def _add_doors(application: FastAPI, service: Service) -> None:
    @application.post(
        "/recognize",
        response_model=Answer,
        responses={status: {"model": Problem, "description": text} for status, text in PROBLEMS.items()},
        openapi_extra={"requestBody": {"required": True, "content": ACCEPTED}},
    )
    async def recognize(
        request: Request,
        beam: Annotated[int, Query(ge=1, le=MAX_BEAM, description="width of the search; 1 is greedy")] = 1,
        direction: Annotated[Literal[tuple(DIRECTIONS)] | None, Query(
            description="left to right if greedy, else all that the network knows")] = None,
        lines: Annotated[Literal["split", "join"], Query(
            description="several lines of writing: read each by itself, or as one formula")] = "split",
        clean: Annotated[Literal[CLEANING], Query(description="clean photographs before they are read")] = "auto",
        include: Annotated[str, Query(
            description="more in the answer: typeset (SVG and MathML), strokes, or both with a comma",
            pattern="^((typeset|strokes)(,(typeset|strokes))*)?$")] = "",
    ) -> Response:  # fmt: skip
        """Read an image, InkML or strokes: as a form with one file, or as the body itself."""
        search = Search(beam, DIRECTIONS.get(direction))
        return JSONResponse(await service.recognize(request, search, lines, clean, include.split(",")))

    @application.get("/typeset", response_class=Response, responses={422: {"model": Problem}})
    async def typeset(
        latex: Annotated[str, Query(min_length=1, max_length=MAX_LATEX)],
        format: Annotated[Literal[tuple(FORMATS)], Query()] = "svg",
    ) -> Response:
        """Draw a formula: SVG, PNG or MathML."""
        with service.waiting.place():
            drawn = await service.in_thread(getattr(service.typesetting, format), latex)
            return Response(drawn, media_type=FORMATS[format])


def _add_pages(application: FastAPI, limits: Limits) -> None:
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True)

    @application.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(environment.get_template("index.html").render(max_bytes=limits.max_bytes))

    @application.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        template = environment.get_template("docs.html")
        return HTMLResponse(template.render(api=application.openapi(), base=str(request.base_url).rstrip("/")))

    application.mount("/page", StaticFiles(directory=PAGE / "static"), name="page")
