"""EngineProcess: the engine's process as seen from the one that started it. Start it, speak with it, see it end.

It knows sockets and processes, and nothing of requests; `engine/process.py` is the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile

import zmq
import zmq.asyncio

from octavo.config import EngineArgs
from octavo.engine.messages import (
    Add,
    Failed,
    Finish,
    Open,
    Opened,
    Ready,
    Step,
    Stop,
    decode_from_engine,
    encode,
)

_MAX_SOCKET_PATH = 107 - len("/from_engine")  # what the kernel allows for the name of a socket
_SECONDS_TO_STOP = 10.0


class EngineProcess:
    """One engine process. `start` returns at once: the process gets ready while the caller does other things."""

    def __init__(self, directory: str, process: subprocess.Popen[bytes]) -> None:
        self._directory = directory
        self._process = process
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        # The side that connects can send before, and after, there is somebody to receive: sending never blocks, and how
        # much may wait is the queue limit's matter.
        self._outbox = self._context.socket(zmq.PUSH)
        self._outbox.sndhwm = 0
        self._outbox.reconnect_ivl = 10  # milliseconds
        self._outbox.connect(f"ipc://{directory}/to_engine")
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.bind(f"ipc://{directory}/from_engine")
        self._reader: zmq.asyncio.Socket | None = None  # the inbox, on the event loop that reads it

    @classmethod
    def start(cls, args: EngineArgs) -> EngineProcess:
        """Start a process that gets ready to serve `args`."""
        directory = _private_directory()
        # The child sees the same modules as this process, and no others: not what lies in the current folder.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from octavo.engine.process import main; sys.exit(main({directory!r}))"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
        engine = cls(directory, process)
        engine._outbox.send(encode(Open(args)))
        return engine

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Add | Finish) -> None:
        self._outbox.send(encode(message))

    async def receive(self) -> Opened | Ready | Step | Failed:
        """The next message. Waits for ever if the process has ended: watch `ended` too."""
        if self._reader is None:
            self._reader = zmq.asyncio.Socket(shadow=self._inbox)
        return decode_from_engine(await self._reader.recv())

    async def ended(self) -> str:
        """Wait until the process is gone; how it ended, in words."""
        while (status := self._process.poll()) is None:
            await asyncio.sleep(0.05)
        if status >= 0:
            return f"the engine process ended with status {status}"
        hint = "; the system may be out of memory" if -status == signal.SIGKILL else ""
        return f"the engine process was killed by {signal.Signals(-status).name}{hint}"

    async def stop(self) -> None:
        """Let the process end by itself, and `close`."""
        self._outbox.send(encode(Stop()))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended(), _SECONDS_TO_STOP)
        self.close()

    def close(self) -> None:
        """End the process, by force if it still runs, and remove the sockets. May be called twice."""
        if self._context.closed:
            return
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._reader is not None:
            self._reader.close(linger=0)
        self._inbox.close(linger=0)
        self._outbox.close(linger=0)
        self._context.term()
        shutil.rmtree(self._directory, ignore_errors=True)


def _private_directory() -> str:
    """A new directory that only this user can enter, with a name short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="octavo-")
    if len(directory) <= _MAX_SOCKET_PATH:
        return directory
    shutil.rmtree(directory)
    return tempfile.mkdtemp(prefix="octavo-", dir="/tmp")
