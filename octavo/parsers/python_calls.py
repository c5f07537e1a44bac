"""Calls as Python writes them, `name(key=value, ...)`, whose arguments become JSON while they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from octavo.parsers.base import ToolParser
from octavo.parsers.json_text import json_string
from octavo.parsers.literal import PYTHON, literal
from octavo.parsers.source import SPACE, Steps

_DOTTED = re.compile(r"[\w.\-]*")
_KEY = re.compile(r"\w*")
_VALUES = frozenset("\"'[({-+.0123456789")  # what values begin with, and names do not


def python_call(parser: ToolParser) -> Steps[bool]:
    """Read a call of one of the parser's tools, which begins here. Whether there is one.

    The source must hold: what was read is kept there if this is none.
    """
    source = parser.source
    texts: list[str] = []
    yield from source.run(_DOTTED, texts.append)
    yield from source.run(SPACE)
    name = "".join(texts)
    if (yield from source.peek()) != "(" or name not in parser.tools:
        return False
    source.skip()
    source.release()
    parser.start_call(name)
    complete = yield from _arguments(parser, name)
    parser.end_call(complete=complete)
    return True


def _arguments(parser: ToolParser, name: str) -> Steps[bool]:
    """The arguments up to the closing bracket. False: they break, and are closed there, or the text ends."""
    source = parser.source
    properties = parser.tools[name].get("properties")
    unnamed = iter(properties if isinstance(properties, Mapping) else ())  # what arguments without names are
    parser.arguments("{")
    before = ""
    while True:
        yield from source.run(SPACE)
        char = yield from source.peek()
        if char == ",":
            source.skip()
            continue
        if char == ")":
            source.skip()
            parser.arguments("}")
            return True
        key = next(unnamed, "") if char and char in _VALUES else (yield from _key(parser))
        before += f'"{json_string(key)}": '
        if not key or not (yield from literal(source, parser.arguments, PYTHON, before=before)):
            if (yield from source.peek()):
                parser.arguments("}")
            return False
        before = ", "


def _key(parser: ToolParser) -> Steps[str]:
    """The name of an argument; "" if none is there."""
    source, texts = parser.source, list[str]()
    yield from source.run(_KEY, texts.append)
    yield from source.run(SPACE)
    if (yield from source.peek()) != "=":
        return ""
    source.skip()
    return "".join(texts)
