"""What a grammar allows, in Triton: the logits of all other tokens become -inf."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton_launch import launch_dependent
from octavo.kernels.triton_layers import overlap

_TOKENS = 4096  # of a program


@triton.jit
def bitmask_kernel(
    logits_ptr, rows_ptr, words_ptr, logits_stride, words_stride, V, B: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """B tokens of one row a program. Nothing is read of the logits: what is forbidden is written."""
    overlap(PDL)
    m = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * B + tl.arange(0, B)
    inside = token < V
    word = tl.load(words_ptr + m * words_stride + token // 32, mask=inside, other=-1)
    forbidden = inside & (((word >> (token % 32)) & 1) == 0)
    at = logits_ptr + tl.load(rows_ptr + m) * logits_stride + token
    tl.store(at, float("-inf"), mask=forbidden)


def apply_bitmask_(logits: Tensor, rows: Tensor, words: Tensor) -> None:
    """Set the logits of tokens whose bit is not set to -inf.

    Args:
        logits: [R, V] float32.
        rows: [M] int64, rows of the logits, each once.
        words: [M, ceil(V / 32)] int32; bit i % 32 of word i // 32 is token i's.
    """
    vocab_size = logits.shape[1]
    assert logits.dtype is torch.float32
    assert logits.stride(1) == words.stride(1) == 1
    grid = (len(rows), triton.cdiv(vocab_size, _TOKENS))
    strides = (logits.stride(0), words.stride(0), vocab_size)
    launch_dependent(bitmask_kernel, grid, logits, rows, words, *strides, B=_TOKENS)
