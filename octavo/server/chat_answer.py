"""The answer to a chat request: as one object, and as the chunks of a stream."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from octavo.outputs import CompletionOutput
from octavo.parsers.pieces import ArgumentsDelta, ContentDelta, Piece, ReasoningDelta, Reply, ToolCallStart
from octavo.server.generation import PromptOutput
from octavo.server.logprobs import TokenTexts, chat_logprobs, prompt_logprobs
from octavo.server.protocol.chat import ChatCompletionRequest
from octavo.server.reply import ReplyReader
from octavo.server.streaming import Chunks, ChunkWriter, encode_json
from octavo.server.token_count import TokenCount


@dataclass(slots=True, kw_only=True)
class ChatAnswer:
    """What is settled before the first output, and the readers of the choices.

    `num_top` is as in `chat_logprobs`; `echo` is the text that goes before the generated one; `names_reasoning` are the
    fields that carry the reasoning.
    """

    id: str
    model: str
    role: str
    echo: str
    num_top: int | None
    texts: TokenTexts
    with_token_ids: bool
    count: TokenCount
    readers: list[ReplyReader]
    names_reasoning: tuple[str, ...]

    def whole(self, item: PromptOutput) -> dict[str, Any]:
        """A `ChatCompletionResponse`, from the final output."""
        output = item.output
        self.count.note_cached(item)
        self.count.num_completion_tokens = sum(len(completion.token_ids) for completion in output.outputs)
        choices = [self._choice(completion) for completion in output.outputs]
        self.count_reasoning()
        return {
            **self.head("chat.completion"),
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": self.count.usage(),
            "prompt_logprobs": prompt_logprobs(output.prompt_logprobs),
            "prompt_token_ids": output.prompt_token_ids if self.with_token_ids else None,
        }

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}

    def logprobs(self, completion: CompletionOutput) -> dict[str, Any] | None:
        if completion.logprobs is None:
            return None
        return chat_logprobs(completion.token_ids, completion.logprobs, self.num_top, self.texts)

    def count_reasoning(self) -> None:
        """Bring the count of reasoning tokens up to date, where reasoning is told apart."""
        if any(reader.tells_reasoning for reader in self.readers):
            self.count.num_reasoning_tokens = sum(reader.num_reasoning_tokens for reader in self.readers)

    def _choice(self, completion: CompletionOutput) -> dict[str, Any]:
        reader = self.readers[completion.index]
        reply = Reply.of(reader.read(completion))
        content = self.echo + (reply.content or "")
        message: dict[str, Any] = {
            "role": self.role,
            "content": content or (None if reply.tool_calls or reply.reasoning else ""),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in reply.tool_calls
            ],
            **dict.fromkeys(self.names_reasoning, reply.reasoning),
        }
        return {
            "index": completion.index,
            "message": message,
            "logprobs": self.logprobs(completion),
            "finish_reason": reader.finish_reason(completion),
            "stop_reason": completion.stop_reason,
            "token_ids": completion.token_ids if self.with_token_ids else None,
        }


class ChatChunks(Chunks):
    """Outputs of the kind DELTA as chunks: one with the role, those with pieces, and a last one with the reason."""

    def __init__(self, answer: ChatAnswer, n: int, *, usage_at_end: bool, usage_everywhere: bool) -> None:
        self._answer = answer
        self.writer = ChunkWriter(
            answer.head("chat.completion.chunk"),
            answer.count,
            usage_at_end=usage_at_end,
            usage_everywhere=usage_everywhere,
        )
        self._plain: dict[int, tuple[bytes, bytes]] = {}  # by choice
        self._open = set(range(n))
        self._begun = False

    def of(self, item: PromptOutput) -> bytes:
        """The events that an output gives."""
        events = []
        if not self._begun:
            self._begun = True
            events = self._opening(item)
        for completion in item.output.outputs:
            if completion.index in self._open:
                events.append(self._event(completion))
        return b"".join(events)

    def _opening(self, item: PromptOutput) -> list[bytes]:
        answer = self._answer
        answer.count.note_cached(item)
        more = {"prompt_token_ids": item.output.prompt_token_ids} if answer.with_token_ids else {}
        events = []
        for index in sorted(self._open):
            events.append(self.writer.chunk(_choice(index, {"role": answer.role, "content": ""}), **more))
            if answer.echo:
                events.append(self.writer.chunk(_choice(index, {"content": answer.echo})))
        return events

    def _event(self, completion: CompletionOutput) -> bytes:
        """The chunks of one output of a choice: one for each piece; what else there is to tell goes with the last."""
        answer, reader = self._answer, self._answer.readers[completion.index]
        answer.count.num_completion_tokens += len(completion.token_ids)
        pieces = reader.read(completion)
        is_last = completion.finish_reason is not None
        says_more = answer.with_token_ids or completion.logprobs is not None or self.writer.usage_everywhere
        if not is_last and not says_more and len(pieces) == 1 and isinstance(pieces[0], ContentDelta):
            return self._plain_text(completion.index, pieces[0].text)
        if self.writer.usage_everywhere or is_last:
            answer.count_reasoning()
        deltas = [delta for piece in pieces if (delta := self._delta(piece)) is not None]
        if not deltas and (is_last or (says_more and completion.token_ids)):
            deltas.append({})
        choices = [_choice(completion.index, delta) for delta in deltas]
        if choices:
            self._tell_more(choices[-1], completion)
        return b"".join([self.writer.chunk(choice) for choice in choices])

    def _plain_text(self, index: int, text: str) -> bytes:
        parts = self._plain.get(index)
        if parts is None:
            parts = self.writer.around_text(_choice(index, {"content": 0.5}))
            self._plain[index] = parts
        return parts[0] + encode_json(text) + parts[1]

    def _delta(self, piece: Piece) -> dict[str, Any] | None:
        """A piece as chat's clients expect it; None: it has no form there."""
        match piece:
            case ContentDelta(text):
                return {"content": text}
            case ReasoningDelta(text):
                return dict.fromkeys(self._answer.names_reasoning, text)
            case ToolCallStart(index, call_id, name):
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            case ArgumentsDelta(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        return None

    def _tell_more(self, choice: dict[str, Any], completion: CompletionOutput) -> None:
        """What an output tells besides text."""
        answer = self._answer
        choice["logprobs"] = answer.logprobs(completion)
        if completion.finish_reason is not None:
            self._open.remove(completion.index)
            choice["finish_reason"] = answer.readers[completion.index].finish_reason(completion)
            choice["stop_reason"] = completion.stop_reason
        if answer.with_token_ids:
            choice["token_ids"] = completion.token_ids


def _choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def role_and_echo(body: ChatCompletionRequest, response_role: str) -> tuple[str, str]:
    """Who answers, and what of the conversation the answer repeats: the message that it goes on with."""
    last = body.messages[-1]
    role = response_role if body.opens_message else str(last.get("role"))
    if not body.echo or last.get("role") != role:
        return _unicode(role), ""
    content = last.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content)
    return _unicode(role), _unicode(content)


def _unicode(text: str) -> str:
    """`text` without lone surrogates, which JSON can carry in and UTF-8 can't carry out."""
    return text.encode("utf-8", "replace").decode()
