"""The sampler's kernels on a GPU: columns of the host to the device, then Triton.

`octavo.sampling.kernels` says what each does. Nothing waits for the device: what steers the launches is read off the
columns on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.kernels import torch_sampling
from octavo.kernels.triton_bitmask import apply_bitmask_
from octavo.kernels.triton_logprobs import gather_logprobs
from octavo.kernels.triton_penalties import apply_penalties_
from octavo.kernels.triton_sampling import argmax, sample

_MOST_TOP = 32  # most likely tokens up to which they are found one by one


class GPUSampling:
    """The kernels of one device."""

    argmax = staticmethod(argmax)

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._counts = torch.empty((0, 0), dtype=torch.int32, device=device)  # zeros, for penalties

    def _upload(self, *columns: Tensor) -> list[Tensor]:
        return [column.pin_memory().to(self._device, non_blocking=True) for column in columns]

    def draw(
        self, logits: Tensor, temperature: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor, uniforms: Tensor
    ) -> Tensor:
        any_top_k, any_top_p = bool((top_k > 0).any()), bool((top_p < 1).any())
        columns = self._upload(temperature, min_p, top_k, top_p, uniforms)
        return sample(logits, *columns, any_top_k=any_top_k, any_top_p=any_top_p)

    def draw_on_device(
        self, logits: Tensor, temperature: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor, uniforms: Tensor
    ) -> Tensor:
        """`draw` with columns that the device has, and launches that are the same for all of their values."""
        return sample(logits, temperature, min_p, top_k, top_p, uniforms)

    def apply_bitmask_(self, logits: Tensor, rows: Tensor, words: Tensor) -> None:
        apply_bitmask_(logits, *self._upload(rows, words))

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
        num_rows, vocab_size = logits.shape
        if self._counts.shape[0] < num_rows or self._counts.shape[1] != vocab_size:
            self._counts = torch.zeros((num_rows, vocab_size), dtype=torch.int32, device=self._device)
        # The kernel takes a number for each row of the logits; rows without penalties have those that do nothing.
        everyone = [
            torch.full((num_rows,), neutral, dtype=column.dtype).index_copy_(0, rows, column)
            for column, neutral in (
                (slots, 0),
                (num_tokens, 0),
                (num_prompt_tokens, 0),
                (repetition, 1.0),
                (frequency, 0.0),
                (presence, 0.0),
            )
        ]
        slots, num_tokens, num_prompt_tokens, repetition, frequency, presence = self._upload(*everyone)
        apply_penalties_(
            logits,
            token_ids,
            slots,
            num_tokens,
            num_prompt_tokens,
            repetition=repetition,
            frequency=frequency,
            presence=presence,
            counts=self._counts,
        )

    def logprobs(self, logits: Tensor, entries: Tensor, num_top: Tensor) -> tuple[Tensor, Tensor]:
        most = int(num_top.max())
        alike = entries.shape[1] == most + 1 and bool(((num_top == most) | (num_top < 0)).all())
        if most > _MOST_TOP or not alike:  # a sort pays, or some tokens are named that need not be the likeliest
            return torch_sampling.logprobs(logits, entries, num_top)
        ids, logprobs, ranks = gather_logprobs(logits, entries[:, 0], most)
        entries.copy_(ids)
        return logprobs, ranks
