"""Headless Chromium over its debugging pipe: pages, their console, their requests, keys and screenshots.

The pipe (``--remote-debugging-pipe``) carries JSON messages that end with a zero byte, and needs no port.
"""

import base64
import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANSWER_S = 30.0
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync"),
    *("--disable-extensions", "--metrics-recording-only", "--no-default-browser-check", "--hide-scrollbars"),
    *("--force-color-profile=srgb", "--remote-debugging-pipe"),
)


class NavigatedError(AssertionError):
    """A script ended because its page was left."""


@dataclass
class Tab:
    """A page of the browser. ``problems`` are errors and warnings of its console, ``requests`` the URLs that it
    requested, ``held`` the paused requests by URL, if the test holds some."""

    browser: "Browser"
    target: str
    session: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol."""
        return self.browser.call(method, self.session, **parameters)

    def open(self, url: str) -> None:
        """Go to an address and wait until the page is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'", url)

    def hold(self, pattern: str) -> None:
        """Pause each request for a URL like ``*.js`` from now on, until it is told to go on."""
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def held_request(self, part: str) -> str:
        """Wait for a paused request whose URL has this part, and return its number, for the methods of Fetch."""
        deadline = time.monotonic() + ANSWER_S
        while not (found := [url for url in list(self.held) if part in url]):
            assert time.monotonic() < deadline, f"no request for {part} was held: {self.requests}"
            time.sleep(0.02)
        return self.held.pop(found[0])

    def run(self, script: str) -> Any:
        """Evaluate an expression, and await it if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str, what: str = "", timeout_s: float = ANSWER_S) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := self._seen(condition)):
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}\n{self.problems}"
            time.sleep(0.02)
        return value

    def _seen(self, condition: str) -> Any:
        """The value of an expression; None while one page gives way to the next."""
        try:
            return self.run(condition)
        except NavigatedError:
            return None

    def view(self, *, width: int, height: int = 1000, dark: bool = False) -> None:
        """Set the size of the window and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key: str) -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key)
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], **({"text": text} if text else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))

    def note(self, method: str, parameters: dict[str, Any]) -> None:
        """Record an event of the page."""
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Fetch.requestPaused":
            self.held[parameters["request"]["url"]] = parameters["requestId"]
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(parameters["entry"]["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.problems.append(str([each.get("value", each.get("description")) for each in parameters["args"]]))
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.problems.append(str(details.get("exception", {}).get("description", details["text"])))


class Browser:
    """A running Chromium. Its threads end with it."""

    def __init__(self, process: "subprocess.Popen[bytes]", writing: int, reading: int) -> None:
        self._process, self._writing, self._reading = process, writing, reading
        self._answers: dict[int, queue.SimpleQueue[Any]] = {}
        self._tabs: dict[str, Tab] = {}
        self._number = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._receive, daemon=True).start()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol, for a tab or for the browser."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            self._number += 1
            number = self._number
            self._answers[number] = answers
            message = {"id": number, "method": method, "params": parameters}
            whole = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
            while whole:
                whole = whole[os.write(self._writing, whole) :]
        answer = answers.get(timeout=ANSWER_S)
        if error := answer.get("error"):
            gone = "navigated" in error["message"] or "context" in error["message"]
            raise (NavigatedError if gone else AssertionError)(method, error)
        return answer["result"]

    def tab(self) -> Tab:
        """Open a tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        return tab

    def close(self, tab: Tab) -> None:
        """Close a tab."""
        del self._tabs[tab.session]
        self.call("Target.closeTarget", targetId=tab.target)

    def _receive(self) -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while data := os.read(self._reading, 1 << 20):
                *messages, buffer = (buffer + data).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers.pop(message["id"]).put(message)
                    elif tab := self._tabs.get(message.get("sessionId", "")):
                        tab.note(message["method"], message["params"])


@contextlib.contextmanager
def chromium(executable: str, folder: Path) -> Iterator[Browser]:
    """Run a headless Chromium with a profile in ``folder``."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def arrange() -> None:
        # the pipe is on file descriptors 3 and 4; the ends may have these numbers already
        source, sink = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(source, 3)
        os.dup2(sink, 4)

    process = subprocess.Popen(
        [executable, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        preexec_fn=arrange,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(process, ours_out, ours_in)
    finally:
        process.kill()
        process.wait(ANSWER_S)
        os.close(ours_out)
