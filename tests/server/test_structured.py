"""response_format and structured_outputs on a real server, through the official client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field
from real_server import RealServer

pytestmark = pytest.mark.slow

MODEL = "smol"
MESSAGES: Any = [{"role": "user", "content": "Invent a person."}]


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    languages: list[Literal["en", "de", "fr"]] = Field(max_length=3)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "old"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def server(default_gguf: Path) -> Iterator[RealServer]:
    with RealServer(str(default_gguf), "--served-model-name", MODEL, "--max-model-len", "1024") as started:
        yield started.wait_until_ready()


@pytest.fixture(scope="module")
def client(server: RealServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_format=FORMAT, temperature=1.5, n=3, seed=1, max_tokens=200
    )
    assert len(answer.choices) == 3
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)


def test_json_schema_in_a_stream(client: OpenAI) -> None:
    given: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "response_format": FORMAT, "temperature": 0}
    whole = client.chat.completions.create(**given).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**given, stream=True)]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 5
    jsonschema.validate(json.loads("".join(pieces)), SCHEMA)


def test_the_clients_own_way_to_parse(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Person, temperature=0.3, seed=2, max_tokens=400
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_json_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_format={"type": "json_object"}, temperature=0, max_tokens=300
    )
    assert (answer.choices[0].message.content or "").startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_text_is_free(client: OpenAI) -> None:
    common: Any = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 10}
    free = client.chat.completions.create(**common).choices[0].message.content
    assert client.chat.completions.create(**common, response_format={"type": "text"}).choices[0].message.content == free


@pytest.mark.parametrize(
    ("structure", "pattern"),
    [
        ({"regex": "[A-Z][a-z]{2,8}"}, "[A-Z][a-z]{2,8}"),
        ({"choice": ["good", "bad"]}, "good|bad"),
        ({"grammar": 'root ::= "<" [a-z]{1,5} ">"'}, "<[a-z]{1,5}>"),
    ],
)
def test_structured_outputs_of_completions(structure: dict[str, Any], pattern: str, client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="A word:", max_tokens=20, extra_body={"structured_outputs": structure}
    )
    assert re.fullmatch(pattern, answer.choices[0].text)
    assert answer.choices[0].finish_reason == "stop"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unsupported": ({"json": {"properties": {"a": {"not": {}}}}}, "#/properties/a/not is not supported"),
    "unknown $ref": ({"json": {"$ref": "#/$defs/x"}}, "no such place"),
    "recursion": ({"json": {"type": "array", "minItems": 1, "items": {"$ref": "#"}}}, "requires itself"),
    "contradiction": ({"json": {"type": "integer", "minimum": 3, "maximum": 2}}, "minimum .3. is greater"),
    "deep": ({"json": '{"items":' * 10_000 + "{}" + "}" * 10_000}, "nested deeper than 64"),
    "large": ({"json": json.dumps({"description": "x" * 2_000_000})}, "at most 262144"),
    "regex": ({"regex": "("}, "unclosed group"),
    "catastrophic regex": ({"regex": "((((a{100}){100}){100}){100}){100}"}, "too complex"),
    "choice": ({"choice": []}, "at least one string"),
    "two": ({"json": {}, "regex": "a"}, "exactly one of.*json and regex"),
    "none": ({}, "exactly one of"),
    "misspelt": ({"jsn": {}}, "did you mean 'json'"),
    "grammar": ({"grammar": "start: foo"}, "unknown name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_structures_are_answered_with_400(name: str, client: OpenAI) -> None:
    structure, words = BAD[name]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body={"structured_outputs": structure})
    body: Any = caught.value.body
    assert re.search(words, body["message"])
    assert body["param"].startswith("structured_outputs")


def test_many_at_once_free_and_structured(client: OpenAI, server: RealServer) -> None:
    def ask(index: int) -> None:
        structure = {"response_format": FORMAT} if index % 2 else {}
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, temperature=1, seed=index, max_tokens=120, **structure
        )
        if index % 2 and answer.choices[0].finish_reason == "stop":
            jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert server.metric("vllm:num_requests_running") == 0
