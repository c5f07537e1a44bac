"""Tools in chat completions, with an engine that says what it is told to: shapes, streams, choices, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import pytest
from asgi_client import MODEL, events_of, post
from fake_async_engine import FakeAsyncEngine
from openai import AsyncOpenAI
from openai_asgi import ask
from transcripts import TOOL_TRANSCRIPTS, TOOLS

PATH = "/v1/chat/completions"
USER: dict[str, Any] = {"role": "user", "content": "hi"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}
CALLS = (
    'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
)
EXPECTED = [("get_weather", '{"city": "Zürich"}'), ("get_time", "{}")]
REQUIRED = '[{"name": "get_weather", "parameters": {"city": "Zürich"}}, {"name": "get_time", "parameters": {}}]'


def fake(texts: Sequence[str] = ("Hello",), *, seed: int | None = None) -> FakeAsyncEngine:
    return FakeAsyncEngine(texts, seed=seed, max_model_len=4096)


def chat(engine: FakeAsyncEngine, *, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    body = {"messages": [USER], "tools": [WEATHER, TIME], **fields}
    response = post(engine, PATH, body, **(settings or {}))
    assert response.status_code == 200, response.text
    return response.json()


def choice_of(engine: FakeAsyncEngine, **fields: Any) -> dict[str, Any]:
    choice: dict[str, Any] = chat(engine, **fields)["choices"][0]
    return choice


def streamed(engine: FakeAsyncEngine, *, settings: dict[str, Any] | None = None, **fields: Any) -> list[Any]:
    body = {"messages": [USER], "tools": [WEATHER, TIME], "stream": True, **fields}
    return events_of(post(engine, PATH, body, **(settings or {})))


def calls_of(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]


def test_the_answer_field_by_field() -> None:
    choice = choice_of(fake([CALLS]))
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] == "Let me look."
    assert [call.keys() for call in message["tool_calls"]] == [{"id", "type", "function"}] * 2
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in message["tool_calls"])
    assert calls_of(message) == EXPECTED


def test_calls_alone_have_no_content() -> None:
    message = choice_of(fake([CALLS.partition("\n")[2]]))["message"]
    assert (message["content"], calls_of(message)) == (None, EXPECTED)
    choice = choice_of(fake(["No call."]))
    assert (choice["message"]["content"], choice["message"]["tool_calls"]) == ("No call.", [])
    assert choice["finish_reason"] == "stop"


def test_the_stream_chunk_by_chunk() -> None:
    events = streamed(fake([CALLS], seed=3))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me look."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    starts = [call for call in calls if "id" in call]
    assert [(call["index"], call["type"], call["function"]) for call in starts] == [
        (0, "function", {"name": "get_weather", "arguments": ""}),
        (1, "function", {"name": "get_time", "arguments": ""}),
    ]
    for index, (_, arguments) in enumerate(EXPECTED):
        fragments = [c["function"]["arguments"] for c in calls if c["index"] == index and "id" not in c]
        assert "".join(fragments) == arguments
    assert sum(call["index"] == 0 for call in calls) > 4
    assert all(call.keys() == {"index", "function"} for call in calls if "id" not in call)
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]


@pytest.mark.parametrize("name", TOOL_TRANSCRIPTS)
def test_a_stream_says_the_same_as_the_whole(name: str) -> None:
    tools = [{"type": "function", "function": {"name": n, "parameters": schema}} for n, schema in TOOLS.items()]
    settings = {"tool_call_parser": name, "reasoning_parser": "openai_gptoss" if name == "openai" else "none"}
    for seed, transcript in enumerate(TOOL_TRANSCRIPTS[name]):
        engine = fake([transcript.text], seed=seed)
        message = chat(engine, settings=settings, tools=tools)["choices"][0]["message"]
        assert calls_of(message) == list(transcript.calls)
        assert message["content"] == transcript.content or not message["content"]
        content, reasoning, calls = "", "", {}
        for event in streamed(engine, settings=settings, tools=tools):
            delta = event["choices"][0]["delta"]
            content += delta.get("content", "")
            reasoning += delta.get("reasoning", "")
            for call in delta.get("tool_calls", ()):
                name_and_arguments = calls.setdefault(call["index"], ["", ""])
                name_and_arguments[0] += call["function"].get("name", "")
                name_and_arguments[1] += call["function"]["arguments"]
        assert content == (message["content"] or "")
        assert reasoning == (message["reasoning"] or "")
        assert [tuple(call) for call in calls.values()] == list(transcript.calls)


def test_logprobs_and_token_ids_of_calls_are_all_told() -> None:
    events = streamed(fake([CALLS], seed=3), logprobs=True, return_token_ids=True)
    ids = [token_id for event in events for token_id in event["choices"][0].get("token_ids", ())]
    entries = [entry for event in events for entry in (event["choices"][0]["logprobs"] or {"content": ()})["content"]]
    whole = choice_of(fake([CALLS], seed=3), logprobs=True, return_token_ids=True)
    assert len(ids) == len(entries) == len(whole["token_ids"])


def test_n_choices_have_their_own_calls() -> None:
    answer = chat(fake([CALLS, "none"]), n=2)
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["tool_calls", "stop"]
    assert [len(choice["message"]["tool_calls"]) for choice in answer["choices"]] == [2, 0]


def test_one_call_only() -> None:
    choice = choice_of(fake([CALLS]), parallel_tool_calls=False)
    assert calls_of(choice["message"]) == EXPECTED[:1]
    engine = fake([REQUIRED])
    chat(engine, parallel_tool_calls=False, tool_choice="required")
    assert schema_of(engine)["maxItems"] == 1


def test_a_call_that_is_cut_off() -> None:
    choice = choice_of(fake([CALLS]), max_tokens=60)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def schema_of(engine: FakeAsyncEngine) -> dict[str, Any]:
    structure = engine.calls[0].params.structured_outputs
    assert structure is not None
    assert isinstance(structure.json, dict)
    return structure.json


def test_required() -> None:
    for stream in (False, True):
        engine = fake([REQUIRED], seed=1)
        if stream:
            events = streamed(engine, tool_choice="required")
            assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
            assert not any(event["choices"][0]["delta"].get("content") for event in events)
        else:
            choice = choice_of(engine, tool_choice="required")
            assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
            assert calls_of(choice["message"]) == EXPECTED
        schema = schema_of(engine)
        assert (schema["type"], schema["minItems"], "maxItems" in schema) == ("array", 1, False)
        assert [item["properties"]["name"] for item in schema["items"]["anyOf"]] == [
            {"const": "get_weather"},
            {"const": "get_time"},
        ]
        assert schema["$defs"]["tool_0"] == WEATHER["function"]["parameters"]
        assert schema["$defs"]["tool_1"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_strict_functions_left_to_the_model() -> None:
    engine = fake([CALLS])
    chat(engine)
    params = engine.calls[0].params
    assert params.structured_outputs is not None
    tag = params.structured_outputs.structural_tag
    assert [structure["schema"].get("required") for structure in tag["structures"]] == [["city"], None]
    for fields in ({"tools": [TIME]}, {"response_format": {"type": "json_object"}}):
        engine = fake([CALLS])
        chat(engine, **fields)
        params = engine.calls[0].params
        assert params.structured_outputs is None or params.structured_outputs.structural_tag is None


def test_references_within_a_schema_hold_where_it_is_put() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"type": "integer"}}}
    parameters = {"type": "object", "properties": {"list": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    tool = {"type": "function", "function": {"name": "walk", "parameters": parameters}}
    engine = fake([REQUIRED])
    chat(engine, tools=[tool], tool_choice="required")
    schema = schema_of(engine)
    good = [{"name": "walk", "parameters": {"list": {"next": {"v": 1}}}}]
    assert jsonschema_rs.is_valid(schema, good)
    good[0]["parameters"] = {"list": {"next": {"v": "x"}}}
    assert not jsonschema_rs.is_valid(schema, good)


def test_a_named_function() -> None:
    engine = fake(['{"city": "Zürich"}'], seed=1)
    choice = choice_of(engine, tool_choice=NAMED)
    assert (choice["finish_reason"], calls_of(choice["message"])) == ("tool_calls", EXPECTED[:1])
    assert schema_of(engine) == WEATHER["function"]["parameters"]


def test_none_leaves_the_text_alone() -> None:
    engine = fake([CALLS])
    choice = choice_of(engine, tool_choice="none")
    assert (choice["message"]["content"], choice["message"]["tool_calls"]) == (CALLS, [])
    assert "get_weather" not in (engine.calls[0].prompt.text or "")


def test_a_template_that_knows_no_tools_gets_them_as_messages() -> None:
    engine = fake([CALLS])
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": "Well.", "tool_calls": [call, {**call, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "cold"}]},
        USER,
    ]
    chat(engine, messages=messages)
    prompt = engine.calls[0].prompt.text or ""
    assert prompt.startswith("<|im_start|>system\nBe kind.\n\nYou can call these functions.")
    assert '{"name": "get_weather", "description": "The weather", "parameters": {"type": "object"' in prompt
    assert "strict" not in prompt
    call_text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert f"<|im_start|>assistant\nWell.\n{call_text}\n{call_text}<|im_end|>" in prompt
    results = "<tool_response>\nwarm\n</tool_response>\n<tool_response>\ncold\n</tool_response>"
    assert f"<|im_start|>user\n{results}<|im_end|>" in prompt
    assert "is_result" not in prompt


TEMPLATE = (
    "{% if tools %}[{% for t in tools %}{{ t.function.name }} {% endfor %}]{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}"
    "{% if m.tool_call_id %}#{{ m.tool_call_id }}{% endif %};{% endfor %}"
)


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    engine = fake([CALLS])
    engine.chat_template = TEMPLATE
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
    ]
    assert calls_of(choice_of(engine, messages=messages)["message"]) == EXPECTED  # recognised as hermes
    expected = "[get_weather get_time ]user:hi;assistant:<tool_call>get_weather(Rome);tool:warm#c1;"
    assert engine.calls[0].prompt.text == expected
    for hidden in (False, True):
        engine = fake([CALLS])
        engine.chat_template = TEMPLATE
        chat(engine, settings={"exclude_tools_when_tool_choice_none": hidden}, tool_choice="none")
        assert ("get_weather" not in (engine.calls[0].prompt.text or "")) == hidden


def test_a_template_whose_format_is_not_known() -> None:
    engine = fake(["{}"])
    engine.chat_template = TEMPLATE.replace("<tool_call>", "@")
    response = post(engine, PATH, {"messages": [USER], "tools": [TIME]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "tool_choice"
    assert "--tool-call-parser" in error["message"]
    assert chat(engine, tools=[TIME], tool_choice="required")["choices"]
    assert chat(engine, settings={"tool_call_parser": "hermes"})["choices"]


def test_formats_with_special_tokens_see_them() -> None:
    engine = fake(["x"])
    chat(engine, settings={"tool_call_parser": "mistral"})
    assert engine.calls[0].params.skip_special_tokens is False
    engine = fake(["x"])
    chat(engine, settings={"tool_call_parser": "hermes"})
    assert engine.calls[0].params.skip_special_tokens is True


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": []}, "tools", "empty"),
        ({"tools": [], "tool_choice": "required"}, "tools", "empty"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "missing"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "missing"),
        ({"tools": [{"type": "function", "function": {"name": 3}}]}, "tools.0.function.name", "string"),
        ({"tools": [{"type": "web_search", "function": {"name": "f"}}]}, "tools", "'function', got 'web_search'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "letters, digits.*got 'a b'"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools", "letters, digits"),
        ({"tools": [TIME, TIME]}, "tools", r"tools\[1\]: there is a function 'get_time' already"),
        ({"tools": [TIME] * 2000}, "tools", "at most 1024"),
        ({"tools": "all"}, "tools", "list"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
         "tools.0.function.parameters", "object"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
         "tools", "of type 'object', got 'string'"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": [1]}}}]},
         "tools", "properties"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": 1}}}}]},
         "tools", "'a'"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"required": "a"}}}]},
         "tools", "required"),
        ({"tools": None, "tool_choice": "auto"}, "tool_choice", "no tools"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": None, "tool_choice": NAMED}, "tool_choice", "no tools"),
        ({"tool_choice": "any"}, "tool_choice", "'none', 'auto', 'required' or.*got 'any'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "NAME"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_wether"}}}, "tool_choice",
         "did you mean 'get_weather'"),
        ({"tool_choice": 7}, "tool_choice", "string"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice", "leave one out"),
        ({"parallel_tool_calls": "maybe"}, "parallel_tool_calls", "true or false"),
        ({"functions": [{}]}, "functions", "not supported"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
         "messages", "no JSON"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": "f"}]}, "messages", "list"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(fields: dict[str, Any], param: str, words: str) -> None:
    response = post(fake(), PATH, {"messages": [USER], "tools": [WEATHER], **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert re.search(words, error["message"])


def test_the_official_client() -> None:
    """Its own accumulation of a stream gives what the whole answer says."""
    tools: Any = [WEATHER, TIME]
    messages: Any = [USER]

    async def whole(client: AsyncOpenAI) -> Any:
        return await client.chat.completions.create(model=MODEL, messages=messages, tools=tools)

    async def accumulated(client: AsyncOpenAI) -> Any:
        async with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools) as stream:
            return await stream.get_final_completion()

    for question in (whole, accumulated):
        choice = ask(question, engine=fake([CALLS], seed=5)).choices[0]
        calls = choice.message.tool_calls
        assert [(call.function.name, call.function.arguments) for call in calls] == EXPECTED
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
        assert json.loads(calls[0].function.arguments) == {"city": "Zürich"}
