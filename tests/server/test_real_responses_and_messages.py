"""A real server with the default model: Responses and Messages through the official clients, tool loops included."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic as anthropic_package
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel
from real_server import RealServer, wait_for

from octavo import LLM, SamplingParams

pytestmark = pytest.mark.slow

MODEL = "smol"
QUESTION = "Name three colours of the rainbow, with an emoji each."
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTIONS: Any = [
    {"type": "function", "name": name, "description": "The weather in a city", "parameters": PARAMETERS, "strict": True}
    for name in ("get_weather", "get_forecast")
]
TOOLS: Any = [{"name": f["name"], "description": f["description"], "input_schema": PARAMETERS} for f in FUNCTIONS]


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    has_river: bool


@pytest.fixture(scope="module")
def server(default_gguf: Path) -> Iterator[RealServer]:
    with RealServer(str(default_gguf), "--served-model-name", MODEL, "--max-model-len", "1024") as started:
        yield started.wait_until_ready()


def said(response: Any) -> list[Any]:
    """The output of a response without ids."""
    found = []
    for item in response.to_dict()["output"]:
        for name in ("id", "call_id", "parsed_arguments"):
            item.pop(name, None)
        for part in item.get("content", []):
            part.pop("parsed", None)
        found.append(item)
    return found


def blocks(message: Any) -> list[Any]:
    """The content of a message without ids."""
    return [{**block, "id": ""} for block in message.to_dict()["content"]]


def test_a_response_is_what_llm_says_whole_and_streamed(openai: OpenAI, default_llm: LLM) -> None:
    (alone,) = default_llm.chat(
        [{"role": "user", "content": QUESTION}], SamplingParams(temperature=0, max_tokens=60), use_tqdm=False
    )
    fields: Any = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 60}
    answer = openai.responses.create(**fields)
    assert answer.output_text == alone.outputs[0].text
    assert answer.usage is not None
    assert answer.usage.output_tokens == len(alone.outputs[0].token_ids)
    assert answer.status == ("completed" if alone.outputs[0].finish_reason == "stop" else "incomplete")
    with openai.responses.stream(**fields) as stream:
        events = list(stream)
    assert said(events[-1].response) == said(answer)  # type: ignore[union-attr]
    again = openai.responses.retrieve(answer.id)
    assert again.to_dict() == answer.to_dict()


def test_cached_tokens_are_told(openai: OpenAI, anthropic: Anthropic) -> None:
    text = QUESTION * 20
    openai.responses.create(model=MODEL, input=text, max_output_tokens=1)
    usage = openai.responses.create(model=MODEL, input=text, max_output_tokens=1).usage
    assert usage is not None
    assert usage.input_tokens > usage.input_tokens_details.cached_tokens > 0
    answer = anthropic.messages.create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": text}])
    assert answer.usage.cache_read_input_tokens == usage.input_tokens_details.cached_tokens
    assert answer.usage.input_tokens == usage.input_tokens - usage.input_tokens_details.cached_tokens


def test_a_message_is_what_llm_says_whole_and_streamed(anthropic: Anthropic, default_llm: LLM) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    (alone,) = default_llm.chat(messages, SamplingParams(temperature=0, max_tokens=48), use_tqdm=False)
    fields: Any = {"model": MODEL, "max_tokens": 48, "system": "Be brief.", "messages": messages[1:]}
    answer = anthropic.messages.create(**fields, extra_body={"temperature": 0})
    assert blocks(answer) == [{"type": "text", "text": alone.outputs[0].text, "citations": None, "id": ""}]
    assert answer.usage.output_tokens == len(alone.outputs[0].token_ids)
    with anthropic.messages.stream(**fields, extra_body={"temperature": 0}) as stream:
        final = stream.get_final_message()
    assert [block["text"] for block in blocks(final)] == [alone.outputs[0].text]
    assert final.stop_reason == answer.stop_reason
    counted = anthropic.messages.count_tokens(model=MODEL, system="Be brief.", messages=messages[1:])
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_forecast"}])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_loop_by_responses(openai: OpenAI, choice: Any, streamed: bool) -> None:
    fields: Any = {
        "model": MODEL,
        "tools": FUNCTIONS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1.0,
        "extra_body": {"seed": 3},
    }

    def ask(**more: Any) -> Any:
        if not streamed:
            return openai.responses.create(**fields, **more)
        with openai.responses.stream(**fields, **more) as stream:
            return stream.get_final_response()

    asked = ask(input="What is the weather in Paris for two days?")
    for _ in range(2):
        assert asked.status == "completed"
        calls = [item for item in asked.output if item.type == "function_call"]
        assert len(calls) == len(asked.output) == 1
        results = []
        for call in calls:
            assert call.name == "get_forecast" or choice == "required"
            arguments = json.loads(call.arguments)
            assert set(arguments) == {"city", "days"}
            assert arguments["city"] in ("Paris", "Rome")
            assert isinstance(arguments["days"], int)
            results.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
        asked = ask(input=results, previous_response_id=asked.id)


@pytest.mark.parametrize(
    "choice", [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_forecast"}]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_loop_by_messages(anthropic: Anthropic, choice: Any, streamed: bool) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Paris for two days?"}]
    fields: Any = {"model": MODEL, "max_tokens": 300, "tools": TOOLS, "tool_choice": choice, "extra_body": {"seed": 3}}
    for _ in range(2):
        if streamed:
            with anthropic.messages.stream(**fields, messages=messages) as stream:
                asked: Any = stream.get_final_message()
        else:
            asked = anthropic.messages.create(**fields, messages=messages)
        assert asked.stop_reason == "tool_use"
        results = []
        for block in asked.content:
            assert block.type == "tool_use"
            assert block.name == "get_forecast" or choice["type"] == "any"
            assert set(block.input) == {"city", "days"}
            assert block.input["city"] in ("Paris", "Rome")
            results.append({"type": "tool_result", "tool_use_id": block.id, "content": "sunny"})
        messages += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": results}]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_model_calls_by_itself(
    server: RealServer, openai: OpenAI, anthropic: Anthropic, strict: bool, streamed: bool
) -> None:
    """tool_choice auto. This small model would write <tool_response> next, so that word is taken from it."""
    tokens = httpx.post(
        f"{server.url}/tokenize", json={"prompt": "<tool_response>", "add_special_tokens": False}
    ).json()
    common: Any = {"model": MODEL, "extra_body": {"logit_bias": {str(tokens["tokens"][-2]): -100}, "temperature": 0}}
    asked, city = "What is the weather in Rome for two days?", {"city": "Rome", "days": 2}
    call: Any = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": json.dumps(city)}
    fields: Any = {
        **common,
        "input": [
            {"role": "user", "content": asked},
            call,
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            {"role": "assistant", "content": "It is sunny in Rome."},
            {"role": "user", "content": asked.replace("Rome", "Paris")},
        ],
        "tools": [{**FUNCTIONS[0], "strict": strict}],
    }
    if streamed:
        with openai.responses.stream(**fields) as stream:
            response: Any = stream.get_final_response()
    else:
        response = openai.responses.create(**fields)
    assert [item.type for item in response.output] == ["function_call"]
    assert json.loads(response.output[0].arguments) == {"city": "Paris", "days": 2}

    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    messages: Any = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": city}]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": "It is sunny in Rome."},
        {"role": "user", "content": asked.replace("Rome", "Paris")},
    ]
    talk: Any = {**common, "max_tokens": 100, "messages": messages, "tools": [{**TOOLS[0], "strict": strict}]}
    if streamed:
        with anthropic.messages.stream(**talk) as talked:
            message: Any = talked.get_final_message()
    else:
        message = anthropic.messages.create(**talk)
    assert message.stop_reason == "tool_use"
    assert [(block.type, block.input) for block in message.content] == [("tool_use", {"city": "Paris", "days": 2})]


def test_streams_of_calls_are_the_whole_under_greedy_decoding(openai: OpenAI, anthropic: Anthropic) -> None:
    fields: Any = {
        "model": MODEL, "input": "Weather?", "tools": FUNCTIONS, "tool_choice": "required", "temperature": 0,
        "parallel_tool_calls": False,
    }  # fmt: skip
    with openai.responses.stream(**fields) as stream:
        assert said(stream.get_final_response()) == said(openai.responses.create(**fields))
    asked: Any = {
        "model": MODEL, "max_tokens": 300, "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS,
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "extra_body": {"temperature": 0},
    }  # fmt: skip
    with anthropic.messages.stream(**asked) as messages:
        assert blocks(messages.get_final_message()) == blocks(anthropic.messages.create(**asked))


def test_structured_output(openai: OpenAI, anthropic: Anthropic) -> None:
    parsed = openai.responses.parse(model=MODEL, input="Name a city.", text_format=City, temperature=1.0)
    assert isinstance(parsed.output_parsed, City)
    with openai.responses.stream(model=MODEL, input="Name a city.", text_format=City) as stream:
        assert isinstance(stream.get_final_response().output_parsed, City)
    whole: Any = anthropic.messages.parse(
        model=MODEL, max_tokens=300, messages=[{"role": "user", "content": "Name a city."}], output_format=City
    )
    assert isinstance(whole.parsed_output, City)


def test_schemas_that_cannot_be_enforced_are_refused(openai: OpenAI, anthropic: Anthropic) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"$ref": "http://elsewhere.example/x"}}}
    text: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    tool: Any = {"type": "function", "name": "f", "parameters": schema, "strict": True}
    with pytest.raises(BadRequestError, match=r"text\.format\.schema") as bad:
        openai.responses.create(model=MODEL, input="hi", text=text)
    assert bad.value.param == "text.format.schema"
    with pytest.raises(BadRequestError, match="tools") as bad:
        openai.responses.create(model=MODEL, input="hi", tools=[tool], tool_choice="required")
    assert bad.value.param == "tools"
    made = openai.responses.create(model=MODEL, input="hi", text=text, background=True)
    wait_for(lambda: openai.responses.retrieve(made.id).status == "failed", 10)
    with pytest.raises(anthropic_package.BadRequestError, match=r"output_config\.format\.schema"):
        anthropic.messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}],
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )  # fmt: skip


def test_async_clients(server: RealServer) -> None:
    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as openai:
            async with openai.responses.stream(
                model=MODEL, input="Weather?", tools=FUNCTIONS, tool_choice={"type": "function", "name": "get_weather"}
            ) as stream:
                final = await stream.get_final_response()
            assert {item.type for item in final.output} == {"function_call"}
        async with AsyncAnthropic(base_url=server.url, api_key="none") as anthropic:
            asked: Any = {"messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS}
            async with anthropic.messages.stream(
                model=MODEL, max_tokens=300, tool_choice={"type": "tool", "name": "get_weather"}, **asked
            ) as messages:
                assert (await messages.get_final_message()).stop_reason == "tool_use"

    asyncio.run(run())


def test_the_background(openai: OpenAI, server: RealServer) -> None:
    made = openai.responses.create(model=MODEL, input=QUESTION, background=True, max_output_tokens=20)
    wait_for(lambda: openai.responses.retrieve(made.id).status in ("completed", "incomplete"), 30)
    endless: Any = {"model": MODEL, "input": QUESTION, "extra_body": {"ignore_eos": True}}
    made = openai.responses.create(background=True, **endless)
    wait_for(lambda: bool(openai.responses.retrieve(made.id).output), 30)
    assert openai.responses.cancel(made.id).status == "cancelled"
    wait_for(lambda: server.metric("vllm:num_requests_running") == 0, 5)
    stream = openai.responses.create(stream=True, **endless)
    next(iter(stream))
    stream.close()
    wait_for(lambda: server.metric("vllm:num_requests_running") == 0, 5)


def test_the_pages_examples_run(server: RealServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "responses_and_messages.md").read_text(encoding="utf-8")
    code = "\n".join(part.split("```")[0] for part in page.split("```python\n")[1:])
    code = code.replace("http://localhost:8000", server.url).replace("smollm2-135m-instruct", MODEL)
    exec(compile(code, "responses_and_messages.md", "exec", dont_inherit=True), {"__name__": "example"})
    assert httpx.get(f"{server.url}/health").status_code == 200
