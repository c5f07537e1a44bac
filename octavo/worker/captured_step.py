"""CapturedStep: the forward pass of decode steps as CUDA graphs, one for each of some batch sizes.

A graph holds the kernels of the model's own code over the step's buffers. A step that is smaller than its graph is
filled up with requests that have no tokens. Graphs share one pool of memory: only one runs at a time.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from octavo.log import get_logger
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_graph import Forward, StepGraph

logger = get_logger(__name__)

_LOGITS_UP_TO = 16  # requests: with so few the host has no time to launch the head; of more, logits take much memory


class CapturedStep(StepGraph):
    """Serves steps of one token for each request, none of which is new: see `AttentionMetadata.isolated`."""

    def __init__(self, forward: Forward, *, max_model_len: int) -> None:
        self._forward = forward
        self._max_model_len = max_model_len
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor | None]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        started = time.perf_counter()
        sizes = _sizes(forward.buffers.max_num_seqs)
        forward.buffers.pad(0, sizes[-1])
        forward.buffers.upload(sizes[-1])
        with torch.inference_mode():
            for size in reversed(sizes):  # the largest first: the others find room in its memory
                self._capture(size)
        logger.info("captured %d steps in %.1f s", len(sizes), time.perf_counter() - started)

    def _capture(self, size: int) -> None:
        self._run_model(size)  # once outside: kernels are compiled, libraries find their workspaces
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            hidden, logits = self._run_model(size)
        self._graphs[size] = graph, hidden, logits

    def _run_model(self, size: int) -> tuple[Tensor, Tensor | None]:
        forward = self._forward
        forward.read_tokens(size)
        hidden = forward(
            num_tokens=size, num_requests=size, max_query_len=1, max_seq_len=self._max_model_len, isolated=True
        )
        return hidden, forward.model.compute_logits(hidden) if size <= _LOGITS_UP_TO else None

    def accepts(self, inputs: StepInputs) -> bool:
        return inputs.max_query_len == 1 and inputs.isolated

    def run(self, inputs: StepInputs) -> tuple[Tensor, Tensor | None]:
        num_requests = len(inputs.slots)
        size = next(size for size in sorted(self._graphs) if size >= num_requests)
        buffers = self._forward.buffers
        buffers.pad(num_requests, size)
        buffers.upload(size)
        graph, hidden, logits = self._graphs[size]
        graph.replay()
        return hidden[:num_requests], None if logits is None else logits[:num_requests]


def _sizes(largest: int) -> list[int]:
    """1, 2, 4, 8, then steps of an eighth to a quarter, so that little of a step is filling."""
    sizes = [size for size in (1, 2, 4, 8, 12) if size < largest]
    size = 16
    while size < largest:
        sizes.append(size)
        size += max(8, 1 << (size.bit_length() - 3))
    return [*sizes, largest]
