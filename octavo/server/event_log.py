"""EventLog: the events of a stream that goes on without its readers. Each may come late, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence


class EventLog:
    """`events` so far, encoded; an event's place is its number."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self._ended = False
        self._news = asyncio.Event()

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.events))

    def add(self, events: Sequence[bytes]) -> None:
        self.events += events
        self._wake()

    def end(self) -> None:
        """No more come."""
        self._ended = True
        self._wake()

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """The events from number `start` on, as they come; at least one time something, if only nothing."""
        begun = False
        while True:
            if start < len(self.events) or not begun:
                begun = True
                new = self.events[start:]
                start += len(new)
                yield b"".join(new)
            elif self._ended:
                return
            else:
                await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Followed:
    """The events of a log as the events of a stream: they are encoded already."""

    def of(self, item: bytes) -> bytes:
        return item

    def end(self) -> bytes:
        return b""

    def failed(self, error: Exception) -> bytes:
        raise error  # reading a log does not fail
