"""A real `octavo serve` in processes of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil

_COMMAND = "import sys; from octavo.cli.main import main; main(['serve', *sys.argv[1:]])"


class RealServer:
    """Started at once; `wait_until_ready` gives it time. A context: whatever happens, nothing is left running."""

    def __init__(self, *arguments: str, port: int | None = 0) -> None:
        where = [] if port is None else ["--host", "127.0.0.1", "--port", str(port)]
        self.lines: list[str] = []
        self.url = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments, *where],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            for line in pipe:
                self.lines.append(line.rstrip("\n"))
                found = re.search(r"is served at (\S+)", line)
                if found:
                    self.url = found[1]

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_until_ready(self, seconds: float = 60) -> RealServer:
        wait_for(lambda: bool(self.url) or self.process.poll() is not None, seconds)
        assert self.url, self.log
        if self.url.startswith("http://"):
            httpx.get(f"{self.url}/health", timeout=30).raise_for_status()
        return self

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    def engine(self) -> psutil.Process:
        """The engine's process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """The exit status, once the server and all that it started are gone."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)  # whoever holds the pipe's other end is gone then
        assert not self._reader.is_alive(), "a process was left behind"
        return status

    def __enter__(self) -> RealServer:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait(30)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
