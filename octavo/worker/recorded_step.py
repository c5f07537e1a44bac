"""RecordedStep: the forward pass as a list of kernel calls, replayed without Python between them.

The model's own code runs once, over buffers for the longest step, while the kernels note down their calls and compute
nothing. A step copies its inputs into those buffers and replays the calls for its own number of rows. Only kernels that
can record have it: those of the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.attention.base import AttentionBackend, AttentionMetadata
from octavo.config import KVGroupSpec
from octavo.kernels.cpu import CPUKernels
from octavo.layers.context import ForwardContext
from octavo.models.base import CausalLM
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_graph import StepGraph


class RecordedStep(StepGraph):
    """Serves every step of at most `max_num_tokens` tokens of at most `max_num_seqs` requests."""

    def __init__(
        self,
        model: CausalLM,
        kernels: CPUKernels,
        backend: AttentionBackend,
        groups: tuple[KVGroupSpec, ...],
        kv_caches: list[Tensor],
        *,
        max_num_tokens: int,
        max_num_seqs: int,
        max_blocks: int,
    ) -> None:
        self._input_ids = torch.zeros(max_num_tokens, dtype=torch.int64)
        self._positions = torch.zeros(max_num_tokens, dtype=torch.int64)
        self._query_start_loc = torch.zeros(max_num_seqs + 1, dtype=torch.int32)
        self._seq_lens = torch.zeros(max_num_seqs, dtype=torch.int32)
        self._block_tables = [torch.zeros((max_num_seqs, max_blocks), dtype=torch.int32) for _ in groups]
        self._slot_mappings = [torch.zeros(max_num_tokens, dtype=torch.int64) for _ in groups]
        metadata = tuple(
            backend.build(self._metadata(block_table, slot_mapping), group.sliding_window)
            for group, block_table, slot_mapping in zip(groups, self._block_tables, self._slot_mappings, strict=True)
        )
        context = ForwardContext(metadata=metadata, kv_caches=kv_caches)
        with torch.inference_mode():
            self._recording = kernels.record(
                lambda: model(self._input_ids, self._positions, context), num_rows=max_num_tokens
            )

    def _metadata(self, block_table: Tensor, slot_mapping: Tensor) -> AttentionMetadata:
        return AttentionMetadata(
            query_start_loc=self._query_start_loc,
            seq_lens=self._seq_lens,
            block_table=block_table,
            slot_mapping=slot_mapping,
            num_reqs=len(self._seq_lens),
            num_tokens=len(slot_mapping),
            max_query_len=len(slot_mapping),
            max_seq_len=0,
        )

    def accepts(self, inputs: StepInputs) -> bool:
        return all(metadata.causal for metadata in inputs.metadata)

    def run(self, inputs: StepInputs, context: ForwardContext) -> Tensor:
        num_rows, num_requests = len(inputs.input_ids), len(inputs.slots)
        self._input_ids[:num_rows] = inputs.input_ids
        self._positions[:num_rows] = inputs.positions
        first = inputs.metadata[0]
        self._query_start_loc[: num_requests + 1] = first.query_start_loc
        self._seq_lens[:num_requests] = first.seq_lens
        for metadata, table, slots in zip(inputs.metadata, self._block_tables, self._slot_mappings, strict=True):
            table[:num_requests, : metadata.block_table.shape[1]] = metadata.block_table
            slots[:num_rows] = metadata.slot_mapping
        self._recording.replay(num_rows, num_requests)
        return self._recording.result[:num_rows]
