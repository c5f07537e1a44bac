"""The input items of the Responses API as a conversation. It knows every type of item, and which of them are taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from octavo.errors import InvalidRequestError, shown
from octavo.server.conversation import Conversation

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text")
_TAKEN = "message, function_call, function_call_output, reasoning and item_reference"
FindItem = Callable[[str, str], Mapping[str, Any]]  # by its id and the field that names it


def said(
    given: str | Sequence[Any] | None, earlier: Sequence[dict[str, Any]], find_item: FindItem
) -> list[dict[str, Any]]:
    """The chat messages of what was said `earlier` and of a request's input.

    Raises:
        InvalidRequestError: an item is none, or is of a type that is not taken; its place and its type are named.
        NotFoundError: an item that is referred to is not there.
    """
    messages = Conversation(earlier)
    if isinstance(given, str):
        messages.say("user", [given])
    else:
        for index, item in enumerate(given or []):
            where = f"input.{index}"
            if isinstance(item, Mapping) and item.get("type") == "item_reference":
                item = find_item(_text(item, "id", where), f"{where}.id")
            _add(messages, item, where)
    return messages.messages


def said_and_answered(earlier: Sequence[dict[str, Any]], output: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat messages with those of a response's output. A call that was cut off has never been made."""
    messages = Conversation(earlier)
    for item in output:
        with contextlib.suppress(InvalidRequestError):
            _add(messages, item, "output")
    return messages.messages


def instructed(instructions: str | None, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the instructions in front. They are said anew each time, and no part of what was said."""
    if not instructions:
        return messages
    whole = Conversation()
    whole.instruct(instructions)
    first = messages[0] if messages else {}
    if first.get("role") == "system" and isinstance(first["content"], str):
        whole.instruct(first["content"])
        messages = messages[1:]
    return whole.messages + messages


def _add(messages: Conversation, item: Any, where: str) -> None:
    if not isinstance(item, Mapping):
        raise _fail(where, "must be an object with a type", item)
    kind = item.get("type", "message")
    if kind == "message":
        _add_message(messages, item, where)
    elif kind == "function_call":
        messages.call(
            _text(item, "call_id", where),
            _text(item, "name", where),
            _text(item, "arguments", where),
            f"{where}.arguments",
        )
    elif kind == "function_call_output":
        texts = _texts(item.get("output"), f"{where}.output", _TEXT_PARTS)
        messages.result(_text(item, "call_id", where), texts, f"{where}.call_id")
    elif kind == "reasoning":
        _add_reasoning(messages, item, where)
    else:
        raise InvalidRequestError(
            f"{where} is of type {shown(kind)}, which this server does not take; give items of type {_TAKEN}",
            param=f"{where}.type",
        )


def _add_message(messages: Conversation, item: Mapping[str, Any], where: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise _fail(f"{where}.role", f"must be one of {', '.join(_ROLES)}", role)
    is_models = role == "assistant"
    texts = _texts(item.get("content"), f"{where}.content", (*_TEXT_PARTS, "refusal") if is_models else _TEXT_PARTS)
    if is_models:
        messages.answer("\n".join(texts))
    elif role == "user":
        messages.say(role, texts or [""])
    else:
        messages.instruct("\n".join(texts))


def _add_reasoning(messages: Conversation, item: Mapping[str, Any], where: str) -> None:
    """The reasoning itself, else its summary. What is encrypted can't be read here and is passed over."""
    texts = _texts(item.get("content") or [], f"{where}.content", ("reasoning_text", "text"))
    texts = texts or _texts(item.get("summary") or [], f"{where}.summary", ("summary_text",))
    if texts:
        messages.reason("\n".join(texts))


def _texts(content: Any, where: str, kinds: Collection[str]) -> list[str]:
    """The texts of a content, which is one or a list of parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise _fail(where, "must be text or a list of parts", content)
    return [_part_text(part, f"{where}.{index}", kinds) for index, part in enumerate(content)]


def _part_text(part: Any, where: str, kinds: Collection[str]) -> str:
    if not isinstance(part, Mapping):
        raise _fail(where, "must be an object with a type", part)
    kind = part.get("type")
    if kind not in kinds:
        raise InvalidRequestError(
            f"{where} is of type {shown(kind)}, which is not taken here; give {' or '.join(kinds)}",
            param=f"{where}.type",
        )
    return _text(part, "refusal" if kind == "refusal" else "text", where)


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise _fail(f"{where}.{name}", "must be a string", value)
    return value


def _fail(where: str, allowed: str, given: Any) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {allowed}, got {shown(given)}", param=where)
