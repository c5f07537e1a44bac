"""Regex, choice, grammar, JSON object and structural tags: what is allowed, and what is refused beforehand."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from octavo.errors import InvalidRequestError
from octavo.structured.compiler import GrammarCompiler
from octavo.structured_params import StructuredOutputsParams

PATTERNS = {
    "[A-Z][a-z]+": (["Anna", "Bo"], ["anna", "A", "Anna "]),
    r"\d{4}-\d{2}-\d{2}": (["2026-11-25"], ["2026-1-25", ""]),
    "(yes|no)\n?": (["yes", "no\n"], ["maybe", "yes\n\n"]),
    "a/b|c": (["a/b", "c"], ["a"]),
    "^ab$": (["ab"], ["^ab$", "a"]),
    "(a+)+b": (["aaaaaaaaaaaaaaaaaaaaab"], ["aaaaaaaaaaaaaaaaaaaaaa"]),
    "[äöü]{2}€": (["äö€"], ["äa€"]),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regex(pattern: str, accepts: Any) -> None:
    allowed, refused = PATTERNS[pattern]
    for text in allowed:
        assert re.fullmatch(pattern, text)
        assert accepts(text, regex=pattern)
    for text in refused:
        assert not accepts(text, regex=pattern)


def test_choice(accepts: Any) -> None:
    choice = ["red", "green/blue", "a.b", 'quo"te\\', "ünïcode €", "two\nlines", "(x|y)*", "re"]
    for item in choice:
        assert accepts(item, choice=choice)
    for other in ("", "gree", "axb", "red ", "xy"):
        assert not accepts(other, choice=choice)


def test_lark(accepts: Any) -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/'
    assert accepts("1+22+3", grammar=grammar)
    assert not accepts("1+", grammar=grammar)
    assert accepts('{"a": 1}', grammar='start: %json {"type": "object", "properties": {"a": {"type": "integer"}}}')


def test_gbnf(accepts: Any) -> None:
    grammar = 'root ::= "(" item ("," item)* ")"\nitem ::= [a-z]+ | root'
    assert accepts("(a,(b,c))", grammar=grammar)
    assert not accepts("(a,", grammar=grammar)


def test_json_object(accepts: Any) -> None:
    assert accepts('{"a": [1, {"b": null}]}', json_object=True)
    assert not accepts("[1]", json_object=True)


TAG = {
    "type": "structural_tag",
    "triggers": ["<function="],
    "structures": [
        {
            "begin": "<function=add>",
            "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            "end": "</f>",
        },
        {"begin": "<function=now>", "schema": {"type": "null"}, "end": "</f>"},
    ],
}  # fmt: skip
NEW_TAG = {
    "type": "structural_tag",
    "format": {
        "type": "triggered_tags",
        "triggers": ["<function="],
        "tags": [
            {"begin": tag["begin"], "content": {"type": "json_schema", "json_schema": tag["schema"]}, "end": tag["end"]}
            for tag in TAG["structures"]  # type: ignore[attr-defined]
        ],
    },
}


@pytest.mark.parametrize("tag", [TAG, NEW_TAG])
def test_structural_tags(tag: dict[str, Any], accepts: Any) -> None:
    for text in ("free text", 'so: <function=add>{"a": 5}</f> and <function=now>null</f>.', "a < b"):
        assert accepts(text, structural_tag=tag)
    for text in ("<function=sub>", '<function=add>{"a": "5"}</f>', "<function=now>null", "<function=now>1</f>"):
        assert not accepts(text, structural_tag=tag)


DEEP = "(" * 10_000 + "a" + ")" * 10_000
CHAIN = "\n".join(f"r{i}: r{i + 1}" for i in range(1900))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such regex": ({"regex": "a("}, "regex can't be compiled.*unclosed group"),
    "look-behind": ({"regex": "(?<=a)b"}, "look-around"),
    "back reference": ({"regex": r"(a)\1"}, "backreferences"),
    "deep regex": ({"regex": DEEP}, "can't be compiled"),
    "regex of nothing": ({"regex": r"[^\s\S]"}, "no output at all"),
    "regex of the empty text": ({"regex": "a{0}"}, "empty output only"),
    "regex of too much": ({"regex": "((((a{100}){100}){100}){100}){100}"}, "too complex"),
    "regex with NUL": ({"regex": "a\0"}, "NUL"),
    "long regex": ({"regex": "ab" * 200_000}, "at most 262144"),
    "lone surrogate": ({"regex": "a\ud800"}, "surrogate"),
    "no grammar": ({"grammar": "hello"}, "neither Lark.*nor GBNF"),
    "no such rule": ({"grammar": "start: foo"}, 'unknown name: "foo"'),
    "circular token": ({"grammar": 'start: A\nA: "a" A'}, "circular"),
    "endless rule": ({"grammar": "start: start"}, "no output at all"),
    "deep grammar": ({"grammar": f"start: {DEEP}"}, "nested"),
    "deep GBNF": ({"grammar": f'root ::= {DEEP.replace("a", chr(34) + "a" + chr(34))}'}, "nested too deeply"),
    "many rules": ({"grammar": "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(9000))}, "at most 2000"),
    "many GBNF rules": (
        {"grammar": "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(900))}, "at most 500"
    ),
    "many lines": ({"grammar": "\n" * 200_000 + "x"}, "neither Lark"),
    "tag without a trigger": ({"structural_tag": {**TAG, "triggers": ["<x"]}}, r"structures\[0\].begin must be begun"),
    "tag without structures": ({"structural_tag": {**TAG, "structures": []}}, "structures must be"),
    "tag with a bad schema": (
        {"structural_tag": {**TAG, "structures": [{"begin": "<function=a>", "schema": {"not": {}}, "end": ""}]}},
        r"tag '<function=a>'\): #/not is not supported",
    ),
    "tag of another form": ({"structural_tag": {"format": {"type": "sequence"}}}, "format must be"),
    "tag that is no object": ({"structural_tag": "[1]"}, "must be a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, compiler: GrammarCompiler) -> None:
    structure, words = REFUSED[name]
    started = time.perf_counter()
    with pytest.raises(InvalidRequestError, match=words) as caught:
        compiler.compile(StructuredOutputsParams(**structure))
    assert time.perf_counter() - started < 5
    assert caught.value.param == f"structured_outputs.{next(iter(structure))}"
    assert len(str(caught.value)) < 600


def test_a_long_chain_of_rules_does_not_overflow_the_stack(accepts: Any) -> None:
    assert accepts("z", grammar=f'start: r0\n{CHAIN}\nr1900: "z"')


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "exactly one of.*got none"),
        ({"json": "{}", "regex": "a"}, "exactly one of.*got json and regex"),
        ({"choice": []}, "choice must be a list of at least one"),
        ({"choice": ["a", ""]}, "choice"),
        ({"choice": "abc"}, "choice"),
        ({"json": ""}, "json must be"),
        ({"json": 5}, "json must be"),
        ({"regex": " "}, "regex must be"),
        ({"grammar": ""}, "grammar must be"),
        ({"json_object": False}, "got none"),
        ({"json_object": 1}, "json_object"),
        ({"regexp": "a"}, "did you mean 'regex'"),
        ({"regex": "a", "disable_any_whitespace": 1}, "True or False"),
    ],
)
def test_params(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        StructuredOutputsParams(**given)
