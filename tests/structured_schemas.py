"""Forty schemas of the kinds that people send: flat, nested, recursive, with bounds, unions, maps and formats."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: list[str] | None = None, **properties: Any) -> Schema:
    names = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


STRING: Schema = {"type": "string", "maxLength": 12}
INTEGER: Schema = {"type": "integer", "minimum": -9999, "maximum": 9999}
NUMBER: Schema = {"type": "number", "minimum": -100, "maximum": 100}
BOOLEAN: Schema = {"type": "boolean"}


def _array(items: Schema, most: int = 3, **more: Any) -> Schema:
    return {"type": "array", "items": items, "maxItems": most, **more}


TREE = {
    "$defs": {"node": _object(["value"], value=INTEGER, left={"$ref": "#/$defs/node"}, right={"$ref": "#/$defs/node"})},
    "$ref": "#/$defs/node",
}
LINKED = {
    "$defs": {
        "item": _object(name=STRING, next={"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]}),
    },
    "$ref": "#/$defs/item",
}

SCHEMAS: list[Schema] = [
    STRING,
    INTEGER,
    NUMBER,
    BOOLEAN,
    {"type": "null"},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 99},
    {"enum": ["red", "green", "blue", 7, None, {"mixed": True}]},
    {"const": {"version": 2, "tags": ["a", "b"]}},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "email", "maxLength": 40},
    {"type": "string", "minLength": 3, "maxLength": 6},
    {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 20},
    {"type": "number", "minimum": 0.25, "maximum": 0.75},
    {"type": "integer", "multipleOf": 15, "minimum": 0, "maximum": 3000},
    _array(INTEGER, 5),
    _array(STRING, 4, minItems=2),
    {"type": "array", "prefixItems": [STRING, INTEGER, BOOLEAN], "items": False, "minItems": 3},
    _array(_array(BOOLEAN), 3, minItems=1),
    _object(name=STRING, age={"type": "integer", "minimum": 0, "maximum": 150}),
    _object(["id"], id=INTEGER, note=STRING, done=BOOLEAN),
    _object([], a=INTEGER, b=INTEGER),
    _object(user=_object(name=STRING, roles=_array({"enum": ["admin", "editor", "reader"]}))),
    _object(point=_object(x=NUMBER, y=NUMBER), label={"anyOf": [STRING, {"type": "null"}]}),
    {"type": "object", "additionalProperties": INTEGER, "maxProperties": 3},
    {
        "type": "object",
        "patternProperties": {"^k_[a-z]{1,5}$": BOOLEAN},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    {
        "type": "object",
        "properties": {"a": STRING},
        "required": ["a"],
        "additionalProperties": NUMBER,
        "maxProperties": 2,
    },
    {"anyOf": [_object(kind={"const": "circle"}, radius=NUMBER), _object(kind={"const": "square"}, side=NUMBER)]},
    {"oneOf": [_object(kind={"const": "a"}, x=INTEGER), _object(kind={"const": "b"}, y=STRING)]},
    {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 50}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            {"type": "object", "properties": {"b": STRING}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
    TREE,
    LINKED,
    _object(**{f"field_{i}": (STRING, INTEGER, BOOLEAN)[i % 3] for i in range(12)}),
    _object(**{'quo"ted': INTEGER, "ünïcode €": STRING, "a/b~c": BOOLEAN, "": INTEGER}),
    _array(
        _object(
            sku={"type": "string", "pattern": "^[a-f0-9]{8}$"}, price={"type": "number", "minimum": 0, "maximum": 999}
        ),
        2,
    ),
    _object(
        title=STRING,
        authors=_array(STRING, 2, minItems=1),
        year={"type": "integer", "minimum": 1900, "maximum": 2030},
        rating={"enum": [1, 2, 3, 4, 5]},
        isbn={"type": ["string", "null"], "maxLength": 13},
    ),
]
