"""POST /v1/messages and count_tokens: shapes, events, the prompt that blocks become, and errors in Anthropic's form."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from asgi_client import MODEL, app_of, post, post_and_leave
from asgi_request import ask, ask_json
from fake_async_engine import FakeAsyncEngine, tiny_tokenizer

from octavo.errors import EngineError

PATH = "/v1/messages"
TEXT = "naïve 日本語 🙂 fox"
USER = {"role": "user", "content": "hi"}
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
NUM_PROMPT_TOKENS = len(tiny_tokenizer().encode(RENDERED, add_special_tokens=False))
TOOL = {"name": "f", "description": "does f", "input_schema": {"type": "object", "properties": {}}}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "one"}


def message(engine: FakeAsyncEngine | None = None, **fields: Any) -> Any:
    body = {"messages": [USER], "max_tokens": 100, **fields}
    response = post(engine or FakeAsyncEngine([TEXT]), PATH, body)
    assert response.status_code == 200, response.text
    return response.json()


def error_of(response: httpx.Response, status: int, kind: str) -> str:
    """The message of an error, which has Anthropic's form."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body == {"type": "error", "error": {"type": kind, "message": body["error"]["message"]}}
    text: str = body["error"]["message"]
    return text


def refused(engine: FakeAsyncEngine | None = None, **fields: Any) -> str:
    response = post(engine or FakeAsyncEngine(), PATH, {"messages": [USER], "max_tokens": 100, **fields})
    return error_of(response, 400, "invalid_request_error")


def events_of(response: httpx.Response) -> list[Any]:
    """The data of each event, whose name is its type."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, last = response.text.split("\n\n")
    assert last == ""
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_the_answer_field_by_field() -> None:
    engine = FakeAsyncEngine([TEXT])
    engine.num_cached_tokens = 3
    answer = message(engine)
    assert re.fullmatch("msg_[0-9a-f]{32}", answer.pop("id"))
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": TEXT, "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": NUM_PROMPT_TOKENS - 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": len(tiny_tokenizer().encode(TEXT)) + 1,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }


def test_the_stream_event_by_event() -> None:
    body = {"messages": [USER], "max_tokens": 100, "stream": True}
    start, opened, *deltas, closed, delta, stop = events_of(post(FakeAsyncEngine(["the fox"]), PATH, body))
    whole = message(FakeAsyncEngine(["the fox"]))
    assert start["type"] == "message_start"
    assert start["message"].pop("id") != whole.pop("id")
    usage = {**whole["usage"], "output_tokens": 0}
    assert start["message"] == {**whole, "content": [], "stop_reason": None, "usage": usage}
    block = {"type": "text", "text": "", "citations": None}
    assert opened == {"type": "content_block_start", "index": 0, "content_block": block}
    for event in deltas:
        text = event["delta"]["text"]
        assert event == {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    assert "".join(event["delta"]["text"] for event in deltas) == "the fox"
    assert closed == {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None}
    assert delta == {"type": "message_delta", "delta": end, "usage": whole["usage"]}
    assert stop == {"type": "message_stop"}


@pytest.mark.parametrize(
    ("fields", "reason", "sequence"),
    [
        ({}, "end_turn", None),
        ({"max_tokens": 2}, "max_tokens", None),
        ({"stop_sequences": ["zzz", "fox"]}, "stop_sequence", "fox"),
        ({"max_tokens": 100_000, "ignore_eos": True}, "model_context_window_exceeded", None),
    ],
)
def test_why_it_stopped(fields: dict[str, Any], reason: str, sequence: str | None) -> None:
    answer = message(**fields)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    events = events_of(
        post(FakeAsyncEngine([TEXT]), PATH, {"messages": [USER], "max_tokens": 100, "stream": True, **fields})
    )
    assert events[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence, "stop_details": None}


def test_more_tokens_than_the_context_has_are_as_many_as_it_has() -> None:
    engine = FakeAsyncEngine()
    message(engine, max_tokens=100_000)
    assert engine.calls[0].params.max_tokens == 512 - NUM_PROMPT_TOKENS


def test_an_answer_without_text_has_no_blocks() -> None:
    assert message(FakeAsyncEngine([""]))["content"] == []


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"system": "be brief"}, "system: be brief|user: hi"),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                     {"type": "text", "text": "b"}]},
         "system: a\nb|user: hi"),
        ({"messages": [USER, {"role": "assistant", "content": "yes"}, USER, {"role": "user", "content": "there"}]},
         "user: hi|assistant: yes|user: hi\nthere"),
        ({"messages": [USER, {"role": "system", "content": "be kind"}, USER]}, "user: hi|system: be kind|user: hi"),
        ({"messages": [USER, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "yes", "citations": None}, CALL, {**CALL, "id": "t2"}]},
            {"role": "user", "content": [{**RESULT, "tool_use_id": "t2"},
                {**RESULT, "content": [{"type": "text", "text": "bad"}], "is_error": True},
                {"type": "text", "text": "go on"}]}]},
         'user: hi|assistant(hm): yes[f {"a": 1} t1][f {"a": 1} t2]|'
         "tool: one for f t2|tool: Error: bad for f t1|user: go on"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]},
                       {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]}]},
         'user: hi|assistant: [f {"a": 1} t1]|tool:  for f t1'),
    ],
)  # fmt: skip
def test_what_becomes_of_the_messages(fields: dict[str, Any], prompt: str) -> None:
    engine = FakeAsyncEngine()
    engine.chat_template = (
        "{% for m in messages %}{{ m.role }}{% if m.reasoning %}({{ m.reasoning }}){% endif %}: {{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.id }}]"
        "{% endfor %}{% if m.role == 'tool' %} for {{ m.name }} {{ m.tool_call_id }}{% endif %}|{% endfor %}"
        "{{ '' if tools else '' }}"
    )
    message(engine, **fields)
    assert engine.calls[0].prompt.text == prompt + "|"


def test_a_turn_of_the_assistant_at_the_end_is_gone_on_with() -> None:
    engine = FakeAsyncEngine([" is 42"])
    answer = message(engine, messages=[USER, {"role": "assistant", "content": "The answer"}])
    assert (engine.calls[0].prompt.text or "").endswith("<|im_start|>assistant\nThe answer")
    assert answer["content"][0]["text"] == " is 42"


def test_every_sampling_field_arrives() -> None:
    given = {
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "temperature": 0.7,
        "top_p": 0.9, "top_k": 11, "min_p": 0.1, "seed": 5, "stop_token_ids": [9], "bad_words": ["bad"],
        "include_stop_str_in_output": True, "ignore_eos": True, "min_tokens": 2, "allowed_token_ids": [4, 5],
        "skip_special_tokens": False, "spaces_between_special_tokens": False, "max_tokens": 12,
    }  # fmt: skip
    engine = FakeAsyncEngine(policy="priority")
    message(engine, **given, stop_sequences=["zzz"], logit_bias={"7": 3}, priority=4, cache_salt="salt")
    call = engine.calls[0]
    assert {name: getattr(call.params, name) for name in given} == given
    assert (call.params.stop, call.params.logit_bias) == (["zzz"], {7: 3.0})
    assert (call.priority, call.prompt.cache_salt) == (4, "salt")


@pytest.mark.parametrize(("kind", "thinks"), [("disabled", "False"), ("adaptive", "True")])
def test_thinking_reaches_the_template(kind: str, thinks: str) -> None:
    engine = FakeAsyncEngine()
    engine.chat_template = "{{ enable_thinking }} {{ thinking }} {{ reasoning_effort }} {{ mood }}"
    message(engine, thinking={"type": kind}, output_config={"effort": "low"}, chat_template_kwargs={"mood": "calm"})
    assert engine.calls[0].prompt.text == f"{thinks} {thinks} low calm"


def test_a_budget_of_thinking_bounds_what_can_be_told_as_thinking() -> None:
    for template, budget in (("<think>", 2000), ("{{ messages[0].content }}", None)):
        engine = FakeAsyncEngine(["hm</think>yes"])
        engine.chat_template = template
        message(engine, thinking={"type": "enabled", "budget_tokens": 2000})
        assert engine.calls[0].params.thinking_token_budget == budget


def test_hints_that_ask_for_nothing_are_taken() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", **cached}]}],
        "max_tokens": 5, "metadata": {"user_id": "me"}, "service_tier": "auto", **cached,
        "inference_geo": "eu", "speed": "standard", "temprature": 1,
    }  # fmt: skip
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    response = post(FakeAsyncEngine(), f"{PATH}?beta=true", body, headers=headers)
    assert response.status_code == 200
    assert response.headers["x-octavo-ignored-fields"] == "temprature"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages must not be empty"),
        ({"messages": None}, "messages must be a list"),
        ({"messages": ["hi"]}, "messages.0 must be an object"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role must be one of user, assistant, system"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages.0.role.*got 'tool'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content must be text or a list of blocks"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
         "messages.0.content.0 is of type 'image', which is not taken here; give text or tool_result"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "content.0 is of type 'document'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text must be a string"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "'tool_use', which is not taken here"),
        ({"messages": [{"role": "user", "content": [RESULT]}]}, "names the call 't1'.*there was no call at all"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]},
                       {"role": "user", "content": [{**RESULT, "content": [{"type": "image"}]}]}]},
         "messages.2.content.0.content.0 is of type 'image'"),
        ({"messages": [USER, {"role": "assistant", "content": [{**CALL, "input": "x"}]}]},
         "messages.1.content.0.input must be an object"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]}]}, "messages end with.*without text"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "server_tool_use"}]}]}, "'server_tool_use'"),
        ({"messages": [{"role": "user", "content": "fox " * 600}]}, "max_model_len is 512"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"system": [{"type": "image"}]}, "system.0 is of type 'image'"),
        ({"system": 5}, "system must be a string or a list"),
        ({"max_tokens": None}, "max_tokens must be an integer"),
        ({"max_tokens": 0}, "max_tokens must be an integer of 1 or more"),
        ({"temperature": 3}, r"temperature must be in \[0, 2\], got 3"),
        ({"stop_sequences": [""]}, "stop_sequences must not hold an empty text"),
        ({"stop_sequences": "x"}, "stop_sequences must be a list"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens must be an integer of 1 or more"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type must be 'enabled', 'adaptive' or 'disabled'"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0 is of type 'bash_20250124'"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema must be a JSON schema"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name must be the name of the tool"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name must be.*'f'; got 'g'"),
        ({"tool_choice": {"type": "tool", "name": "g"}}, "there are none"),
        ({"tool_choice": {"type": "any"}}, "tool_choice 'any' needs tools"),
        ({"tool_choice": {"type": "always"}}, "tool_choice.type must be 'auto', 'any', 'tool' or 'none'"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema is missing"),
        ({"container": "x"}, "container is not supported yet"),
        ({"mcp_servers": [{}]}, "mcp_servers is not supported yet"),
        ({"priority": 1}, "scheduling_policy"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_wrong(fields: dict[str, Any], words: str) -> None:
    assert re.search(words, refused(**fields))


def test_max_tokens_is_required() -> None:
    text = error_of(post(FakeAsyncEngine(), PATH, {"messages": [USER]}), 400, "invalid_request_error")
    assert text == "max_tokens is missing; it is required"


def test_every_kind_of_error_has_anthropics_form() -> None:
    engine = FakeAsyncEngine()
    body = {"messages": [USER], "max_tokens": 5}
    assert MODEL in error_of(post(engine, PATH, {**body, "model": "gpt-9"}), 404, "not_found_error")
    assert "API key" in error_of(post(engine, PATH, body, api_keys=("k",)), 401, "authentication_error")
    error_of(post(engine, PATH, body, max_body_bytes=10), 413, "request_too_large")
    error_of(post(engine, f"{PATH}/batches", body), 404, "not_found_error")
    error_of(post(engine, PATH, body, headers={"content-type": "text/plain"}), 400, "invalid_request_error")
    error_of(post(engine, PATH, {**body, "temprature": 1}, strict_fields=True), 400, "invalid_request_error")
    engine.overloaded = True
    response = post(engine, PATH, body)
    assert "wait already" in error_of(response, 503, "overloaded_error")
    assert response.headers["retry-after"] == "1"
    engine = FakeAsyncEngine()
    engine.fail_after, engine.error = 0, EngineError("secret")
    assert "secret" not in error_of(post(engine, PATH, body), 500, "api_error")
    answer = ask(app_of(engine), "GET", PATH)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    answer = ask_json(app_of(engine, root_path="/llm"), "/llm/v1/messages", b"{")
    assert (answer.status, answer.json()["type"]) == (400, "error")


def test_a_failure_in_mid_stream_is_an_error_event() -> None:
    engine = FakeAsyncEngine([TEXT])
    engine.fail_after, engine.error = 2, EngineError("secret")
    *_, last = events_of(post(engine, PATH, {"messages": [USER], "max_tokens": 50, "stream": True}))
    assert last["error"]["type"] == "api_error"
    assert "secret" not in last["error"]["message"]


@pytest.mark.parametrize(("stream", "after_bytes"), [(False, None), (True, 1)])
def test_a_client_that_leaves_ends_its_request(stream: bool, after_bytes: int | None) -> None:
    engine = FakeAsyncEngine(["the fox jumps over the lazy dog"])
    engine.pause_after = 3 if after_bytes else 0
    body = {"messages": [USER], "max_tokens": 50, "stream": stream}
    asyncio.run(post_and_leave(app_of(engine), PATH, body, after_bytes=after_bytes))
    assert (len(engine.aborted), engine.num_unfinished) == (1, 0)


def test_tokens_are_counted() -> None:
    path = f"{PATH}/count_tokens"
    assert post(FakeAsyncEngine(), path, {"messages": [USER]}).json() == {"input_tokens": NUM_PROMPT_TOKENS}
    longer = post(FakeAsyncEngine(), path, {"messages": [USER], "system": "be brief", "tools": [TOOL]}).json()
    assert longer["input_tokens"] > NUM_PROMPT_TOKENS
    much = post(FakeAsyncEngine(), path, {"messages": [{"role": "user", "content": "fox " * 6000}]}).json()
    assert much["input_tokens"] > 6000
    assert "must not be empty" in error_of(
        post(FakeAsyncEngine(), path, {"messages": []}), 400, "invalid_request_error"
    )
