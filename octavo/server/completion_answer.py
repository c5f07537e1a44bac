"""The answer to a text completion request: as one object, and as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.engine.inputs import Prompt
from octavo.outputs import CompletionOutput
from octavo.sampling_params import SamplingParams
from octavo.server.generation import PromptOutput
from octavo.server.logprobs import CompletionLogprobsWriter, TokenTexts, joined, prompt_logprobs
from octavo.server.protocol.completion import CompletionRequest
from octavo.server.streaming import Chunks, ChunkWriter, encode_json
from octavo.server.token_count import TokenCount
from octavo.tokenizer.base import Tokenizer


@dataclass(slots=True, kw_only=True)
class CompletionAnswer:
    """What is settled before the first output."""

    id: str
    model: str
    body: CompletionRequest
    params: SamplingParams
    tokenizer: Tokenizer | None
    prompts: Sequence[Prompt]
    texts: TokenTexts
    count: TokenCount
    _logprobs: dict[int, CompletionLogprobsWriter] = field(default_factory=dict)  # by choice

    def whole(self, items: Sequence[PromptOutput]) -> dict[str, Any]:
        """A `CompletionResponse`, from the final outputs of all prompts."""
        choices = []
        for item in sorted(items, key=lambda item: item.prompt_index):
            self.count.note_cached(item)
            for completion in item.output.outputs:
                choice = self.choice(item, completion, is_first=True)
                choice.setdefault("prompt_token_ids", None)
                choice.setdefault("token_ids", None)
                choice["prompt_logprobs"] = None
                if self.body.prompt_logprobs is not None:
                    choice["prompt_logprobs"] = prompt_logprobs(item.output.prompt_logprobs)
                choices.append(choice)
        return {
            **self.head(),
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": self.count.usage(),
        }

    def head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": int(time.time()), "model": self.model}

    def choice(self, item: PromptOutput, completion: CompletionOutput, *, is_first: bool) -> dict[str, Any]:
        """What an output adds to one choice; the first one brings the prompt where it is to be echoed."""
        index = item.prompt_index * self.params.n + completion.index
        echoes = is_first and bool(self.body.echo)
        text, token_ids, logprobs = "", [], None
        writer = self._logprobs_writer(index)
        if echoes:
            text = self._prompt_text(item.prompt_index)
            if writer is not None and item.output.prompt_logprobs is not None:
                logprobs = writer.prompt(item.output.prompt_token_ids, item.output.prompt_logprobs, text)
        finish_reason, stop_reason = completion.finish_reason, completion.stop_reason
        if self.body.scores_prompt_only:
            finish_reason, stop_reason = finish_reason and "length", None  # of the one token that nobody asked for
        else:
            text, token_ids = text + completion.text, completion.token_ids
            if writer is not None and completion.logprobs is not None:
                logprobs = joined(logprobs, writer.output(completion.token_ids, completion.logprobs))
        self.count.num_completion_tokens += len(token_ids)
        choice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
        }
        if self.body.return_token_ids:
            choice["token_ids"] = token_ids
            if is_first:
                choice["prompt_token_ids"] = item.output.prompt_token_ids
        return choice

    def _logprobs_writer(self, index: int) -> CompletionLogprobsWriter | None:
        if self.params.logprobs is None and self.params.logprob_token_ids is None:
            return None
        writer = self._logprobs.get(index)
        if writer is None:
            writer = CompletionLogprobsWriter(self.texts, skip_special_tokens=self.params.skip_special_tokens)
            self._logprobs[index] = writer
        return writer

    def _prompt_text(self, prompt_index: int) -> str:
        prompt = self.prompts[prompt_index]
        if prompt.text is not None or self.tokenizer is None:
            return prompt.text or ""
        return self.tokenizer.decode(prompt.token_ids, skip_special_tokens=self.params.skip_special_tokens)


class CompletionChunks(Chunks):
    """Outputs of the kind DELTA as chunks."""

    def __init__(self, answer: CompletionAnswer, *, usage_at_end: bool, usage_everywhere: bool) -> None:
        self._answer = answer
        self.writer = ChunkWriter(
            answer.head(), answer.count, usage_at_end=usage_at_end, usage_everywhere=usage_everywhere
        )
        self._plain: dict[int, tuple[bytes, bytes]] = {}  # by choice, of those that have begun
        self._ended: set[int] = set()
        # A chunk of text alone is written from its parts; these ask for more in every chunk.
        self._says_more = bool(
            answer.params.logprobs is not None
            or answer.params.logprob_token_ids is not None
            or answer.body.return_token_ids
            or answer.body.scores_prompt_only
            or usage_everywhere
        )

    def of(self, item: PromptOutput) -> bytes:
        """The events that an output gives."""
        base = item.prompt_index * self._answer.params.n
        events = [
            self._event(item, completion, base + completion.index)
            for completion in item.output.outputs
            if base + completion.index not in self._ended
        ]
        return b"".join(events)

    def _event(self, item: PromptOutput, completion: CompletionOutput, index: int) -> bytes:
        is_first, is_last = index not in self._plain, completion.finish_reason is not None
        if is_first:
            self._plain[index] = self.writer.around_text(_plain_choice(index))
            self._answer.count.note_cached(item)
        elif not is_last and not self._says_more:
            self._answer.count.num_completion_tokens += len(completion.token_ids)
            if not completion.text:
                return b""  # a part of a character, or of what may become a stop string
            before, after = self._plain[index]
            return before + encode_json(completion.text) + after
        elif not is_last and not completion.token_ids:
            return b""
        if is_last:
            self._ended.add(index)
        return self.writer.chunk(self._answer.choice(item, completion, is_first=is_first))


def _plain_choice(index: int) -> dict[str, Any]:
    return {"index": index, "text": 0.5, "logprobs": None, "finish_reason": None, "stop_reason": None}
