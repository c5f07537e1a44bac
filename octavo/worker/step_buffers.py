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
    """An array on the host and its copy on the device; on a CPU both are the same memory."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        staging = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self.host: npt.NDArray[Any] = staging.numpy()
        self.tensor = staging if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self._staging = staging

    def upload(self, length: int) -> None:
        """Copy the first `length` rows to the device."""
        if self.tensor is not self._staging:
            self.tensor[:length].copy_(self._staging[:length], non_blocking=True)


class StepBuffers:
    """Room for the longest step: T tokens of R requests; block tables and slots for each KV-cache group."""

    def __init__(
        self, *, max_num_tokens: int, max_num_seqs: int, max_blocks: int, num_groups: int, device: torch.device
    ) -> None:
        def mirror(*shape: int, dtype: torch.dtype) -> Mirror:
            return Mirror(shape, dtype, device)

        self.max_num_tokens = max_num_tokens
        self.max_num_seqs = max_num_seqs
        self.input_ids = mirror(max_num_tokens, dtype=torch.int64)
        self.positions = mirror(max_num_tokens, dtype=torch.int64)
        self.query_start_loc = mirror(max_num_seqs + 1, dtype=torch.int32)
        self.seq_lens = mirror(max_num_seqs, dtype=torch.int32)
        self.block_tables = [mirror(max_num_seqs, max_blocks, dtype=torch.int32) for _ in range(num_groups)]
        self.slot_mappings = [mirror(max_num_tokens, dtype=torch.int64) for _ in range(num_groups)]

    def upload(self, num_tokens: int, num_requests: int) -> None:
        """Bring a step's inputs to the device, all but `input_ids`, which are gathered there."""
        for each in (self.positions, *self.slot_mappings):
            each.upload(num_tokens)
        for each in (self.seq_lens, *self.block_tables):
            each.upload(num_requests)
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

    def read(self, flat: npt.NDArray[np.int64], out: Mirror) -> None:
        """Copy the tokens at `flat` [T], row * row_length + column, to `out`."""
        if self._host is not None:
            out.host[: len(flat)] = self._host.reshape(-1)[flat]
        else:
            index = torch.from_numpy(flat).to(self.tensor.device)
            out.tensor[: len(flat)] = self.tensor.view(-1)[index]

    def put(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], token_ids: Tensor) -> None:
        """Write `token_ids` int64 [R], one to each row at its column."""
        columns = np.minimum(columns, self.row_length - 1)
        if self._host is not None:
            self._host[rows, columns] = token_ids.numpy()
        else:
            device = self.tensor.device
            at = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
            self.tensor[at] = token_ids.to(torch.int32)
