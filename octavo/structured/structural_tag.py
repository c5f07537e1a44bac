"""Structural tags: free text, in which certain beginnings open a structure that has to be completed.

The two forms that vLLM takes: {"type": "structural_tag", "structures": [{"begin", "schema", "end"}], "triggers": [..]},
and the newer {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": [...], "tags": [{"begin",
"content": {"type": "json_schema", "json_schema": ...}, "end"}]}}. Both become a grammar in Lark's syntax.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo.errors import InvalidRequestError, shown

PARAM = "structured_outputs.structural_tag"


@dataclass(frozen=True, slots=True)
class _Tag:
    trigger: str
    begin: str
    schema: Any
    end: str


def structural_tag_lark(given: Mapping[str, Any], schema_text: Callable[[Any, str], str]) -> str:
    """The grammar of a structural tag.

    Args:
        schema_text: checks a schema, of which it is told the place, and gives it as the compiler wants it.

    Raises:
        InvalidRequestError: naming the part that is wrong.
    """
    tags = _tags(given)
    rules, options = [], []
    for index, tag in enumerate(tags):
        options.append(f"tag_{index}")
        rest = tag.begin[len(tag.trigger) :]
        body = f"{_quoted(rest)} %json {schema_text(tag.schema, f'{PARAM} (tag {tag.begin!r})')} {_quoted(tag.end)}"
        rules.append(f"open_{index}[lazy]: TEXT {_quoted(tag.trigger)}\ntag_{index}: open_{index} {body}")
    return "\n".join(
        ["%llguidance {}", f"start: ({' | '.join(options)})* text_end", "text_end: TEXT", "TEXT: /(.|\\n)*/", *rules]
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _tags(given: Mapping[str, Any]) -> list[_Tag]:
    if "structures" in given:
        triggers, tags, where = given.get("triggers"), given["structures"], "structures"
    else:
        inner = given.get("format")
        if not isinstance(inner, Mapping) or inner.get("type") != "triggered_tags":
            raise _fail("format", inner, "{'type': 'triggered_tags', ...}; other forms are not supported yet")
        triggers, tags, where = inner.get("triggers"), inner.get("tags"), "format.tags"
    if not isinstance(triggers, list) or not triggers or not all(isinstance(t, str) and t for t in triggers):
        raise _fail("triggers", triggers, "a list of at least one string")
    if not isinstance(tags, list) or not tags:
        raise _fail(where, tags, "a list of at least one tag")
    return [_tag(item, f"{where}[{index}]", triggers) for index, item in enumerate(tags)]


def _tag(item: Any, where: str, triggers: list[str]) -> _Tag:
    if not isinstance(item, Mapping):
        raise _fail(where, item, "an object with begin, end and a schema")
    begin, end, schema = item.get("begin"), item.get("end"), item.get("schema")
    content = item.get("content")
    if isinstance(content, Mapping):
        if content.get("type") != "json_schema":
            raise _fail(f"{where}.content.type", content.get("type"), "'json_schema'; others are not supported yet")
        schema = content.get("json_schema")
    if not isinstance(begin, str) or not begin:
        raise _fail(f"{where}.begin", begin, "a string that is not empty")
    if not isinstance(end, str):
        raise _fail(f"{where}.end", end, "a string")
    if not isinstance(schema, dict | bool):
        raise _fail(f"{where}.schema", schema, "a JSON schema")
    trigger = next((trigger for trigger in triggers if begin.startswith(trigger)), None)
    if trigger is None:
        raise _fail(f"{where}.begin", begin, f"begun by one of the triggers {triggers}")
    return _Tag(trigger, begin, schema, end)


def _fail(name: str, value: Any, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(f"{PARAM}: {name} must be {allowed}, got {shown(value)}", param=PARAM)
