"""Repetition, frequency and presence penalties in Triton, from the tokens that rows hold.

Histories are walked over, not vocabularies, each twice. The first pass counts each token in a table of zeros; the
second takes the counts out again, so that of a token met several times one visitor alone finds its count, changes the
logit, and leaves a zero. Only integers are summed with atomics, so the result does not depend on their order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo.kernels.triton_launch import launch_dependent
from octavo.kernels.triton_layers import overlap

_IN_PROMPT = tl.constexpr(1 << 30)
_TOKENS = 1024  # of a program


@triton.jit
def penalty_kernel(
    logits_ptr, counts_ptr, token_ids_ptr, slot_ptr, num_tokens_ptr, num_prompt_tokens_ptr, repetition_ptr,
    frequency_ptr, presence_ptr, logits_stride, history_stride, V, COUNT: tl.constexpr, B: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """B tokens of one row's history a program; COUNT is the first pass."""
    overlap(PDL)
    row = tl.program_id(0).to(tl.int64)
    repetition = tl.load(repetition_ptr + row)
    frequency = tl.load(frequency_ptr + row)
    presence = tl.load(presence_ptr + row)
    if (repetition != 1) | (frequency != 0) | (presence != 0):
        num_tokens = tl.load(num_tokens_ptr + row)
        position = tl.program_id(1) * B + tl.arange(0, B)
        history = token_ids_ptr + tl.load(slot_ptr + row).to(tl.int64) * history_stride
        token = tl.load(history + position, mask=position < num_tokens, other=-1)
        held = (token >= 0) & (token < V)
        if COUNT:
            prompt = position < tl.load(num_prompt_tokens_ptr + row)
            tl.atomic_or(counts_ptr + row * V + token, _IN_PROMPT, mask=held & prompt, sem="relaxed")
            tl.atomic_add(
                counts_ptr + row * V + token, 1, mask=held & (position < num_tokens) & (prompt == 0), sem="relaxed"
            )
        else:
            found = tl.atomic_and(counts_ptr + row * V + token, 0, mask=held, sem="relaxed")
            mine = held & (found != 0)
            count = (found & (_IN_PROMPT - 1)).to(tl.float32)
            at = logits_ptr + row * logits_stride + token
            x = tl.load(at, mask=mine, other=0.0)
            x = tl.where(x > 0, x / repetition, x * repetition)
            x = x - frequency * count - tl.where(count > 0, presence, 0.0)
            tl.store(at, x, mask=mine)


def apply_penalties_(
    logits: Tensor,
    token_ids: Tensor,
    slots: Tensor,
    num_tokens: Tensor,
    num_prompt_tokens: Tensor,
    *,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
    counts: Tensor,
) -> None:
    """Change logits [R, V] float32 in place; rows whose parameters are 1, 0 and 0 stay as they are.

    Args:
        token_ids: [slots, max_len] int32, prompts and what followed them.
        slots: [R] integers: rows of `token_ids`.
        num_tokens: [R] integers: how many of these count, `num_prompt_tokens` [R] of them as the prompt.
        repetition: [R] float32 above 0; divides the positive logits of prompt and output tokens, multiplies the others.
        frequency: [R] float32; times a token's count in the output, taken off its logit.
        presence: [R] float32; taken off the logit of each token in the output.
        counts: [R or more, V] int32 of zeros, for the kernels to work with; zeros again afterwards.
    """
    rows, vocab_size = logits.shape
    assert logits.dtype is torch.float32
    assert logits.stride(1) == token_ids.stride(1) == 1
    assert counts.is_contiguous()
    assert counts.shape[0] >= rows
    assert counts.shape[1] == vocab_size
    grid = (rows, triton.cdiv(token_ids.shape[1], _TOKENS))
    args = (counts, token_ids, slots, num_tokens, num_prompt_tokens, repetition, frequency, presence)
    for count in (True, False):
        strides = (logits.stride(0), token_ids.stride(0), vocab_size)
        launch_dependent(penalty_kernel, grid, logits, *args, *strides, COUNT=count, B=_TOKENS)
