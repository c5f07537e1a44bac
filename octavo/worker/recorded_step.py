"""RecordedStep: the forward pass as a list of kernel calls, replayed without Python between them.

The model's own code runs once, over the buffers for the longest step, while the kernels note down their calls and
compute nothing. A step replays the calls for its own number of rows. Only kernels that can record have it: those of the
CPU.
"""

from __future__ import annotations

import torch

from octavo.kernels.cpu import CPUKernels
from octavo.sampling.sampler import Draw
from octavo.worker.input_batch import StepInputs
from octavo.worker.step_graph import Forward, StepGraph, StepResult


class RecordedStep(StepGraph):
    """Serves every step that the buffers have room for."""

    def __init__(self, forward: Forward, kernels: CPUKernels) -> None:
        self._forward = forward
        num_tokens, num_requests = forward.buffers.max_num_tokens, forward.buffers.max_num_seqs
        with torch.inference_mode():
            self._recording = kernels.record(
                lambda: forward(
                    num_tokens=num_tokens, num_requests=num_requests, max_query_len=num_tokens, max_seq_len=0
                ),
                num_rows=num_tokens,
            )

    def accepts(self, inputs: StepInputs, *, all_hidden: bool) -> bool:
        return True

    def run(self, inputs: StepInputs, draw: Draw | None) -> StepResult:
        self._forward.read_tokens(inputs.num_tokens)
        self._recording.replay(inputs.num_tokens, len(inputs.slots))
        hidden = self._recording.result[: inputs.num_tokens]
        return StepResult(hidden, self._forward.logits(hidden, inputs))
