"""The answer to Anthropic's clients: a message of content blocks, as one object and as the events of a stream.

Both are made of the same steps; what is not streamed drops the events. It knows no routes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from octavo.outputs import CompletionOutput
from octavo.parsers.pieces import ArgumentsDelta, ContentDelta, Piece, ReasoningDelta, ToolCallEnd, ToolCallStart
from octavo.server.anthropic_errors import anthropic_body
from octavo.server.errors import error_reply
from octavo.server.generation import PromptOutput
from octavo.server.reply import ReplyReader
from octavo.server.streaming import encode_json
from octavo.server.token_count import TokenCount

_Event = dict[str, Any]


class MessageContent:
    """`blocks`, of which the last one may be open: then its text is not in it yet."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []
        self._open: str | None = None  # the type of the open block
        self._texts: list[str] = []

    def think(self, text: str) -> list[_Event]:
        """More of the model's thinking."""
        events = self._continued("thinking", thinking="", signature="")
        return [*events, self._delta("thinking_delta", "thinking", text)]

    def say(self, text: str) -> list[_Event]:
        """More text."""
        events = self._continued("text", text="", citations=None)
        return [*events, self._delta("text_delta", "text", text)]

    def call(self, call_id: str, name: str) -> list[_Event]:
        """The use of a tool begins."""
        events = self.close()
        return [*events, *self._continued("tool_use", id=call_id, name=name, input={})]

    def arguments(self, fragment: str) -> list[_Event]:
        """More of the input of the tool whose use has begun."""
        return [self._delta("input_json_delta", "partial_json", fragment)]

    def close(self) -> list[_Event]:
        """The end of the open block, if there is one."""
        if self._open is None:
            return []
        block, text = self.blocks[-1], "".join(self._texts)
        events = []
        if self._open == "thinking":
            # Clients want one and send it back; nothing is proved by it here.
            signature = hashlib.sha256(text.encode()).hexdigest()
            block.update(thinking=text, signature=signature)
            events.append(self._event("content_block_delta", delta={"type": "signature_delta", "signature": signature}))
        elif self._open == "text":
            block["text"] = text
        else:
            block["input"] = _json_so_far(text)
        self._open, self._texts = None, []
        return [*events, self._event("content_block_stop")]

    def _continued(self, kind: str, **fields: Any) -> list[_Event]:
        """What happens before more of this kind: nothing where the open block has that kind."""
        if self._open == kind:
            return []
        events = self.close()
        self._open = kind
        self.blocks.append({"type": kind, **fields})
        return [*events, self._event("content_block_start", content_block=dict(self.blocks[-1]))]

    def _delta(self, kind: str, name: str, text: str) -> _Event:
        self._texts.append(text)
        return self._event("content_block_delta", delta={"type": kind, name: text})

    def _event(self, kind: str, **fields: Any) -> _Event:
        return {"type": kind, "index": len(self.blocks) - 1, **fields}


class MessageAnswer:
    """A message from its beginning to its end.

    Args:
        num_tokens_left: what the context has for the answer, where that is less than the client allows; else None.
    """

    def __init__(
        self, *, id: str, model: str, num_tokens_left: int | None, reader: ReplyReader, count: TokenCount
    ) -> None:
        self.content = MessageContent()
        self.id = id
        self._model = model
        self._num_tokens_left = num_tokens_left
        self._reader = reader
        self._count = count
        self._begun = False
        self._stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None, "stop_details": None}

    def take(self, item: PromptOutput) -> list[_Event]:
        """What an output adds."""
        (completion,) = item.output.outputs
        begin: list[_Event] = []
        if not self._begun:
            self._begun = True
            self._count.note_cached(item)
            begin = [{"type": "message_start", "message": {**self.message(), "content": []}}]
        self._count.num_completion_tokens += len(completion.token_ids)
        events = begin + self._said(completion)
        if completion.finish_reason is None:
            return events
        events += self.content.close()
        self._stop = self._stopped(completion)
        return [
            *events,
            {"type": "message_delta", "delta": self._stop, "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def whole(self, items: Sequence[PromptOutput]) -> dict[str, Any]:
        """The `Message`, from all outputs."""
        for item in items:
            self.take(item)
        return self.message()

    def message(self) -> dict[str, Any]:
        """The `Message` as it is now."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": self.content.blocks,
            **self._stop,
            "usage": self._usage(),
        }

    def _said(self, completion: CompletionOutput) -> list[_Event]:
        return [event for piece in self._reader.read(completion) for event in self._add(piece)]

    def _add(self, piece: Piece) -> list[_Event]:
        match piece:
            case ContentDelta(text):
                return self.content.say(text)
            case ReasoningDelta(text):
                return self.content.think(text)
            case ToolCallStart(_, call_id, name):
                is_ours = call_id.startswith("call_")  # else the model named it, and wants to see that name again
                return self.content.call(f"toolu_{call_id[5:]}" if is_ours else call_id, name)
            case ArgumentsDelta(_, text):
                return self.content.arguments(text)
            case ToolCallEnd():
                return self.content.close()

    def _stopped(self, completion: CompletionOutput) -> dict[str, Any]:
        reason, sequence = "end_turn", None
        if completion.finish_reason == "length":
            reason = "max_tokens" if self._num_tokens_left is None else "model_context_window_exceeded"
        elif self._reader.finish_reason(completion) == "tool_calls":
            reason = "tool_use"
        elif isinstance(completion.stop_reason, str):
            reason, sequence = "stop_sequence", completion.stop_reason
        return {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None}

    def _usage(self) -> dict[str, Any]:
        """A chat completion's `Usage` as a `MessageUsage`."""
        usage = self._count.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"thinking_tokens": self._reader.num_reasoning_tokens},
        }


class MessageEvents:
    """Outputs of the kind DELTA as the events of a stream."""

    def __init__(self, answer: MessageAnswer) -> None:
        self._answer = answer

    def of(self, item: PromptOutput) -> bytes:
        """The events that an output gives."""
        return b"".join(map(_encoded, self._answer.take(item)))

    def end(self) -> bytes:
        return b""

    def failed(self, error: Exception) -> bytes:
        return _encoded(anthropic_body(error_reply(error)))


def _encoded(event: _Event) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), encode_json(event))


def _json_so_far(text: str) -> Any:
    """The input of a tool; of one that was cut off, what is there: clients that stream see the same."""
    try:
        return from_json(text or "{}", allow_partial=True)
    except ValueError:
        return {}
