"""Chat templates against transformers, the sandbox, and what is refused."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizer import chat_templates as styles
from transformers import PreTrainedTokenizerFast

from octavo.errors import ConfigError, InvalidRequestError
from octavo.tokenizer import chat_template as chat_template_module
from octavo.tokenizer.base import Tokenizer
from octavo.tokenizer.chat_template import content_format, resolve_chat_template

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place <now> & später",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}
USER, ANSWER = {"role": "user", "content": " What's <b>½</b>? "}, {"role": "assistant", "content": "  Half of one. "}
SYSTEM = {"role": "system", "content": "Be kind.\n"}
CONVERSATIONS = {
    "one": [USER],
    "three": [USER, ANSWER, {"role": "user", "content": "Sicher? 🙂"}],
    "system": [SYSTEM, USER],
    "prefill": [USER, ANSWER],
    "tools": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny & 20°"},
    ],
}


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, chat_template=tokenizer.chat_template, **tokenizer.special_tokens_map
    )


TOOLLESS = [(style, name) for style in ("chatml", "gemma", "mistral", "macro", "default") for name in CONVERSATIONS]
CASES = [
    (style, name, tools)
    for style, name in [*TOOLLESS, *(("llama3", name) for name in CONVERSATIONS)]
    for tools in (None, [WEATHER])
    if not (name == "tools" and style != "llama3") and not (style == "gemma" and name == "system")
]


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(("style", "name", "tools"), CASES)
def test_as_transformers(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast, style: str, name: str, tools: Any, prompt: bool
) -> None:
    options: dict[str, Any] = {
        "chat_template": styles.ALL.get(style),
        "tools": tools,
        "add_generation_prompt": prompt,
        "bos_token": "<bos>",
    }
    messages = CONVERSATIONS[name]
    expected = theirs.apply_chat_template(messages, tokenize=False, **options)
    assert tokenizer.apply_chat_template(messages, tokenize=False, **options) == expected
    ids = theirs.apply_chat_template(messages, return_dict=False, **options)
    assert tokenizer.apply_chat_template(messages, **options) == ids


@pytest.mark.parametrize("style", [*styles.ALL, "default"])
@pytest.mark.parametrize("text", ["Half", " Half of one. ", "a\n"])
def test_continuing_the_final_message_as_transformers(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast, style: str, text: str
) -> None:
    messages = [USER, {"role": "assistant", "content": text}]
    options: dict[str, Any] = {"chat_template": styles.ALL.get(style), "tokenize": False}
    expected = theirs.apply_chat_template(messages, continue_final_message=True, **options)
    assert tokenizer.apply_chat_template(messages, continue_final_message=True, **options) == expected


def test_parts_of_content(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "user", "content": parts}]
    as_string = "{% for m in messages %}{{ m.content }}{% endfor %}"

    def render(template: str, **options: Any) -> Any:
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)

    assert render(as_string) == "one\ntwo"
    assert render(styles.MACRO) == "user: onetwo\n"
    assert render(styles.MACRO, chat_template_content_format="string") == "user: one\ntwo\n"
    assert "'type': 'text'" in render(as_string, chat_template_content_format="openai")
    assert render(styles.MACRO, continue_final_message=True) == "user: onetwo"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (styles.CHATML, "string"),
        (styles.LLAMA3, "string"),
        (styles.MISTRAL, "string"),
        (styles.GEMMA, "openai"),
        (styles.MACRO, "openai"),
        ("{% for m in messages %}{% set c = m['content'] %}{% for p in c %}{% endfor %}{% endfor %}", "openai"),
        ("{% for p in messages[0].content | selectattr('type', 'equalto', 'text') %}{% endfor %}", "openai"),
        ("{% for p in (m.content if m.content else []) %}{% endfor %}", "openai"),
        ("{% for p in m.content or [] %}{% endfor %}", "openai"),
        ("{% macro f(x) %}{% for p in x %}{% endfor %}{% endmacro %}{{ f(x=m.content) }}", "openai"),
        ("{% for line in m.content.split('\\n') %}{% endfor %}", "string"),
        ("{% for call in m.tool_calls %}{{ m.content }}{% endfor %}", "string"),
        ("{% set content = 'x' %}{% for c in content %}{% endfor %}", "string"),
    ],
)
def test_content_format(template: str, expected: str) -> None:
    assert content_format(template) == expected


def test_what_templates_find(tokenizer: Tokenizer) -> None:
    def render(template: str, **variables: Any) -> Any:
        return tokenizer.apply_chat_template([USER], chat_template=template, tokenize=False, **variables)

    assert render("{{ {'b': '<é>', 'a': 1} | tojson }}") == '{"b": "<é>", "a": 1}'
    assert render("{{ {'b': 1, 'a': [2]} | tojson(indent=2, sort_keys=true) }}") == (
        '{\n  "a": [\n    2\n  ],\n  "b": 1\n}'
    )
    assert render("{{ ['é'] | tojson(ensure_ascii=true, separators=[',', ':']) }}") == '["\\u00e9"]'
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    assert render("{{ dict(a=1) | tojson }}{{ bos_token }}{{ eos_token }}") == '{"a": 1}<|im_start|><|im_end|>'
    assert render("{% for i in range(9) %}{% if i > 1 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{{ thinking }}-{{ more }}", thinking=True, chat_template_kwargs={"more": [1]}) == "True-[1]"
    assert render("{{ undefined_name }}|{{ tools }}") == "|None"


def test_arguments_of_tool_calls_may_be_json_text(tokenizer: Tokenizer) -> None:
    messages: list[dict[str, Any]] = [dict(message) for message in CONVERSATIONS["tools"]]
    options: dict[str, Any] = {"chat_template": styles.LLAMA3, "tokenize": False}
    expected = tokenizer.apply_chat_template(messages, **options)
    text = '{"place": "Zürich", "days": 2}'
    messages[1] = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": text}}]}
    assert tokenizer.apply_chat_template(messages, **options) == expected
    messages[1]["tool_calls"][0]["function"]["arguments"] = "{"
    with pytest.raises(InvalidRequestError, match=r"messages\[1\]\.tool_calls\[0\] has arguments that are no JSON"):
        tokenizer.apply_chat_template(messages, **options)


def test_named_templates(tokenizer: Tokenizer) -> None:
    named = {"default": "plain", "tool_use": "tools", "rag": "rag"}
    several = Tokenizer(tokenizer.backend, special_tokens={}, chat_template=named)
    assert several.apply_chat_template([USER], tokenize=False) == "plain"
    assert several.apply_chat_template([USER], tools=[WEATHER], tokenize=False) == "tools"
    assert several.apply_chat_template([USER], chat_template="rag", tokenize=False) == "rag"
    assert several.apply_chat_template([USER], chat_template="{{ 1 }}", tokenize=False) == "1"
    with pytest.raises(InvalidRequestError, match="named 'ragg', only default, rag, tool_use"):
        several.apply_chat_template([USER], chat_template="ragg")


def test_templates_by_path_or_literally(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{{ 1 }} é", encoding="utf-8")
    assert resolve_chat_template(str(path)) == "{{ 1 }} é"
    assert resolve_chat_template("{{ 2 }}") == "{{ 2 }}"
    for bad in ("no/such.jinja", str(tmp_path), "a" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match=r"neither a template .* nor a readable file"):
            resolve_chat_template(bad)


UNDEFINED = [
    "{{ messages.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ '{0.__class__}'.format(1) }}",
]
FORBIDDEN = {
    "{{ ''.__class__.__mro__ }}": "'__class__' of 'str' object is unsafe",
    "{{ strftime_now.__globals__['datetime'] }}": "'__globals__' of 'function' object is unsafe",
    "{{ namespace.__init__.__globals__ }}": "'__init__' of 'type' object is unsafe",
    "{{ cycler.__init__.__globals__ }}": "'__init__' of 'type' object is unsafe",
    "{{ (messages | map(attribute='__class__') | list)[0].__name__ }}": "'__class__' of 'dict' object is unsafe",
    "{% set ns = namespace(__class__=1) %}": "may not have the attribute '__class__'",
    "{% set ns = namespace() %}{% set ns._x = 1 %}": "may not have the attribute '_x'",
    "{{ messages.append(1) }}": "'append' of 'list' object is unsafe",
    "{{ messages[0].update(a=1) }}": "'update' of 'dict' object is unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}{{ os }}": "no loader",
    "{{ lipsum(n=100000000) }}": "'lipsum' is undefined",
    "{{ 'a' * 10000000000 }}": "may not make more than 1048576 items",
    "{{ 10000000000 * [1] }}": "may not make more than 1048576 items",
    "{{ 9 ** 9 ** 9 }}": r"may not use \*\*",
    "{% for i in range(100000000) %}{% endfor %}": "Range too big",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ undefined.attribute }}": "'undefined' is undefined",
}


@pytest.mark.parametrize("template", UNDEFINED)
def test_attributes_of_python_do_not_exist(tokenizer: Tokenizer, template: str) -> None:
    assert tokenizer.apply_chat_template([USER], chat_template=template, tokenize=False) == ""


@pytest.mark.parametrize("template", FORBIDDEN)
def test_no_way_out_of_the_sandbox(tokenizer: Tokenizer, template: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"the chat template failed on these messages.*{FORBIDDEN[template]}"):
        tokenizer.apply_chat_template([USER], chat_template=template)


def test_sizes_are_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="has 1048577 characters, at most 1048576"):
        tokenizer.apply_chat_template([USER], chat_template="a" * 1048577)
    monkeypatch.setattr(chat_template_module, "MAX_OUTPUT_CHARS", 1000)
    template = "{% for i in range(200) %}{{ 'abcdefgh' }}{% endfor %}"
    with pytest.raises(InvalidRequestError, match="wrote more than 1000 characters"):
        tokenizer.apply_chat_template([USER], chat_template=template)
    with pytest.raises(InvalidRequestError, match=r"nested too deep|no valid Jinja|failed"):
        tokenizer.apply_chat_template([USER], chat_template="{{ " + "(" * 20000 + ")" * 20000 + " }}")


DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]
REFUSED: dict[str, tuple[Any, str]] = {
    "text": ("hello", r"^messages must be a list of .* got 'hello'"),
    "nothing": ([], r"^messages must not be empty"),
    "no dict": ([USER, 5], r"^messages\[1\] must be a dict .* got 5"),
    "no role": ([{"content": "a"}], r"^messages\[0\]\.role must be a string .* got None"),
    "role of another type": ([{"role": 5, "content": "a"}], r"^messages\[0\]\.role .* got 5"),
    "no content": ([{"role": "user"}], r"^messages\[0\]\.content is missing"),
    "content None": ([{"role": "user", "content": None}], r"^messages\[0\]\.content is missing"),
    "content None, no calls": (
        [{"role": "assistant", "content": None, "tool_calls": []}],
        r"^messages\[0\]\.content is missing; only an assistant's message with tool_calls",
    ),
    "content of another type": ([{"role": "user", "content": 5}], r"\.content must be a string or a list .* got 5"),
    "an unknown part": (
        [USER, {"role": "user", "content": [{"type": "image_url"}]}],
        r"^messages\[1\]\.content\[0\] unknown type of content 'image_url'; valid: text",
    ),
    "a part that is none": ([{"role": "user", "content": ["a"]}], r"content\[0\] must be a dict"),
    "a part without text": ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a string"),
    "an object": ([{"role": "user", "content": "a", "x": object()}], r"^messages\[0\] holds <object .* no JSON value"),
    "too deep": ([{"role": "user", "content": "a", "x": DEEP}], r"^messages\[0\] is nested more than 64 levels"),
    "calls of another type": ([{"role": "assistant", "tool_calls": "x"}], r"tool_calls must be a list"),
    "a call without function": ([{"role": "assistant", "tool_calls": [{}]}], r"tool_calls\[0\] must be a dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_messages_that_are_refused(tokenizer: Tokenizer, case: str) -> None:
    messages, pattern = REFUSED[case]
    with pytest.raises(InvalidRequestError, match=pattern) as caught:
        tokenizer.apply_chat_template(messages)
    assert caught.value.param == "messages"


def test_other_refusals(tokenizer: Tokenizer) -> None:
    def refused(pattern: str, *args: Any, messages: Any = (USER, ANSWER), **options: Any) -> None:
        with pytest.raises(InvalidRequestError, match=pattern):
            tokenizer.apply_chat_template(messages, *args, **options)

    refused("set one of them to False", add_generation_prompt=True, continue_final_message=True)
    refused("refuses these messages: .*roles must alternate", messages=[ANSWER], chat_template=styles.GEMMA)
    refused(r"template is no valid Jinja: .*\(line 1\)", chat_template="{% for %}")
    refused(r"tools must be a list of dicts, got 'x'", tools="x")
    refused(r"tools\[1\] must be a dict .* got 'x'", tools=[WEATHER, "x"])
    refused("must be one of auto, string, openai, got 'x'", chat_template_content_format="x")
    refused("does not write the last message's text", chat_template="{{ 1 }}", continue_final_message=True)
    for name in ("messages", "tokenize", "chat_template", "tools"):
        refused(f"may not set '{name}'", chat_template_kwargs={name: 1})
    refused("must be a mapping", chat_template_kwargs=[1])
    refused("no JSON value", chat_template_kwargs={"x": object()})
    with pytest.raises(InvalidRequestError, match="model has no chat template; give one with chat_template"):
        Tokenizer(tokenizer.backend, special_tokens={}).apply_chat_template([USER])


def test_messages_are_left_as_they_are(tokenizer: Tokenizer) -> None:
    messages = [dict(USER), dict(ANSWER)]
    tokenizer.apply_chat_template(messages, continue_final_message=True)
    assert messages == [USER, ANSWER]
