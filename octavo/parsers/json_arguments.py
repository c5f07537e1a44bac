"""Calls whose name stands outside the JSON: the arguments follow it, up to a tag."""

from __future__ import annotations

from octavo.parsers.base import ToolParser
from octavo.parsers.json_text import value
from octavo.parsers.source import SPACE, Steps, Tags, Trimmed, nowhere


def call_with_json(parser: ToolParser, name: str, end: Tags, *, call_id: str | None = None) -> Steps[str]:
    """Read the arguments of `name`, which begin here, and what follows up to the first of `end`, which is returned.

    What is no JSON is passed on as it stands: who made the tool can tell the model what was wrong with it.
    """
    source = parser.source
    yield from source.run(SPACE)
    parser.start_call(name, call_id)
    if (yield from source.peek()) in ("{", "["):
        complete = yield from value(source, parser.arguments)
        parser.end_call(complete=complete)
        return (yield from source.until(end, nowhere))
    texts: list[str] = []
    tag = yield from source.until(end, Trimmed(texts.append))
    if not texts and tag:
        texts.append("{}")
    parser.arguments("".join(texts))
    parser.end_call(complete=texts == ["{}"])
    return tag
