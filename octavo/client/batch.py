"""The run of a batch: requests from a file to a server, many at once, results to a file as they come.

It knows no address: the httpx client that it is given reaches a server, or an application in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import msgspec

from octavo.client.batch_file import BatchRequest, BatchResult, ResultsFile
from octavo.client.errors import server_error, unreachable

MAX_TRIES = 8  # of a request that an overloaded server puts off
MAX_PAUSE = 30.0  # seconds between two tries


@dataclass(slots=True)
class BatchCounts:
    """How many requests went which way."""

    succeeded: int = 0
    failed: int = 0
    skipped: int = 0  # succeeded in an earlier run


async def run_batch(
    client: httpx.AsyncClient,
    requests: Iterator[BatchRequest],
    results: ResultsFile,
    max_concurrency: int,
    on_result: Callable[[], object],
) -> BatchCounts:
    """Send all `requests`, `max_concurrency` at a time; no more of them than that are held in memory.

    Raises:
        EngineError: no connection to the server. What was done is in `results`, and the next run goes on from there.
    """
    counts = BatchCounts()

    async def work() -> None:
        for request in requests:
            if request.error is None and request.custom_id in results.succeeded:
                counts.skipped += 1
                continue
            result = await _result(client, request)
            results.append(result)
            if result.succeeded:
                counts.succeeded += 1
            else:
                counts.failed += 1
            on_result()

    workers = [asyncio.create_task(work()) for _ in range(max_concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return counts


async def _result(client: httpx.AsyncClient, request: BatchRequest) -> BatchResult:
    if request.error is not None:
        return BatchResult(request.custom_id, None, None, None, request.error)
    try:
        response = await _post(client, request)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise unreachable(str(client.base_url), error) from None
    except httpx.TransportError as error:
        reason = f"the connection ended before the answer did ({type(error).__name__})"
        return BatchResult(request.custom_id, None, None, None, reason)
    request_id = response.headers.get("x-request-id")
    if response.status_code == 200:
        try:
            body = msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return BatchResult(request.custom_id, 200, request_id, None, f"the answer is not valid JSON: {error}")
        if request_id is None and isinstance(body, dict):
            request_id = body.get("id")
        return BatchResult(request.custom_id, 200, request_id, body, None)
    message = str(server_error(response.status_code, response.content))
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = response.text
    return BatchResult(request.custom_id, response.status_code, request_id, body, message)


async def _post(client: httpx.AsyncClient, request: BatchRequest) -> httpx.Response:
    """The answer; a server that says when to come again is asked again."""
    for _ in range(MAX_TRIES - 1):
        response = await client.post(request.url, json=request.body)
        pause = response.headers.get("retry-after", "")
        if response.status_code not in (429, 503) or not pause.isdecimal():
            return response
        await asyncio.sleep(min(float(pause), MAX_PAUSE))
    return await client.post(request.url, json=request.body)
