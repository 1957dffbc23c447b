"""A headless Chromium that a test drives over DevTools, through a pipe.

Only the standard library: ``--remote-debugging-pipe`` reads commands from descriptor 3
and writes answers and events to descriptor 4, each a JSON text that ends in a NUL.
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-extensions"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
    "--force-device-scale-factor=1",
)
# Puts the two ends of the pipes where Chromium looks for them, then becomes it.
_LAUNCHER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
    os.close(end)
os.execv(sys.argv[3], sys.argv[3:])
"""
TIMEOUT = 60


def find_chromium():
    """Path of the browser, or None."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class Browser:
    """One page in a fresh Chromium; use it as a context manager.

    Attributes:
        problems: Errors and warnings that the page has logged, and its exceptions.
        requests: Addresses that the page has asked for.
    """

    def __init__(self, folder: Path, size=(1280, 900)):
        command_read, self._command = os.pipe()
        self._answer, answer_write = os.pipe()
        options = (
            *_OPTIONS,
            f"--user-data-dir={folder}",
            f"--window-size={size[0]},{size[1]}",
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(command_read), str(answer_write),
             find_chromium(), *options, "about:blank"],
            pass_fds=(command_read, answer_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )  # fmt: skip
        os.close(command_read)
        os.close(answer_write)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._messages: list[dict] = []
        self._session = None
        self.problems: list[str] = []
        self.requests: list[str] = []

    def __enter__(self):
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """End the browser that was started here, its children too, and no other."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._command)
        os.close(self._answer)

    def _attach(self):
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t for t in targets if t["type"] == "page")
        options = {"targetId": page["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", **options)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send a command and wait for its result."""
        answer = self._ask(method, params)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _ask(self, method, params):
        """Send a command and wait for its answer; events on the way are noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._command, data) :]
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == number:
                return answer

    def _read(self, deadline, waiting_for):
        while not self._messages:
            ready, _, _ = select.select(
                [self._answer], [], [], max(0, deadline - time.monotonic())
            )
            assert ready, f"Chromium did not answer {waiting_for} within {TIMEOUT} s"
            data = os.read(self._answer, 1 << 20)
            assert data, f"Chromium ended while it was asked for {waiting_for}"
            *whole, self._rest = (self._rest + data).split(b"\0")
            self._messages += map(json.loads, whole)
        message = self._messages.pop(0)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event, params):
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            what = details.get("exception", {}).get("description", details["text"])
            self.problems.append(f"exception: {what}")
        elif event == "Runtime.consoleAPICalled" and params["type"] != "log":
            self.problems.append(f"console: {params['args']}")
        elif event == "Log.entryAdded":
            entry = params["entry"]
            if entry["level"] in ("error", "warning"):
                self.problems.append(f"log: {entry['text']}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: Path):
        """Load a file and wait until it says that it is ready."""
        self.evaluate("delete document.documentElement.dataset.ready")
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("document.documentElement?.dataset.ready === 'yes'")

    def evaluate(self, expression):
        """Value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression):
        """Wait until a JavaScript expression is true; a page may be loading."""
        deadline = time.monotonic() + TIMEOUT
        params = {"expression": f"Boolean({expression})", "returnByValue": True}
        while True:
            answer = self._ask("Runtime.evaluate", params)
            found = answer.get("result", {})  # between two pages there is none
            assert "exceptionDetails" not in found, found["exceptionDetails"]
            if found.get("result", {}).get("value"):
                return
            assert time.monotonic() < deadline, f"never became true: {expression}"
            time.sleep(0.02)

    def text(self, selector):
        """Text of the first element a selector finds."""
        return self.evaluate(f"document.querySelector({selector!r}).textContent")

    def click(self, selector):
        """Click in the middle of an element, as a mouse does."""
        x, y = self.center(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def center(self, selector):
        """Middle of an element in the window, scrolled into view."""
        return self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )

    def mouse(self, kind, x, y, **more):
        """One mouse event with the left button."""
        self.call(
            "Input.dispatchMouseEvent",
            **{"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1} | more,
        )

    def press(self, key):
        """Press and release a key where the focus is."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def screenshot(self, path: Path):
        """Write the window as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path
