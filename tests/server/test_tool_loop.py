"""Tools and the official client against a real server with the default model, as an application uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest
from openai import OpenAI
from real_server import RealServer

NUM_TURNS = 30
PARAMETERS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "add": {
        "type": "object",
        "properties": {"terms": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}},
        "required": ["terms"],
        "additionalProperties": False,
    },
    "get_time": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: Any = [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in PARAMETERS.items()]


@pytest.fixture(scope="module")
def client(default_gguf: Path) -> Iterator[OpenAI]:
    with (
        RealServer(str(default_gguf), "--served-model-name", "m", "--max-model-len", "8192") as server,
        OpenAI(base_url=f"{server.wait_until_ready().url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def check(call: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = json.loads(call.function.arguments)
    jsonschema_rs.validate(PARAMETERS[call.function.name], arguments)
    return arguments


@pytest.mark.slow
def test_a_loop_of_thirty_turns(client: OpenAI) -> None:
    """Every turn calls at least one tool with arguments that its schema allows, whole or streamed, hot or not."""
    messages: Any = [{"role": "user", "content": "Use the tools to plan a trip to Rome, step by step."}]
    for turn in range(NUM_TURNS):
        options: Any = {
            "model": "m", "messages": messages, "tools": TOOLS, "tool_choice": "required", "temperature": turn % 3 / 2,
            "seed": turn, "parallel_tool_calls": turn % 5 == 0, "max_tokens": 200,
        }  # fmt: skip
        if turn % 4 == 3:
            with client.chat.completions.stream(**options) as stream:
                choice = stream.get_final_completion().choices[0]
        else:
            choice = client.chat.completions.create(**options).choices[0]
        calls = choice.message.tool_calls or []
        if choice.finish_reason == "length":  # a list of calls has no end of its own
            calls = calls[:-1]
        else:
            assert choice.finish_reason == "tool_calls"
            assert len(calls) == 1 or turn % 5 == 0
        assert not choice.message.content or choice.finish_reason == "length"
        for call in calls:
            check(call)
        calls = calls[:2]
        if not calls:
            continue
        messages.append({"role": "assistant", "tool_calls": [call.model_dump(exclude_unset=True) for call in calls]})
        for call in calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"done: {call.function.name}"})
        if len(messages) > 12:  # what the small model has read is forgotten
            del messages[1 : 1 + next(i for i, m in enumerate(messages[2:], 1) if m["role"] == "assistant")]


def test_a_named_function_and_its_schema(client: OpenAI) -> None:
    for seed in range(3):
        choice = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Hello"}],
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            temperature=1.5,
            max_tokens=300,
            seed=seed,
        ).choices[0]
        assert choice.message.tool_calls is not None
        assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"]
        check(choice.message.tool_calls[0])


def test_a_schema_that_can_not_be_enforced_is_refused(client: OpenAI) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "strin"}}}
    with pytest.raises(openai.BadRequestError, match=r"the schemas of the tools can't be enforced.*strin") as bad:
        client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Hello"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}],
            tool_choice="required",
        )
    assert bad.value.param == "tools"


_OPENS_REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.mark.slow
def test_reasoning_is_bounded_and_calls_come_after_it(default_gguf: Path) -> None:
    """A template makes the default model begin within a reasoning, which it does not know how to end."""
    flags = ["--served-model-name", "m", "--max-model-len", "1024", "--chat-template", _OPENS_REASONING]
    with (
        RealServer(str(default_gguf), *flags) as server,
        OpenAI(base_url=f"{server.wait_until_ready().url}/v1", api_key="none", max_retries=0) as client,
    ):
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            options: Any = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
            answer = client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "What is the weather in Rome?"}],
                temperature=0,
                max_tokens=200,
                extra_body={"thinking_token_budget": 12},
                **options,
            )
            message: Any = answer.choices[0].message
            assert len(message.reasoning) > 10
            assert message.content is None
            assert message.tool_calls is not None
            check(message.tool_calls[0])
            assert answer.usage is not None
            assert answer.usage.completion_tokens_details is not None
            # The budget, and the tokens of the end tag.
            assert 12 < (answer.usage.completion_tokens_details.reasoning_tokens or 0) <= 12 + 5
