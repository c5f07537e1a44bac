"""Chat messages as templates take them, written piece by piece from APIs that cut a conversation up differently.

What a model said without a break is one message: its reasoning, its text and its calls. It knows OpenAI's form of chat
messages; it knows neither the form that it is written from nor templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from octavo.errors import InvalidRequestError, shown


class Conversation:
    """`messages` so far; those it begins with are not changed."""

    def __init__(self, messages: Iterable[dict[str, Any]] = ()) -> None:
        self.messages: list[dict[str, Any]] = list(messages)
        self._open: dict[str, Any] | None = None  # the model's message that is being written
        self._names = {
            call["id"]: call["function"]["name"]
            for message in self.messages
            for call in message.get("tool_calls") or ()
        }

    def say(self, role: str, texts: Sequence[str]) -> None:
        """A message of somebody else than the model; several texts stay parts of it."""
        self._open = None
        content = texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]
        self.messages.append({"role": role, "content": content})

    def instruct(self, text: str) -> None:
        """Instructions for all that follows. Templates know one system message: instructions in a row are one."""
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == "system" and isinstance(last["content"], str):
            self.messages[-1] = {**last, "content": f"{last['content']}\n\n{text}"}
        else:
            self.say("system", [text])

    def answer(self, text: str) -> None:
        """Text of the model."""
        message = self._opened()
        message["content"] = text if message["content"] is None else f"{message['content']}\n{text}"

    def reason(self, text: str) -> None:
        """Reasoning of the model: it begins a message."""
        message = self._opened()
        if message["content"] is not None or "tool_calls" in message:
            self._open = None
            message = self._opened()
        message["reasoning"] = f"{message['reasoning']}\n{text}" if "reasoning" in message else text

    def call(self, call_id: str, name: str, arguments: str, where: str) -> None:
        """A call that the model made; `where` is the field that tells it.

        Raises:
            InvalidRequestError: the arguments are no JSON object.
        """
        try:
            is_object = isinstance(json.loads(arguments or "{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise InvalidRequestError(f"{where} must be the text of a JSON object, got {shown(arguments)}", param=where)
        calls = self._opened().setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        self._names[call_id] = name

    def result(self, call_id: str, texts: Sequence[str], where: str) -> None:
        """What a call gave; `where` is the field that names the call.

        Raises:
            InvalidRequestError: there was no such call.
        """
        name = self._names.get(call_id)
        if name is None:
            known = ", ".join(map(repr, list(self._names)[-5:]))
            raise InvalidRequestError(
                f"{where} names the call {shown(call_id)}, which nothing before it made; "
                + (f"there were {known}" if known else "there was no call at all"),
                param=where,
            )
        self.say("tool", texts or [""])
        self.messages[-1].update(tool_call_id=call_id, name=name)

    def _opened(self) -> dict[str, Any]:
        if self._open is None:
            self._open = {"role": "assistant", "content": None}
            self.messages.append(self._open)
        return self._open
