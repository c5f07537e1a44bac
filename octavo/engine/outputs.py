"""From token ids to what a user reads: text, stop strings, log probabilities, RequestOutputs.

It joins the n sequences of a prompt, and tells the engine which sequences ended because their text met a stop string.
It knows nothing of scheduling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from octavo.engine.inputs import Prompt
from octavo.outputs import (
    CompletionOutput,
    FlatLogprobs,
    Logprob,
    PositionLogprobs,
    RequestMetrics,
    RequestOutput,
)
from octavo.request import FinishReason, Request, RequestUpdate, TokenLogprobs
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.tokenizer.detokenizer import IncrementalDetokenizer
from octavo.tokenizer.load import Tokenizer
from octavo.tokenizer.stop_strings import StopChecker


@dataclass(slots=True)
class StoppedByText:
    """A sequence whose text met a stop string while the engine still runs it."""

    request_id: str
    stop: str


class TokenNames:
    """Token id -> its text, for log probabilities; remembered, since the likely tokens come again and again."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, str] = {}

    def __call__(self, token_id: int) -> str | None:
        if self._tokenizer is None:
            return None
        name = self._names.get(token_id)
        if name is None:
            name = self._names[token_id] = self._tokenizer.decode([token_id])
        return name


class _Sequence:
    """One of the n completions of a prompt while it grows."""

    def __init__(self, index: int, prompt: Prompt, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.params = params
        self.output = CompletionOutput(index=index, text="", token_ids=[])
        if params.logprobs is not None or params.logprob_token_ids is not None:
            self.output.logprobs = FlatLogprobs() if params.flat_logprobs else []
            self.output.cumulative_logprob = 0.0
        self.num_sent_chars = 0
        self.num_sent_tokens = 0
        self._stops = StopChecker(list(params.stop), params.include_stop_str_in_output)
        self._detokenizer: IncrementalDetokenizer | None = None
        if tokenizer is not None and params.detokenize:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer,
                prompt.token_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )

    @property
    def finished(self) -> bool:
        return self.output.finish_reason is not None

    def extend(self, update: RequestUpdate, names: TokenNames) -> str | None:
        """Take in what a step added; the stop string that the text met, if any."""
        if self._detokenizer is None and update.logprobs is None:
            self.output.token_ids += update.new_token_ids
            matched = None
        else:
            matched = self._extend_one_by_one(update, names)
        if matched is not None:
            self.output.finish_reason, self.output.stop_reason = str(FinishReason.STOP), matched
        elif update.finish_reason is not None:
            self.output.finish_reason, self.output.stop_reason = str(update.finish_reason), update.stop_reason
            self._close()
        return matched

    def _extend_one_by_one(self, update: RequestUpdate, names: TokenNames) -> str | None:
        """Tokens with their text or their log probabilities, up to the one that completes a stop string."""
        for position, token_id in enumerate(update.new_token_ids):
            self.output.token_ids.append(token_id)
            if update.logprobs is not None:
                self._add_logprobs(update.logprobs[position], names)
            is_last = position == len(update.new_token_ids) - 1
            ended_by_token = is_last and update.finish_reason is FinishReason.STOP and not update.completes_structure
            if not ended_by_token or self.params.include_stop_str_in_output:
                matched = self._add_text(token_id)
                if matched is not None:
                    return matched
        return None

    def _add_text(self, token_id: int) -> str | None:
        if self._detokenizer is None:
            return None
        text, matched = self._stops.push(self._detokenizer.push(token_id))
        self.output.text += text
        return matched

    def _close(self) -> None:
        """What was held back comes out; it may complete a stop string. The engine has ended the request already."""
        if self._detokenizer is None:
            return
        text, matched = self._stops.push(self._detokenizer.flush())
        self.output.text += text
        if matched is None:
            self.output.text += self._stops.flush()
        else:
            self.output.finish_reason, self.output.stop_reason = str(FinishReason.STOP), matched

    def _add_logprobs(self, row: TokenLogprobs, names: TokenNames) -> None:
        assert self.output.logprobs is not None
        assert self.output.cumulative_logprob is not None
        self.output.logprobs.append(logprob_dict(row, self.params.logprob_token_ids is None, names))
        self.output.cumulative_logprob += row.logprobs[0]

    def snapshot(self) -> CompletionOutput:
        """The completion as the request's output kind shows it now."""
        full = self.output
        if self.params.output_kind is not RequestOutputKind.DELTA:
            return CompletionOutput(
                index=full.index,
                text=full.text,
                token_ids=list(full.token_ids),
                cumulative_logprob=full.cumulative_logprob,
                logprobs=full.logprobs,
                finish_reason=full.finish_reason,
                stop_reason=full.stop_reason,
            )
        chars, tokens = self.num_sent_chars, self.num_sent_tokens
        self.num_sent_chars, self.num_sent_tokens = len(full.text), len(full.token_ids)
        return CompletionOutput(
            index=full.index,
            text=full.text[chars:],
            token_ids=full.token_ids[tokens:],
            cumulative_logprob=full.cumulative_logprob,
            logprobs=None if full.logprobs is None else full.logprobs[tokens:],
            finish_reason=full.finish_reason,
            stop_reason=full.stop_reason,
        )


@dataclass(slots=True)
class _Pending:
    """A prompt whose completions are not all there yet."""

    request_id: str
    prompt: Prompt
    params: SamplingParams
    sequences: list[_Sequence]
    metrics: RequestMetrics
    prompt_logprobs: PositionLogprobs | None = None
    num_cached_tokens: int | None = None
    num_sent_tokens: int = 0
    num_finished: int = 0

    @property
    def final_only(self) -> bool:
        return self.params.output_kind is RequestOutputKind.FINAL_ONLY


class OutputProcessor:
    """All prompts under way, by the ids of their sequences."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer)
        self._by_sequence: dict[str, tuple[_Pending, _Sequence]] = {}

    def add(self, request_id: str, prompt: Prompt, params: SamplingParams, requests: list[Request]) -> None:
        """Expect updates for the `requests` of one prompt."""
        sequences = [_Sequence(index, prompt, params, self._tokenizer) for index in range(len(requests))]
        metrics = RequestMetrics(arrival_time=requests[0].arrival_time, queued_ts=time.monotonic())
        pending = _Pending(request_id, prompt, params, sequences, metrics)
        for request, sequence in zip(requests, sequences, strict=True):
            self._by_sequence[request.request_id] = (pending, sequence)

    def discard(self, sequence_ids: list[str]) -> None:
        """Expect no more for these sequences."""
        for sequence_id in sequence_ids:
            self._by_sequence.pop(sequence_id, None)

    def process(self, updates: list[RequestUpdate]) -> tuple[list[RequestOutput], list[StoppedByText]]:
        """Outputs of the prompts that these updates concern, as their output kind wants them."""
        touched: dict[str, _Pending] = {}
        stopped: list[StoppedByText] = []
        now = time.monotonic()
        for update in updates:
            found = self._by_sequence.get(update.request_id)
            if found is None:
                continue
            pending, sequence = found
            self._note(pending, update, now)
            stop = sequence.extend(update, self._names)
            if stop is not None:
                stopped.append(StoppedByText(update.request_id, stop))
            if sequence.finished:
                pending.num_finished += 1
                del self._by_sequence[update.request_id]
            elif pending.final_only:
                continue
            touched[pending.request_id] = pending
        outputs = [output for pending in touched.values() if (output := self._output(pending)) is not None]
        return outputs, stopped

    def _note(self, pending: _Pending, update: RequestUpdate, now: float) -> None:
        metrics = pending.metrics
        if update.new_token_ids:
            if metrics.first_token_ts is None:
                metrics.first_token_ts = now
            metrics.last_token_ts = now
            metrics.num_generation_tokens += len(update.new_token_ids)
        if pending.num_cached_tokens is None:
            pending.num_cached_tokens = update.num_cached_tokens
        if update.prompt_logprobs is not None and pending.prompt_logprobs is None:
            pending.prompt_logprobs = self._prompt_logprobs(pending.params, update.prompt_logprobs)

    def _prompt_logprobs(self, params: SamplingParams, rows: list[TokenLogprobs | None]) -> PositionLogprobs:
        ranked = params.prompt_logprob_token_ids is None
        positions: PositionLogprobs = FlatLogprobs() if params.flat_logprobs else []
        for row in rows:
            positions.append(None if row is None else logprob_dict(row, ranked, self._names))
        return positions

    def _output(self, pending: _Pending) -> RequestOutput | None:
        """The output to show now; None while there is nothing that the request wants to see."""
        finished = pending.num_finished == len(pending.sequences)
        if not finished:
            if pending.final_only:
                return None
            num_tokens = pending.metrics.num_generation_tokens
            interval = pending.params.stream_interval or 1
            if pending.num_sent_tokens and num_tokens - pending.num_sent_tokens < interval:
                return None
            pending.num_sent_tokens = num_tokens
        return RequestOutput(
            request_id=pending.request_id,
            prompt=pending.prompt.text,
            prompt_token_ids=pending.prompt.token_ids,
            prompt_logprobs=pending.prompt_logprobs,
            outputs=[sequence.snapshot() for sequence in pending.sequences],
            finished=finished,
            metrics=pending.metrics,
            num_cached_tokens=pending.num_cached_tokens,
        )


def logprob_dict(row: TokenLogprobs, ranked: bool, names: TokenNames) -> dict[int, Logprob]:
    """The entries of one position by token id: the chosen token with its rank, then the asked ones.

    `ranked` tells that the asked ones are the most likely, in order, so that their ranks are 1, 2, ...
    """
    entries = {row.token_ids[0]: Logprob(row.logprobs[0], row.rank, names(row.token_ids[0]))}
    for rank, (token_id, value) in enumerate(zip(row.token_ids[1:], row.logprobs[1:], strict=True), start=1):
        if token_id not in entries:
            entries[token_id] = Logprob(value, rank if ranked else None, names(token_id))
    return entries
