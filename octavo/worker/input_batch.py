"""InputBatch: the rows of the requests that the worker holds, and the inputs of a step made from them.

Rows (slots) are persistent columns: tokens, lengths, block tables. A step's inputs are written into StepBuffers. It
knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from octavo.batch import NewRequest, ScheduledBatch
from octavo.worker.step_buffers import StepBuffers, TokenTable

IntArray = npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class StepInputs:
    """One step's rows and tokens, on the host; its tensors are in the StepBuffers."""

    request_ids: list[str]  # [R], the rows of the step
    slots: IntArray  # [R]
    num_computed: IntArray  # [R], tokens before this step
    num_scheduled: IntArray  # [R]
    query_start: IntArray  # [R + 1]
    num_tokens: int
    max_query_len: int
    max_seq_len: int
    isolated: bool  # no row reads keys that another one writes in this step: only a newcomer finds such in the cache
    sampled_rows: IntArray  # [S], the rows for which a token is sampled

    @property
    def all_sampled(self) -> bool:
        """Whether a token is sampled after every token of the step."""
        return len(self.sampled_rows) == self.num_tokens


class InputBatch:
    """Columns for at most `max_num_seqs` requests of at most `max_model_len` tokens."""

    def __init__(self, buffers: StepBuffers, *, max_model_len: int, block_size: int, device: torch.device) -> None:
        self._buffers = buffers
        self._block_size = block_size
        max_num_seqs = buffers.max_num_seqs
        self.token_ids = TokenTable(max_num_seqs, max_model_len, device)
        self.num_tokens = np.zeros(max_num_seqs, np.int64)  # those being sampled included
        self.num_prompt_tokens = np.zeros(max_num_seqs, np.int64)
        self._block_tables = [np.zeros_like(table.host) for table in buffers.block_tables]
        self._num_blocks = np.zeros((len(self._block_tables), max_num_seqs), np.int64)
        self._slots: dict[str, int] = {}
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._slots

    def slot(self, request_id: str) -> int:
        return self._slots[request_id]

    def add(self, requests: Sequence[NewRequest]) -> list[int]:
        """Take a row for each of the requests; their numbers."""
        slots = [self._free_slots.pop() for _ in requests]
        self.token_ids.write(slots, [request.token_ids for request in requests])
        for slot, request in zip(slots, requests, strict=True):
            self._slots[request.request_id] = slot
            self.num_tokens[slot] = len(request.token_ids)
            self.num_prompt_tokens[slot] = request.num_prompt_tokens
            self._num_blocks[:, slot] = 0
            self._append_blocks(slot, request.block_ids)
        return slots

    def remove(self, request_id: str) -> int:
        slot = self._slots.pop(request_id)
        self._free_slots.append(slot)
        return slot

    def clear(self) -> list[int]:
        """Remove all requests; the rows that they had."""
        return [self.remove(request_id) for request_id in list(self._slots)]

    def _append_blocks(self, slot: int, block_ids: Sequence[Sequence[int]]) -> None:
        for group_id, ids in enumerate(block_ids):
            if ids:
                start = self._num_blocks[group_id, slot]
                # A block that left the window keeps a place in the table and is never read: any valid id will do.
                self._block_tables[group_id][slot, start : start + len(ids)] = np.maximum(ids, 0)
                self._num_blocks[group_id, slot] += len(ids)

    def prepare(self, batch: ScheduledBatch) -> StepInputs:
        """Writes the inputs of a step, whose requests all have rows, into the buffers of the host."""
        self._buffers.turn()
        request_ids = list(batch.num_scheduled_tokens)
        computed = dict(zip(batch.cached.request_ids, batch.cached.num_computed_tokens, strict=True))
        computed.update((new.request_id, new.num_computed_tokens) for new in batch.new_requests)
        for request_id, block_ids in zip(batch.cached.request_ids, batch.cached.new_block_ids, strict=True):
            self._append_blocks(self._slots[request_id], block_ids)

        num_rows = len(request_ids)
        num_computed = np.fromiter((computed[r] for r in request_ids), np.int64, num_rows)
        num_scheduled = np.fromiter(batch.num_scheduled_tokens.values(), np.int64, num_rows)
        query_start = np.zeros(num_rows + 1, np.int64)
        np.cumsum(num_scheduled, out=query_start[1:])
        seq_lens = num_computed + num_scheduled
        inputs = StepInputs(
            request_ids=request_ids,
            slots=np.fromiter((self._slots[r] for r in request_ids), np.int64, num_rows),
            num_computed=num_computed,
            num_scheduled=num_scheduled,
            query_start=query_start,
            num_tokens=batch.total_num_scheduled_tokens,
            max_query_len=int(num_scheduled.max()),
            max_seq_len=int(seq_lens.max()),
            isolated=not batch.new_requests,
            sampled_rows=_places(request_ids, batch.sampled_request_ids),
        )
        self._buffers.query_start_loc.host[: num_rows + 1] = query_start
        self._buffers.seq_lens.host[:num_rows] = seq_lens
        self._write_tokens(inputs)
        sampled, row_length = inputs.slots[inputs.sampled_rows], self.token_ids.row_length
        # What no longer fits a context goes to the last column, which nothing reads.
        columns = np.minimum(self.num_tokens[sampled], row_length - 1)
        self._buffers.sampled_places.host[: len(sampled)] = sampled * row_length + columns
        np.subtract(query_start[1:][inputs.sampled_rows], 1, out=self._buffers.sampled_tokens.host[: len(sampled)])
        return inputs

    def _write_tokens(self, inputs: StepInputs) -> None:
        buffers, slots, num_tokens = self._buffers, inputs.slots, inputs.num_tokens
        positions = buffers.positions.host[:num_tokens]
        if num_tokens == len(slots):  # one for each row
            token_slots = slots
            positions[:] = inputs.num_computed
        else:
            token_slots = np.repeat(slots, inputs.num_scheduled)
            begin = np.repeat(inputs.num_computed - inputs.query_start[:-1], inputs.num_scheduled)
            np.add(np.arange(num_tokens), begin, out=positions)
        num_blocks = -(-inputs.max_seq_len // self._block_size)
        block, offset = np.divmod(positions, self._block_size)
        for table, rows, mapping in zip(self._block_tables, buffers.block_tables, buffers.slot_mappings, strict=True):
            rows.host[: len(slots), :num_blocks] = table[slots, :num_blocks]
            np.multiply(table[token_slots, block], self._block_size, out=mapping.host[:num_tokens])
            mapping.host[:num_tokens] += offset
        np.multiply(token_slots, self.token_ids.row_length, out=buffers.token_places.host[:num_tokens])
        buffers.token_places.host[:num_tokens] += positions

    def append_sampled(self, inputs: StepInputs, token_ids: Tensor | None) -> None:
        """Write the tokens [S] that a step sampled behind what its sampled rows hold. None: the step did so itself."""
        if token_ids is not None:
            self.token_ids.put(self._buffers.sampled_places, token_ids)
        self.num_tokens[inputs.slots[inputs.sampled_rows]] += 1


def _places(all_ids: list[str], some_ids: list[str]) -> IntArray:
    """Where each of `some_ids` stands in `all_ids`, which has them in the same order."""
    if len(all_ids) == len(some_ids):
        return np.arange(len(all_ids))
    some = set(some_ids)
    return np.fromiter((i for i, each in enumerate(all_ids) if each in some), np.int64, len(some))
