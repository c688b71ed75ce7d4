"""How long clients of demo.py wait: many a second for some time, then all at once.

    python tests/benchmarks/serving.py --inputs datasets/CROHME/2014/images
    python tests/benchmarks/serving.py --inputs FOLDER --settings 'beam=5&include=typeset'    as the page asks
    python tests/benchmarks/serving.py --inputs FOLDER --requests 50 --alone    without a server: CPU time of each step

Each of some clients asks when its time has come, whether the server is behind or not; a request that has to wait for
the client's own one before it has waited, too: latencies count from the time it was due. Then 50 clients ask at once.
CPU time is the server's, which other processes disturb little: alone, a request waits about that long on one core.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = (".png", ".bmp", ".jpg", ".inkml", ".json")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, metavar="FOLDER", help="images, InkML or JSON strokes")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--burst", type=int, default=50, help="clients that ask at once at the end")
    parser.add_argument("--settings", default="beam=1", help="in the address; default: %(default)s")
    parser.add_argument("--address", help="a server that runs already; default: one is started")
    parser.add_argument("--checkpoint", metavar="PATH", help="of the server that is started")
    parser.add_argument("--alone", action="store_true", help="read with beams of 1, 5 and 10, one after the other")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    files = sorted(path for path in options.inputs.iterdir() if path.suffix.lower() in SUFFIXES)
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, options.requests).astype(int)]
    bodies = [path.read_bytes() for path in chosen]
    if options.alone:
        return measure_steps(bodies, options.checkpoint)
    server, address = (None, options.address) if options.address else start(options.checkpoint)
    url = f"{address}/recognize?{options.settings}"
    try:
        for body in bodies[: options.clients]:  # what is done only once
            ask(url, body)
        due = np.arange(options.requests) * options.seconds / options.requests
        what = f"{options.requests} requests in {options.seconds:g} s from {options.clients} clients"
        measure(what, server, url, bodies, due, options.clients)
        burst = (bodies * (options.burst // len(bodies) + 1))[: options.burst]
        measure(f"{options.burst} clients at once", server, url, burst, np.zeros(options.burst), options.burst)
    finally:
        if server:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def measure_steps(bodies: list[bytes], checkpoint: str | None) -> None:
    """What a request costs, in one thread: opening it, reading, and what the page gets beside."""
    sys.path.insert(0, str(ROOT))
    import torch

    import demo
    from utils.serving.answers import Typesetting, answer_of
    from utils.serving.inputs import Given, open_given
    from utils.serving.limits import Limits

    torch.set_num_threads(1)
    reader = demo.Reader.load(checkpoint)
    demo.warm_up(reader)
    typesetting = Typesetting(demo.draw_svg, demo.write_mathml, demo.draw_png)
    for beam in (1, 5, 10):
        times = []
        for body in bodies:
            clock = [time.process_time()]
            opened = open_given(reader, Given(body, "input"), Limits())
            clock.append(time.process_time())
            readings = reader.read_many([opened.prepared], beam)
            clock.append(time.process_time())
            answer_of(opened, readings, ["typeset"], typesetting, reader.language.draw_ink)
            times.append(1000 * np.diff([*clock, time.process_time()]))
        for what, step in zip(("opening", "reading", "typesetting"), np.transpose(times), strict=True):
            print(f"beam {beam}, {what}: median {np.median(step):.0f} ms, 95 % {np.percentile(step, 95):.0f} ms, "
                  f"longest {step.max():.0f} ms of CPU")  # fmt: skip


def start(checkpoint: str | None) -> tuple[subprocess.Popen, str]:
    """A server of its own, and its address."""
    command = [sys.executable, str(ROOT / "demo.py"), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command + (["--checkpoint", checkpoint] if checkpoint else []), stderr=subprocess.PIPE,
                              text=True)  # fmt: skip
    for line in server.stderr:
        if found := re.match(r"open (\S+)", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()  # else it would wait to be read
            return server, found[1]
        print(line, end="", file=sys.stderr)
    raise SystemExit("the server did not start")


def ask(url: str, body: bytes) -> int:
    """The status of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=120) as response:
            response.read()
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def run(url: str, bodies: list[bytes], due: np.ndarray, clients: int) -> tuple[np.ndarray, list[int], float]:
    """Latencies (requests,) in seconds from when each was due, statuses, and the seconds that all took."""
    latencies, statuses = np.zeros(len(bodies)), [0] * len(bodies)
    begin = time.perf_counter() + 0.2

    def client(number: int) -> None:
        for i in range(number, len(bodies), clients):
            time.sleep(max(0.0, begin + due[i] - time.perf_counter()))
            statuses[i] = ask(url, bodies[i])
            latencies[i] = time.perf_counter() - begin - due[i]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, statuses, float((latencies + due).max())


def cpu_seconds(server: subprocess.Popen | None) -> float:
    """CPU time that the server has used; not a number where that is not known."""
    try:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    except (AttributeError, OSError):
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(what: str, server: subprocess.Popen | None, url: str, bodies: list[bytes], due: np.ndarray,
            clients: int) -> None:  # fmt: skip
    before = cpu_seconds(server)
    latencies, statuses, seconds = run(url, bodies, due, clients)
    cpu = 1000 * (cpu_seconds(server) - before) / len(bodies)
    median, late, most = 1000 * np.array([np.median(latencies), np.percentile(latencies, 95), latencies.max()])
    print(f"{what}: median {median:.0f} ms, 95 % {late:.0f} ms, max {most:.0f} ms; answered {statuses.count(200)} "
          f"of {len(statuses)} in {seconds:.1f} s; {cpu:.0f} ms of CPU a request")  # fmt: skip


if __name__ == "__main__":
    main()
