"""Reasoning in chat completions, with an engine that says what it is told to."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgi_client import MODEL, events_of, post
from fake_async_engine import CHAT_TEMPLATE, FakeAsyncEngine
from openai import AsyncOpenAI
from openai_asgi import ask

PATH = "/v1/chat/completions"
USER: dict[str, Any] = {"role": "user", "content": "hi"}
THOUGHT = "<think>\nHm, naïve.\n</think>\n\nThe answer: 日本."
QWEN = (  # what a template of Qwen3 does with the reasoning
    CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
INSIDE = CHAT_TEMPLATE + "{% if true %}<think>\n{% endif %}"


def engine_of(*texts: str, template: str | None = QWEN, seed: int | None = 2) -> FakeAsyncEngine:
    engine = FakeAsyncEngine(texts, seed=seed, max_model_len=2048)
    engine.chat_template = template
    return engine


def chat(engine: FakeAsyncEngine, *, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    response = post(engine, PATH, {"messages": [USER], **fields}, **(settings or {}))
    assert response.status_code == 200, response.text
    return response.json()


def message_of(engine: FakeAsyncEngine, **fields: Any) -> tuple[str | None, str | None]:
    """The content and the reasoning."""
    message = chat(engine, **fields)["choices"][0]["message"]
    return message["content"], message["reasoning"]


def streamed(engine: FakeAsyncEngine, *, settings: dict[str, Any] | None = None, **fields: Any) -> list[Any]:
    return events_of(post(engine, PATH, {"messages": [USER], "stream": True, **fields}, **(settings or {})))


def joined(events: list[Any], field: str) -> str:
    return "".join(e["choices"][0]["delta"].get(field, "") for e in events if e["choices"])


def test_reasoning_and_content() -> None:
    assert message_of(engine_of(THOUGHT)) == ("The answer: 日本.", "Hm, naïve.")
    events = streamed(engine_of(THOUGHT))
    assert (joined(events, "content"), joined(events, "reasoning")) == ("The answer: 日本.", "Hm, naïve.")
    assert message_of(engine_of("No thought.")) == ("No thought.", None)
    assert message_of(engine_of("<think>endless")) == (None, "endless")


def test_a_prompt_that_opens_the_reasoning() -> None:
    engine = engine_of("Hm.</think>Yes", template=INSIDE)
    assert message_of(engine) == ("Yes", "Hm.")
    markers = engine.calls[0].params.reasoning_markers
    assert markers is not None
    assert (markers.start_token_ids, markers.end_token_ids) == ([], engine.tokenizer.encode("</think>"))  # type: ignore[union-attr]


def test_a_prompt_that_has_closed_the_reasoning() -> None:
    for fields in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        engine = engine_of("Yes </think> no")
        assert message_of(engine, **fields) == ("Yes </think> no", None)
        assert (engine.calls[0].prompt.text or "").endswith("</think>\n\n")
        assert engine.calls[0].params.reasoning_markers is None


def test_the_engine_is_told_where_the_reasoning_is() -> None:
    engine = engine_of(THOUGHT)
    chat(engine, thinking_token_budget=7, response_format={"type": "json_object"})
    params = engine.calls[0].params
    assert params.thinking_token_budget == 7
    assert params.structured_outputs is not None
    markers = params.reasoning_markers
    assert markers is not None
    encode = engine.tokenizer.encode  # type: ignore[union-attr]
    assert (markers.start_token_ids, markers.end_token_ids) == (encode("<think>"), encode("</think>"))


def test_reasoning_tokens_are_counted() -> None:
    for text, template in ((THOUGHT, QWEN), ("Hm.\n</think>\n\nYes", INSIDE)):
        whole = chat(engine_of(text, template=template), return_token_ids=True)
        usage = whole["usage"]
        ids = whole["choices"][0]["token_ids"]
        tokenizer = engine_of(template=template).tokenizer
        assert tokenizer is not None
        end = text.index("</think>") + len("</think>")
        expected = sum(len(tokenizer.decode(ids[: i + 1]).rstrip("\ufffd")) <= end for i in range(len(ids)))
        assert usage["completion_tokens_details"] == {"reasoning_tokens": expected}
        events = streamed(
            engine_of(text, template=template), stream_options={"include_usage": True, "continuous_usage_stats": True}
        )
        assert events[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": expected}
        counts = [event["usage"]["completion_tokens_details"]["reasoning_tokens"] for event in events[1:]]
        assert counts == sorted(counts)
    assert "completion_tokens_details" not in chat(engine_of("x", template=None))["usage"]
    assert chat(engine_of("x"))["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_reasoning_may_be_left_out() -> None:
    assert message_of(engine_of(THOUGHT), include_reasoning=False) == ("The answer: 日本.", None)
    events = streamed(engine_of(THOUGHT), include_reasoning=False)
    assert (joined(events, "content"), joined(events, "reasoning")) == ("The answer: 日本.", "")


def test_older_clients() -> None:
    settings = {"reasoning_content": True}
    message = chat(engine_of(THOUGHT), settings=settings)["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "Hm, naïve."
    events = streamed(engine_of(THOUGHT), settings=settings)
    assert joined(events, "reasoning") == joined(events, "reasoning_content") == "Hm, naïve."
    assert "reasoning_content" not in chat(engine_of(THOUGHT))["choices"][0]["message"]


def test_reasoning_before_calls() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for fields, text in (
        ({}, f"<think>maybe {call}</think>{call}"),
        ({"tool_choice": "required"}, f'<think>maybe {call}</think>[{{"name": "f", "parameters": {{}}}}]'),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, f"<think>maybe {call}</think>{{}}"),
    ):
        choice = chat(engine_of(text), tools=tools, **fields)["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert (choice["message"]["content"], choice["message"]["reasoning"]) == (None, f"maybe {call}")
        assert [call["function"] for call in choice["message"]["tool_calls"]] == [{"name": "f", "arguments": "{}"}]


def test_reasoning_of_history_reaches_the_template() -> None:
    template = "{% for m in messages %}{{ m.reasoning_content }}/{{ m.reasoning }}|{{ m.content }};{% endfor %}"
    for name in ("reasoning", "reasoning_content"):
        engine = engine_of("x", template=template)
        chat(engine, messages=[USER, {"role": "assistant", "content": "a", name: "thought"}])
        assert engine.calls[0].prompt.text == "/|hi;thought/thought|a;"


def test_effort_and_default_variables_reach_the_template() -> None:
    engine = engine_of("x")
    chat(engine, reasoning_effort="high", settings={"default_chat_template_kwargs": {"mood": "calm"}})
    assert "[calm][effort high]" in (engine.calls[0].prompt.text or "")
    engine = engine_of("x")
    kwargs = {"default_chat_template_kwargs": {"mood": "calm", "enable_thinking": False}}
    chat(engine, chat_template_kwargs={"mood": "wild"}, settings=kwargs)
    assert "[wild]" in (engine.calls[0].prompt.text or "")
    assert (engine.calls[0].prompt.text or "").endswith("</think>\n\n")


def test_a_parser_by_name_or_none() -> None:
    assert message_of(engine_of(THOUGHT), settings={"reasoning_parser": "none"}) == (THOUGHT, None)
    text = "Here is my thought process: Hm. Here is my response: Yes"
    assert message_of(engine_of(text), settings={"reasoning_parser": "granite"}) == ("Yes", "Hm.")
    text = "Hm.</think>Yes"
    assert message_of(engine_of(text), settings={"reasoning_parser": "deepseek_r1"}) == ("Yes", "Hm.")


@pytest.mark.parametrize(
    ("fields", "template", "param", "words"),
    [
        ({"reasoning_effort": "huge"}, QWEN, "reasoning_effort", "none, minimal, low.*got 'huge'"),
        ({"reasoning_effort": 3}, QWEN, "reasoning_effort", "string"),
        ({"thinking_token_budget": -2}, QWEN, "thinking_token_budget", "0 or more"),
        ({"thinking_token_budget": "all"}, QWEN, "thinking_token_budget", "integer"),
        ({"thinking_token_budget": 5}, None, "thinking_token_budget", "--reasoning-parser"),
        ({"include_reasoning": "no way"}, QWEN, "include_reasoning", "true or false"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], template: str | None, param: str, words: str) -> None:
    response = post(engine_of("x", template=template), PATH, {"messages": [USER], **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert re.search(words, error["message"])


def test_the_official_client() -> None:
    async def whole(client: AsyncOpenAI) -> Any:
        messages: Any = [USER]
        return await client.chat.completions.create(model=MODEL, messages=messages)

    answer = ask(whole, engine=engine_of(THOUGHT))
    assert (answer.choices[0].message.content, answer.choices[0].message.reasoning) == (
        "The answer: 日本.",
        "Hm, naïve.",
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens > 5
