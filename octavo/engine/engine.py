"""Engine: the loop of one engine. Token ids in, token ids out.

It joins the scheduler, which decides, with the executor, which computes; it knows no text, no tensors and no devices.
Two steps may be under way: then step N+1 is scheduled before the tokens of step N are known, and what ends a request
is seen one step late. With one step under way the same code is the plain, synchronous loop.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from octavo.batch import ScheduledBatch
from octavo.config import KVCacheLayout, SchedulerConfig
from octavo.engine.structuring import Structuring
from octavo.errors import EngineDeadError, EngineError
from octavo.executor.base import Executor, PendingStep
from octavo.log import get_logger
from octavo.observability.stats import EngineStats
from octavo.request import FinishReason, Request, RequestUpdate
from octavo.scheduler.scheduler import Scheduler

logger = get_logger(__name__)


@dataclass(slots=True)
class _UnderWay:
    """A step that was sent."""

    batch: ScheduledBatch
    pending: PendingStep
    awaits_bitmask: bool


class Engine:
    """`structuring` turns what requests say of their output's form into states; without one they must say nothing."""

    def __init__(
        self,
        config: SchedulerConfig,
        layout: KVCacheLayout,
        executor: Executor,
        *,
        enable_prefix_caching: bool,
        structuring: Structuring | None = None,
    ) -> None:
        self._scheduler = Scheduler(config, layout, enable_prefix_caching=enable_prefix_caching)
        self._executor = executor
        self._depth = 2 if config.async_scheduling else 1
        self._structuring = structuring
        self._under_way: deque[_UnderWay] = deque()
        self._closed = False

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has something to do: requests, or a step whose output nobody needs any more."""
        return self._scheduler.has_unfinished or bool(self._under_way) or self._num_compiling > 0

    @property
    def _num_compiling(self) -> int:
        return 0 if self._structuring is None else self._structuring.num_waiting

    @property
    def stats(self) -> EngineStats:
        counted = self._scheduler.stats
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting) + self._num_compiling,
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
        if request.params.structured_outputs is None and request.params.thinking_token_budget is None:
            self._scheduler.add_request(request)
        else:
            assert self._structuring is not None, "the engine was built for free text only"
            self._structuring.add(request)

    def finish_requests(
        self, request_ids: list[str], reason: FinishReason, stop_reason: int | str | None = None
    ) -> None:
        """End requests before their tokens do: aborted, or their text met a stop string."""
        if self._structuring is not None:
            self._structuring.forget(request_ids)
        self._scheduler.finish_requests(request_ids, reason, stop_reason)

    def step(self) -> list[RequestUpdate]:
        """Schedule what can be scheduled, wait for the oldest step under way, and take in its output.

        Raises:
            EngineError: the step failed. All requests were ended with it; the engine can be used again.
        """
        failed = self._take_in_compiled()
        try:
            while len(self._under_way) < self._depth and (batch := self._scheduler.schedule()) is not None:
                pending = self._executor.execute(batch)
                self._under_way.append(_UnderWay(batch, pending, batch.awaits_bitmask))
                self._sample_first()
            if not self._under_way:
                assert not self._scheduler.has_unfinished, "requests wait, but nothing can be scheduled"
                if self._structuring is not None and not failed:
                    self._structuring.wait()
                return failed
            output = self._under_way[0].pending.result()
            batch = self._under_way.popleft().batch
            updates = self._scheduler.update(batch, output)
            self._sample_first()
        except BaseException as error:
            self._abandon()
            if not isinstance(error, Exception):  # the user has interrupted
                raise
            raise EngineError(f"a step failed and ended all requests: {type(error).__name__}: {error}") from error
        return failed + updates

    def _take_in_compiled(self) -> list[RequestUpdate]:
        """Queue the requests whose grammars are ready; the ends of those whose grammars can't be compiled."""
        failed = []
        for request, state in () if self._structuring is None else self._structuring.ready():
            if state is None:
                update = RequestUpdate(request_id=request.request_id, new_token_ids=[])
                update.finish_reason = FinishReason.ERROR
                failed.append(update)
            else:
                self._scheduler.add_request(request, state)
        return failed

    def _sample_first(self) -> None:
        """Give the oldest step under way its bitmask if it waits for one: now all tokens before it are known."""
        if self._under_way and (step := self._under_way[0]).awaits_bitmask:
            assert self._structuring is not None
            bitmask = self._scheduler.grammar_bitmask(step.batch, self._structuring.vocab_size)
            step.awaits_bitmask = False
            self._executor.sample(step.batch, bitmask)

    def _abandon(self) -> None:
        """End all requests after a step that did not finish: what it left in the KV cache is not to be trusted."""
        self._wait()
        if self._structuring is not None:
            self._structuring.forget_all()
        self._scheduler.abandon()
        self._executor.call("reset")

    def _wait(self) -> None:
        """For the steps under way, whatever comes of them."""
        for step in self._under_way:
            with suppress(Exception):
                if step.awaits_bitmask:
                    self._executor.sample(step.batch, None)
                step.pending.result()
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
            if self._structuring is not None:
                self._structuring.forget_all()
            self._scheduler.finish_requests(list(self._scheduler.requests), FinishReason.ABORT)
            self._executor.shutdown()
