"""Parsers by name, by import path and from plugins; and the formats that templates show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo.errors import ConfigError
from octavo.parsers.pieces import Reply
from octavo.parsers.recognise import recognised_reasoning_parser, recognised_tool_parser
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS, ParserRegistry, load_plugin
from octavo.parsers.reply import reply_parser

DOCS = Path(__file__).parents[2] / "docs"
ASKED_FOR = {
    "hermes", "qwen3_coder", "llama3_json", "llama4_pythonic", "pythonic", "mistral", "deepseek_v3", "glm45", "kimi_k2",
    "granite", "gemma", "openai",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (TOOL_PARSERS, REASONING_PARSERS):
        monkeypatch.setattr(registry, "_registered", {})


def plugin_of(page: str, file: str) -> str:
    """The code block of a page that begins with the name of a file."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if block.startswith(f"# {file}"))


@pytest.mark.parametrize("registry", [TOOL_PARSERS, REASONING_PARSERS])
def test_every_name_has_a_class(registry: ParserRegistry) -> None:  # type: ignore[type-arg]
    assert all(registry.get(name) for name in registry.names)
    assert TOOL_PARSERS.names == sorted(TOOL_PARSERS.names)
    assert set(TOOL_PARSERS.names) >= ASKED_FOR
    page = "tool_calling.md" if registry is TOOL_PARSERS else "reasoning.md"
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in registry.names if f"`{name}`" not in text] == []


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown tool call parser 'hermis'; did you mean 'hermes'.*known: .*qwen3"):
        TOOL_PARSERS.get("hermis")
    with pytest.raises(ConfigError, match=r"unknown reasoning parser 'x'.*known: .*deepseek_r1"):
        REASONING_PARSERS.get("x")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:Parser", "no_such_module.*can't be imported"),
        ("octavo.parsers.base:Nothing", "has no 'Nothing'"),
        ("octavo.parsers.base:Parser", "subclass of octavo.parsers.base.ToolParser"),
        ("os:path", "subclass"),
    ],
)
def test_import_paths_that_lead_nowhere(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TOOL_PARSERS.get(path)


def test_an_import_path() -> None:
    path = "octavo.parsers.tool.tagged_json:HermesToolParser"
    assert TOOL_PARSERS.get(path) is TOOL_PARSERS.get("hermes")


def test_the_plugins_of_the_documentation(tmp_path: Path) -> None:
    for page, file in (("tool_calling.md", "upper.py"), ("reasoning.md", "doubts.py")):
        (tmp_path / file).write_text(plugin_of(page, file), encoding="utf-8")
        load_plugin(str(tmp_path / file))
    parser = reply_parser(tool_call_parser="shout", reasoning_parser="doubts")
    reply = Reply.of(piece for char in '<doubts>Hm</doubts>So SHOUT f {"a": 1}' for piece in parser.feed(char))
    assert (reply.reasoning, reply.content) == ("Hm", "So")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", '{"a": 1}')]


def test_plugins_that_fail(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        load_plugin(str(tmp_path / "missing.py"))
    with pytest.raises(ConfigError, match=r"no\.such.*can't be imported"):
        load_plugin("no.such.module")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_plugin(str(tmp_path / "bad.py"))


# What the templates of these models write for a call, in short.
_CALLS = {
    "hermes": '{{ \'<tool_call>\n{"name": "\' }}',
    "qwen3_coder": "{{ '<tool_call>\n<function=' + name + '>\n<parameter=' }}",
    "llama3_json": "<|start_header_id|>{% if tools %}{{ '{\"name\": ' }}{% endif %}",
    "llama4_pythonic": "<|header_start|>{% if tools %}<|python_start|>{% endif %}",
    "mistral": '{{ "[TOOL_CALLS] [" }}',
    "deepseek_v3": "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'}}",
    "glm45": "{{ '\n<tool_call>' + tc.name }}<arg_key>",
    "kimi_k2": "<|tool_calls_section_begin|>",
    "granite": "{{ '<|tool_call|>' }}",
    "gemma": "<start_function_call>call:",
    "openai": "<|start|>assistant<|channel|>commentary to={{ name }}<|call|>",
}
_REASONING = {
    "think": "{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}",
    "deepseek_r1": "{{'<｜Assistant｜><think>\n'}}{{ content.split('</think>')[-1] }}",
    "mistral": "[THINK]",
    "granite": "Write your thoughts after 'Here is my thought process:'",
    "seed_oss": "<seed:think>",
    "gemma4": "<|channel>thought",
    "openai_gptoss": "<|start|>assistant<|channel|>analysis<|message|>",
}


def test_formats_are_recognised() -> None:
    assert {name: recognised_tool_parser(template) for name, template in _CALLS.items()} == {n: n for n in _CALLS}
    found = {name: recognised_reasoning_parser(template) for name, template in _REASONING.items()}
    assert found == {n: n for n in _REASONING}
    assert recognised_tool_parser("{{ messages }}") is None
    assert recognised_reasoning_parser("{{ messages }}") is None


def names_in(page: str) -> Iterator[str]:
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            yield from re.findall(r"`(\w+)`", line.split(" | ")[0])


def test_the_documentation_names_no_parser_that_is_not_there() -> None:
    assert {n for n in names_in("tool_calling.md") if n not in TOOL_PARSERS.names} <= {"auto", "required", "none"}
    fields = {"reasoning_effort", "chat_template_kwargs", "thinking_token_budget", "include_reasoning"}
    assert {n for n in names_in("reasoning.md") if n not in REASONING_PARSERS.names} == fields
