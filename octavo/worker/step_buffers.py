"""StepBuffers: what the forward pass of a step reads beside weights and cache, at addresses that stay.

The host writes arrays; `upload` brings them to the device. A recorded step is made over these tensors once, and finds
the inputs of every later step in them. Whose tokens they are is InputBatch's to know.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from octavo.sampling.sampler import Draw


class Mirror:
    """An array on the host, `host`, and its copy on the device, `tensor`; on a CPU both are the same memory."""

    def __init__(self, tensor: Tensor, staging: list[Tensor]) -> None:
        self.tensor = tensor
        self._staging = [each.numpy() for each in staging]

    @property
    def host(self) -> npt.NDArray[Any]:
        return self._staging[0]

    def turn(self) -> None:
        self._staging.reverse()


class StepBuffers:
    """Room for the longest step: T tokens of R requests; block tables and slots for each KV-cache group.

    All lies in one piece of memory, so that a few copies bring a step to a GPU. They happen later than they are asked
    for. So there are two such pieces on the host, taken in turns: `turn` changes the one to write, and the one before
    is free again when the step that it was written for is done.
    """

    def __init__(
        self, *, max_num_tokens: int, max_num_seqs: int, max_blocks: int, num_groups: int, device: torch.device
    ) -> None:
        self.max_num_tokens = max_num_tokens
        self.max_num_seqs = max_num_seqs
        of_tokens, table = ((max_num_tokens,), torch.int64), ((max_num_seqs, max_blocks), torch.int32)
        integers, floats, doubles, longs = (
            ((max_num_seqs,), dtype) for dtype in (torch.int32, torch.float32, torch.float64, torch.int64)
        )
        arrays = [
            *(of_tokens, of_tokens, longs, longs),
            *(of_tokens for _ in range(num_groups)),
            *(integers, ((max_num_seqs + 1,), torch.int32)),
            *(floats, floats, longs, doubles, doubles),
            *(table for _ in range(num_groups)),
        ]
        self._num_tables = num_groups
        sizes = [_aligned(torch.Size(shape).numel() * dtype.itemsize) for shape, dtype in arrays]
        self._device = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
        on_gpu = device.type != "cpu"
        self._host = [torch.zeros(sum(sizes), dtype=torch.uint8, pin_memory=True) for _ in range(2 * on_gpu)]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._row_bytes = max_blocks * torch.int32.itemsize
        self._mirrors = [
            Mirror(*self._views(start, shape, dtype))
            for start, (shape, dtype) in zip(self._starts, arrays, strict=True)
        ]
        places = iter(self._mirrors)
        self.token_places = next(places)  # in the table of all tokens
        self.positions = next(places)
        self.sampled_places = next(places)  # in the table of all tokens, for those that the step samples
        self.sampled_tokens = next(places)  # which of the step's tokens a token is sampled after
        self.slot_mappings = [next(places) for _ in range(num_groups)]
        self.seq_lens = next(places)
        self.query_start_loc = next(places)
        # How the sampled rows choose their tokens, for steps that do so themselves.
        self.draw = [next(places) for _ in range(5)]  # temperature, min_p, top_k, top_p, uniforms
        self.block_tables = list(places)
        self.input_ids = torch.zeros(max_num_tokens, dtype=torch.int64, device=device)

    def _views(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        size = torch.Size(shape).numel() * dtype.itemsize
        views = [memory[start : start + size].view(dtype).view(shape) for memory in (self._device, *self._host)]
        return views[0], views[1:] or views

    def turn(self) -> None:
        """Begin to write another step."""
        self._host.reverse()
        for mirror in self._mirrors:
            mirror.turn()

    def pad(self, num_tokens: int, token_size: int, num_requests: int, request_size: int) -> None:
        """Fill a step up to a size: with tokens that are nobody's, and with requests that have none.

        A step of one token for each request gets such requests, with nothing in the cache.
        """
        one_each = num_tokens == num_requests and token_size == request_size
        self.token_places.host[num_tokens:token_size] = 0
        self.positions.host[num_tokens:token_size] = 0
        for mapping in self.slot_mappings:
            mapping.host[num_tokens:token_size] = -1
        self.seq_lens.host[num_requests:request_size] = 0
        ends = np.arange(num_requests + 1, request_size + 1) if one_each else num_tokens
        self.query_start_loc.host[num_requests + 1 : request_size + 1] = ends

    def pad_sampled(self, num_sampled: int, size: int, nowhere: int) -> None:
        """Fill the rows that sample up to `size` with greedy ones, whose tokens go to place `nowhere` of the table."""
        self.sampled_tokens.host[num_sampled:size] = 0
        self.sampled_places.host[num_sampled:size] = nowhere
        self.draw[0].host[num_sampled:size] = 0

    def write_draw(self, draw: Draw) -> None:
        for place, column in zip(self.draw, draw.columns(), strict=True):
            place.host[: len(column)] = column

    def upload(self, num_requests: int) -> None:
        """Bring a step's inputs to the device, all but `input_ids`, which are read there."""
        if not self._host:
            return
        tables = self._starts[-self._num_tables :]
        for start, end in ((0, tables[0]), *((at, at + num_requests * self._row_bytes) for at in tables)):
            self._device[start:end].copy_(self._host[0][start:end], non_blocking=True)


def _aligned(size: int) -> int:
    return -(-size // 256) * 256


class TokenTable:
    """The tokens of all rows: `tensor` [max_num_seqs, max_model_len + 1] int32 on the device.

    A sampled token is written there by the step that samples it, so the next step can read it before the host knows it.
    What no longer fits a context goes to the last column, which nothing reads.
    """

    def __init__(self, max_num_seqs: int, max_model_len: int, device: torch.device) -> None:
        self.tensor = torch.zeros((max_num_seqs, max_model_len + 1), dtype=torch.int32, device=device)
        self._host = self.tensor.numpy() if device.type == "cpu" else None  # the same memory: numpy has less to ask

    @property
    def row_length(self) -> int:
        return self.tensor.shape[1]

    @property
    def nowhere(self) -> int:
        """A place that nothing reads."""
        return self.row_length - 1

    def write(self, rows: list[int], token_ids: list[list[int]]) -> None:
        """The tokens of some rows. A GPU takes them when it comes to it; the host goes on."""
        if not rows:
            return
        ends = np.cumsum([len(ids) for ids in token_ids]).tolist()
        staging = torch.empty(ends[-1], dtype=torch.int32, pin_memory=self._host is None)
        staging.numpy()[:] = np.fromiter(chain.from_iterable(token_ids), np.int32, ends[-1])
        for row, ids, end in zip(rows, token_ids, ends, strict=True):
            self.tensor[row, : len(ids)].copy_(staging[end - len(ids) : end], non_blocking=True)

    def read(self, places: Mirror, out: Tensor) -> None:
        """Copy the tokens at the first `places`, row * row_length + column, to `out` int64 [T]."""
        num_tokens = len(out)
        if self._host is not None:
            out.numpy()[:] = self._host.reshape(-1)[places.host[:num_tokens]]
        else:
            out.copy_(self.tensor.view(-1)[places.tensor[:num_tokens]])

    def put(self, places: Mirror, token_ids: Tensor) -> None:
        """Write `token_ids` int64 [S] to the first S of `places`."""
        num_tokens = len(token_ids)
        if self._host is not None:
            self._host.reshape(-1)[places.host[:num_tokens]] = token_ids.numpy()
        else:
            self.tensor.view(-1).index_copy_(0, places.tensor[:num_tokens], token_ids.to(torch.int32))
