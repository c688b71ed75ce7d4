"""A page to write formulas on, and a server that reads them: one network behind both.

    python demo.py                                    open http://127.0.0.1:8000 in a browser
    python demo.py --checkpoint newest --port 8080    with the weights of your own newest run
    python demo.py --host 0.0.0.0                     also for a phone in the same network; it has no password

    curl -F file=@photo.jpg http://127.0.0.1:8000/recognize

docs/demo.md describes the page and the server. It needs the packages of requirements-demo.txt, and no network.
"""

from __future__ import annotations

import argparse
import io
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace

from recognize import Reader
from utils.errors import ConfigError
from utils.reading.checkpoints import find_checkpoint
from utils.reading.options import add_scales_option, at_least
from utils.script import run_script
from utils.training.devices import choose_device
from utils.training.stopping import exit_code_of

MAX_EM = {"max_width_em": 120.0, "max_height_em": 40.0}  # of a formula that is typeset
PNG_EM = 96  # pixels of an em: sharp on a screen of twice the usual density, and in print


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", metavar="PATH|newest", help="or a folder that export.py wrote; default: the published weights"
    )
    add_scales_option(parser)
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 …; default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                        help="who may connect; default: %(default)s, this machine alone; 0.0.0.0: everyone who can "
                        "reach it")  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0: any that is free")
    parser.add_argument("--max-waiting", type=lambda text: at_least(1, text), default=64, metavar="N",
                        help="requests that may wait; more are told to come again; default: %(default)s")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    uvicorn = import_uvicorn()
    listening = listen(options.host, options.port)  # first: loading takes seconds, and the port may be taken

    checkpoint = find_checkpoint(options.checkpoint)
    reader = Reader.load(checkpoint, choose_device(options.device), options.scales)
    warm_up(reader)

    from utils.serving.answers import Typesetting
    from utils.serving.application import make_application
    from utils.serving.limits import Limits

    typesetting = Typesetting(draw_svg, write_mathml, draw_png)
    application = make_application(reader, typesetting, replace(Limits(), max_waiting=options.max_waiting))
    print(f"reading with {checkpoint}", file=sys.stderr)
    for address in addresses(options.host, listening.getsockname()[1]):
        print(f"open {address} (API: {address}/docs)", file=sys.stderr, flush=True)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=5))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt as stopped:
        print("\nstopped", file=sys.stderr)
        return exit_code_of(stopped)
    return 0


def import_uvicorn():
    try:
        import fastapi  # noqa: F401 (all that requirements-demo.txt names is there, or nothing)
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        hint = "python -m pip install -r requirements-demo.txt"
        raise ConfigError(f"{error.name} is not installed; install what the page needs: {hint}") from None
    return uvicorn


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already. Raises ConfigError where that is not possible."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port: expected a number from 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)  # who comes too early waits
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--host {host} --port {port}: cannot listen there: {reason}") from None
    return listening


def addresses(host: str, port: int) -> list[str]:
    """What to open in a browser: on this machine, and on others where they may connect."""
    if host not in ("0.0.0.0", "::"):
        return [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"]
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        own.connect(("192.0.2.1", 9))  # sends nothing: it only asks which of our addresses leads outside
        return [f"http://127.0.0.1:{port}", f"http://{own.getsockname()[0]}:{port}"]
    except OSError:  # no network
        return [f"http://127.0.0.1:{port}"]
    finally:
        own.close()


def warm_up(reader: Reader) -> None:
    """Read and draw something, so that the first formula does not wait for what is prepared only once."""
    reader.read_strokes([[[0, 0], [20, 30]], [[20, 0], [0, 30]]], beam=2)
    draw_svg("x")


# ---- the typesetter, which the server is given -----------------------------------------------------------------------


def draw_svg(latex: str | Sequence[str]) -> str:
    from dataset.renderer import Style, layout
    from dataset.typesetter.svg import to_svg

    style = Style(**MAX_EM)
    return to_svg(layout(latex, style), style)


def write_mathml(latex: str | Sequence[str]) -> str:
    from dataset.latex.mathml import to_mathml

    return to_mathml(latex)


def draw_png(latex: str | Sequence[str]) -> bytes:
    from PIL import Image

    from dataset.renderer import Style, render

    file = io.BytesIO()
    Image.fromarray(render(latex, Style(em=PNG_EM, margin=PNG_EM // 8, **MAX_EM))).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    run_script(main)
