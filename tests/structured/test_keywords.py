"""Every keyword of JSON Schema is what `octavo.structured.json_schema` says of it: enforced, ignored or refused.

The cases are of the kind that the JSON-Schema-Test-Suite has, chosen for output that is written from left to right.
`jsonschema` says which instances are valid; the matcher has to agree.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from octavo.errors import InvalidRequestError
from octavo.sampling_params import SamplingParams
from octavo.structured import json_schema
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.matcher import GrammarError
from octavo.structured_params import StructuredOutputsParams

# keyword -> (schema, valid instances, invalid ones)
Case = tuple[dict[str, Any], list[Any], list[Any]]
ENFORCED: dict[str, list[Case]] = {
    "type": [
        ({"type": "integer"}, [0, -7, 12345678901], [1.5, "1", True, None, [], {}]),
        ({"type": "number"}, [0, -7.25, 1e30], ["1", False, None]),
        ({"type": "string"}, ["", 'a"b\\c', "ä €\n"], [1, None]),
        ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
        ({"type": "null"}, [None], [0, False, ""]),
        ({"type": "array"}, [[], [1, "a", [None]]], [{}, "[]"]),
        ({"type": "object"}, [{}, {"a": {"b": [1]}}], [[], 1]),
        ({"type": ["string", "null"]}, ["x", None], [1, {}]),
    ],
    "enum": [({"enum": [1, "two", None, {"a": [3]}]}, [1, "two", None, {"a": [3]}], [2, "tw", "two ", {"a": []}])],
    "const": [({"const": {"a": [1, "x"]}}, [{"a": [1, "x"]}], [{}, {"a": [1]}, 1])],
    "anyOf": [({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]}, [5, "ab"], ["abc", None, 1.5])],
    "allOf": [({"type": "integer", "allOf": [{"minimum": 3}, {"maximum": 5}]}, [3, 4, 5], [2, 6])],
    "oneOf": [({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [1.5, None])],
    "$ref": [
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, [1], ["1"]),
        (
            {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
                "required": ["next"],
                "additionalProperties": False,
            },
            [{"next": None}, {"next": {"next": None}}],
            [{}, {"next": {}}, {"next": 1}],
        ),
    ],
    "properties": [({"type": "object", "properties": {"a": {"type": "integer"}}}, [{}, {"a": 1}], [{"a": "1"}])],
    "required": [({"type": "object", "required": ["a"]}, [{"a": 1}], [{}, {"b": 1}])],
    "additionalProperties": [
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"x": 1, "y": 2}], [{"x": "1"}]),
    ],
    "patternProperties": [
        (
            {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
            [{}, {"n_a": 1}],
            [{"n_a": "x"}, {"x": 1}],
        )
    ],
    "minProperties": [({"type": "object", "minProperties": 1}, [{"a": 1}], [{}])],
    "maxProperties": [({"type": "object", "maxProperties": 2}, [{}, {"a": 1, "b": 2}], [{"a": 1, "b": 2, "c": 3}])],
    "items": [({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["1"], [1, None]])],
    "prefixItems": [
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
            [[], [1], [1, "a"]],
            [["a"], [1, 2], [1, "a", 3]],
        )
    ],
    "minItems": [({"type": "array", "minItems": 2}, [[1, 2], [1, 2, 3]], [[], [1]])],
    "maxItems": [({"type": "array", "maxItems": 2}, [[], [1, 2]], [[1, 2, 3]])],
    "minLength": [({"type": "string", "minLength": 2}, ["ab", "äö", "abc"], ["", "a"])],
    "maxLength": [({"type": "string", "maxLength": 3}, ["", "abc", "äöü"], ["abcd"])],
    "pattern": [({"type": "string", "pattern": "^[a-c]+[0-9]?$"}, ["a", "abc7"], ["", "d", "a77"])],
    "format": [
        ({"type": "string", "format": "date"}, ["2026-11-25"], ["2026-13-01", "yesterday"]),
        ({"type": "string", "format": "ipv4"}, ["10.0.0.255"], ["10.0.0.256", "10.0.0"]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ({"type": "string", "format": "email"}, ["a@b.org"], ["a.b.org"]),
    ],
    "minimum": [
        ({"type": "integer", "minimum": -3}, [-3, 0, 1000], [-4]),
        ({"type": "number", "minimum": 1.5}, [1.5], [1.4]),
    ],
    "maximum": [({"type": "integer", "maximum": 150}, [150, 0, -9], [151, 1000])],
    "exclusiveMinimum": [({"type": "integer", "exclusiveMinimum": 0}, [1], [0, -1])],
    "exclusiveMaximum": [({"type": "number", "exclusiveMaximum": 2}, [1.99, -1], [2, 2.01])],
    "multipleOf": [
        ({"type": "integer", "multipleOf": 7}, [0, 7, 700], [1, 8]),
        ({"type": "number", "multipleOf": 0.5}, [1.5], [0.3]),
    ],
}  # fmt: skip
# An older spelling, which jsonschema's newest draft does not have.
OLD: dict[str, list[Case]] = {
    "additionalItems": [
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "array",
                "items": [{"type": "integer"}],
                "additionalItems": False,
            },
            [[], [1]],
            [["a"], [1, 2]],
        )
    ]
}
CASES = ENFORCED | OLD

UNSUPPORTED: dict[str, Any] = {
    "not": {"type": "string"},
    "if": {"type": "string"},
    "then": {"minLength": 1},
    "else": {},
    "contains": {"type": "integer"},
    "minContains": 1,
    "maxContains": 1,
    "uniqueItems": True,
    "propertyNames": {"pattern": "^a"},
    "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {}},
    "dependencies": {"a": ["b"]},
    "unevaluatedProperties": False,
    "unevaluatedItems": False,
    "$dynamicRef": "#a",
    "$dynamicAnchor": "a",
    "$recursiveRef": "#",
}


def test_every_keyword_has_a_case() -> None:
    assert set(CASES) == json_schema.ENFORCED
    assert set(UNSUPPORTED) == json_schema.UNSUPPORTED


@pytest.mark.parametrize("keyword", CASES)
def test_enforced(keyword: str, accepts: Any) -> None:
    for schema, valid, invalid in CASES[keyword]:
        assert {k.name: k.status for k in json_schema.keywords(schema)}[keyword] == "enforced"
        validator = jsonschema.validators.validator_for(schema)(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        for instance in valid:
            assert validator.is_valid(instance)
            for indent in (None, 1):
                text = json.dumps(instance, ensure_ascii=False, indent=indent)
                assert accepts(text, json=schema), (schema, text)
        for instance in invalid:
            assert not validator.is_valid(instance) or schema.get("format") == "email"
            assert not accepts(json.dumps(instance, ensure_ascii=False), json=schema), (schema, instance)


@pytest.mark.parametrize("keyword", UNSUPPORTED)
def test_unsupported(keyword: str, compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"a/b": {"items": {keyword: UNSUPPORTED[keyword]}}}}
    with pytest.raises(InvalidRequestError, match=r"#/properties/a~1b/items/" + keyword.replace("$", r"\$")):
        compiler.compile(StructuredOutputsParams(json=schema))
    # The compiler underneath would not have enforced it either.
    assert compiler._grammars is not None or compiler.compile(StructuredOutputsParams(regex="a"))
    assert compiler._grammars is not None
    with pytest.raises(GrammarError, match="Unimplemented"):
        compiler._grammars.json(json.dumps({keyword: UNSUPPORTED[keyword]}), {"lenient": False})


@pytest.mark.parametrize("keyword", sorted(json_schema.ANNOTATIONS - {"$defs", "definitions", "$schema", "$id", "id"}))
def test_ignored(keyword: str, accepts: Any) -> None:
    schema = {keyword: "anything", "type": "integer"}
    (found,) = (k for k in json_schema.keywords(schema) if k.name == keyword)
    assert (found.status, found.reason) == ("ignored", "an annotation")
    assert accepts("5", json=schema)
    assert not accepts('"5"', json=schema)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/$defs/gone"}, r"#/\$ref .*no such place"),
        ({"items": {"$ref": "https://example.org/x.json"}}, r"#/items/\$ref .*outside the schema"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "it requires itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "it requires itself"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "it requires itself"),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]},
         r"at #/properties/a: Unsatisfiable schema: minimum \(5\) is greater than maximum \(3\)"),
        ({"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]},
         "at #/properties/a: Unsatisf"),
        ({"items": {"pattern": "(?=a)b"}}, "at #/items: regex parse error.*look-around"),
        ({"items": {"pattern": "("}}, "at #/items: regex parse error.*unclosed"),
        ({"items": {"type": "strin"}}, "at #/items: Invalid type: strin"),
        ({"type": "string", "format": "postcode"}, "#/format .*postcode.*date-time"),
        ({"type": "integer", "multipleOf": 1000003}, "#/multipleOf .*too many digits"),
        ({"type": "object", "minProperties": 3}, "#/minProperties .*name may come twice"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "at #: oneOf"),
        ({"enum": []}, "at #: Unsatisfiable"),
        ({"properties": []}, "at #: properties must be an object"),
        ({"minLength": -1}, "minLength"),
        ("[1]", "must be a JSON schema: an object"),
        ('{"a":', "is no JSON"),
        ("false", "schema is false"),
        ({"description": "x" * 300_000}, "at most 262144"),
        ('{"items":' * 10_000 + "{}" + "}" * 10_000, "nested deeper than 64"),
        ('{"enum":[' + "[" * 400 + "]" * 400 + "]}", "nested deeper than 64"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "#/not"),
        ({"minimum": float("nan")}, "no JSON"),
        ({"const": {1, 2}}, "can't be written as JSON"),
    ],
)  # fmt: skip
def test_refused_with_the_part_that_is_wrong(schema: Any, words: str, compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        compiler.compile(StructuredOutputsParams(json=schema))
    assert caught.value.param == "structured_outputs.json"
    assert len(str(caught.value)) < 600


def test_a_dict_that_is_nested_too_deeply(compiler: GrammarCompiler) -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    params = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema)).clone()
    assert params.structured_outputs is not None
    with pytest.raises(InvalidRequestError, match=r"nested (too deeply|deeper)"):
        compiler.compile(params.structured_outputs)
    while schema:  # or taking it down recurses
        schema = schema["items"]


def test_what_asks_for_nothing_is_dropped(accepts: Any) -> None:
    schema = {"type": "array", "uniqueItems": False, "items": {"type": "integer", "format": "int64"}}
    assert {k.name for k in json_schema.keywords(schema) if k.status == "ignored"} == {"uniqueItems", "format"}
    assert accepts("[1, 1]", json=schema)


def test_closed_objects(accepts: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    assert accepts('{"a":{"b":1,"c":2}}', json=schema)
    assert not accepts('{"a":{"b":1,"c":2}}', json=schema, disable_additional_properties=True)
    assert accepts('{"a":{"b":1}}', json=schema, disable_additional_properties=True)
    open_one = {**schema, "additionalProperties": True}
    assert accepts('{"a":{"b":1},"z":2}', json=open_one, disable_additional_properties=True)


def test_white_space(accepts: Any) -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    assert accepts("[1,  2]", json=schema)
    assert accepts("[\n\t1,\n\t2\n]", json=schema)
    assert not accepts("[1,\n\n2]", json=schema)  # a model that has nothing to say must not go on for ever
    assert accepts("[1,\n\n2]", json=schema, whitespace_pattern=r"\s+")
    assert not accepts("[1,  2]", json=schema, disable_any_whitespace=True)
    assert accepts("[1,2]", json=schema, disable_any_whitespace=True)
    assert accepts("[1, 2]", json=schema, whitespace_pattern="[ ]{1,1}")
    assert not accepts("[1,  2]", json=schema, whitespace_pattern="[ ]{1,1}")


def test_only_what_the_root_leads_to_counts(accepts: Any) -> None:
    assert accepts("1", json={"type": "integer", "$defs": {"unused": {"not": {}}}})
