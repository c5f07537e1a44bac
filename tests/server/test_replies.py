"""Tool calls and reasoning in Responses and Messages: items and blocks, whole and streamed, by the official clients."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import httpx2
import pytest
from anthropic import AsyncAnthropic
from asgi_client import MODEL, app_of, post
from fake_async_engine import FakeAsyncEngine
from openai import AsyncOpenAI

THINKS = "{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}{{ '<think>' }}"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTIONS: Any = [
    {"type": "function", "name": name, "description": "d", "parameters": PARAMETERS, "strict": True} for name in "fg"
]
TOOLS: Any = [{"name": name, "description": "d", "input_schema": PARAMETERS} for name in "fg"]
CITY = {"city": "Rio 🙂"}
CALLS = "".join(f"\n<tool_call>\n{json.dumps({'name': name, 'arguments': CITY})}\n</tool_call>" for name in "fg")
ALL = f"I look.</think>\n\nLet me see.{CALLS}"
ARGUMENTS = json.dumps(CITY)
REQUIRED = json.dumps([{"name": name, "parameters": CITY} for name in "fg"])


def engine_of(text: str, seed: int, *, thinks: bool) -> FakeAsyncEngine:
    engine = FakeAsyncEngine([text], seed=seed, max_model_len=4096)
    if thinks:
        engine.chat_template = THINKS
    return engine


def respond(text: str, seed: int = 0, *, stream: bool, thinks: bool = False, **fields: Any) -> dict[str, Any]:
    """A response by the official client, without what differs from one to the next."""

    async def run() -> Any:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app_of(engine_of(text, seed, thinks=thinks))))
        async with AsyncOpenAI(base_url="http://server/v1", api_key="key", http_client=http) as client:
            given: Any = {"model": MODEL, "input": "hi", **fields}
            if not stream:
                return await client.responses.create(**given)
            async with client.responses.stream(**given) as events:
                return await events.get_final_response()

    answer: dict[str, Any] = asyncio.run(run()).to_dict()
    for item in answer["output"]:
        assert re.fullmatch("(rs|msg|fc)_[0-9a-f]{32}", item.pop("id"))
        assert re.fullmatch("call_[0-9a-f]+", item.pop("call_id", "call_0"))
        item.pop("parsed_arguments", None)
        for part in item.get("content", []):
            part.pop("parsed", None)
    return {name: answer[name] for name in ("status", "output", "usage", "tools", "tool_choice", "parallel_tool_calls")}


def message(text: str, seed: int = 0, *, stream: bool, thinks: bool = False, **fields: Any) -> dict[str, Any]:
    """A message by the official client, without what differs from one to the next."""

    async def run() -> Any:
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app_of(engine_of(text, seed, thinks=thinks))))
        async with AsyncAnthropic(base_url="http://server", api_key="key", http_client=http) as client:
            given: Any = {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}], **fields}
            if not stream:
                return await client.messages.create(**given)
            async with client.messages.stream(**given) as events:
                return await events.get_final_message()

    answer: dict[str, Any] = asyncio.run(run()).to_dict()
    del answer["id"]
    for block in answer["content"]:
        assert re.fullmatch("toolu_[0-9a-f]+", block.pop("id", "toolu_0"))
    return answer


def text_item(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "status": "completed", "role": "assistant", "content": [part]}


def reasoning_item(text: str, status: str = "completed") -> dict[str, Any]:
    return {
        "type": "reasoning", "status": status, "summary": [], "content": [{"type": "reasoning_text", "text": text}]
    }  # fmt: skip


def call_item(name: str, arguments: str = ARGUMENTS, status: str = "completed") -> dict[str, Any]:
    return {"type": "function_call", "status": status, "name": name, "arguments": arguments}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("text", "thinks", "fields", "output"),
    [
        (ALL, True, {"tools": FUNCTIONS},
         [reasoning_item("I look."), text_item("Let me see."), call_item("f"), call_item("g")]),
        (CALLS, False, {"tools": FUNCTIONS}, [call_item("f"), call_item("g")]),
        (CALLS, False, {"tools": FUNCTIONS, "parallel_tool_calls": False}, [call_item("f")]),
        (REQUIRED, False, {"tools": FUNCTIONS, "tool_choice": "required"}, [call_item("f"), call_item("g")]),
        (ARGUMENTS, False, {"tools": FUNCTIONS, "tool_choice": {"type": "function", "name": "g"}}, [call_item("g")]),
        ("hm</think>yes", True, {}, [reasoning_item("hm"), text_item("yes")]),
        ("<tool_call> no", False, {"tools": FUNCTIONS, "tool_choice": "none"}, [text_item("<tool_call> no")]),
    ],
)  # fmt: skip
def test_items(text: str, thinks: bool, fields: dict[str, Any], output: list[Any], seed: int) -> None:
    whole = respond(text, seed, stream=False, thinks=thinks, **fields)
    assert whole["output"] == output
    assert respond(text, seed, stream=True, thinks=thinks, **fields) == whole


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("text", "thinks", "fields", "reason", "content"),
    [
        (ALL, True, {"tools": TOOLS}, "tool_use", ["I look.", "Let me see.", ("f", CITY), ("g", CITY)]),
        (CALLS, False, {"tools": TOOLS}, "tool_use", [("f", CITY), ("g", CITY)]),
        (CALLS, False, {"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
         "tool_use", [("f", CITY)]),
        (REQUIRED, False, {"tools": TOOLS, "tool_choice": {"type": "any"}}, "tool_use", [("f", CITY), ("g", CITY)]),
        (ARGUMENTS, False, {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "g"}}, "tool_use", [("g", CITY)]),
        ("hm</think>yes", True, {}, "end_turn", ["hm", "yes"]),
        ("hm</think>yes", True, {"thinking": {"type": "adaptive", "display": "omitted"}}, "end_turn", ["yes"]),
        ("<tool_call> no", False, {"tools": TOOLS, "tool_choice": {"type": "none"}}, "end_turn", ["<tool_call> no"]),
    ],
)  # fmt: skip
def test_blocks(text: str, thinks: bool, fields: dict[str, Any], reason: str, content: list[Any], seed: int) -> None:
    whole = message(text, seed, stream=False, thinks=thinks, **fields)
    assert whole["stop_reason"] == reason
    found = [
        (block["name"], block["input"]) if block["type"] == "tool_use" else block.get("thinking") or block["text"]
        for block in whole["content"]
    ]
    assert found == content
    assert message(text, seed, stream=True, thinks=thinks, **fields) == whole


def test_reasoning_tokens_are_counted() -> None:
    usage = respond("a b c d e f</think>yes", stream=False, thinks=True)["usage"]
    assert 7 <= usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]
    usage = message("a b c d e f</think>yes", stream=False, thinks=True)["usage"]
    assert 7 <= usage["output_tokens_details"]["thinking_tokens"] < usage["output_tokens"]


def test_what_was_cut_off_is_incomplete() -> None:
    for stream in (False, True):
        body = {"input": "hi", "tools": FUNCTIONS, "max_output_tokens": 60, "stream": stream}
        answer = post(engine_of(CALLS, 1, thinks=False), "/v1/responses", body)
        if stream:
            last = json.loads(answer.text.strip().split("\n\n")[-1].split("data: ")[1])
            assert last["type"] == "response.incomplete"
        response = last["response"] if stream else answer.json()
        assert response["status"] == "incomplete"
        (item,) = response["output"]
        assert (item["type"], item["status"]) == ("function_call", "incomplete")
        assert ARGUMENTS.startswith(item["arguments"])
    fields: Any = {"tools": TOOLS, "max_tokens": 60}
    whole = message(CALLS, 1, stream=False, **fields)
    assert whole["stop_reason"] == "max_tokens"
    assert whole["content"][0]["type"] == "tool_use"
    assert message(CALLS, 1, stream=True, **fields) == whole
    cut = respond("hm, let me think", 1, stream=False, thinks=True, max_output_tokens=4)
    assert (cut["status"], cut["output"][0]["status"]) == ("incomplete", "incomplete")


def test_events_of_reasoning_and_calls() -> None:
    body = {"input": "hi", "tools": FUNCTIONS, "stream": True}
    text = post(engine_of(ALL, 1, thinks=True), "/v1/responses", body).text
    events = [json.loads(line[len("data: ") :]) for line in text.splitlines() if line.startswith("data: ")]
    kinds = [kind for kind, before in zip(events, [{}, *events], strict=False) if kind["type"] != before.get("type")]
    assert [kind["type"].removeprefix("response.") for kind in kinds] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_a_call_that_was_cut_off_is_not_gone_on_with() -> None:
    async def run() -> str:
        engine = engine_of(CALLS, 1, thinks=False)
        transport = httpx.ASGITransport(app=app_of(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://server/v1") as client:
            body = {"input": "hi", "tools": FUNCTIONS, "max_output_tokens": 60}
            made = (await client.post("/responses", json=body)).json()
            after = await client.post("/responses", json={"input": "and?", "previous_response_id": made["id"]})
            assert after.status_code == 200
            return engine.calls[1].prompt.text or ""

    assert "tool_call" not in asyncio.run(run())


def test_allowed_tools_are_those_that_the_model_sees() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    engine = engine_of(CALLS, 1, thinks=False)
    answer = post(engine, "/v1/responses", {"input": "hi", "tools": FUNCTIONS, "tool_choice": choice}).json()
    assert (answer["tool_choice"], answer["tools"]) == (choice, FUNCTIONS)
    assert '"name": "g"' in (engine.calls[0].prompt.text or "")
    assert '"name": "f"' not in (engine.calls[0].prompt.text or "")


def test_a_tool_loop_by_both_clients() -> None:
    engine = engine_of(CALLS, 1, thinks=False)
    engine.texts = [CALLS]

    async def by_openai() -> None:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app_of(engine)))
        async with AsyncOpenAI(base_url="http://server/v1", api_key="key", http_client=http) as client:
            asked = await client.responses.create(model=MODEL, input="hi", tools=FUNCTIONS)
            results: Any = [
                {"type": "function_call_output", "call_id": item.call_id, "output": f"result of {item.name}"}
                for item in asked.output
                if item.type == "function_call"
            ]
            engine.texts = ["all done"]
            chained = await client.responses.create(model=MODEL, input=results, previous_response_id=asked.id)
            whole: Any = [{"role": "user", "content": "hi"}, *asked.output, *results]
            by_hand = await client.responses.create(model=MODEL, input=whole)
            assert chained.output_text == by_hand.output_text == "all done"

    async def by_anthropic() -> None:
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app_of(engine)))
        async with AsyncAnthropic(base_url="http://server", api_key="key", http_client=http) as client:
            messages: Any = [{"role": "user", "content": "hi"}]
            asked = await client.messages.create(model=MODEL, max_tokens=500, messages=messages, tools=TOOLS)
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": f"result of {block.name}"}
                for block in asked.content
                if block.type == "tool_use"
            ]
            engine.texts = ["all done"]
            messages += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": results}]
            answer = await client.messages.create(model=MODEL, max_tokens=500, messages=messages)
            assert answer.content == [answer.content[0]]
            assert answer.content[0].type == "text"
            assert answer.content[0].text == "all done"

    asyncio.run(by_openai())
    engine.texts = [CALLS]
    asyncio.run(by_anthropic())
    first, second, third = (engine.calls[index].prompt.text for index in (1, 2, 4))
    assert first == second == third
    assert "result of f" in (first or "")
    assert "result of g" in (first or "")
