"""A headless Chromium that tests drive through its DevTools protocol."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Browser:
    """Headless Chromium, told what to do over a pipe (the DevTools protocol): real clicks and keys, and no network."""

    def __init__(self, program: str, profile: Path):
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(  # it listens on descriptor 3, and answers on 4
            ["bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "bash", *command],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self.watchdog = threading.Timer(300, self.process.kill)
        self.watchdog.start()
        self.requests, self.answers = os.fdopen(to_browser, "wb", 0), os.fdopen(from_browser, "rb")
        self.number, self.session, self.events = 0, {}, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Page.setLifecycleEventsEnabled", enabled=True)

    def ask(self, method: str, **parameters) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **self.session}
        self.requests.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        text = bytearray()
        while (letter := self.answers.read(1)) != b"\0":
            assert letter, "the browser ended"
            text += letter
        return json.loads(text)

    def open(self, address: str) -> None:
        for url in ("about:blank", address):  # else a change of the hash alone would not load the page again
            self.events.clear()
            loader = self.ask("Page.navigate", url=url)["loaderId"]
            while not any(self._is_loaded(event, loader) for event in self.events):
                self.events.append(self._next())

    @staticmethod
    def _is_loaded(event: dict, loader: str) -> bool:
        about = event.get("params", {})
        return event.get("method") == "Page.lifecycleEvent" and (about["name"], about["loaderId"]) == ("load", loader)

    def value(self, script: str):
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """Texts of all elements that can be seen."""
        every = f"[...document.querySelectorAll({json.dumps(selector)})].filter((element) => element.checkVisibility())"
        return self.value(every + ".map((element) => element.textContent)")

    def mouse(self, selector: str, *kinds: str) -> None:
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{ block: 'center' }})")
        # what comes into view is laid out again, and may move
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        left, top, width, height = self.value(f"(({{ x, y, width, height }}) => [x, y, width, height])({element}"
                                              ".getBoundingClientRect())")  # fmt: skip
        x, y = left + width / 2, top + height / 2
        for kind in kinds:
            self.ask("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        self.mouse(selector, "Moved", "Pressed", "Released")

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def close(self) -> None:
        self.watchdog.cancel()
        self.process.terminate()
        self.process.wait(20)
        self.requests.close()
        self.answers.close()


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser for a while; skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None or shutil.which("bash") is None:
        pytest.skip("no chromium on the path to open the page with (Debian: apt-get install chromium)")
    made = Browser(program, profile)
    yield made
    made.close()
