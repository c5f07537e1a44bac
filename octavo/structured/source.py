"""GrammarSource: a constraint as text, checked as far as that goes without compiling it.

Whatever could cost more than it should is bounded here, before the compiler sees it: bytes, nesting, rules, and for
schemas what can't be enforced.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from octavo.errors import InvalidRequestError, shown
from octavo.structured import json_schema
from octavo.structured.structural_tag import PARAM as TAG_PARAM
from octavo.structured.structural_tag import structural_tag_lark
from octavo.structured_params import StructuredOutputsParams

MAX_BYTES = 256 * 1024
MAX_NESTING = 64
MAX_RULES = 2000  # of a grammar
MAX_GBNF_RULES = 500  # converting them takes time with the square of their number
# Between the tokens of JSON: spaces, or a line break and its indentation. More than that is what a model writes that
# has nothing to say, and without a bound it may go on for ever.
WHITE_SPACE = r"[ \t]{1,4}|\r?\n[ \t]{0,40}"
_LARK = re.compile(r"%llguidance\b|\??start\s*[:\[]")
_ESCAPED = re.compile(r"[^A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """What is compiled."""

    kind: Literal["json", "regex", "grammar"]
    text: str
    options: tuple[tuple[str, Any], ...] = ()  # the compiler's, for JSON
    param: str = "structured_outputs"  # the field that it came from, for messages


def source_of(params: StructuredOutputsParams) -> GrammarSource:
    """The source of what `params` ask for.

    Raises:
        InvalidRequestError: too long, too deep, not well-formed, or not supported; naming the part.
    """
    param = f"structured_outputs.{params.kind}"
    match params.kind:
        case "json":
            root = parsed_json(params.json, param)
            text = schema_text(root, param, close_objects=params.disable_additional_properties)
            return _bounded(GrammarSource("json", text, _json_options(params), param))
        case "json_object":
            return GrammarSource("json", '{"type":"object"}', _json_options(params), param)
        case "regex":
            return _bounded(GrammarSource("regex", params.regex or "", param=param))
        case "choice":
            pattern = "|".join(_ESCAPED.sub(_escape, choice) for choice in params.choice or [])
            return _bounded(GrammarSource("regex", pattern, param=param))
        case "grammar":
            source = _bounded(GrammarSource("grammar", params.grammar or "", param=param))
            _check_rules(source)
            return source
        case _:
            given = parsed_json(params.structural_tag, param)
            if not isinstance(given, dict):
                raise InvalidRequestError(f"{param} must be a JSON object, got {shown(given)}", param=param)
            lark = structural_tag_lark(
                given,
                lambda schema, place: schema_text(
                    schema, TAG_PARAM, place, close_objects=params.disable_additional_properties
                ),
            )
            return _bounded(GrammarSource("grammar", lark, param=param))


def _check_rules(source: GrammarSource) -> None:
    num_rules = sum(":" in line for line in source.text.splitlines())
    most = MAX_RULES if is_lark(source.text) else MAX_GBNF_RULES
    if num_rules > most:
        raise InvalidRequestError(
            f"{source.param} has {num_rules} rules, at most {most} are allowed", param=source.param
        )


def is_lark(grammar: str) -> bool:
    """Whether a grammar is in Lark's syntax: it begins at a rule `start`."""
    return any(_LARK.match(line.strip()) for line in grammar.splitlines())


def _escape(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):x}}}"


def _bounded(source: GrammarSource) -> GrammarSource:
    if "\0" in source.text:
        raise InvalidRequestError(f"{source.param} holds a NUL character; leave it out", param=source.param)
    try:
        size = len(source.text.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{source.param} holds a lone surrogate; replace it", param=source.param) from None
    if size > MAX_BYTES:
        raise InvalidRequestError(
            f"{source.param} has {size} bytes, at most {MAX_BYTES} are allowed; make it smaller", param=source.param
        )
    return source


def _json_options(params: StructuredOutputsParams) -> tuple[tuple[str, Any], ...]:
    # Set in any case: a schema must not bring options of its own that make it less strict.
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False}
    if params.disable_any_whitespace and params.whitespace_pattern is None:
        options["whitespace_flexible"] = False
    else:
        options["whitespace_pattern"] = WHITE_SPACE if params.whitespace_pattern is None else params.whitespace_pattern
    return tuple(options.items())


def parsed_json(given: Any, param: str) -> Any:
    """JSON as Python objects.

    Raises:
        InvalidRequestError: too long, too deep, or no JSON.
    """
    if isinstance(given, str):
        if len(given) > MAX_BYTES:
            raise InvalidRequestError(
                f"{param} has {len(given)} characters, at most {MAX_BYTES} are allowed; make it smaller", param=param
            )
        try:
            given = json.loads(given)
        except RecursionError:
            raise _too_deep(param) from None
        except ValueError as error:
            raise InvalidRequestError(f"{param} is no JSON: {error}", param=param) from None
    if json_schema.nesting(given, MAX_NESTING) > MAX_NESTING:
        raise _too_deep(param)
    return given


def _too_deep(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} is nested deeper than {MAX_NESTING} levels; flatten it", param=param)


def schema_text(root: Any, param: str, place: str = "", *, close_objects: bool) -> str:
    """A schema that can be enforced, as the compiler wants it.

    Args:
        param: the field it came from.
        place: where in this field, for messages; "" for the field as a whole.
        close_objects: objects get no properties but those named.

    Raises:
        InvalidRequestError: no schema, or it has a keyword that can't be enforced, naming its place.
    """
    place = place or param
    if not isinstance(root, dict | bool):
        raise InvalidRequestError(f"{place} must be a JSON schema: an object, got {shown(root)}", param=param)
    if root is False:
        raise InvalidRequestError(f"{place}: the schema is false, which allows no output at all", param=param)
    root = {} if root is True else root
    # Before anything walks over it; what can't be written as JSON can't be sent either.
    try:
        text = json.dumps(root, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{place} is no JSON: {error}", param=param) from None
    if len(text) > MAX_BYTES:
        raise InvalidRequestError(
            f"{place} has {len(text)} characters, at most {MAX_BYTES} are allowed; make it smaller", param=param
        )
    bad = [keyword for keyword in json_schema.keywords(root) if keyword.status == "unsupported"]
    if bad:
        more = f" (and {len(bad) - 1} more such keywords)" if len(bad) > 1 else ""
        raise InvalidRequestError(f"{place}: {str(bad[0])[:200]} is not supported: {bad[0].reason}{more}", param=param)
    kept = json_schema.rewritten(root, close_objects=close_objects)
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
