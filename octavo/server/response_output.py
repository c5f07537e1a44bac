"""The output items of a response as they grow: reasoning, messages and function calls, and the events that tell of it.

The same steps make the items of a response that is streamed and of one that is not, for which nobody reads the events.
It knows the shapes of items and events; it knows neither requests nor how events are sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

_ID_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


class Event(NamedTuple):
    type: str
    fields: dict[str, Any]  # all but its type and its number


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


class ResponseOutput:
    """`items`, of which the last one may be open: then its text is not in it yet."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: str | None = None  # the type of the open item
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def reason(self, text: str) -> list[Event]:
        """More reasoning."""
        events = self._continued("reasoning")
        self._texts.append(text)
        return [*events, self._event("response.reasoning_text.delta", content_index=0, delta=text)]

    def say(self, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> list[Event]:
        """More text, with the log probabilities of its tokens where they are wanted."""
        events = self._continued("message")
        self._texts.append(text)
        self._logprobs += logprobs
        delta = self._event("response.output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))
        return [*events, delta]

    def call(self, call_id: str, name: str) -> list[Event]:
        """A function call begins."""
        events = self.close("completed")
        self._open_item("function_call", arguments="", call_id=call_id, name=name)
        return [*events, self._item_event("response.output_item.added")]

    def arguments(self, fragment: str) -> list[Event]:
        """More of the arguments of the call that has begun."""
        self._texts.append(fragment)
        return [self._event("response.function_call_arguments.delta", delta=fragment)]

    def end(self, status: str) -> list[Event]:
        """Nothing follows. What was being said has this status; where nothing was said, that is an empty message."""
        events = [] if self.items else self._continued("message")
        return events + self.close(status)

    def close(self, status: str) -> list[Event]:
        """The end of the open item, if there is one."""
        if self._open is None:
            return []
        item, text = self.items[-1], "".join(self._texts)
        if self._open == "function_call":
            item["arguments"] = text
            events = [self._event("response.function_call_arguments.done", arguments=text, name=item["name"])]
        else:
            part = self._part(text, self._logprobs)
            item["content"] = [part]
            kind, of_message = ("output_text", True) if self._open == "message" else ("reasoning_text", False)
            more = {"logprobs": self._logprobs} if of_message else {}
            events = [
                self._event(f"response.{kind}.done", content_index=0, text=text, **more),
                self._event("response.content_part.done", content_index=0, part=part),
            ]
        item["status"] = status
        self._open, self._texts, self._logprobs = None, [], []
        return [*events, self._item_event("response.output_item.done")]

    def _continued(self, kind: str) -> list[Event]:
        """What happens before more text of this kind: nothing where the open item has that kind."""
        if self._open == kind:
            return []
        events = self.close("completed")
        own: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        self._open_item(kind, **own, content=[])
        part = self._event("response.content_part.added", content_index=0, part=self._part("", []))
        return [*events, self._item_event("response.output_item.added"), part]

    def _open_item(self, kind: str, **fields: Any) -> None:
        self._open = kind
        self.items.append({"id": new_id(_ID_PREFIXES[kind]), "type": kind, "status": "in_progress", **fields})

    def _part(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        if self._open == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _event(self, kind: str, **fields: Any) -> Event:
        return Event(kind, {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields})

    def _item_event(self, kind: str) -> Event:
        return Event(kind, {"output_index": len(self.items) - 1, "item": dict(self.items[-1])})
