"""Scheduler: decides what each step computes, and takes in what it computed.

There is no prefill phase and no decode phase. A request wants `num_tokens_in_flight - num_computed_tokens` tokens; each
step shares out one budget of tokens, running requests first, then waiting ones. Chunked prefill, prefix hits,
preemption by recomputation and steps scheduled ahead of their predecessor's output all follow from that. (A batch whose
members change every step: Orca, Yu et al., OSDI 2022, section 3; paging: vLLM, Kwon et al., SOSP 2023, section 4.)

It knows no tensors and no text. `schedule` may be called again before `update` for the step before: a request whose
next token is being sampled is scheduled with a token that only the worker knows (`num_in_flight`).
"""

from __future__ import annotations

import bisect
import time
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from octavo.batch import NO_TOKEN, CachedRequests, GrammarBitmask, NewRequest, ScheduledBatch, StepOutput
from octavo.config import KVCacheLayout, SchedulerConfig
from octavo.request import FinishReason, Request, RequestStatus, RequestUpdate, TokenLogprobs
from octavo.scheduler.kv_cache import KVCacheManager
from octavo.scheduler.queue import RequestQueue
from octavo.scheduler.stop import check_stop
from octavo.structured.output_state import OutputState, Verdict

NO_ALLOWED_TOKEN = "no_allowed_token"  # the stop reason of an output that can't go on: its request forbids all tokens


@dataclass(slots=True)
class SchedulerStats:
    """Plain counters since the start."""

    num_preemptions: int = 0
    prefix_cache_queries: int = 0  # tokens looked up
    prefix_cache_hits: int = 0  # tokens found
    prompt_tokens: int = 0
    generation_tokens: int = 0
    num_finished: int = 0


class _Row(NamedTuple):
    """What a step does for one request."""

    context: int  # tokens whose keys it reads
    num_tokens: int
    request: Request
    is_sampled: bool


@dataclass(slots=True)
class _Step:
    """A step while it is decided."""

    budget: int  # tokens that are left
    cached: CachedRequests = field(default_factory=CachedRequests)
    new_requests: list[NewRequest] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)

    def take(self, request: Request, count: int, num_wanted: int) -> None:
        """Compute `count` tokens of the request. They count as done, since steps run in order; the last wanted one has
        the token after it sampled."""
        self.budget -= count
        request.num_computed_tokens += count
        if is_sampled := count == num_wanted:
            request.num_in_flight += 1
        self.rows.append(_Row(request.num_computed_tokens, count, request, is_sampled))

    def sorted_rows(self) -> list[_Row]:
        """The longest context first: kernels start rows in their order, and what starts last had better be short."""
        self.rows.sort(key=itemgetter(0), reverse=True)
        return self.rows


class Scheduler:
    """The requests of one engine, their order and their blocks."""

    def __init__(self, config: SchedulerConfig, layout: KVCacheLayout, *, enable_prefix_caching: bool) -> None:
        self.config = config
        self.kv_cache = KVCacheManager(layout, enable_prefix_caching=enable_prefix_caching)
        self.requests: dict[str, Request] = {}  # all that have not finished
        self.waiting = RequestQueue(config.policy)
        self.running: list[Request] = []  # in the order of the queue: the last one is preempted first
        self.stats = SchedulerStats()
        self._step_id = 0
        self._released: list[str] = []
        self._sampled: dict[int, list[Request]] = {}  # by step under way: the requests it samples for
        self._prompt_logprobs: dict[str, list[TokenLogprobs]] = {}  # of prompts that are not computed yet
        self._states: dict[str, OutputState] = {}  # of requests whose next token may be restricted

    @property
    def has_unfinished(self) -> bool:
        return bool(self.requests)

    def add_request(self, request: Request, state: OutputState | None = None) -> None:
        """Queue a request. `state` says which tokens its output may have."""
        assert request.request_id not in self.requests, f"request id {request.request_id} is in use"
        self.requests[request.request_id] = request
        if state is not None:
            self._states[request.request_id] = state
        self.waiting.push(request)

    # ---- deciding ----

    def schedule(self) -> ScheduledBatch | None:
        """The next step, or None when there is nothing that can be computed now."""
        num_preemptions = self.stats.num_preemptions
        step = _Step(self.config.max_num_batched_tokens)
        self._continue_running(step)
        if self.stats.num_preemptions == num_preemptions:
            self._admit(step)
        if not step.rows:
            return None
        self._step_id += 1
        rows = step.sorted_rows()
        sampled = [row.request for row in rows if row.is_sampled]
        self._sampled[self._step_id] = sampled
        released, self._released = self._released, []
        return ScheduledBatch(
            step_id=self._step_id,
            new_requests=step.new_requests,
            cached=step.cached,
            num_scheduled_tokens={row.request.request_id: row.num_tokens for row in rows},
            total_num_scheduled_tokens=self.config.max_num_batched_tokens - step.budget,
            sampled_request_ids=[request.request_id for request in sampled],
            released_request_ids=released,
            awaits_bitmask=bool(self._states) and any(r.request_id in self._states for r in sampled),
        )

    def grammar_bitmask(self, batch: ScheduledBatch, vocab_size: int) -> GrammarBitmask | None:
        """What the requests of a step may get next. All steps before this one are taken in; None: anything."""
        rows: list[int] = []
        words = np.empty((len(batch.sampled_request_ids), -(-vocab_size // 32)), np.int32)
        for row, request_id in enumerate(batch.sampled_request_ids):
            # A request that has ended meanwhile has no state: whatever it gets is dropped.
            state = self._states.get(request_id)
            if state is not None and state.fill(words[len(rows)]):
                rows.append(row)
        return GrammarBitmask(rows=np.array(rows, np.int64), words=words[: len(rows)]) if rows else None

    def _continue_running(self, step: _Step) -> None:
        """Give running requests what they want of the budget, in order; nearly always that is one token each."""
        threshold = self.config.long_prefill_token_threshold or step.budget
        request_ids, new_block_ids = step.cached.request_ids, step.cached.new_block_ids
        num_computed_tokens = step.cached.num_computed_tokens
        no_blocks = self.kv_cache.no_blocks
        index = 0
        while index < len(self.running) and step.budget > 0:
            request = self.running[index]
            index += 1
            num_output = len(request.output_token_ids) + request.num_in_flight
            if num_output >= request.max_tokens:
                continue  # its last token is being sampled
            computed = request.num_computed_tokens
            wanted = len(request.prompt_token_ids) + num_output - computed
            count = 1 if wanted == 1 else min(wanted, step.budget, threshold)
            if computed + count <= request.num_settled_tokens:
                new_ids = no_blocks
            elif (allocated := self._allocate_or_preempt(request, count)) is not None:
                new_ids = allocated
            else:  # the request itself lost its place; it was the last one
                break
            request_ids.append(request.request_id)
            new_block_ids.append(new_ids)
            num_computed_tokens.append(computed)
            step.take(request, count, wanted)

    def _allocate_or_preempt(self, request: Request, count: int) -> tuple[list[int], ...] | None:
        """Blocks for a running request; others give theirs up from the end of the line until there are enough."""
        while (new_ids := self.kv_cache.allocate(request, count)) is None:
            victim = self.running.pop()
            self._preempt(victim)
            if victim is request:
                return None
        return new_ids

    def _preempt(self, request: Request) -> None:
        self.kv_cache.free(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self.stats.num_preemptions += 1
        self._released.append(request.request_id)
        self.waiting.push(request)

    def _admit(self, step: _Step) -> None:
        """Move waiting requests into the batch, in order, while there are tokens, a row and room for the next."""
        while step.budget > 0 and len(self.running) < self.config.max_num_seqs:
            request = self.waiting.peek()
            # A preempted request whose token is still being sampled waits until the host knows it.
            if request is None or request.num_in_flight:
                break
            hit = self.kv_cache.no_hit() if self._skips_cache(request) else self.kv_cache.find_prefix(request)
            wanted = request.num_tokens - hit.num_tokens
            count = min(wanted, step.budget, self.config.long_prefill_token_threshold or wanted)
            if count < wanted and not self.config.enable_chunked_prefill:
                break
            if not self.kv_cache.admit(request, hit, count):
                break
            self.waiting.pop()
            bisect.insort(self.running, request, key=self.waiting.order)
            self._note_admission(request, hit.num_tokens)
            step.new_requests.append(self._as_new(request))
            step.take(request, count, wanted)

    def _skips_cache(self, request: Request) -> bool:
        params = request.params
        if params.skip_reading_prefix_cache is not None:
            return params.skip_reading_prefix_cache
        return params.prompt_logprobs is not None or params.prompt_logprob_token_ids is not None

    def _note_admission(self, request: Request, num_hit_tokens: int) -> None:
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = num_hit_tokens
        if request.num_cached_tokens < 0:
            request.num_cached_tokens = num_hit_tokens
            request.scheduled_ts = time.monotonic()
            self.stats.prompt_tokens += request.num_prompt_tokens
            if not self._skips_cache(request):
                self.stats.prefix_cache_queries += request.num_prompt_tokens
                self.stats.prefix_cache_hits += num_hit_tokens

    def _as_new(self, request: Request) -> NewRequest:
        return NewRequest(
            request_id=request.request_id,
            token_ids=request.all_token_ids,
            num_prompt_tokens=request.num_prompt_tokens,
            params=request.params,
            seed=request.seed,
            stop_token_ids=[*request.eos_token_ids, *request.params.stop_token_ids],
            bad_words_token_ids=request.bad_words_token_ids,
            block_ids=tuple(list(table) for table in request.block_ids),
            num_computed_tokens=request.num_computed_tokens,
        )

    # ---- taking in ----

    def update(self, batch: ScheduledBatch, output: StepOutput) -> list[RequestUpdate]:
        """Append the sampled tokens; finish what ends with them. Tokens of requests that ended before are dropped."""
        for request_id, (start, rows) in output.prompt_logprobs.items():
            if request_id in self.requests:
                self._take_prompt_logprobs(self.requests[request_id], start, rows)
        updates: list[RequestUpdate] = []
        for request, token_ids in zip(self._sampled.pop(batch.step_id), output.token_ids, strict=True):
            request.num_in_flight -= 1
            if request.status is not RequestStatus.FINISHED:
                updates.append(self._append(request, token_ids, output.logprobs.get(request.request_id)))
        return updates

    def _take_prompt_logprobs(self, request: Request, start: int, rows: list[TokenLogprobs]) -> None:
        if not request.output_token_ids:  # else delivered, and computed again after a preemption
            stored = self._prompt_logprobs.setdefault(request.request_id, [])
            stored.extend(rows[len(stored) - start :])

    def _append(self, request: Request, token_ids: list[int], logprobs: list[TokenLogprobs] | None) -> RequestUpdate:
        is_first = not request.output_token_ids
        stop: tuple[FinishReason, int | str | None] | None = None
        completes_structure = False
        state = self._states.get(request.request_id) if self._states else None
        for num_taken, token_id in enumerate(token_ids, start=1):
            if token_id == NO_TOKEN:
                verdict = Verdict.REFUSED
            else:
                verdict = Verdict.GOES_ON if state is None else state.advance(token_id)
            if verdict is Verdict.REFUSED:
                token_ids, stop = token_ids[: num_taken - 1], (FinishReason.LENGTH, NO_ALLOWED_TOKEN)
                break
            request.output_token_ids.append(token_id)
            stop = check_stop(request)
            if verdict is Verdict.COMPLETE and (stop is None or stop[0] is not FinishReason.STOP):
                stop, completes_structure = (FinishReason.STOP, None), True
            if stop is not None:
                token_ids = token_ids[:num_taken]
                break
        self.stats.generation_tokens += len(token_ids)
        update = RequestUpdate(
            request_id=request.request_id,
            new_token_ids=token_ids,
            num_cached_tokens=request.num_cached_tokens,
            scheduled_ts=request.scheduled_ts,
        )
        if logprobs is not None:
            update.logprobs = logprobs[: len(token_ids)]
        if is_first and self._wants_prompt_logprobs(request):
            update.prompt_logprobs = [None, *self._prompt_logprobs.pop(request.request_id, [])]
        if stop is not None:
            update.finish_reason, update.stop_reason = stop
            update.completes_structure = completes_structure
            self._finish(request, *stop)
        elif state is not None and state.is_free:
            del self._states[request.request_id]
        return update

    def _wants_prompt_logprobs(self, request: Request) -> bool:
        return request.params.prompt_logprobs is not None or request.params.prompt_logprob_token_ids is not None

    def finish_requests(
        self, request_ids: list[str], reason: FinishReason, stop_reason: int | str | None = None
    ) -> None:
        """End requests from outside: aborted, or their text met a stop string. Unknown ids are passed over."""
        for request_id in request_ids:
            if request_id in self.requests:
                self._finish(self.requests[request_id], reason, stop_reason)

    def _finish(self, request: Request, reason: FinishReason, stop_reason: int | str | None) -> None:
        was_running = request.status is RequestStatus.RUNNING
        if was_running:
            del self.running[bisect.bisect_left(self.running, self.waiting.order(request), key=self.waiting.order)]
            self.kv_cache.free(request)
            self._released.append(request.request_id)
        request.status = RequestStatus.FINISHED
        request.finish_reason, request.stop_reason = reason, stop_reason
        self.waiting.forget(request, waiting=not was_running)
        self._prompt_logprobs.pop(request.request_id, None)
        self._states.pop(request.request_id, None)
        self.stats.num_finished += 1
        del self.requests[request.request_id]

    def abandon(self) -> None:
        """End all requests and forget the steps under way and all cached blocks: a step has failed."""
        self.finish_requests(list(self.requests), FinishReason.ERROR)
        self._sampled.clear()
        self.reset_prefix_cache()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks. False, and nothing done, while requests hold blocks."""
        return self.kv_cache.reset_prefix_cache()
