"""What the sampler asks of a platform's kernels. `octavo.kernels.torch_sampling` has them for every device.

Logits are float32 [R, V] on the device. Parameters are columns on the host, one number for each row; a kernel brings
them to its device itself. A row's results depend on that row alone.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SamplingKernels(Protocol):
    def argmax(self, logits: Tensor) -> Tensor:
        """The lowest id of the largest logit of each row -> int64 [R]."""
        ...

    def draw(
        self, logits: Tensor, temperature: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor, uniforms: Tensor
    ) -> Tensor:
        """One token for each row, from softmax(logits / temperature) after min_p, top_k and top_p, in this order.

        Each of the three is a lowest probability that is kept: tokens of equal probability stay or go together.

        Args:
            temperature: [R] float32; a row of 0 gets the argmax.
            min_p: [R] float32 in [0, 1], relative to the row's most likely token; 0 is off.
            top_k: [R] int64 in [0, V); 0 is off. Ties with the k-th token are kept.
            top_p: [R] float64 in (0, 1]; 1 is off. The fewest most likely tokens that hold this share of what min_p and
                the first k leave are kept.
            uniforms: [R] float64 in [0, 1). The token is the first, by id, up to which more than this share is reached.

        Returns:
            [R] int64 on the device, in [0, V). A row with a NaN or +inf, or of -inf alone, gets any id in that range.
        """
        ...

    def apply_bitmask_(self, logits: Tensor, rows: Tensor, words: Tensor) -> None:
        """Set the logits of tokens whose bit is not set to -inf, in place.

        Args:
            rows: [M] int64, rows of `logits`, each once.
            words: [M, W] int32, W = ceil(V / 32); bit i % 32 of word i // 32 is token i's.
        """
        ...

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
        """Change the logits of P rows in place by the tokens that their requests hold.

        Repetition is CTRL's (Keskar et al. 2019, section 4.1), the other two are OpenAI's.

        Args:
            rows: [P] int64, rows of `logits`, each once.
            slots: [P] int64, their rows of `token_ids`.
            token_ids: [slots, length] int32 on the device, each in [0, V).
            num_tokens: [P] int64, 1 or more: prompt and output.
            num_prompt_tokens: [P] int64.
            repetition: [P] float32 above 0; divides the positive logits of prompt and output tokens, multiplies others.
            frequency: [P] float32; times a token's count in the output, taken off its logit.
            presence: [P] float32; taken off the logit of each token in the output.
        """
        ...

    def logprobs(self, logits: Tensor, entries: Tensor, num_top: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities of the tokens in `entries`, and the rank of the first of them.

        Among equal log probabilities the lower id comes first in the list. The rank is 1 plus the number of tokens
        with a strictly greater one. Rows with a NaN or +inf, or of -inf alone, get NaN and rank 1.

        Args:
            entries: [R, K + 1] int64 on the device. So many columns from the second on as `num_top` says become the
                row's most likely tokens, the others are scored as they are.
            num_top: [R] int64 in [0, K]; -1 for rows that need nothing: their results have no meaning.

        Returns:
            [R, K + 1] float32, and [R] int64.
        """
        ...
