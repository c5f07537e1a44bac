"""History: the tokens that the rows of a step hold so far. The worker keeps them; the sampler only reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(slots=True)
class History:
    """What the R rows of a step hold before the token to sample.

    The newest tokens may be known to the device alone, so whatever depends on them is computed there.
    """

    token_ids: Tensor  # [max_num_seqs, max_model_len] int32 on the device, indexed by slot
    num_tokens: NDArray[np.int64]  # [R], prompt included, at least 1
    num_prompt_tokens: NDArray[np.int64]  # [R]

    @property
    def num_output_tokens(self) -> NDArray[np.int64]:
        """[R]: also the index of the output token to sample."""
        return self.num_tokens - self.num_prompt_tokens
