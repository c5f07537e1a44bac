"""JSON schemas: which keywords are enforced, which are not, and where they stand.

Draft 2020-12, with what older drafts spell differently where the compiler knows it. A keyword that would be needed for
valid output and can't be enforced makes the schema unsupported: nothing is dropped in silence but annotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal
from urllib.parse import unquote

Status = Literal["enforced", "ignored", "unsupported"]

ENFORCED = frozenset(
    {
        *("$ref", "type", "enum", "const", "anyOf", "allOf", "oneOf"),
        *("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
)
ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "id", "$anchor", "$comment", "$vocabulary", "$defs", "definitions"),
        *("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
        *("nullable", "discriminator", "xml", "externalDocs"),  # OpenAPI's
    }
)
UNSUPPORTED = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
        *("$dynamicRef", "$dynamicAnchor", "$recursiveRef"),
    }
)
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
MAX_MULTIPLE = 10_000  # the automaton of a multiple has about so many states as its digits count
_MAX_PASSES = 50  # over a schema, to find out whether it requires itself; what needs more is let through

_ONE = ("additionalProperties", "additionalItems", "items")
_LISTS = ("prefixItems", "anyOf", "allOf", "oneOf", "items")
_MAPS = ("properties", "patternProperties")


@dataclass(frozen=True, slots=True)
class Keyword:
    """One keyword at one place of a schema."""

    pointer: str  # "#/properties/name"
    name: str
    status: Status
    reason: str = ""  # why it is not enforced

    def __str__(self) -> str:
        return f"{self.pointer}/{escape(self.name)}"


def escape(name: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def nesting(value: Any, most: int) -> int:
    """How deep lists and dicts stand in each other, 0 for a plain value; counts up to `most` + 1."""
    depth, level = 0, [value]
    while depth <= most and (level := [item for item in level if isinstance(item, dict | list)]):
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def children(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside a schema, with the rest of their pointers. Definitions are not among them."""
    for name in _MAPS:
        if isinstance(group := schema.get(name), dict):
            yield from ((f"/{name}/{escape(key)}", inner) for key, inner in group.items())
    for name in _LISTS:
        if isinstance(group := schema.get(name), list):
            yield from ((f"/{name}/{index}", inner) for index, inner in enumerate(group))
    for name in _ONE:
        if isinstance(inner := schema.get(name), dict):
            yield f"/{name}", inner


def resolve(root: Any, reference: str) -> Any:
    """What a reference such as "#/$defs/a" stands for.

    Raises:
        KeyError: nothing, or it is outside this schema.
    """
    if not reference.startswith("#"):
        raise KeyError(reference)
    node = root
    for part in unquote(reference[1:]).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            raise KeyError(reference)
    if reference[1:] and not reference.startswith("#/"):
        raise KeyError(reference)
    return node


def reachable(root: Any) -> dict[str, dict[str, Any]]:
    """Pointer -> schema, of all that the root leads to, references followed."""
    found: dict[str, dict[str, Any]] = {}
    waiting = [("#", root)]
    while waiting:
        pointer, node = waiting.pop()
        if pointer in found or not isinstance(node, dict):
            continue
        found[pointer] = node
        waiting.extend((pointer + rest, inner) for rest, inner in children(node))
        if isinstance(reference := node.get("$ref"), str):
            with suppress(KeyError):  # told by `keywords`
                waiting.append((reference, resolve(root, reference)))
    return found


def keywords(root: Any) -> list[Keyword]:
    """All keywords that count in a schema, in the order in which they stand there."""
    found = [_keyword(root, pointer, node, name) for pointer, node in sorted(reachable(root).items()) for name in node]
    endless = _endless(root)
    return [*found, *endless]


def _keyword(root: Any, pointer: str, node: dict[str, Any], name: str) -> Keyword:
    value = node[name]
    if name == "uniqueItems" and value is False:
        return Keyword(pointer, name, "ignored", "false asks for nothing")
    if name in UNSUPPORTED:
        return Keyword(pointer, name, "unsupported", "it can't be enforced while the output is written")
    if name not in ENFORCED:
        reason = "an annotation" if name in ANNOTATIONS else "no keyword of JSON Schema"
        return Keyword(pointer, name, "ignored", reason)
    reason = _why_not(root, node, name, value)
    if reason.startswith("ignored: "):
        return Keyword(pointer, name, "ignored", reason.removeprefix("ignored: "))
    return Keyword(pointer, name, "unsupported" if reason else "enforced", reason)


def _why_not(root: Any, node: dict[str, Any], name: str, value: Any) -> str:
    """Why an enforced keyword is not enforced with this value; "" if it is."""
    match name:
        case "$ref" if isinstance(value, str):
            try:
                resolve(root, value)
            except KeyError:
                where = "there is no such place in the schema" if value.startswith("#") else "it is outside the schema"
                return f"{value[:80]!r}: {where}"
        case "format" if isinstance(value, str) and value not in FORMATS:
            if node.get("type") in ("integer", "number", "boolean", "null", "array", "object"):
                return "ignored: formats are of strings"
            return f"{value[:40]!r} is not among the formats that can be enforced: {', '.join(FORMATS)}"
        case "multipleOf" if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            ratio = Fraction(str(value))
            if max(ratio.numerator, ratio.denominator) > MAX_MULTIPLE:
                return f"{value} has too many digits; up to {MAX_MULTIPLE} can be enforced"
        case "minProperties" if isinstance(value, int):
            required = node.get("required")
            least = len(required) if isinstance(required, list) else 0
            if value > least + 1:
                return "a name may come twice, so at most one more than the required ones can be enforced"
        case "additionalItems" if not isinstance(node.get("items"), list):
            return "ignored: it has a meaning beside a list of items only"
    return ""


# ---- schemas that no finite document satisfies ----


def _endless(root: Any) -> list[Keyword]:
    """The root, if whatever satisfies it would have to contain itself."""
    nodes = dict(reversed(reachable(root).items()))  # what others need comes before them, nearly always
    finite: set[str] = set()
    for _ in range(_MAX_PASSES):
        grows = False
        for pointer, node in nodes.items():
            if pointer not in finite and _is_finite(pointer, node, nodes, finite):
                finite.add(pointer)
                grows = True
        if "#" in finite or "#" not in nodes:
            return []
        if not grows:
            break
    else:
        return []
    return [Keyword("#", "$ref", "unsupported", "no finite document satisfies the schema: it requires itself")]


def _is_finite(pointer: str, node: dict[str, Any], nodes: dict[str, dict[str, Any]], finite: set[str]) -> bool:
    def done(place: str) -> bool:
        return place in finite or place not in nodes

    if isinstance(reference := node.get("$ref"), str) and not done(reference):
        return False
    for index in range(len(node["allOf"]) if isinstance(node.get("allOf"), list) else 0):
        if not done(f"{pointer}/allOf/{index}"):
            return False
    for name in ("anyOf", "oneOf"):
        num_options = len(node[name]) if isinstance(node.get(name), list) else 0
        if num_options and not any(done(f"{pointer}/{name}/{index}") for index in range(num_options)):
            return False
    if node.get("type") == "object" and isinstance(node.get("required"), list):
        for name in node["required"]:
            if isinstance(name, str) and not done(f"{pointer}/properties/{escape(name)}"):
                return False
    if node.get("type") == "array" and isinstance(node.get("minItems"), int) and node["minItems"] > 0:
        prefix = node["prefixItems"] if isinstance(node.get("prefixItems"), list) else []
        if any(not done(f"{pointer}/prefixItems/{index}") for index in range(min(len(prefix), node["minItems"]))):
            return False
        if node["minItems"] > len(prefix) and not done(f"{pointer}/items"):
            return False
    return True


# ---- as the compiler wants it ----


def rewritten(root: Any, *, close_objects: bool) -> Any:
    """A copy of a schema without what asks for nothing, objects closed if wanted. Order is kept: it orders the output.

    Args:
        close_objects: objects whose properties are named get no others, unless the schema says something else.
    """
    if not isinstance(root, dict):
        return root
    copy = {name: value for name, value in root.items() if not (name == "uniqueItems" and value is False)}
    for name in (*_MAPS, "$defs", "definitions"):
        if isinstance(group := copy.get(name), dict):
            copy[name] = {key: rewritten(inner, close_objects=close_objects) for key, inner in group.items()}
    for name in _LISTS:
        if isinstance(group := copy.get(name), list):
            copy[name] = [rewritten(inner, close_objects=close_objects) for inner in group]
    for name in _ONE:
        if isinstance(copy.get(name), dict):
            copy[name] = rewritten(copy[name], close_objects=close_objects)
    if close_objects and "properties" in copy and "patternProperties" not in copy:
        copy.setdefault("additionalProperties", False)
    return copy


def part(root: dict[str, Any], pointer: str) -> dict[str, Any]:
    """A schema that is what stands at `pointer` of another one, its references intact."""

    def moved(node: Any) -> Any:
        if isinstance(node, list):
            return [moved(inner) for inner in node]
        if not isinstance(node, dict):
            return node
        copy = {name: moved(value) for name, value in node.items()}
        if isinstance(reference := node.get("$ref"), str) and reference.startswith("#"):
            copy["$ref"] = f"#/$defs/whole{reference[1:]}"
        return copy

    return {"$defs": {"whole": moved(root)}, "$ref": f"#/$defs/whole{pointer[1:]}"}
