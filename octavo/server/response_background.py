"""Responses in the background: they are made whether or not somebody listens, and can be looked at and cancelled."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import NamedTuple

from octavo.errors import OverloadedError
from octavo.server.generation import Outputs
from octavo.server.response_answer import ResponseAnswer


class _Run(NamedTuple):
    answer: ResponseAnswer
    task: asyncio.Task[None]


class BackgroundResponses:
    """Those that are under way. `most` of them at once: each has a place in the store when it ends."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs: dict[str, _Run] = {}

    def check_room(self) -> None:
        """Raises:
        OverloadedError: too many are under way.
        """
        if len(self._runs) >= self._most:
            raise OverloadedError(
                f"{len(self._runs)} responses are under way in the background, at most {self._most} may; "
                "try again later"
            )

    def start(self, answer: ResponseAnswer, outputs: Outputs) -> None:
        """Make the answer of these outputs."""
        task = asyncio.create_task(_make(answer, outputs))
        self._runs[answer.id] = _Run(answer, task)
        task.add_done_callback(lambda _: self._end(answer.id))  # also of a task that was cancelled before it began

    def get(self, response_id: str) -> ResponseAnswer | None:
        """The answer as it is now; None: it is not under way."""
        run = self._runs.get(response_id)
        return None if run is None else run.answer

    async def cancel(self, response_id: str) -> ResponseAnswer | None:
        """End an answer and its request, if it is under way; None: it is not."""
        run = self._runs.get(response_id)
        if run is None:
            return None
        run.task.cancel()
        await asyncio.wait([run.task])
        return run.answer

    def _end(self, response_id: str) -> None:
        answer, task = self._runs.pop(response_id)
        if task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            answer.fail(error)


async def _make(answer: ResponseAnswer, outputs: Outputs) -> None:
    async with aclosing(outputs):
        async for item in outputs:
            answer.take(item)
