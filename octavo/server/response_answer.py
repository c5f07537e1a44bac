"""The answer to a request for a response: as one object, and as the events of a stream.

Both are made of the same steps; what is not streamed drops the events. It knows no routes and no store.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from octavo.outputs import CompletionOutput
from octavo.parsers.pieces import ArgumentsDelta, ContentDelta, Piece, ReasoningDelta, ToolCallEnd, ToolCallStart
from octavo.sampling_params import SamplingParams
from octavo.server.errors import error_reply
from octavo.server.generation import PromptOutput
from octavo.server.logprobs import TokenTexts, chat_logprobs
from octavo.server.protocol.responses import ResponsesRequest
from octavo.server.reply import ReplyReader
from octavo.server.response_output import Event, ResponseOutput
from octavo.server.streaming import encode_json
from octavo.server.token_count import TokenCount

_ERROR_CODES = {400: "invalid_prompt", 404: "invalid_prompt", 503: "rate_limit_exceeded"}


class ResponseAnswer:
    """A response from its beginning to its end.

    Args:
        store: whether it is to be kept.
        on_end: called once, when the response is as it will be for ever, before anybody is told.
    """

    def __init__(
        self,
        *,
        id: str,
        model: str,
        body: ResponsesRequest,
        params: SamplingParams,
        store: bool,
        reader: ReplyReader,
        texts: TokenTexts,
        count: TokenCount,
        on_end: Callable[[ResponseAnswer], None],
    ) -> None:
        self.id = id
        self.output = ResponseOutput()
        self.status = "queued" if body.background else "in_progress"
        self._model = model
        self._created_at = int(time.time())
        self._completed_at: int | None = None
        self._error: dict[str, Any] | None = None
        self._num_top = None if params.logprob_token_ids is not None else params.logprobs
        self._reader = reader
        self._texts = texts
        self._count = count
        self._on_end = on_end
        self._logprobs: list[dict[str, Any]] = []  # of tokens whose text has not come yet
        self._begun = False
        self._echo = {name: _raw(value) for name, value in _echo(body, params, store).items()}

    def take(self, item: PromptOutput) -> list[Event]:
        """What an output adds."""
        events = []
        if not self._begun:
            self._begun = True
            self._count.note_cached(item)
            if self.status == "queued":
                self.status = "in_progress"
                events = [Event("response.in_progress", {"response": self.response()})]
        (completion,) = item.output.outputs
        self._count.num_completion_tokens += len(completion.token_ids)
        events += self._said(completion)
        if completion.finish_reason is not None:
            is_whole = completion.finish_reason != "length"
            events += self._end("completed" if is_whole else "incomplete")
        return events

    def whole(self, items: Sequence[PromptOutput]) -> dict[str, Any]:
        """The `ResponseObject`, from all outputs."""
        for item in items:
            self.take(item)
        return self.response()

    def cancel(self) -> list[Event]:
        """Nobody wants the rest."""
        return self._end("cancelled")

    def fail(self, error: BaseException) -> list[Event]:
        """The engine could not go on."""
        status, body, _ = error_reply(error)
        self._error = {"code": _ERROR_CODES.get(status, "server_error"), "message": body["error"]["message"]}
        return self._end("failed")

    def response(self) -> dict[str, Any]:
        """The `ResponseObject` as it is now."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created_at,
            "completed_at": self._completed_at,
            "status": self.status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "model": self._model,
            "output": self.output.items,
            "usage": None if self._completed_at is None else self._usage(),
            **self._echo,
        }

    def _said(self, completion: CompletionOutput) -> list[Event]:
        if completion.logprobs is not None:
            logprobs = chat_logprobs(completion.token_ids, completion.logprobs, self._num_top, self._texts)
            self._logprobs += logprobs["content"]
        events = []
        for piece in self._reader.read(completion):
            events += self._add(piece)
            self._logprobs = []  # of tokens that were text, or were none
        return events

    def _add(self, piece: Piece) -> list[Event]:
        match piece:
            case ContentDelta(text):
                return self.output.say(text, self._logprobs)
            case ReasoningDelta(text):
                return self.output.reason(text)
            case ToolCallStart(_, call_id, name):
                return self.output.call(call_id, name)
            case ArgumentsDelta(_, text):
                return self.output.arguments(text)
            case ToolCallEnd(_, complete):
                return self.output.close("completed" if complete else "incomplete")

    def _usage(self) -> dict[str, Any]:
        """A chat completion's `Usage` as a `ResponseUsage`."""
        usage = self._count.usage()
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "cache_write_tokens": 0,
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": self._reader.num_reasoning_tokens},
            "total_tokens": usage["total_tokens"],
        }

    def _end(self, status: str) -> list[Event]:
        self.status = status
        self._completed_at = int(time.time())
        events = self.output.end("completed" if status == "completed" else "incomplete")
        self._on_end(self)
        return [*events, Event(f"response.{status}", {"response": self.response()})]


class ResponseEvents:
    """Outputs of the kind DELTA as the events of a stream, numbered."""

    def __init__(self, answer: ResponseAnswer) -> None:
        self._answer = answer
        self._numbers = itertools.count()
        self._begun = False

    # ---- event by event ----

    def begin(self) -> list[bytes]:
        """Those before all others."""
        self._begun = True
        response = self._answer.response()
        names = ("created", self._answer.status)
        return self._encoded([Event(f"response.{name}", {"response": response}) for name in names])

    def taken(self, item: PromptOutput) -> list[bytes]:
        """Those that an output gives."""
        return self._encoded(self._answer.take(item))

    def cancelled(self) -> list[bytes]:
        return self._encoded(self._answer.cancel())

    def broken_off(self, error: BaseException) -> list[bytes]:
        return self._encoded(self._answer.fail(error))

    # ---- for a stream ----

    def of(self, item: PromptOutput) -> bytes:
        begin = [] if self._begun else self.begin()
        return b"".join(begin + self.taken(item))

    def end(self) -> bytes:
        return b""

    def failed(self, error: Exception) -> bytes:
        return b"".join(self.broken_off(error))

    def _encoded(self, events: list[Event]) -> list[bytes]:
        return [
            b"event: %s\ndata: %s\n\n"
            % (kind.encode(), encode_json({"type": kind, "sequence_number": next(self._numbers), **fields}))
            for kind, fields in events
        ]


def _raw(value: Any) -> msgspec.Raw:
    """Encoded once. The standard library takes every integer and every string that came in."""
    return msgspec.Raw(json.dumps(value).encode())


def _echo(body: ResponsesRequest, params: SamplingParams, store: bool) -> dict[str, Any]:
    """The fields of the request that the response repeats, as they were understood."""
    reasoning, text = body.reasoning, body.text
    text_format = None if text is None or text.format is None else text.format
    return {
        "background": bool(body.background),
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None if reasoning is None else reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": params.temperature,
        "text": {
            "format": {"type": "text"} if text_format is None else text_format.model_dump(by_alias=True),
            "verbosity": "medium" if text is None or text.verbosity is None else text.verbosity,
        },
        "tool_choice": body.tool_choice if body.tool_choice is not None else "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }
