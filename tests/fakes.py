"""Fakes for tests: an executor without a model that keeps a KV cache of labels and checks every block that is read."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.batch import GrammarBitmask, ScheduledBatch, StepOutput
from octavo.config import KVCacheLayout
from octavo.executor.base import Executor
from octavo.request import TokenLogprobs


def next_token(token_ids: list[int], vocab_size: int) -> int:
    """The fake model: the next token depends on all tokens before it and on nothing else."""
    digest = hashlib.blake2b(repr(token_ids).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocab_size


def _allowed(token_id: int, bitmask: GrammarBitmask | None, row: int) -> int:
    """The first token from `token_id` on, going round, that a step's bitmask allows for one of its sampled rows."""
    if bitmask is None or row not in bitmask.rows:
        return token_id
    words = bitmask.words[int(np.flatnonzero(bitmask.rows == row)[0])]
    allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
    return int(next((i for i in allowed if i >= token_id), allowed[0]))


@dataclass
class _Row:
    token_ids: list[int]
    num_prompt_tokens: int
    tables: list[list[int]]
    wants_prompt_logprobs: bool


class FakeExecutor(Executor):
    """Runs steps on labels: the KV entry of a token is the sequence that leads to it."""

    def __init__(self, layout: KVCacheLayout, vocab_size: int = 50, fail_at_step: int | None = None) -> None:
        self.layout = layout
        self.vocab_size = vocab_size
        self.fail_at_step = fail_at_step
        self.rows: dict[str, _Row] = {}
        self.kv: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}  # (block, offset) -> (group, tokens)
        self.batches: list[ScheduledBatch] = []
        self.failed = False
        self.unsampled: dict[int, Future[StepOutput]] = {}
        self.recordings: list[bool | Exception] = []  # what comes of recording ahead, once for each call

    def start(self) -> None: ...

    def load(self) -> None: ...

    def kv_capacity(self) -> KVCacheLayout:
        return self.layout

    def call(self, method: str) -> list[Any]:
        if method == "record_ahead":
            recorded = self.recordings.pop(0) if self.recordings else False
            if isinstance(recorded, Exception):
                raise recorded
            return [recorded]
        assert method == "reset"
        self.rows.clear()
        self.unsampled.clear()
        self.failed = False
        return [None]

    def shutdown(self) -> None:
        self.rows.clear()

    def sample(self, batch: ScheduledBatch, bitmask: GrammarBitmask | None) -> None:
        future = self.unsampled.pop(batch.step_id, None)
        if future is not None and not self.failed:
            future.set_result(self._execute(batch, bitmask))

    def execute(self, batch: ScheduledBatch) -> Future[StepOutput]:
        future: Future[StepOutput] = Future()
        assert not self.unsampled or self.failed, "a step is sampled before the next one is executed"
        self.batches.append(batch)
        self.failed |= self.fail_at_step == len(self.batches)
        if self.failed:  # so does what was sent before the failure was seen
            future.set_exception(RuntimeError("the device is on fire"))
        elif batch.awaits_bitmask:
            self.unsampled[batch.step_id] = future
        else:
            future.set_result(self._execute(batch, None))
        return future

    def _execute(self, batch: ScheduledBatch, bitmask: GrammarBitmask | None) -> StepOutput:
        for request_id in batch.released_request_ids:
            self.rows.pop(request_id, None)
        computed = dict(zip(batch.cached.request_ids, batch.cached.num_computed_tokens, strict=True))
        for new in batch.new_requests:
            assert new.request_id not in self.rows
            wants = new.params.prompt_logprobs is not None
            tables = [list(table) for table in new.block_ids]
            self.rows[new.request_id] = _Row(list(new.token_ids), new.num_prompt_tokens, tables, wants)
            computed[new.request_id] = new.num_computed_tokens
        for request_id, block_ids in zip(batch.cached.request_ids, batch.cached.new_block_ids, strict=True):
            for table, ids in zip(self.rows[request_id].tables, block_ids, strict=True):
                table.extend(ids)
        self._check_ownership(batch)
        for request_id, count in batch.num_scheduled_tokens.items():
            self._write(self.rows[request_id], computed[request_id], count)
        output = StepOutput(step_id=batch.step_id, request_ids=batch.sampled_request_ids, token_ids=[])
        for request_id, count in batch.num_scheduled_tokens.items():
            row = self.rows[request_id]
            self._read(row, computed[request_id], count)
            if row.wants_prompt_logprobs:
                start = computed[request_id]
                end = min(start + count, row.num_prompt_tokens - 1)
                rows = [TokenLogprobs([row.token_ids[p + 1]], [-float(p + 1)], 1) for p in range(start, end)]
                output.prompt_logprobs[request_id] = (start, rows)
        for request_id in batch.sampled_request_ids:
            row = self.rows[request_id]
            assert computed[request_id] + batch.num_scheduled_tokens[request_id] == len(row.token_ids)
            token_id = _allowed(next_token(row.token_ids, self.vocab_size), bitmask, len(output.token_ids))
            row.token_ids.append(token_id)
            output.token_ids.append([token_id])
        return output

    def _check_ownership(self, batch: ScheduledBatch) -> None:
        """No two requests write to the same block in one step."""
        writers: dict[int, str] = {}
        bs = self.layout.block_size
        computed = dict(zip(batch.cached.request_ids, batch.cached.num_computed_tokens, strict=True))
        computed.update((new.request_id, new.num_computed_tokens) for new in batch.new_requests)
        for request_id, count in batch.num_scheduled_tokens.items():
            for table in self.rows[request_id].tables:
                for index in {p // bs for p in range(computed[request_id], computed[request_id] + count)}:
                    assert writers.setdefault(table[index], request_id) == request_id
                    del writers[table[index]]  # the same request may use it for one group only
                    writers[table[index]] = request_id

    def _write(self, row: _Row, start: int, count: int) -> None:
        bs = self.layout.block_size
        for group_id, table in enumerate(row.tables):
            for position in range(start, start + count):
                entry = (group_id, tuple(row.token_ids[: position + 1]))
                self.kv[table[position // bs], position % bs] = entry

    def _read(self, row: _Row, start: int, count: int) -> None:
        """All that the first and the last query see must be there."""
        bs = self.layout.block_size
        for group_id, (group, table) in enumerate(zip(self.layout.groups, row.tables, strict=True)):
            first = 0 if group.sliding_window is None else max(0, start - group.sliding_window + 1)
            for position in range(first, start + count):
                entry = self.kv.get((table[position // bs], position % bs))
                assert entry == (group_id, tuple(row.token_ids[: position + 1])), "a wrong KV entry is read"
