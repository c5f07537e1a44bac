"""The messages of Anthropic's API as a conversation. It knows every type of content block, and which are taken."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from octavo.errors import InvalidRequestError, shown
from octavo.server.conversation import Conversation

_ROLES = ("user", "assistant", "system")
# By the role of the message that they stand in.
_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}


def conversation(system: str | Sequence[Any] | None, messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The chat messages.

    Raises:
        InvalidRequestError: a message or a block is none, or is of a type that is not taken; its place is named.
    """
    whole = Conversation()
    texts = [_text(block, "text", where) for block, where in _blocks(system or [], "system", ("text",))]
    if texts:
        whole.instruct("\n".join(texts))
    if not messages:
        raise InvalidRequestError("messages must not be empty; give at least one message", param="messages")
    turn: list[str] = []  # the user's texts so far, in messages that follow each other
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise _fail(f"{where}.role", f"must be one of {', '.join(_ROLES)}", role)
        blocks = _blocks(message.get("content"), f"{where}.content", _BLOCKS[role])
        if role == "user":
            _add_users(whole, blocks, turn)
            continue
        _end_turn(whole, turn)
        for block, place in blocks:
            if role == "system":
                whole.instruct(_text(block, "text", place))
            else:
                _add_models(whole, block, place)
    _end_turn(whole, turn)
    return whole.messages


def _add_users(whole: Conversation, blocks: Iterator[tuple[Mapping[str, Any], str]], turn: list[str]) -> None:
    for block, where in blocks:
        if block["type"] == "text":
            turn.append(_text(block, "text", where))
            continue
        _end_turn(whole, turn)
        content = _blocks(block.get("content") or [], f"{where}.content", ("text",))
        texts = [_text(part, "text", place) for part, place in content]
        if block.get("is_error"):
            texts = ["Error: " + "\n".join(texts)]
        whole.result(_text(block, "tool_use_id", where), texts, f"{where}.tool_use_id")


def _end_turn(whole: Conversation, turn: list[str]) -> None:
    if turn:
        whole.say("user", list(turn))
        turn.clear()


def _add_models(whole: Conversation, block: Mapping[str, Any], where: str) -> None:
    kind = block["type"]
    if kind == "text":
        whole.answer(_text(block, "text", where))
    elif kind == "thinking":
        whole.reason(_text(block, "thinking", where))
    elif kind == "tool_use":
        given = block.get("input")
        if not isinstance(given, Mapping):
            raise _fail(f"{where}.input", "must be an object", given)
        arguments = json.dumps(given, ensure_ascii=False)
        whole.call(_text(block, "id", where), _text(block, "name", where), arguments, f"{where}.input")
    # redacted_thinking can be read by nobody but the server that wrote it, and is passed over.


def _blocks(content: Any, where: str, kinds: Collection[str]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The blocks of a content, which is text or a list of them, each with its place."""
    if isinstance(content, str):
        yield {"type": "text", "text": content}, where
        return
    if not isinstance(content, list):
        raise _fail(where, "must be text or a list of blocks", content)
    for index, block in enumerate(content):
        place = f"{where}.{index}"
        if not isinstance(block, Mapping):
            raise _fail(place, "must be an object with a type", block)
        if block.get("type") not in kinds:
            raise InvalidRequestError(
                f"{place} is of type {shown(block.get('type'))}, which is not taken here; give {' or '.join(kinds)}",
                param=f"{place}.type",
            )
        yield block, place


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise _fail(f"{where}.{name}", "must be a string", value)
    return value


def _fail(where: str, allowed: str, given: Any) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {allowed}, got {shown(given)}", param=where)
