"""Text made to be slow or to break a parser: the time grows with its length and no faster, and nothing raises."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable

import pytest
from transcripts import TOOL_TRANSCRIPTS, TOOLS

from octavo.parsers.pieces import Reply
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS
from octavo.parsers.reply import ReplyParser

# For each format: texts that are repeated, and what goes before and after.
HOSTILE: dict[str, list[tuple[str, str, str]]] = {
    "hermes": [
        ("", "<tool_call>", ""),
        ("", "<tool_call>{", ""),
        ("", '<tool_call>{"name": "get_time", ', ""),
        ('<tool_call>{"name": "run", "arguments": ', "[", ""),
        ('<tool_call>{"name": "run", "arguments": ', '{"a":', ""),
        ('<tool_call>{"name": "', "\\\\", ""),
        ('<tool_call>{"arguments": {"a": "', "x\\u0041\n", ""),
        ("<tool_call>", '{"', ""),
        ("", "<tool_call", ""),
        ("", " \n", "<tool_call>"),
        ("", "\ufffd", ""),
        ("", "</tool_call>", ""),
    ],
    "granite": [("<|tool_call|>", "[", ""), ("", "<|tool_call|>[", ""), ("<|tool_call|>[", '{"name": "run"},', "")],
    "llama3_json": [
        ("", '{"name": "run", ', ""), ("", '{"name": "run", "parameters": {', ""), ("", "{", ""), ("", "{\n", ""),
        ("", "[\n", ""), ("", "; ", ""), ("", '{"name": "run"};', ""), ('{"name": ', "[", ""),
    ],
    "llama4_pythonic": [
        ("", "[", ""), ("", "[\n", ""), ("[run(code=", "[", ""),
        ("[run(code=", "{'a':", ""), ("[run(code='", "\\u", ""),
        ("[run(code=", "(", ")"), ("[", "get_time(), ", ""), ("[run(", "code='a',", ""), ("[run(code=", "9", ")]"),
        ("[run(code=", "'", ""), ("[", "a", ""), ("[run(", "a", "=1)]"),
    ],
    "qwen3_coder": [
        ("", "<function=", ""), ("<function=run><parameter=code>", "\n</parameter", ""), ("", "<tool_call>", ""),
        ("<function=get_weather>", "<parameter=where>{", ""),
        ("<function=get_weather><parameter=where>", "[", "</parameter>"),
        ("<function=get_weather><parameter=days>", "9", "</parameter>"),
        ("<function=run>", "<parameter=a>1</parameter>", ""),
    ],
    "glm45": [
        ("", "<tool_call>", ""), ("<tool_call>run\n", "<arg_key>", ""), ("<tool_call>", "run", ""),
        ("<tool_call>get_weather<arg_key>where</arg_key><arg_value>", "{'a':", "</arg_value>"),
    ],
    "deepseek_v3": [
        ("", "<｜tool▁call▁begin｜>", ""), ("", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{", ""),
        ("", "<｜tool▁calls▁begin｜", ""),
        ("<｜tool▁call▁begin｜>run<｜tool▁sep｜>", "[", ""),
        ("<｜tool▁call▁begin｜>run<｜tool▁sep｜>", " ", ""),
    ],
    "kimi_k2": [
        ("", "<|tool_call_begin|>", ""), ("<|tool_call_begin|>run<|tool_call_argument_begin|>", "{", ""),
        ("<|tool_call_begin|>", ":", "<|tool_call_argument_begin|>"),
    ],
    "mistral": [("", "[TOOL_CALLS]", ""), ("", "[TOOL_CALLS][{", ""), ("[TOOL_CALLS]run", "[ARGS]", ""),
                ("[TOOL_CALLS]", "[", "")],
    "gemma": [
        ("", "<|tool_call>", ""), ("<|tool_call>call:run{code:", "[", ""), ("", "```tool_code", ""),
        ("<|tool_call>call:run{code:", "{a:", ""), ("```tool_code\n", "run(\n", ""),
    ],
    "openai": [
        ("", "<|channel|>", ""), ("", "<|start|>", ""), ("", "<|channel|>analysis<|message|>", ""),
        ("", "<|channel|>commentary to=functions.run<|message|>", ""), ("<|channel|>", " ", "<|message|>"),
        ("<|channel|>a to=run<|message|>", "{", ""), ("", "to=", "<|message|>"), ("", "<|end|>", ""),
    ],
}  # fmt: skip
CASES = [(name, *case) for name, cases in HOSTILE.items() for case in cases]
SIZE = 10_000  # characters


def seconds(name: str, parts: Iterable[str]) -> float:
    parser = ReplyParser(REASONING_PARSERS.get("think")(), TOOL_PARSERS.get(name)(TOOLS))
    gc.disable()  # a collection takes longer than the work, where other tests have left many objects
    try:
        started = time.process_time()
        pieces = []
        for part in parts:
            pieces += parser.feed(part)
        Reply.of(pieces + parser.finish())
        return time.process_time() - started
    finally:
        gc.enable()


@pytest.mark.parametrize(("name", "before", "repeated", "after"), CASES)
@pytest.mark.parametrize("chunk", [None, 5])
def test_time_is_linear(name: str, before: str, repeated: str, after: str, chunk: int | None) -> None:
    def text(size: int) -> list[str]:
        whole = before + repeated * (size // len(repeated)) + after
        return [whole] if chunk is None else [whole[i : i + chunk] for i in range(0, len(whole), chunk)]

    size = SIZE if chunk is None else SIZE // 2
    short = seconds(name, text(size))
    long = seconds(name, text(4 * size))
    if long > 8 * short + 0.05:  # four times the text; again, since a machine has other work
        long = min(seconds(name, text(4 * size)) for _ in range(3))
    assert long < 8 * short + 0.05


@pytest.mark.parametrize("name", HOSTILE)
def test_ten_thousand_levels(name: str) -> None:
    """Deeper than Python's stack: each format's arguments, as JSON or in its own spelling."""
    depth = 10_000
    arrays = "[" * depth + "]" * depth
    spelled = {
        "hermes": f'<tool_call>{{"name": "run", "arguments": {{"code": {arrays}}}}}</tool_call>',
        "granite": f'<|tool_call|>[{{"name": "run", "arguments": {{"code": {arrays}}}}}]',
        "llama3_json": f'{{"name": "run", "parameters": {{"code": {arrays}}}}}',
        "llama4_pythonic": f"[run(code={arrays})]",
        "qwen3_coder": f"<function=run><parameter=other>{arrays}</parameter></function>",
        "glm45": f"<tool_call>run<arg_key>other</arg_key><arg_value>{arrays}</arg_value></tool_call>",
        "deepseek_v3": f'<｜tool▁call▁begin｜>run<｜tool▁sep｜>{{"code": {arrays}}}<｜tool▁call▁end｜>',
        "kimi_k2": f'<|tool_call_begin|>run:0<|tool_call_argument_begin|>{{"code": {arrays}}}<|tool_call_end|>',
        "mistral": f'[TOOL_CALLS]run[ARGS]{{"code": {arrays}}}',
        "gemma": f"<|tool_call>call:run{{code:{arrays}}}<tool_call|>",
        "openai": f'<|channel|>commentary to=functions.run<|message|>{{"code": {arrays}}}<|call|>',
    }[name]
    reply = ReplyParser(None, TOOL_PARSERS.get(name)(TOOLS)).whole(spelled)
    assert [call.name for call in reply.tool_calls] == ["run"]
    assert reply.content is None
    arguments = reply.tool_calls[0].arguments
    assert arguments.count("[") == arguments.count("]") == depth


def test_a_megabyte_of_opening_tags_takes_no_time() -> None:
    for name in ("hermes", "llama3_json", "qwen3_coder", "openai"):
        tag = HOSTILE[name][0][1]
        assert seconds(name, [tag * (1_000_000 // len(tag))]) < 5


def test_broken_characters_are_text() -> None:
    """What bytes that are no UTF-8 become stands in content and in arguments as it came."""
    for name, transcripts in TOOL_TRANSCRIPTS.items():
        for transcript in transcripts:
            text = transcript.text.replace("Rome", "R\ufffd\ufffdm")
            calls = tuple((n, arguments.replace("Rome", "R\ufffd\ufffdm")) for n, arguments in transcript.calls)
            reply = ReplyParser(None, TOOL_PARSERS.get(name)(TOOLS)).whole(text)
            assert tuple((call.name, call.arguments) for call in reply.tool_calls) == calls
