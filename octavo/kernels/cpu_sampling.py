"""The kernels of the sampler in C++ (csrc/cpu/sampling.inc): the fast twin of torch_sampling on a CPU.

`octavo.sampling.kernels` says what each has to do; this module takes tensors, checks them, and makes room for results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CPUSampling:
    """`team` is the extension's, which runs the kernels of the layers as well."""

    def __init__(self, team: Any) -> None:
        self._team = team

    def argmax(self, logits: Tensor) -> Tensor:
        """The lowest index of the largest of each row, float32 [R, V] -> int64 [R]; a NaN is never the largest."""
        token_ids = torch.empty(len(logits), dtype=torch.int64)
        self._team.argmax(*_rows(logits), token_ids.data_ptr(), len(logits))
        return token_ids

    def draw(
        self, logits: Tensor, temperature: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor, uniforms: Tensor
    ) -> Tensor:
        num_rows = len(logits)
        floats = (_column(values, num_rows, torch.float32) for values in (temperature, min_p))
        doubles = (_column(values, num_rows, torch.float64) for values in (top_p, uniforms))
        token_ids = torch.empty(num_rows, dtype=torch.int64)
        self._team.draw(
            *_rows(logits), *floats, _column(top_k, num_rows, torch.int64), *doubles, token_ids.data_ptr(), num_rows
        )
        return token_ids

    def apply_bitmask_(self, logits: Tensor, rows: Tensor, words: Tensor) -> None:
        num_rows = len(rows)
        assert words.shape == (num_rows, -(-logits.shape[1] // 32))
        assert words.dtype is torch.int32
        assert words.is_contiguous()
        self._team.bitmask(
            *_rows(logits), _column(rows, num_rows, torch.int64), words.data_ptr(), words.stride(0), num_rows
        )

    def penalize_(
        self,
        logits: Tensor,
        rows: Tensor,
        slots: Tensor,
        token_ids: Tensor,
        num_tokens: Tensor,
        num_prompt_tokens: Tensor,
        repetition: Tensor,
        frequency: Tensor,
        presence: Tensor,
    ) -> None:
        num_rows = len(rows)
        assert token_ids.dtype is torch.int32
        assert token_ids.stride(1) == 1
        self._team.penalize(
            *_rows(logits),
            _column(rows, num_rows, torch.int64),
            _column(slots, num_rows, torch.int64),
            token_ids.data_ptr(),
            token_ids.stride(0),
            *(_column(values, num_rows, torch.int64) for values in (num_tokens, num_prompt_tokens)),
            *(_column(values, num_rows, torch.float32) for values in (repetition, frequency, presence)),
            num_rows,
        )

    def logprobs(self, logits: Tensor, entries: Tensor, num_top: Tensor) -> tuple[Tensor, Tensor]:
        num_rows, width = entries.shape
        assert num_rows == len(logits)
        assert entries.dtype is torch.int64
        assert entries.is_contiguous()
        assert num_rows == 0 or int(num_top.max()) < width
        values, ranks = torch.zeros(num_rows, width), torch.zeros(num_rows, dtype=torch.int64)
        self._team.logprobs(
            *_rows(logits),
            _column(num_top, num_rows, torch.int64),
            entries.data_ptr(),
            width,
            values.data_ptr(),
            ranks.data_ptr(),
            num_rows,
        )
        return values, ranks


def _rows(logits: Tensor) -> tuple[int, int, int]:
    """Address, distance between rows in elements, and width of a matrix."""
    assert logits.dim() == 2
    assert logits.dtype is torch.float32
    assert logits.stride(1) == 1
    return logits.data_ptr(), logits.stride(0), logits.shape[1]


def _column(values: Tensor, num_rows: int, dtype: torch.dtype) -> int:
    """The address of numbers that the caller keeps."""
    assert values.shape == (num_rows,)
    assert values.dtype is dtype
    assert values.is_contiguous()
    return values.data_ptr()
