"""ModelRunner: one step on one device, from a ScheduledBatch to a StepOutput.

It applies the batch to its rows, runs the model, samples, and reads the result. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from octavo.batch import GrammarBitmask, NewRequest, ScheduledBatch, StepOutput
from octavo.models.base import CausalLM
from octavo.request import TokenLogprobs
from octavo.sampling.logprobs import prompt_logprobs
from octavo.sampling.sampler import History, Sampler, SamplerOutput
from octavo.worker.input_batch import InputBatch, IntArray, StepInputs
from octavo.worker.launched_step import LaunchedStep
from octavo.worker.step_graph import StepGraph, StepResult


class ModelRunner:
    """A loaded model, ready to run steps. The first of `graphs` that accepts a step runs its forward pass."""

    def __init__(
        self,
        *,
        model: CausalLM,
        rows: InputBatch,
        graphs: Sequence[StepGraph],
        sampler: Sampler,
    ) -> None:
        self._model = model
        self._rows = rows
        self._graphs = graphs
        self._sampler = sampler
        self._prompt_scored: dict[str, NewRequest] = {}  # requests that want log probabilities of their prompt

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch) -> LaunchedStep:
        """Start a step. On a CPU it is done on return, on a GPU it may not even have begun."""
        self._apply(batch)
        inputs = self._rows.prepare(batch)
        slots = inputs.slots[inputs.sampled_rows]
        history = History(
            token_ids=self._rows.token_ids.tensor,
            num_tokens=self._rows.num_tokens[slots],
            num_prompt_tokens=self._rows.num_prompt_tokens[slots],
        )
        scored = bool(self._prompt_scored)
        graph = next(graph for graph in self._graphs if graph.accepts(inputs, all_hidden=scored))
        chooses = graph.chooses and not batch.awaits_bitmask
        result = graph.run(inputs, self._sampler.draw_alone(slots, history) if chooses else None)
        output = StepOutput(step_id=batch.step_id, request_ids=batch.sampled_request_ids, token_ids=[])
        if scored:
            assert result.hidden is not None
            output.prompt_logprobs = self._score_prompts(inputs, result.hidden)
        sampler = partial(self._sample, inputs, result, slots, history) if len(slots) else None
        return LaunchedStep(output, sampler, awaits_bitmask=batch.awaits_bitmask)

    def record_ahead(self) -> bool:
        """Get ready for one more size of step, while none is under way. False: there is nothing left to record."""
        return any(graph.record_ahead() for graph in self._graphs)

    def reset(self) -> None:
        """Forget all requests, after a step that failed."""
        for slot in self._rows.clear():
            self._sampler.remove(slot)
        self._prompt_scored.clear()

    def _apply(self, batch: ScheduledBatch) -> None:
        for request_id in batch.released_request_ids:
            if request_id in self._rows:
                self._sampler.remove(self._rows.remove(request_id))
                self._prompt_scored.pop(request_id, None)
        for slot, new in zip(self._rows.add(batch.new_requests), batch.new_requests, strict=True):
            self._sampler.add(slot, new)
            if new.params.prompt_logprobs is not None or new.params.prompt_logprob_token_ids is not None:
                self._prompt_scored[new.request_id] = new

    def _sample(
        self,
        inputs: StepInputs,
        result: StepResult,
        slots: IntArray,
        history: History,
        bitmask: GrammarBitmask | None,
    ) -> SamplerOutput:
        if result.token_ids is not None:
            self._rows.append_sampled(inputs, None)
            return SamplerOutput(result.token_ids, None)
        assert result.logits is not None
        sampled = self._sampler.sample(result.logits, slots, history, bitmask)
        self._rows.append_sampled(inputs, sampled.token_ids)
        return sampled

    def _score_prompts(self, inputs: StepInputs, hidden: Tensor) -> dict[str, tuple[int, list[TokenLogprobs]]]:
        """Log probabilities of the prompt tokens that follow the positions of this step."""
        scored: dict[str, tuple[int, list[TokenLogprobs]]] = {}
        for row, request_id in enumerate(inputs.request_ids):
            new = self._prompt_scored.get(request_id)
            if new is None:
                continue
            start = int(inputs.num_computed[row])
            end = min(start + int(inputs.num_scheduled[row]), new.num_prompt_tokens - 1)
            if start < end:
                first = int(inputs.query_start[row])
                targets = torch.tensor(new.token_ids[start + 1 : end + 1], device=hidden.device)
                logits = self._model.compute_logits(hidden[first : first + end - start])
                scored[request_id] = (start, self._prompt_rows(new, start, end, logits, targets))
        return scored

    def _prompt_rows(
        self, new: NewRequest, start: int, end: int, logits: Tensor, targets: Tensor
    ) -> list[TokenLogprobs]:
        params = new.params
        if params.prompt_logprob_token_ids is None:
            return prompt_logprobs(self._sampler.kernels, logits, targets, params.prompt_logprobs or 0)
        wanted = params.prompt_logprob_token_ids
        offset = params.prompt_logprob_start  # position 0 of the prompt has no prediction
        rows = [wanted[p - offset] if 0 <= p - offset < len(wanted) else [] for p in range(start + 1, end + 1)]
        return prompt_logprobs(self._sampler.kernels, logits, targets, params.prompt_logprobs or 0, rows)
