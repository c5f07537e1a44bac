"""CapturedStep: steps of one token for each request as CUDA graphs, one for each of some numbers of requests.

A graph holds the kernels of the model's own code over the step's buffers. A step that is smaller than its graph is
filled up with requests that have nothing in the cache. For a few requests, where Python would take longer than the
device, the graph goes on to logits and to the choice of tokens.
"""

from __future__ import annotations

import time
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from octavo.log import get_logger
from octavo.sampling.sampler import Draw
from octavo.worker.graph_pool import Graph, GraphPool
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_graph import Forward, StepGraph, StepResult

if TYPE_CHECKING:
    from octavo.kernels.gpu_sampling import GPUSampling

logger = get_logger(__name__)

FEW = 16  # requests, up to which the choice of tokens is part of the graph; logits of more take much memory


class Ending(Enum):
    """How far a graph goes."""

    HIDDEN = "hidden states"
    LOGITS = "logits"
    ARGMAX = "argmax"
    DRAW = "draw"


class CapturedStep(StepGraph):
    """Serves steps of one token for each request, none of which is new: see `AttentionMetadata.isolated`."""

    chooses = True

    def __init__(self, forward: Forward, pool: GraphPool, sampling: GPUSampling, *, max_model_len: int) -> None:
        self._forward = forward
        self._pool = pool
        self._sampling = sampling
        self._max_model_len = max_model_len
        self._sizes = sizes_up_to(forward.buffers.max_num_seqs)
        self._graphs: dict[tuple[int, Ending], Graph[Tensor]] = {}
        self._capture_all()

    @torch.inference_mode()
    def _capture_all(self) -> None:
        """A graph of every size and ending: a request would wait for one that is recorded in its way.

        The largest comes first, as the others find room in its memory, and then the smallest: recorded after all others
        those of one request took 1 % longer.
        """
        started = time.perf_counter()
        for size in (self._sizes[-1], *self._sizes[:-1]):
            self._pad(0, 0, size)
            self._forward.buffers.upload(size)
            endings = (Ending.LOGITS, Ending.ARGMAX, Ending.DRAW) if size <= FEW else (Ending.HIDDEN,)
            result = self._run_model(size, endings[0])  # compiles, and so does what follows
            if size <= FEW:
                for ending in endings[1:]:
                    self._choose(size, ending, result)
            else:
                self._forward.model.compute_logits(result)
            for ending in endings:
                self._graphs[size, ending] = self._pool.record(partial(self._run_model, size, ending))
        logger.info("captured %d steps in %.1f s", len(self._graphs), time.perf_counter() - started)

    def _run_model(self, size: int, ending: Ending) -> Tensor:
        """Hidden states or logits of all rows, or their tokens, by the ending."""
        forward = self._forward
        forward.read_tokens(size)
        hidden = forward(
            num_tokens=size, num_requests=size, max_query_len=1, max_seq_len=self._max_model_len, isolated=True
        )
        if ending is Ending.HIDDEN:
            return hidden
        logits = forward.model.compute_logits(hidden)
        return logits if ending is Ending.LOGITS else self._choose(size, ending, logits)

    def _choose(self, size: int, ending: Ending, logits: Tensor) -> Tensor:
        if ending is Ending.ARGMAX:
            token_ids = self._sampling.argmax(logits)
        else:
            columns = (column.tensor[:size] for column in self._forward.buffers.draw)
            token_ids = self._sampling.draw_on_device(logits, *columns)
        self._forward.append(token_ids)
        return token_ids

    def accepts(self, inputs: StepInputs, *, all_hidden: bool) -> bool:
        return inputs.max_query_len == 1 and inputs.isolated and not all_hidden

    def run(self, inputs: StepInputs, draw: Draw | None) -> StepResult:
        num_requests, num_sampled = len(inputs.slots), len(inputs.sampled_rows)
        size = next(size for size in self._sizes if size >= num_requests)
        buffers = self._forward.buffers
        self._pad(num_requests, num_sampled, size)
        if size > FEW:
            ending = Ending.HIDDEN
        elif draw is None or not inputs.all_sampled:
            ending = Ending.LOGITS
        elif draw.greedy:
            ending = Ending.ARGMAX
        else:
            ending = Ending.DRAW
            buffers.write_draw(draw)
        buffers.upload(size)
        result = self._graphs[size, ending].replay()
        if ending in (Ending.ARGMAX, Ending.DRAW):
            return StepResult(None, token_ids=result[:num_requests])
        if not num_sampled:
            return StepResult(None)
        if ending is Ending.HIDDEN:  # the logits of all rows: products have the sizes that were compiled
            result = self._forward.model.compute_logits(result)
        if not inputs.all_sampled:
            return StepResult(None, result[buffers.sampled_tokens.tensor[:num_sampled]])
        return StepResult(None, result[:num_requests])

    def _pad(self, num_requests: int, num_sampled: int, size: int) -> None:
        buffers = self._forward.buffers
        buffers.pad(num_requests, size, num_requests, size)
        buffers.pad_sampled(num_sampled, size, self._forward.nowhere)


def sizes_up_to(largest: int) -> list[int]:
    """1, 2, 4, 8, 12, 16, then steps of an eighth to a quarter, so that little of a step is filling."""
    sizes = [size for size in (1, 2, 4, 8, 12) if size < largest]
    size = 16
    while size < largest:
        sizes.append(size)
        size += max(8, 1 << (size.bit_length() - 3))
    return [*sizes, largest]
