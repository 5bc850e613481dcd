"""
A page in headless Chromium, driven over the pipe of its DevTools protocol: real clicks, keys and screenshots; and what
a page holds.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SOFTWARE_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")
PATIENCE_S = 60.0
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Tab": 9}


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def view_of(path: Path) -> dict[str, Any]:
    """The data that :func:`scripts.reporting.viewer.write_view` has put into the page."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="view">(.*?)</script>', text, re.S).group(1))


class Page:
    """
    A page that is loaded and has settled, and every request that it made, the page itself included.

    Args:
        path: the page's file, or the address of one that a server has, which is loaded when its document is complete.
        profile: an empty folder for the browser.
        size: of the window, in pixels.
        graphics: command line arguments.
    """

    def __init__(
        self,
        path: Path | str,
        profile: Path,
        size: tuple[int, int] = (1280, 900),
        graphics: tuple[str, ...] = SOFTWARE_WEBGL,
    ) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        line = [chromium(), "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        line += ["--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars", *graphics]

        def connect() -> None:  # the protocol reads file descriptor 3 and writes 4; copies first, for they may collide
            kept = os.dup(commands), os.dup(answers)
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(line, close_fds=False, preexec_fn=connect, stdout=quiet, stderr=quiet)
        os.close(commands)
        os.close(answers)
        self._received, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.problems: list[str] = []
        try:
            self._open(path, size)
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: Any) -> None:
        self._session = None
        self._call("Browser.close")
        self._process.wait(PATIENCE_S)
        os.close(self._commands)
        os.close(self._answers)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return self.value(f"document.querySelector({json.dumps(selector)}).textContent")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height in the window."""
        rectangle = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return tuple(self.value(f"(({{x, y, width, height}}) => [x, y, width, height])({rectangle})"))

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        self._settle()

    def turn_wheel(self, x: float, y: float, down: float) -> None:
        self._call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)
        self.value("new Promise(done => setTimeout(done, 500))")

    def wait_for(self, expression: str, patience_s: float = PATIENCE_S) -> Any:
        """The value of a JavaScript expression once it is true."""
        end = time.monotonic() + patience_s
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"{expression} is not true after {patience_s} s"
            time.sleep(0.1)
        return found

    def choose_file(self, expression: str, file: Path) -> None:
        """What a user does with the file input that is the value of a JavaScript expression."""
        found = self._call("Runtime.evaluate", expression=expression)["result"]["objectId"]
        self._call("DOM.setFileInputFiles", files=[str(file)], objectId=found)
        self._settle()

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])
        self._settle()

    def resize(self, width: int, height: int) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._settle()

    def screenshot(self) -> np.ndarray:
        """The window as `(height, width, 3)`, 8 bits."""
        png = base64.b64decode(self._call("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def _open(self, path: Path | str, size: tuple[int, int]) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self.resize(*size)
        self._call("Page.navigate", url=path if isinstance(path, str) else path.resolve().as_uri())
        own = "(document.documentElement?.dataset.state ?? 'loading') != 'loading'"
        self.wait_for("document.readyState == 'complete'" if isinstance(path, str) else own)
        self._settle()

    def _settle(self) -> None:
        """Two frames: what an event has changed is drawn then."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._answers], [], [], PATIENCE_S)[0], f"Chromium is silent for {PATIENCE_S} s"
            chunk = os.read(self._answers, 1 << 16)
            assert chunk, "Chromium has ended"
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.problems.append(event["params"]["exceptionDetails"]["exception"]["description"])
        elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"])
