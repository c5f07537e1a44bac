"""`octavo bench serve`: the load on a running server, and what its clients see: TTFT, TPOT, ITL and end-to-end times.

The client shares the machine with the server, so it looks at no more of an event than it must: the time of each, and
the token counts in the last one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

import msgspec

from octavo.bench.results import WIDTH, heading, row, summary_fields
from octavo.bench.statistics import Summary
from octavo.bench.workload import Workload, arrivals
from octavo.client.endpoint import Endpoint
from octavo.client.errors import broken_off, error_in, server_error
from octavo.client.exchange import exchange, post_bytes
from octavo.client.sse import DONE, EventParser
from octavo.errors import ConfigError, EngineError, OctavoError

GOODPUT_METRICS = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many requests of which length arrive, and when."""

    num_prompts: int = 64
    output_len: int = 128  # tokens
    ignore_eos: bool = True
    request_rate: float = math.inf  # requests per second
    max_concurrency: int | None = None  # requests under way at once; None: no limit
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_prompts", "output_len", "max_concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}")


@dataclass(slots=True)
class RequestTimes:
    """What one request saw. Times are in seconds from its sending."""

    ttft: float = math.nan
    e2e: float = math.nan
    itls: list[float] = field(default_factory=list)  # between chunks, which hold a token each unless the server is fast
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    error: str | None = None

    @property
    def tpot(self) -> float:
        """Seconds per token after the first; NaN where there is no second one."""
        return (self.e2e - self.ttft) / (self.num_output_tokens - 1) if self.num_output_tokens > 1 else math.nan


@dataclass(frozen=True, slots=True)
class ServeResult:
    duration: float  # seconds from the first sending to the last answer's end
    requests: Sequence[RequestTimes]
    goodput: Mapping[str, float]  # limits in milliseconds by metric; empty: not asked for

    @property
    def failed(self) -> list[RequestTimes]:
        return [request for request in self.requests if request.error is not None]

    def fields(self) -> dict[str, Any]:
        """All numbers, times in milliseconds but for the duration, which is in seconds."""
        good = [request for request in self.requests if request.error is None]
        num_prompt_tokens = sum(request.num_prompt_tokens for request in good)
        num_output_tokens = sum(request.num_output_tokens for request in good)
        found: dict[str, Any] = {
            "completed": len(good),
            "failed": len(self.failed),
            "duration": self.duration,
            "total_input_tokens": num_prompt_tokens,
            "total_output_tokens": num_output_tokens,
            "request_throughput": len(good) / self.duration,
            "output_throughput": num_output_tokens / self.duration,
            "total_token_throughput": (num_prompt_tokens + num_output_tokens) / self.duration,
        }
        if self.goodput:
            found["request_goodput"] = sum(map(self._meets_limits, good)) / self.duration
        for name, seconds in {
            "ttft": [request.ttft for request in good],
            "tpot": [request.tpot for request in good if request.num_output_tokens > 1],
            "itl": [itl for request in good for itl in request.itls],
            "e2e": [request.e2e for request in good],
        }.items():
            found |= summary_fields(name, "ms", Summary.of([1000 * value for value in seconds]))
        found["errors"] = [request.error for request in self.failed]
        return found

    def _meets_limits(self, request: RequestTimes) -> bool:
        # An answer of one token has no TPOT, and so none that is too long.
        return not any(1000 * getattr(request, name) > limit for name, limit in self.goodput.items())

    def table(self) -> str:
        """The numbers for the eye."""
        found = self.fields()
        lines = [
            " Serving benchmark ".center(WIDTH, "="),
            row("Successful requests:", found["completed"]),
            row("Failed requests:", found["failed"]),
            row("Benchmark duration (s):", found["duration"]),
            row("Total input tokens:", found["total_input_tokens"]),
            row("Total generated tokens:", found["total_output_tokens"]),
            row("Request throughput (req/s):", found["request_throughput"]),
            row("Output token throughput (tok/s):", found["output_throughput"]),
            row("Total token throughput (tok/s):", found["total_token_throughput"]),
        ]
        if self.goodput:
            lines.append(row("Request goodput (req/s):", found["request_goodput"]))
        for name, title in (
            ("ttft", "Time to first token"),
            ("tpot", "Time per output token (without the first)"),
            ("itl", "Inter-token latency"),
            ("e2e", "End-to-end latency"),
        ):
            lines.append(heading(title))
            for kind, label in (("mean", "Mean"), ("median", "Median"), ("p99", "P99")):
                lines.append(row(f"{label} {name.upper()} (ms):", found[f"{kind}_{name}_ms"]))
        return "\n".join([*lines, "=" * WIDTH])


def parse_goodput(given: Sequence[str]) -> dict[str, float]:
    """`ttft:500 tpot:50` as limits in milliseconds.

    Raises:
        ConfigError: another form, an unknown metric, or a limit that is not above 0.
    """
    limits = {}
    for item in given:
        name, _, value = item.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if name not in GOODPUT_METRICS or not limit > 0:
            raise ConfigError(
                f"--goodput {item!r}: give METRIC:MILLISECONDS, such as ttft:500, with a metric of "
                f"{', '.join(GOODPUT_METRICS)}"
            )
        limits[name] = limit
    return limits


async def bench_serve(
    endpoint: Endpoint,
    model: str,
    workload: Workload,
    load: Load,
    goodput: Mapping[str, float],
    on_done: Callable[[], object],
) -> ServeResult:
    """Put the load on the server, after one request that is not counted.

    Raises:
        OctavoError: that first request fails: the server is not there, or refuses what is asked.
        ConfigError: the request rate is not above 0.
    """
    tls = endpoint.ssl_context()
    prompts = workload.prompts()

    def request() -> bytes:
        body = {
            "model": model,
            "prompt": next(prompts),
            "max_tokens": load.output_len,
            "temperature": 0,
            "ignore_eos": load.ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return post_bytes(endpoint, "/v1/completions", msgspec.json.encode(body))

    offsets = arrivals(load.request_rate, load.seed)
    await _Answer().read(endpoint, request(), tls)
    slots = asyncio.Semaphore(load.max_concurrency or load.num_prompts)
    payloads = [request() for _ in range(load.num_prompts)]

    async def send(payload: bytes, at: float) -> RequestTimes:
        await asyncio.sleep(at - time.perf_counter())
        async with slots:
            answer = _Answer()
            try:
                await answer.read(endpoint, payload, tls)
            except OctavoError as error:
                answer.times.error = str(error)
        on_done()
        return answer.times

    started = time.perf_counter()
    sent = [send(payload, started + offset) for payload, offset in zip(payloads, offsets, strict=False)]
    requests = await asyncio.gather(*sent)
    return ServeResult(time.perf_counter() - started, requests, goodput)


class _Answer:
    """One streamed answer while it arrives."""

    def __init__(self) -> None:
        self.times = RequestTimes()
        self._parser = EventParser()
        self._pieces: list[bytes] = []  # of a body without events: an error's
        self._failure: OctavoError | None = None
        self._is_whole = False
        self._started = self._last = math.nan

    async def read(self, endpoint: Endpoint, request: bytes, tls: SSLContext | None) -> None:
        """Send `request` and fill `times`.

        Raises:
            OctavoError: the server fails, refuses, or is not there.
        """
        started = self._started = time.perf_counter()
        status = await exchange(endpoint, request, self._on_body, tls)
        if status != 200:
            raise server_error(status, b"".join(self._pieces))
        if self._failure is not None:
            raise self._failure
        if not self._is_whole:
            raise broken_off(endpoint.url)
        if math.isnan(self.times.ttft):
            raise EngineError("the answer holds no token")
        self.times.e2e = self._last - started
        self.times.num_output_tokens = self.times.num_output_tokens or 1 + len(self.times.itls)

    def _on_body(self, piece: bytes) -> None:
        now = time.perf_counter()
        events = self._parser.feed(piece)
        if not events and math.isnan(self.times.ttft):
            self._pieces.append(piece)
        for event in events:
            if event == DONE:
                self._is_whole = True
            elif event.startswith(b'{"error"'):
                self._failure = error_in(msgspec.json.decode(event))
            elif b'"prompt_tokens"' in event:
                usage = msgspec.json.decode(event)["usage"]
                self.times.num_prompt_tokens = usage["prompt_tokens"]
                self.times.num_output_tokens = usage["completion_tokens"]
            else:
                self._on_chunk(now)

    def _on_chunk(self, now: float) -> None:
        if math.isnan(self.times.ttft):
            self.times.ttft = now - self._started
        else:
            self.times.itls.append(now - self._last)
        self._last = now
