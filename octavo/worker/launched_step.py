"""LaunchedStep: a step that the device may still compute, and how its results come to the host."""

from __future__ import annotations

from collections.abc import Callable

import torch

from octavo.batch import GrammarBitmask, StepOutput
from octavo.sampling.sampler import SamplerOutput


class LaunchedStep:
    """`output` lacks what the device samples; `result` waits for that alone, not for steps launched later.

    `sampler` launches the sampling, None where there is nothing to sample. It is called at once, or by `sample` in a
    step that `awaits_bitmask`.
    """

    def __init__(
        self,
        output: StepOutput,
        sampler: Callable[[GrammarBitmask | None], SamplerOutput] | None,
        *,
        awaits_bitmask: bool,
    ) -> None:
        self._output = output
        self._sampler = sampler
        self._sampled: SamplerOutput | None = None
        self._done: torch.cuda.Event | None = None
        if not awaits_bitmask:
            self.sample(None)

    def sample(self, bitmask: GrammarBitmask | None) -> None:
        """Launch the sampling, of tokens that `bitmask` allows. Called once, before the next step is launched."""
        if self._sampler is None:
            return
        sampled = self._sampler(bitmask)
        self._sampler = None
        self._sampled = sampled.to_host()
        if sampled.token_ids.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record()

    def result(self) -> StepOutput:
        if self._done is not None:
            self._done.synchronize()
        output, sampled = self._output, self._sampled
        if sampled is not None:
            # The batch lists the sampled requests in the order of its rows.
            output.token_ids = [[token_id] for token_id in sampled.token_ids.tolist()]
            if sampled.logprobs is not None:
                rows = zip(output.request_ids, sampled.logprobs.to_rows(), strict=True)
                output.logprobs = {request_id: [row] for request_id, row in rows if row is not None}
        return output
