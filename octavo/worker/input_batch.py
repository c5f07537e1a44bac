"""InputBatch: the rows of the requests that the worker holds, and the tensors of a step made from them.

Rows (slots) are persistent columns: tokens, lengths, block tables. A step's inputs are written into buffers that live
as long as the batch, so that a recorded step finds them at the same addresses. It knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from octavo.attention.base import AttentionMetadata
from octavo.batch import NewRequest, ScheduledBatch

IntArray = npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class StepInputs:
    """One step, as tensors on the device and as columns on the host."""

    request_ids: list[str]  # [R], the rows of the step
    slots: IntArray  # [R]
    num_computed: IntArray  # [R], tokens before this step
    num_scheduled: IntArray  # [R]
    query_start: IntArray  # [R + 1]
    input_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    metadata: tuple[AttentionMetadata, ...]  # per KV-cache group
    sampled_rows: IntArray  # [S], the rows for which a token is sampled
    logits_rows: Tensor  # [S] int64, their last positions in the step's tokens


class InputBatch:
    """Columns for at most `max_num_seqs` requests of at most `max_model_len` tokens.

    `token_ids` [max_num_seqs, max_model_len] int32 lives on the device: a sampled token is written there by the step
    that samples it, so the next step can read it before the host knows it.
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_model_len: int,
        max_num_batched_tokens: int,
        block_size: int,
        num_groups: int,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self.device = device
        self.token_ids = torch.zeros((max_num_seqs, max_model_len), dtype=torch.int32, device=device)
        self.num_tokens = np.zeros(max_num_seqs, np.int64)  # those being sampled included
        self.num_prompt_tokens = np.zeros(max_num_seqs, np.int64)
        max_blocks = -(-max_model_len // block_size)
        self._block_tables = [np.zeros((max_num_seqs, max_blocks), np.int32) for _ in range(num_groups)]
        self._num_blocks = np.zeros((num_groups, max_num_seqs), np.int64)
        self._slots: dict[str, int] = {}
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self._positions = np.zeros(max_num_batched_tokens, np.int64)
        self._slot_mappings = np.zeros((num_groups, max_num_batched_tokens), np.int64)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._slots

    def slot(self, request_id: str) -> int:
        return self._slots[request_id]

    def add(self, request: NewRequest) -> int:
        """Take a row for the request; its number."""
        slot = self._free_slots.pop()
        self._slots[request.request_id] = slot
        num_tokens = len(request.token_ids)
        self.token_ids[slot, :num_tokens] = torch.tensor(request.token_ids, dtype=torch.int32, device=self.device)
        self.num_tokens[slot] = num_tokens
        self.num_prompt_tokens[slot] = request.num_prompt_tokens
        self._num_blocks[:, slot] = 0
        self._append_blocks(slot, request.block_ids)
        return slot

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
        """The tensors of a step whose requests all have rows."""
        request_ids = list(batch.num_scheduled_tokens)
        computed = dict(zip(batch.cached.request_ids, batch.cached.num_computed_tokens, strict=True))
        computed.update((new.request_id, new.num_computed_tokens) for new in batch.new_requests)
        for request_id, block_ids in zip(batch.cached.request_ids, batch.cached.new_block_ids, strict=True):
            self._append_blocks(self._slots[request_id], block_ids)

        num_rows, num_tokens = len(request_ids), batch.total_num_scheduled_tokens
        slots = np.fromiter((self._slots[r] for r in request_ids), np.int64, num_rows)
        num_computed = np.fromiter((computed[r] for r in request_ids), np.int64, num_rows)
        num_scheduled = np.fromiter(batch.num_scheduled_tokens.values(), np.int64, num_rows)
        query_start = np.zeros(num_rows + 1, np.int64)
        np.cumsum(num_scheduled, out=query_start[1:])

        token_slots = np.repeat(slots, num_scheduled)
        positions = self._positions[:num_tokens]
        positions[:] = np.arange(num_tokens) + np.repeat(num_computed - query_start[:-1], num_scheduled)
        flat = torch.from_numpy(token_slots * self.token_ids.shape[1] + positions).to(self.device)
        sampled = set(batch.sampled_request_ids)
        sampled_rows = np.fromiter((i for i, r in enumerate(request_ids) if r in sampled), np.int64, len(sampled))
        return StepInputs(
            request_ids=request_ids,
            slots=slots,
            num_computed=num_computed,
            num_scheduled=num_scheduled,
            query_start=query_start,
            input_ids=self.token_ids.view(-1)[flat].long(),
            positions=torch.from_numpy(positions).to(self.device),
            metadata=self._metadata(slots, token_slots, positions, num_computed, num_scheduled, query_start),
            sampled_rows=sampled_rows,
            logits_rows=torch.from_numpy(query_start[1:][sampled_rows] - 1).to(self.device),
        )

    def _metadata(
        self,
        slots: IntArray,
        token_slots: IntArray,
        positions: IntArray,
        num_computed: IntArray,
        num_scheduled: IntArray,
        query_start: IntArray,
    ) -> tuple[AttentionMetadata, ...]:
        seq_lens = num_computed + num_scheduled
        max_seq_len = int(seq_lens.max())
        max_blocks = -(-max_seq_len // self.block_size)
        num_tokens = len(positions)
        query_start_loc = torch.from_numpy(query_start.astype(np.int32)).to(self.device)
        seq_lens_tensor = torch.from_numpy(seq_lens.astype(np.int32)).to(self.device)
        groups = []
        for table, mapping in zip(self._block_tables, self._slot_mappings, strict=True):
            blocks = table[token_slots, positions // self.block_size].astype(np.int64)
            mapping[:num_tokens] = blocks * self.block_size + positions % self.block_size
            groups.append(
                AttentionMetadata(
                    query_start_loc=query_start_loc,
                    seq_lens=seq_lens_tensor,
                    block_table=torch.from_numpy(table[slots, :max_blocks]).to(self.device),
                    slot_mapping=torch.from_numpy(mapping[:num_tokens]).to(self.device),
                    num_reqs=len(slots),
                    num_tokens=num_tokens,
                    max_query_len=int(num_scheduled.max()),
                    max_seq_len=max_seq_len,
                )
            )
        return tuple(groups)

    def append_sampled(self, slots: IntArray, token_ids: Tensor) -> None:
        """Write the tokens [S] sampled for the rows `slots` behind what the rows hold."""
        rows = torch.from_numpy(slots).to(self.device)
        columns = torch.from_numpy(self.num_tokens[slots]).to(self.device)
        inside = columns < self.token_ids.shape[1]  # the last token that fits the context has no place to go
        self.token_ids[rows[inside], columns[inside]] = token_ids[inside].to(torch.int32)
        self.num_tokens[slots] += 1
