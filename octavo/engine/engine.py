"""Engine: the loop of one engine. Token ids in, token ids out.

It joins the scheduler, which decides, with the executor, which computes; it knows no text, no tensors and no devices.
Two steps may be under way: then step N+1 is scheduled before the tokens of step N are known, and what ends a request
is seen one step late. With one step under way the same code is the plain, synchronous loop.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

from octavo.batch import ScheduledBatch
from octavo.config import KVCacheLayout, SchedulerConfig
from octavo.errors import EngineDeadError, EngineError
from octavo.executor.base import Executor, PendingStep
from octavo.log import get_logger
from octavo.observability.stats import EngineStats
from octavo.request import FinishReason, Request, RequestUpdate
from octavo.scheduler.scheduler import Scheduler

logger = get_logger(__name__)


class Engine:
    def __init__(
        self, config: SchedulerConfig, layout: KVCacheLayout, executor: Executor, *, enable_prefix_caching: bool
    ) -> None:
        self._scheduler = Scheduler(config, layout, enable_prefix_caching=enable_prefix_caching)
        self._executor = executor
        self._depth = 2 if config.async_scheduling else 1
        self._under_way: deque[tuple[ScheduledBatch, PendingStep]] = deque()
        self._closed = False

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has something to do: requests, or a step whose output nobody needs any more."""
        return self._scheduler.has_unfinished or bool(self._under_way)

    @property
    def stats(self) -> EngineStats:
        counted = self._scheduler.stats
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            kv_cache_usage=self._scheduler.kv_cache.usage,
            prefix_cache_queries=counted.prefix_cache_queries,
            prefix_cache_hits=counted.prefix_cache_hits,
            num_preemptions=counted.num_preemptions,
            prompt_tokens=counted.prompt_tokens,
            generation_tokens=counted.generation_tokens,
            num_finished=counted.num_finished,
        )

    def add_request(self, request: Request) -> None:
        """Queue a request.

        Raises:
            EngineDeadError: the engine was shut down.
        """
        if self._closed:
            raise EngineDeadError("the engine was shut down; build a new LLM")
        self._scheduler.add_request(request)

    def finish_requests(
        self, request_ids: list[str], reason: FinishReason, stop_reason: int | str | None = None
    ) -> None:
        """End requests before their tokens do: aborted, or their text met a stop string."""
        self._scheduler.finish_requests(request_ids, reason, stop_reason)

    def step(self) -> list[RequestUpdate]:
        """Schedule what can be scheduled, wait for the oldest step under way, and take in its output.

        Raises:
            EngineError: the step failed. All requests were ended with it; the engine can be used again.
        """
        try:
            while len(self._under_way) < self._depth and (batch := self._scheduler.schedule()) is not None:
                self._under_way.append((batch, self._executor.execute(batch)))
            if not self._under_way:
                assert not self._scheduler.has_unfinished, "requests wait, but nothing can be scheduled"
                return []
            batch, pending = self._under_way[0]
            output = pending.result()
        except BaseException as error:
            self._abandon()
            if not isinstance(error, Exception):  # the user has interrupted
                raise
            raise EngineError(f"a step failed and ended all requests: {type(error).__name__}: {error}") from error
        self._under_way.popleft()
        return self._scheduler.update(batch, output)

    def _abandon(self) -> None:
        """End all requests after a step that did not finish: what it left in the KV cache is not to be trusted."""
        self._wait()
        self._scheduler.abandon()
        self._executor.call("reset")

    def _wait(self) -> None:
        """For the steps under way, whatever comes of them."""
        for _, pending in self._under_way:
            with suppress(Exception):
                pending.result()
        self._under_way.clear()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes. False, and nothing done, while requests hold blocks."""
        return self._scheduler.reset_prefix_cache()

    def collective_rpc(self, method: str) -> list[Any]:
        """Call a method of every worker between steps; its results in the order of the workers."""
        return self._executor.call(method)

    def shutdown(self) -> None:
        """End everything. May be called twice."""
        if not self._closed:
            self._closed = True
            self._wait()
            self._scheduler.finish_requests(list(self._scheduler.requests), FinishReason.ABORT)
            self._executor.shutdown()
