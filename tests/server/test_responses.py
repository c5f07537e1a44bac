"""POST /v1/responses and what is done with a response: shapes, events, the prompt that items become, and refusals."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from asgi_client import MODEL, post
from fake_async_engine import FakeAsyncEngine, tiny_tokenizer

from octavo.errors import EngineError

PATH = "/v1/responses"
TEXT = "naïve 日本語 🙂 fox"
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "one"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


def respond(engine: FakeAsyncEngine | None = None, *, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    response = post(engine or FakeAsyncEngine([TEXT]), PATH, {"input": "hi", **fields}, **(settings or {}))
    assert response.status_code == 200, response.text
    return response.json()


def refused(engine: FakeAsyncEngine | None = None, *, status: int = 400, **fields: Any) -> dict[str, Any]:
    response = post(engine or FakeAsyncEngine([TEXT]), PATH, {"input": "hi", **fields})
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def events_of(response: httpx.Response) -> list[Any]:
    """The data of each event, whose name is its type and whose number follows the one before."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, last = response.text.split("\n\n")
    assert last == ""
    found = []
    for number, event in enumerate(events):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1].pop("sequence_number") == number
    return found


def prompt_of(**fields: Any) -> str:
    """The text that the model is given."""
    engine = FakeAsyncEngine()
    respond(engine, **fields)
    return engine.calls[0].prompt.text or ""


def test_the_answer_field_by_field() -> None:
    num_prompt_tokens = len(tiny_tokenizer().encode(RENDERED, add_special_tokens=False))
    num_tokens = len(tiny_tokenizer().encode(TEXT)) + 1
    engine = FakeAsyncEngine([TEXT])
    engine.num_cached_tokens = 3
    answer = respond(engine, metadata={"a": "b"}, instructions=None, temperature=0.5)
    assert re.fullmatch("resp_[0-9a-f]{32}", answer.pop("id"))
    assert re.fullmatch("msg_[0-9a-f]{32}", answer["output"][0].pop("id"))
    assert answer.pop("created_at") <= answer.pop("completed_at")
    assert answer == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": MODEL,
        "output": [
            {
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}],
            }
        ],
        "usage": {
            "input_tokens": num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": num_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": num_prompt_tokens + num_tokens,
        },
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }


def test_the_stream_event_by_event() -> None:
    engine = FakeAsyncEngine(["the fox"])
    created, in_progress, added, part_added, *deltas, text, part, done, completed = events_of(
        post(engine, PATH, {"input": "hi", "stream": True})
    )
    response = completed["response"]
    (item,) = response["output"]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    assert created == {"type": "response.created", "response": begun}
    assert in_progress == {"type": "response.in_progress", "response": begun}
    opened = {**item, "status": "in_progress", "content": []}
    assert added == {"type": "response.output_item.added", "output_index": 0, "item": opened}
    assert part_added == {"type": "response.content_part.added", **place, "part": empty}
    for delta in deltas:
        assert delta == {"type": "response.output_text.delta", **place, "delta": delta["delta"], "logprobs": []}
    assert "".join(delta["delta"] for delta in deltas) == "the fox"
    assert text == {"type": "response.output_text.done", **place, "text": "the fox", "logprobs": []}
    assert part == {"type": "response.content_part.done", **place, "part": {**empty, "text": "the fox"}}
    assert done == {"type": "response.output_item.done", "output_index": 0, "item": item}
    assert completed["type"] == "response.completed"
    whole = respond(FakeAsyncEngine(["the fox"]))
    for answer in (response, whole):
        for name in ("id", "created_at", "completed_at"):
            del answer[name]
        del answer["output"][0]["id"]
    assert response == whole


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_too_long_is_incomplete(stream: bool) -> None:
    body = {"input": "hi", "max_output_tokens": 2, "stream": stream}
    response = post(FakeAsyncEngine([TEXT]), PATH, body)
    answer = events_of(response)[-1]["response"] if stream else response.json()
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"
    if stream:
        assert events_of(response)[-1]["type"] == "response.incomplete"


def test_an_answer_without_text_is_an_empty_message() -> None:
    answer = respond(FakeAsyncEngine([""]))
    assert [part["text"] for part in answer["output"][0]["content"]] == [""]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(stream: bool) -> None:
    body = {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2, "stream": stream}
    response = post(FakeAsyncEngine([TEXT]), PATH, body)
    answer = events_of(response)[-1]["response"] if stream else response.json()
    logprobs = answer["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in logprobs).decode() == TEXT
    assert all([top["logprob"] for top in entry["top_logprobs"]] == [-0.25, -1.5] for entry in logprobs)
    if stream:
        deltas = [e for e in events_of(response) if e["type"] == "response.output_text.delta"]
        assert [entry for delta in deltas for entry in delta["logprobs"]] == logprobs


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "user: hi"),
        ({"instructions": "be brief"}, "system: be brief|user: hi"),
        ({"instructions": "be brief", "input": [{"role": "developer", "content": "be kind"}, USER]},
         "system: be brief\n\nbe kind|user: hi"),
        ({"input": [USER, {"type": "message", "role": "assistant", "content": "yes"}, USER]},
         "user: hi|assistant: yes|user: hi"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": text} for text in "ab"]}]},
         "user: a\nb"),
        ({"input": [USER, {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                    {"role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}, USER]},
         "user: hi|assistant(hm): yes|user: hi"),
        ({"input": [USER, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}]},
                    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER]},
         "user: hi|assistant(in short): no|user: hi"),
        ({"input": [USER, CALL, OUTPUT]}, 'user: hi|assistant: [f {"a": 1} c1]|tool: one for f c1'),
        ({"input": [USER, {"role": "assistant", "content": "let me see"}, CALL, {**CALL, "call_id": "c2"},
                    {**OUTPUT, "call_id": "c2"}, {**OUTPUT, "output": [{"type": "input_text", "text": "two"}]}]},
         'user: hi|assistant: let me see[f {"a": 1} c1][f {"a": 1} c2]|tool: one for f c2|tool: two for f c1'),
    ],
)  # fmt: skip
def test_what_becomes_of_the_input(fields: dict[str, Any], prompt: str) -> None:
    engine = FakeAsyncEngine()
    engine.chat_template = (
        "{% for m in messages %}{{ m.role }}{% if m.reasoning %}({{ m.reasoning }}){% endif %}: {{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.id }}]"
        "{% endfor %}{% if m.role == 'tool' %} for {{ m.name }} {{ m.tool_call_id }}{% endif %}|{% endfor %}"
        "{# {{ tools }} #}{{ '' if tools else '' }}"
    )
    respond(engine, **fields)
    assert engine.calls[0].prompt.text == prompt + "|"


@pytest.mark.parametrize("num_turns", [1, 2, 5, 9, 40])
def test_the_oldest_turns_make_room_where_they_may(num_turns: int) -> None:
    items: list[dict[str, Any]] = []
    for turn in range(num_turns):
        items += [{"role": "user", "content": f"{turn} " + "fox " * 10}, {"role": "assistant", "content": "yes"}]
    fields = {"input": [*items, USER], "instructions": "be brief", "max_output_tokens": 100, "truncation": "auto"}
    engine = FakeAsyncEngine()
    respond(engine, **fields)
    prompt = engine.calls[0].prompt
    kept = [int(found) for found in re.findall(r"user\n(\d+) ", prompt.text or "")]
    assert kept == list(range(num_turns - len(kept), num_turns))
    assert (prompt.text or "").startswith("<|im_start|>system\nbe brief")
    assert len(prompt.token_ids) <= 412
    if len(kept) < num_turns:  # one more would not have fit
        one_more = {"instructions": "be brief", "input": [*items[2 * (num_turns - len(kept) - 1) :], USER]}
        assert post(FakeAsyncEngine(), f"{PATH}/input_tokens", one_more).json()["input_tokens"] > 412


def test_reasoning_effort_and_template_kwargs_reach_the_template() -> None:
    assert "[effort high]" in prompt_of(reasoning={"effort": "high", "summary": "auto"})
    assert "[calm]" in prompt_of(chat_template_kwargs={"mood": "calm"})


def test_every_sampling_field_arrives() -> None:
    given = {
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "temperature": 0.7,
        "top_p": 0.9, "top_k": 11, "min_p": 0.1, "seed": 5, "stop": ["zzz"], "stop_token_ids": [9],
        "bad_words": ["bad"], "include_stop_str_in_output": True, "ignore_eos": True, "min_tokens": 2,
        "allowed_token_ids": [4, 5], "skip_special_tokens": False, "spaces_between_special_tokens": False,
    }  # fmt: skip
    engine = FakeAsyncEngine(policy="priority")
    respond(engine, **given, max_output_tokens=12, logit_bias={"7": 3}, priority=4, cache_salt="salt")
    call = engine.calls[0]
    assert {name: getattr(call.params, name) for name in given} == given
    assert (call.params.max_tokens, call.params.logit_bias) == (12, {7: 3.0})
    assert (call.priority, call.prompt.cache_salt) == (4, "salt")


def test_hints_that_ask_for_nothing_are_taken() -> None:
    response = post(
        FakeAsyncEngine(), PATH,
        {"input": "hi", "user": "me", "safety_identifier": "x", "prompt_cache_key": "k", "service_tier": "auto",
         "max_tool_calls": 3, "prompt_cache_retention": "24h", "include": ["reasoning.encrypted_content"],
         "text": {"verbosity": "low"}, "truncation": "disabled", "temprature": 1, "reasoning": {"foo": 1}},
    )  # fmt: skip
    assert response.status_code == 200
    assert response.headers["x-octavo-ignored-fields"].split(", ") == ["temprature", "reasoning.foo"]


def test_what_json_can_carry_and_other_encoders_cannot_does_no_harm() -> None:
    def tool(**more: Any) -> dict[str, Any]:
        return {**TOOL, "parameters": {"type": "object", "properties": {"a": {"maximum": 10**30, **more}}}}

    roomy = FakeAsyncEngine(max_model_len=4096)
    assert respond(roomy, tools=[tool()], tool_choice="none")["tools"] == [tool()]
    roomy = FakeAsyncEngine(max_model_len=4096)
    assert "surrogate" in refused(roomy, tools=[tool(title="\ud800")])["message"]
    engine = FakeAsyncEngine()
    engine.chat_template = "{{ messages[0].content }}{% if tools %}{% endif %}"
    odd = [tool(title="\ud800")]
    assert respond(engine, tools=odd, tool_choice="none")["tools"] == odd


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": None}, "input", "missing or empty"),
        ({"input": ""}, "input", "missing or empty"),
        ({"input": []}, "input", "missing or empty"),
        ({"input": 5}, "input", "must be a string or a list"),
        ({"input": ["hi"]}, "input.0", "must be an object"),
        ({"input": [{}]}, "input.0.role", "one of user, assistant, system, developer"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input.0.role", "'critic'"),
        ({"input": [{"role": "user"}]}, "input.0.content", "text or a list of parts"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input.0.content.0.type", "'input_image'.*not taken"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0.type", "'input_file'"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text", "a string"),
        ({"input": [{"role": "user", "content": "fox " * 600}]}, "input", "max_model_len is 512"),
        ({"input": "\ud800"}, "input", "surrogate"),
        ({"input": [{"role": "user", "content": "\ud800"}]}, "input", "surrogate"),
        ({"input": [{"type": "item_reference"}]}, "input.0.id", "a string"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.id", "no item 'msg_1'"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type", "'computer_call'.*function_call_output"),
        ({"input": [OUTPUT]}, "input.0.call_id", "'c1', which nothing before it made; there was no call"),
        ({"input": [CALL, {**OUTPUT, "call_id": "c9"}]}, "input.1.call_id", "'c9'.*there were 'c1'"),
        ({"input": [CALL, {**OUTPUT, "output": [{"type": "input_image"}]}]}, "input.1.output.0.type", "input_image"),
        ({"input": [{**CALL, "arguments": "{"}]}, "input.0.arguments", "text of a JSON object"),
        ({"input": [{**CALL, "arguments": "[]"}]}, "input.0.arguments", "text of a JSON object"),
        ({"input": [{**CALL, "name": None}]}, "input.0.name", "a string"),
        ({"instructions": ["x"]}, "instructions", "a string"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no response 'resp_1' here"),
        ({"conversation": "conv_1"}, "conversation", "not supported yet"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "not supported yet"),
        ({"moderation": {"policy": {}}}, "moderation", "not supported yet"),
        ({"truncation": "auto", "input": "fox " * 600}, "input", "max_model_len is 512"),
        ({"truncation": "left"}, "truncation", "'auto' or 'disabled'"),
        ({"background": True, "store": False}, "background", "has to be stored"),
        ({"include": ["everything"]}, "include", "unknown value of include 'everything'"),
        ({"top_logprobs": 2}, "top_logprobs", "message.output_text.logprobs"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "top_logprobs", "from 0 to 20, got 21"),
        ({"max_output_tokens": 0}, "max_output_tokens", "1 or more"),
        ({"max_output_tokens": 600}, "max_output_tokens", "maximum context length is 512.*lower max_output_tokens"),
        ({"temperature": 3}, "temperature", r"in \[0, 2\], got 3"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", "stream is false"),
        ({"metadata": {"a": 1}}, "metadata.a", "a string"),
        ({"metadata": {"a": "x" * 513}}, "metadata", "512"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata", "16 pairs"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "'text', 'json_object' or 'json_schema'"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "is missing"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort", "a string"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'web_search'.*type 'function'"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "name of the function"),
        ({"tools": [{**TOOL, "parameters": []}]}, "tools.0.parameters", "a JSON schema"),
        ({"tools": [{**TOOL, "strict": 1}]}, "tools.0.strict", "true or false"),
        ({"tool_choice": "always"}, "tool_choice", "'none', 'auto', 'required'"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [TOOL]}, "tool_choice.name", "'f'; got 'g'"),
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name", "there are none"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type", "'mcp'"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [TOOL]}, "tools": [TOOL]}, "tool_choice", "a mode"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "g"}]}, "tools": [TOOL]},
         "tool_choice.tools.0.name", "got 'g'"),
        ({"priority": 1}, "priority", "scheduling_policy"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(fields: dict[str, Any], param: str, words: str) -> None:
    error = refused(status=404 if words.startswith("no ") else 400, **fields)
    assert error["param"] == param
    assert re.search(words, error["message"])


def test_an_unknown_model_is_404() -> None:
    assert MODEL in refused(status=404, model="gpt-9")["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_output_has_a_status(stream: bool) -> None:
    engine = FakeAsyncEngine()
    engine.overloaded = True
    refused(engine, status=503, stream=stream)


def test_a_failure_in_mid_stream_is_told() -> None:
    engine = FakeAsyncEngine([TEXT])
    engine.fail_after, engine.error = 2, EngineError("secret")
    *_, done, failed = events_of(post(engine, PATH, {"input": "hi", "stream": True}))
    assert (done["type"], done["item"]["status"]) == ("response.output_item.done", "incomplete")
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert "secret" not in json.dumps(failed)


def test_input_tokens_are_counted() -> None:
    ids = tiny_tokenizer().encode(RENDERED, add_special_tokens=False)
    path = f"{PATH}/input_tokens"
    counted = post(FakeAsyncEngine(), path, {"input": "hi"})
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": len(ids)}
    assert post(FakeAsyncEngine(), path, {"input": "fox " * 6000}).json()["input_tokens"] > 6000
    assert post(FakeAsyncEngine(), path, {}).status_code == 400
