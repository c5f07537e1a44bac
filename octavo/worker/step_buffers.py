"""StepBuffers: what the forward pass of a step reads beside weights and cache, at addresses that stay.

The host writes arrays; `upload` brings them to the device. A recorded step is made over these tensors once, and finds
the inputs of every later step in them. Whose tokens they are is InputBatch's to know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Mirror:
    """An array on the host and its copy on the device; on a CPU both are the same memory.

    Copies to a GPU happen later than they are asked for. So there are two arrays on the host, taken in turns: `host` is
    the one to write, and `turn` changes it. The one before is free again when the step that it was written for is done.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)
        on_gpu = device.type != "cpu"
        staging = [torch.zeros(shape, dtype=dtype, pin_memory=True) for _ in range(2)] if on_gpu else [self.tensor]
        self._staging = [(each, each.numpy()) for each in staging]

    @property
    def host(self) -> npt.NDArray[Any]:
        return self._staging[0][1]

    def turn(self) -> None:
        self._staging.reverse()

    def upload(self, length: int) -> None:
        """Copy the first `length` rows to the device."""
        staging = self._staging[0][0]
        if staging is not self.tensor:
            self.tensor[:length].copy_(staging[:length], non_blocking=True)


class StepBuffers:
    """Room for the longest step: T tokens of R requests; block tables and slots for each KV-cache group."""

    def __init__(
        self, *, max_num_tokens: int, max_num_seqs: int, max_blocks: int, num_groups: int, device: torch.device
    ) -> None:
        def mirror(*shape: int, dtype: torch.dtype) -> Mirror:
            return Mirror(shape, dtype, device)

        self.max_num_tokens = max_num_tokens
        self.max_num_seqs = max_num_seqs
        self.input_ids = torch.zeros(max_num_tokens, dtype=torch.int64, device=device)
        self.token_places = mirror(max_num_tokens, dtype=torch.int64)  # in the table of all tokens
        self.positions = mirror(max_num_tokens, dtype=torch.int64)
        self.query_start_loc = mirror(max_num_seqs + 1, dtype=torch.int32)
        self.seq_lens = mirror(max_num_seqs, dtype=torch.int32)
        self.block_tables = [mirror(max_num_seqs, max_blocks, dtype=torch.int32) for _ in range(num_groups)]
        self.slot_mappings = [mirror(max_num_tokens, dtype=torch.int64) for _ in range(num_groups)]

    def _mirrors(self) -> tuple[list[Mirror], list[Mirror]]:
        """Those of tokens, and those of requests."""
        return [self.token_places, self.positions, *self.slot_mappings], [self.seq_lens, *self.block_tables]

    def turn(self) -> None:
        """Begin to write another step."""
        of_tokens, of_requests = self._mirrors()
        for mirror in (*of_tokens, *of_requests, self.query_start_loc):
            mirror.turn()

    def pad(self, num_requests: int, size: int) -> None:
        """Fill a step of one token for each request up to `size` with requests that have no token in the cache."""
        self.token_places.host[num_requests:size] = 0
        self.positions.host[num_requests:size] = 0
        self.seq_lens.host[num_requests:size] = 0
        self.query_start_loc.host[num_requests : size + 1] = np.arange(num_requests, size + 1)
        for mapping in self.slot_mappings:
            mapping.host[num_requests:size] = -1

    def upload(self, num_tokens: int, num_requests: int) -> None:
        """Bring a step's inputs to the device, all but `input_ids`, which are read there."""
        of_tokens, of_requests = self._mirrors()
        for mirror in of_tokens:
            mirror.upload(num_tokens)
        for mirror in of_requests:
            mirror.upload(num_requests)
        self.query_start_loc.upload(num_requests + 1)


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

    def write(self, row: int, token_ids: list[int]) -> None:
        self.tensor[row, : len(token_ids)] = torch.tensor(token_ids, dtype=torch.int32, device=self.tensor.device)

    def read(self, places: Mirror, out: Tensor) -> None:
        """Copy the tokens at the first `places`, row * row_length + column, to `out` int64 [T]."""
        num_tokens = len(out)
        if self._host is not None:
            out.numpy()[:] = self._host.reshape(-1)[places.host[:num_tokens]]
        else:
            out.copy_(self.tensor.view(-1)[places.tensor[:num_tokens]])

    def put(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], token_ids: Tensor) -> None:
        """Write `token_ids` int64 [R], one to each row at its column."""
        columns = np.minimum(columns, self.row_length - 1)
        if self._host is not None:
            self._host[rows, columns] = token_ids.numpy()
        else:
            at = torch.from_numpy(np.stack((rows, columns))).to(self.tensor.device, non_blocking=True)
            self.tensor[at[0], at[1]] = token_ids.to(torch.int32)
