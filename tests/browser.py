"""A real browser without a window, driven through the pipe of Chromium's DevTools protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--mute-audio",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
TIMEOUT_S = 60.0


class Page:
    """One page. ``failures``: what the browser's console told of errors and blocked resources."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read, self._write = read_fd, write_fd
        self._buffer, self._number = b"", 0
        self.failures: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        return self._call(method, self._session, **parameters)

    def open(self, url: str, width: int = 1300, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=url)

    def run(self, code: str) -> object:
        """The value of an expression in the page; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def wait(self, code: str) -> None:
        """Waits until an expression is true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.run(f"(() => {{ try {{ return !!({code}) }} catch {{ }} }})()"):
            if time.monotonic() > deadline:
                text = self.run("document.body.innerText.slice(0, 800)")
                raise AssertionError(f"not true in time: {code}\n{self.failures}\n{text}")
            time.sleep(0.05)

    def screenshot(self, path: Path, is_whole: bool = True) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=is_whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, session: str = "", **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _note(self, event: dict) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.failures.append(details.get("exception", {}).get("description", str(details)))
        if event.get("method") == "Log.entryAdded":
            self.failures.append(parameters["entry"]["text"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], TIMEOUT_S)[0], "the browser does not answer"
            data = os.read(self._read, 2**20)
            assert data, "the browser ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def browsing() -> Iterator[Page]:
    """A page of a browser that runs in the block; skips where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    to_browser, ours_to = os.pipe()
    from_ours, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol's pipe is file descriptors 3 and 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "-"]
        process = subprocess.Popen(
            [*shell, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Page(from_ours, ours_to)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(ours_to)
            os.close(from_ours)


def tables_cut_off(page: Page, path: Path) -> list[str]:
    """The first words of the tables of a report that do not fit a window of 1300 px."""
    page.open(path.as_uri(), width=1300)
    page.wait("document.readyState == 'complete'")
    assert page.run("document.documentElement.scrollWidth") <= 1301
    tables = "[...document.querySelectorAll('.scroll')]"
    is_cut_off = "table => table.scrollWidth > table.clientWidth + 1"
    return page.run(f"{tables}.filter({is_cut_off}).map(table => table.innerText.slice(0, 300))")
