"""EngineClient: what `LLM` and a server may ask of an engine, wherever it runs.

Engine is the implementation in the caller's own process; tests use a fake.
"""

from __future__ import annotations

from typing import Protocol

from octavo.request import FinishReason, Request, RequestUpdate
from octavo.scheduler.scheduler import SchedulerStats


class EngineClient(Protocol):
    @property
    def has_unfinished(self) -> bool: ...

    @property
    def stats(self) -> SchedulerStats: ...

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def kv_cache_usage(self) -> float: ...

    def add_request(self, request: Request) -> None: ...

    def finish_requests(
        self, request_ids: list[str], reason: FinishReason, stop_reason: int | str | None = None
    ) -> None: ...

    def step(self) -> list[RequestUpdate]: ...

    def reset_prefix_cache(self) -> bool: ...

    def shutdown(self) -> None: ...
