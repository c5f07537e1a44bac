"""LaunchedStep: a step that the device may still compute, and how its results come to the host."""

from __future__ import annotations

import torch

from octavo.batch import StepOutput
from octavo.sampling.sampler import SamplerOutput


class LaunchedStep:
    """`output` lacks what the device samples; `result` waits for that alone, not for steps launched later."""

    def __init__(self, output: StepOutput, sampled: SamplerOutput | None) -> None:
        self._output = output
        self._sampled = None if sampled is None else sampled.to_host()
        self._done: torch.cuda.Event | None = None
        if sampled is not None and sampled.token_ids.is_cuda:
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
