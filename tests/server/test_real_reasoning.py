"""A real server that takes the first words of the default model for reasoning, through the official clients.

The model has no tags of its own. With a format whose replies begin within the reasoning, and a budget after which the
end of it is written, each reply has both parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel
from real_server import RealServer

pytestmark = pytest.mark.slow

MODEL = "smol"
BUDGET = 12
QUESTION = "Name a city with a river."
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    has_river: bool


@pytest.fixture(scope="module")
def server(default_gguf: Path) -> Iterator[RealServer]:
    flags = ("--served-model-name", MODEL, "--max-model-len", "1024", "--reasoning-parser", "deepseek_r1")
    with RealServer(str(default_gguf), *flags) as started:
        yield started.wait_until_ready()


def by_chat(client: OpenAI, streamed: bool) -> tuple[str, str]:
    fields: Any = {
        "model": MODEL, "messages": MESSAGES, "max_tokens": 60, "temperature": 0,
        "extra_body": {"thinking_token_budget": BUDGET},
    }  # fmt: skip
    if not streamed:
        answer: Any = client.chat.completions.create(**fields)
        assert BUDGET <= answer.usage.completion_tokens_details.reasoning_tokens < BUDGET + 6
        return answer.choices[0].message.reasoning, answer.choices[0].message.content
    deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**fields, stream=True)]
    reasoning = [getattr(delta, "reasoning", None) or "" for delta in deltas]
    return "".join(reasoning), "".join(delta.content or "" for delta in deltas)


def by_responses(client: OpenAI, streamed: bool) -> tuple[str, str]:
    fields: Any = {
        "model": MODEL, "input": QUESTION, "max_output_tokens": 60, "temperature": 0,
        "extra_body": {"thinking_token_budget": BUDGET},
    }  # fmt: skip
    if streamed:
        with client.responses.stream(**fields) as stream:
            events: Any = list(stream)
        response: Any = events[-1].response
        told = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
        assert told == response.output[0].content[0].text
    else:
        response = client.responses.create(**fields)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert BUDGET <= response.usage.output_tokens_details.reasoning_tokens < BUDGET + 6
    return response.output[0].content[0].text, response.output_text


def by_messages(client: Anthropic, streamed: bool) -> tuple[str, str]:
    fields: Any = {
        "model": MODEL, "messages": MESSAGES, "max_tokens": 60, "extra_body": {"temperature": 0},
        "thinking": {"type": "enabled", "budget_tokens": BUDGET},
    }  # fmt: skip
    if streamed:
        with client.messages.stream(**fields) as stream:
            message: Any = stream.get_final_message()
    else:
        message = client.messages.create(**fields)
    assert [block.type for block in message.content] == ["thinking", "text"]
    return message.content[0].thinking, message.content[1].text


def test_all_ways_tell_the_same_reasoning_and_answer(openai: OpenAI, anthropic: Anthropic) -> None:
    expected = by_chat(openai, streamed=False)
    assert all(expected)
    assert "</think>" not in "".join(expected)
    assert by_chat(openai, streamed=True) == expected
    for streamed in (False, True):
        assert by_responses(openai, streamed) == expected
        assert by_messages(anthropic, streamed) == expected


def test_a_structure_begins_after_the_reasoning(openai: OpenAI, anthropic: Anthropic) -> None:
    budget = {"thinking_token_budget": BUDGET}
    response: Any = openai.responses.parse(model=MODEL, input=QUESTION, text_format=City, extra_body=budget)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert isinstance(response.output_parsed, City)
    message: Any = anthropic.messages.parse(
        model=MODEL, max_tokens=300, messages=MESSAGES, output_format=City,
        thinking={"type": "enabled", "budget_tokens": BUDGET},
    )  # fmt: skip
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert isinstance(message.parsed_output, City)


def test_a_call_comes_after_the_reasoning(openai: OpenAI, anthropic: Anthropic) -> None:
    function: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}
    response: Any = openai.responses.create(
        model=MODEL, input=QUESTION, tools=[function], tool_choice="required", parallel_tool_calls=False,
        extra_body={"thinking_token_budget": BUDGET},
    )  # fmt: skip
    assert [item.type for item in response.output] == ["reasoning", "function_call"]
    tool: Any = {"name": "get_weather", "input_schema": PARAMETERS}
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    message: Any = anthropic.messages.create(
        model=MODEL, max_tokens=300, messages=MESSAGES, tools=[tool], tool_choice=choice,
        thinking={"type": "enabled", "budget_tokens": BUDGET},
    )  # fmt: skip
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[1].input["city"] in ("Paris", "Rome")
