"""Responses in the background: they are made whether or not somebody listens, and can be looked at and cancelled."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import NamedTuple

from octavo.errors import OverloadedError
from octavo.server.event_log import EventLog
from octavo.server.generation import Outputs
from octavo.server.response_answer import ResponseAnswer, ResponseEvents


class Run(NamedTuple):
    """A response that is under way. `log` has its events, if it is streamed."""

    answer: ResponseAnswer
    log: EventLog | None
    task: asyncio.Task[None]


class BackgroundResponses:
    """Those that are under way. `most` of them at once: each has a place in the store when it ends."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs: dict[str, Run] = {}

    def check_room(self) -> None:
        """Raises:
        OverloadedError: too many are under way.
        """
        if len(self._runs) >= self._most:
            raise OverloadedError(
                f"{len(self._runs)} responses are under way in the background, at most {self._most} may; "
                "try again later"
            )

    def start(self, answer: ResponseAnswer, outputs: Outputs, log: EventLog | None) -> None:
        """Make the answer of these outputs, and write its events to the log."""
        events = ResponseEvents(answer)
        if log is not None:
            log.add(events.begin())
        task = asyncio.create_task(_make(events, outputs, log))
        self._runs[answer.id] = Run(answer, log, task)

        def end(_: object) -> None:
            """Also of a task that was cancelled before it began."""
            last: list[bytes] = []
            if task.cancelled():
                last = events.cancelled()
            elif (error := task.exception()) is not None:
                last = events.broken_off(error)
            if log is not None:
                log.add(last)
                log.end()

        task.add_done_callback(end)

    def get(self, response_id: str) -> Run | None:
        """None: it is not under way."""
        return self._runs.get(response_id)

    def forget(self, response_id: str) -> None:
        """It has ended."""
        self._runs.pop(response_id, None)

    async def cancel(self, response_id: str) -> ResponseAnswer | None:
        """End an answer and its request, if it is under way; None: it is not."""
        run = self._runs.get(response_id)
        if run is None:
            return None
        run.task.cancel()
        await asyncio.wait([run.task])
        return run.answer


async def _make(events: ResponseEvents, outputs: Outputs, log: EventLog | None) -> None:
    async with aclosing(outputs):
        async for item in outputs:
            new = events.taken(item)
            if log is not None:
                log.add(new)
