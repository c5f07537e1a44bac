"""The outputs of all prompts of one HTTP request, for as long as somebody listens.

Whatever ends the reading, an error or a client that went away, ends the requests in the engine. It knows no formats.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from octavo.engine.inputs import Prompt
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine

CLIENT_CLOSED_REQUEST = 499  # a status that nobody reads; it is for logs and metrics
_T = TypeVar("_T")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class ClientDisconnected(Exception):
    """Nobody waits for the answer."""


class PromptOutput(NamedTuple):
    """An output, and which of the request's prompts it belongs to."""

    prompt_index: int
    output: RequestOutput


Outputs = AsyncGenerator[PromptOutput, None]


def response_id(prefix: str, request: Request, body_id: str | None) -> str:
    """`prefix`, and the id that the client gave by X-Request-Id or in the body; else a random one."""
    given = request.headers.get("x-request-id") or body_id or ""
    return f"{prefix}-{given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex}"


def generate(
    engine: AsyncEngine, request_id: str, prompts: Sequence[Prompt], params: SamplingParams, priority: int
) -> Outputs:
    """The outputs of all prompts as they come. Closing it aborts what still runs. Raises what the engine does."""
    if len(prompts) == 1:
        return _numbered(0, engine.generate(request_id, prompts[0], params, priority))
    return _merged(
        [
            _numbered(index, engine.generate(f"{request_id}-{index}", prompt, params, priority))
            for index, prompt in enumerate(prompts)
        ]
    )


async def _numbered(index: int, outputs: AsyncGenerator[RequestOutput, None]) -> Outputs:
    async with aclosing(outputs):
        async for output in outputs:
            yield PromptOutput(index, output)


async def _merged(sources: list[Outputs]) -> Outputs:
    # A bounded queue: a reader that is slow slows the sources down, which join their outputs meanwhile.
    queue: asyncio.Queue[PromptOutput | BaseException | None] = asyncio.Queue(len(sources))

    async def pump(source: Outputs) -> None:
        end: BaseException | None = None
        async with aclosing(source):
            try:
                async for item in source:
                    await queue.put(item)
            except Exception as error:
                end = error
        await queue.put(end)

    pumps = [asyncio.create_task(pump(source)) for source in sources]
    try:
        num_running = len(pumps)
        while num_running:
            item = await queue.get()
            if isinstance(item, PromptOutput):
                yield item
            elif item is not None:
                raise item
            else:
                num_running -= 1
    finally:
        await _stop(pumps)


async def while_connected(receive: Receive, work: Awaitable[_T]) -> _T:
    """The result of `work`. When the client goes away first, `work` is cancelled.

    Raises:
        ClientDisconnected: it went away.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        await _stop((working, listening))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(tasks: Sequence[asyncio.Future[_T] | asyncio.Task[None]]) -> None:
    """Cancel what is not done, and wait for it to end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
