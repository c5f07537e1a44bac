"""CapturedPrompt: steps with prompts as CUDA graphs, one for each of some numbers of tokens and of requests.

A step that is smaller than its graph is filled up with tokens that are nobody's and requests that have none; what it
computes of them, nothing reads. A graph is recorded while the engine has nothing to do, or when it is first needed,
while the device runs that very step.
Where a step takes the device longer than Python needs to launch it, nothing is gained, and none is recorded.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import torch
from torch import Tensor

from octavo.sampling.sampler import Draw
from octavo.worker.captured_step import sizes_up_to
from octavo.worker.graph_pool import Graph, GraphPool
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_graph import Forward, StepGraph, StepResult

WORTH = 20e12  # operations of a step's products, above which launching it takes less time than running it
_SMALLEST = 32  # tokens
_FEW = 8  # requests; with more the context of a single one is shared out over fewer programs


class CapturedPrompt(StepGraph):
    """Serves steps of any number of tokens for each request."""

    def __init__(self, forward: Forward, pool: GraphPool, *, max_model_len: int, operations_per_token: int) -> None:
        self._forward = forward
        self._pool = pool
        self._max_model_len = max_model_len
        buffers = forward.buffers
        self._token_sizes = token_sizes(min(buffers.max_num_tokens, int(WORTH // max(1, operations_per_token))))
        self._request_sizes = sorted({min(_FEW, buffers.max_num_seqs), buffers.max_num_seqs})
        self._sampled_sizes = sizes_up_to(buffers.max_num_seqs)
        self._graphs: dict[tuple[int, int], Graph[Tensor]] = {}
        if self._token_sizes:
            self._capture_empty(self._token_sizes[-1], self._request_sizes[-1])  # the others find room in its memory

    def record_ahead(self) -> bool:
        sizes = product(self._token_sizes, self._request_sizes)
        missing = next((size for size in sizes if size not in self._graphs), None)
        if missing is not None:
            self._capture_empty(*missing)
        return missing is not None

    @torch.inference_mode()
    def _capture_empty(self, num_tokens: int, num_requests: int) -> None:
        """By way of a step in which all is filling."""
        buffers = self._forward.buffers
        buffers.pad(0, num_tokens, 0, num_requests)
        buffers.pad_sampled(0, num_requests, self._forward.nowhere)
        buffers.upload(num_requests)
        self._run_model(num_tokens, num_requests)
        self._capture(num_tokens, num_requests)

    def _capture(self, num_tokens: int, num_requests: int) -> None:
        run = partial(self._run_model, num_tokens, num_requests)
        self._graphs[num_tokens, num_requests] = self._pool.record(run)

    def _run_model(self, num_tokens: int, num_requests: int) -> Tensor:
        """[num_requests, hidden_size]: the hidden states after which tokens are sampled."""
        forward = self._forward
        forward.read_tokens(num_tokens)
        hidden = forward(
            num_tokens=num_tokens,
            num_requests=num_requests,
            max_query_len=num_tokens,
            max_seq_len=self._max_model_len,
        )
        return hidden[forward.buffers.sampled_tokens.tensor[:num_requests]]

    def accepts(self, inputs: StepInputs, *, all_hidden: bool) -> bool:
        return bool(self._token_sizes) and inputs.num_tokens <= self._token_sizes[-1] and not all_hidden

    def run(self, inputs: StepInputs, draw: Draw | None) -> StepResult:
        num_sampled = len(inputs.sampled_rows)
        num_tokens = next(size for size in self._token_sizes if size >= inputs.num_tokens)
        num_requests = next(size for size in self._request_sizes if size >= len(inputs.slots))
        buffers = self._forward.buffers
        buffers.pad(inputs.num_tokens, num_tokens, len(inputs.slots), num_requests)
        buffers.pad_sampled(num_sampled, num_requests, self._forward.nowhere)
        buffers.upload(num_requests)
        graph = self._graphs.get((num_tokens, num_requests))
        if graph is None:
            hidden = self._run_model(num_tokens, num_requests)
            self._capture(num_tokens, num_requests)  # while the device runs what was launched
        else:
            hidden = graph.replay()
        if not num_sampled:
            return StepResult(None)
        rows = next(size for size in self._sampled_sizes if size >= num_sampled)
        return StepResult(None, self._forward.model.compute_logits(hidden[:rows])[:num_sampled])


def token_sizes(largest: int) -> list[int]:
    """Multiples of 32 up to 128, then four for each doubling, up to `largest`; none where that is too small."""
    sizes = []
    size = _SMALLEST
    while size < largest:
        sizes.append(size)
        size += max(_SMALLEST, 1 << (size.bit_length() - 3))
    return [*sizes, largest] if largest >= _SMALLEST else []
