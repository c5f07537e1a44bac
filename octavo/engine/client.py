"""EngineClient: what `LLM` and a server may ask of an engine, wherever it runs.

Engine is the implementation in the caller's own process; tests use a fake.
"""

from __future__ import annotations

from typing import Any, Protocol

from octavo.observability.stats import EngineStats
from octavo.request import FinishReason, Request, RequestUpdate


class EngineClient(Protocol):
    @property
    def has_unfinished(self) -> bool: ...

    @property
    def stats(self) -> EngineStats: ...

    def add_request(self, request: Request) -> None: ...

    def finish_requests(
        self, request_ids: list[str], reason: FinishReason, stop_reason: int | str | None = None
    ) -> None: ...

    def step(self) -> list[RequestUpdate]: ...

    def reset_prefix_cache(self) -> bool: ...

    def collective_rpc(self, method: str) -> list[Any]: ...

    def shutdown(self) -> None: ...
