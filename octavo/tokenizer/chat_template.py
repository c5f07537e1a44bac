"""Chat templates: Jinja programs that write a conversation as one prompt, run in a sandbox.

The environment is the one that Hugging Face's templates are written for (transformers, "Templates for chat models").
Templates come with models and are not trusted: they see plain data only, reach no attribute of Python's, and their
source and output are bounded. This module knows no tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from octavo.errors import ConfigError, InvalidRequestError, shown
from octavo.tokenizer.chat_messages import check_messages, check_tools, plain_data
from octavo.tokenizer.content_format import find_content_format
from octavo.tokenizer.tool_prompt import has_calls, with_plain_tools

MAX_TEMPLATE_CHARS = 1 << 20
MAX_OUTPUT_CHARS = 1 << 26
_MAX_REPEATED = 1 << 20  # characters or items that `*` may make
_FORMATS = ("auto", "string", "openai")
_RESERVED = {
    "messages",
    "tools",
    "tokenize",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_content_format",
}
_JINJA_MARKS = ("{{", "{%", "{#")
_END_MARK = "OCTAVO_MESSAGE_ENDS_HERE"


class _TemplateRefusal(jinja2.TemplateError):
    """A template called raise_exception."""


def _raise_exception(message: object) -> None:
    raise _TemplateRefusal(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class _Namespace(Namespace):
    """Jinja's namespace without names that Python gives a meaning to."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        for name in dict(*args, **kwargs):
            _check_namespace_key(name)
        super().__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_namespace_key(name)
        super().__setitem__(name, value)


def _check_namespace_key(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace may not have the attribute {name!r}")


class _GenerationTag(Extension):
    """{% generation %} ... {% endgeneration %} marks what a model wrote, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"], cache_size=0
        )
        self.filters["tojson"] = _tojson
        del self.globals["lipsum"]  # writes as much as it is asked to
        self.globals.update(
            dict=_dict, namespace=_Namespace, raise_exception=_raise_exception, strftime_now=_strftime_now
        )

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Products that would fill the memory are refused."""
        if operator == "**":
            raise SecurityError("a template may not use **")
        for sequence, count in ((left, right), (right, left)):
            is_repetition = isinstance(sequence, (str, list, tuple)) and isinstance(count, int)
            if is_repetition and len(sequence) * count > _MAX_REPEATED:
                raise SecurityError(f"a template may not make more than {_MAX_REPEATED} items with *")
        return super().call_binop(context, operator, left, right)


_SANDBOX = _Sandbox()


class _Compiled(NamedTuple):
    """A template, ready to run, and what it expects."""

    template: jinja2.Template
    content_format: str
    knows_tools: bool


@lru_cache(maxsize=64)
def _compiled(template: str) -> _Compiled:
    if len(template) > MAX_TEMPLATE_CHARS:
        raise InvalidRequestError(
            f"the chat template has {len(template)} characters, at most {MAX_TEMPLATE_CHARS} are allowed",
            param="chat_template",
        )
    try:
        tree = _SANDBOX.parse(template)
        knows = "tools" in meta.find_undeclared_variables(tree)
        return _Compiled(_SANDBOX.from_string(template), find_content_format(tree), knows)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidRequestError(
            f"the chat template is no valid Jinja: {error.message} (line {error.lineno})", param="chat_template"
        ) from error
    except RecursionError:
        raise InvalidRequestError("the chat template is nested too deep", param="chat_template") from None


def content_format(template: str) -> str:
    """The form of message content that a template expects: "string", or "openai" if it goes through a list of parts.

    Raises:
        InvalidRequestError: the template is no valid Jinja, or too long.
    """
    return _compiled(template).content_format


def knows_tools(template: str) -> bool:
    """Whether a template writes tools.

    Raises:
        InvalidRequestError: the template is no valid Jinja, or too long.
    """
    return _compiled(template).knows_tools


def with_tools_told(template: str, messages: Any, tools: Any) -> tuple[Any, Any]:
    """The messages and the tools to render with a template: one that knows no tools gets them, their calls and their
    results as text in messages (see `tool_prompt.py`), instead of leaving them out in silence.

    Raises:
        InvalidRequestError: the template, the messages or the tools are none.
    """
    if knows_tools(template) or not (tools or has_calls(messages)):
        return messages, tools
    return with_plain_tools(check_messages(messages, "openai"), check_tools(tools)), None


def resolve_chat_template(given: str) -> str:
    """The template that an option gives, literally or as the path of a file.

    Raises:
        ConfigError: it is neither.
    """
    if any(mark in given for mark in _JINJA_MARKS):
        return given
    try:
        with Path(given).expanduser().open(encoding="utf-8") as file:
            return file.read(MAX_TEMPLATE_CHARS + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"chat_template {shown(given)} is neither a template (it has no {{{{ and no {{%) nor a readable file "
            f"({reason}); give one of them"
        ) from error


def choose_template(own: str | dict[str, str] | None, given: str | None, *, has_tools: bool) -> str:
    """The template to use: the `given` one, a named one of the tokenizer's `own`, or its own.

    Raises:
        InvalidRequestError: there is none.
    """
    if isinstance(own, dict):
        if given is None:
            given = "tool_use" if has_tools and "tool_use" in own else "default"
        elif given not in own and any(mark in given for mark in _JINJA_MARKS):
            return given
        if given in own:
            return own[given]
        raise InvalidRequestError(
            f"the tokenizer has no chat template named {given!r}, only {', '.join(sorted(own))}; "
            "name one of them or give a template with chat_template",
            param="chat_template",
        )
    template = own if given is None else given
    if template is None:
        raise InvalidRequestError(
            "the model has no chat template; give one with chat_template, or send a prompt instead of messages",
            param="chat_template",
        )
    return template


def check_template_kwargs(kwargs: Any) -> dict[str, Any]:
    """More variables for a template, checked.

    Raises:
        InvalidRequestError: they are no mapping, or would override what has an argument of its own.
    """
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise InvalidRequestError(
            f"chat_template_kwargs must be a mapping of names to values, got {shown(kwargs)}",
            param="chat_template_kwargs",
        )
    for name in kwargs:
        if name in _RESERVED:
            raise InvalidRequestError(
                f"chat_template_kwargs may not set {name!r}; leave it out, or give it as an argument of its own",
                param="chat_template_kwargs",
            )
    return {key: plain_data(value, "chat_template_kwargs") for key, value in kwargs.items()}


def render_chat(
    template: str,
    messages: Any,
    *,
    tools: Any = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    content_format: str = "auto",
    variables: Mapping[str, Any],
) -> str:
    """A conversation as text; see `Tokenizer.apply_chat_template`.

    Raises:
        InvalidRequestError: as its message says; what a template raises comes with the template's own message.
    """
    if add_generation_prompt and continue_final_message:
        raise InvalidRequestError(
            "add_generation_prompt opens a new message and continue_final_message goes on with the last one; "
            "set one of them to False",
            param="continue_final_message",
        )
    if content_format not in _FORMATS:
        raise InvalidRequestError(
            f"chat_template_content_format must be one of {', '.join(_FORMATS)}, got {shown(content_format)}",
            param="chat_template_content_format",
        )
    compiled, own_format, _ = _compiled(template)
    conversation = check_messages(messages, own_format if content_format == "auto" else content_format)
    values = {**variables, "tools": check_tools(tools), "add_generation_prompt": add_generation_prompt}
    if not continue_final_message:
        return _render(compiled, {**values, "messages": conversation})
    conversation[-1] = _with_end_mark(conversation[-1])
    return _before_end_mark(_render(compiled, {**values, "messages": conversation}))


def _render(template: jinja2.Template, values: dict[str, Any]) -> str:
    pieces: list[str] = []
    num_chars = 0
    try:
        for piece in template.generate(values):
            pieces.append(piece)
            num_chars += len(piece)
            if num_chars > MAX_OUTPUT_CHARS:
                raise SecurityError(f"it wrote more than {MAX_OUTPUT_CHARS} characters")
    except _TemplateRefusal as refusal:
        raise InvalidRequestError(
            f"the chat template refuses these messages: {refusal.message}", param="messages"
        ) from refusal
    except Exception as error:  # a template is a program of somebody else: it can fail in any way
        raise InvalidRequestError(
            f"the chat template failed on these messages: {type(error).__name__}: {error}", param="messages"
        ) from error
    return "".join(pieces)


def _with_end_mark(message: dict[str, Any]) -> dict[str, Any]:
    """The message with a mark at the end of its text. The space after the mark tells whether the template strips it."""
    mark = _END_MARK + " "
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + mark}
    if content:
        return {**message, "content": [*content[:-1], {**content[-1], "text": content[-1]["text"] + mark}]}
    raise InvalidRequestError(
        "continue_final_message needs a last message with text to continue; set it to False",
        param="continue_final_message",
    )


def _before_end_mark(text: str) -> str:
    head, mark, tail = text.rpartition(_END_MARK)
    if not mark:
        raise InvalidRequestError(
            "continue_final_message can't be used: the chat template does not write the last message's text",
            param="continue_final_message",
        )
    return head if tail.startswith(" ") else head.rstrip()
