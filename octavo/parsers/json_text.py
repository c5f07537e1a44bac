"""JSON as it comes: where a value ends, its text passed on unchanged, and calls written as JSON objects.

A value is followed by its brackets and strings alone, without recursion; whether it is good JSON else is the reader's
matter. One thing is mended: control characters within strings, which models write and JSON forbids, are escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any

from octavo.parsers.base import ToolParser
from octavo.parsers.source import SPACE, Source, Steps, Tags, Write

_IN_STRING = re.compile(r'[^"\\\x00-\x1f]*')
_UP_TO_END_OR_STRING = re.compile(r'[^"}\]]*')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]*")
_NAMES = frozenset({"name"})
_ARGUMENTS = frozenset({"arguments", "parameters"})
_CALL_KEYS = _NAMES | _ARGUMENTS | {"type", "function", "id"}


def json_string(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deep for Python. NaN and Infinity are none.
    """

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    except RecursionError:
        raise ValueError("nested too deep") from None


def string(source: Source, write: Write) -> Steps[bool]:
    """Write a string, which begins here. False: the text ends within it."""
    write((yield from source.char()))
    while True:
        yield from source.run(_IN_STRING, write)
        char = yield from source.char()
        if char == "\\":
            write(char)
            char = yield from source.char()
        elif char == '"':
            write(char)
            return True
        elif char:
            char = json_string(char)
        if not char:
            return False
        write(char)


def value(source: Source, write: Write) -> Steps[bool]:
    """Write the value that begins here. False: none does, or the text ends within it."""
    char = yield from source.peek()
    if char == '"':
        return (yield from string(source, write))
    if char not in ("{", "["):
        num_before = source.offset
        yield from source.run(_SCALAR, write)
        return source.offset > num_before
    depth = 0

    def opened(text: str) -> None:
        nonlocal depth
        depth += text.count("{") + text.count("[")
        write(text)

    while True:
        yield from source.run(_UP_TO_END_OR_STRING, opened)
        char = yield from source.peek()
        if char == '"':
            if not (yield from string(source, write)):
                return False
            continue
        if not char:
            return False
        source.skip()
        write(char)
        depth -= 1
        if depth == 0:
            return True


class _Call:
    """A call while its object is read: it starts when its name is known and its arguments begin."""

    def __init__(self, parser: ToolParser, known_only: bool) -> None:
        self._parser = parser
        self._known_only = known_only
        self._name: str | None = None
        self._early: list[str] | None = None  # arguments that came before the name
        self.started = False

    def name(self, text: str) -> bool:
        """Take the name, as JSON. False: it is none that can be called."""
        try:
            name = json.loads(text)
        except ValueError:
            return False
        if not isinstance(name, str) or not name or (self._known_only and name not in self._parser.tools):
            return False
        self._name = name
        if self._early is not None:
            self._start()
        return True

    def arguments(self, char: str) -> Steps[bool]:
        """Read the arguments, which begin with `char`. An object in a string, as some models write it, is taken out."""
        source = self._parser.source
        if self._name is not None and not self.started:
            self._start()
        if char in ("{", "["):
            return (yield from value(source, self._write))
        texts: list[str] = []
        complete = yield from value(source, texts.append)
        text = "".join(texts)
        if char == '"' and complete:
            try:
                text = json.loads(text).strip() or "{}"
            except ValueError:
                complete = False
        self._write("{}" if text == "null" else text)
        return complete

    def close(self) -> bool:
        """The object has ended. Whether it was a call."""
        if self._name is None:
            return False
        if not self.started:
            self._start()
            self._write("{}")
        self._parser.end_call()
        return True

    def breaks(self) -> bool:
        """The object goes on in a way that makes no sense. Whether it was a call until then."""
        if self.started:
            self._parser.end_call(complete=False)
        return self.started

    def _start(self) -> None:
        assert self._name is not None
        self.started = True
        self._parser.source.release()
        self._parser.start_call(self._name)
        for text in self._early or ():
            self._parser.arguments(text)

    def _write(self, text: str) -> None:
        if self.started:
            self._parser.arguments(text)
        elif self._early is None:
            self._early = [text]
        else:
            self._early.append(text)


def call_object(parser: ToolParser, *, known_only: bool) -> Steps[bool]:
    """Read `{"name": ..., "arguments": {...}}`, which begins here; "parameters" will do as well.

    The source must hold: what was read until the call starts is kept there, to be content if this is no call (False).

    Args:
        known_only: what names no known tool, or has keys of something else, is no call.
    """
    source, call = parser.source, _Call(parser, known_only)
    source.skip()
    while True:
        yield from source.run(SPACE)
        char = yield from source.peek()
        if char == "}":
            source.skip()
            return call.close()
        if char == ",":
            source.skip()
            continue
        if char != '"':
            return call.breaks()
        texts: list[str] = []
        yield from string(source, texts.append)
        key = "".join(texts)[1:-1]
        yield from source.run(SPACE)
        if (yield from source.peek()) != ":" or (known_only and key not in _CALL_KEYS):
            return call.breaks()
        source.skip()
        yield from source.run(SPACE)
        char = yield from source.peek()
        if key in _ARGUMENTS:
            fine = yield from call.arguments(char)
        else:
            texts = []
            fine = yield from value(source, texts.append)
            if key in _NAMES:
                fine = fine and call.name("".join(texts))
        if not fine:
            return call.breaks()


_LIST_END = Tags("]")


def calls(parser: ToolParser, *, known_only: bool = False) -> Steps[bool]:
    """Read a call, or a list of calls, that begins here. What is none becomes content, and ends it.

    Returns:
        Whether there was a call.
    """
    source = parser.source
    found = False
    source.hold()
    in_list = (yield from source.peek()) == "["
    if in_list:
        source.skip()
    while True:
        yield from source.run(SPACE)
        char = yield from source.peek()
        is_call = char == "{" and (yield from call_object(parser, known_only=known_only))
        held = source.release()
        if not is_call:
            if in_list and found and char == "]":
                source.skip()
            else:
                parser.content(held)
            return found
        found = True
        if not in_list:
            return True
        yield from source.run(SPACE)
        if (yield from source.peek()) == ",":
            source.skip()
        source.hold()
