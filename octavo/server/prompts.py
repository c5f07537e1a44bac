"""From the prompt or the messages of a request to Prompts: templates and tokenizing, off the event loop when long.

It knows the protocol's requests and the engine's inputs; it knows no sampling and no answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from octavo.engine.inputs import Prompt
from octavo.errors import ContextLengthError, InvalidRequestError, RequestError
from octavo.server.protocol.chat import ChatCompletionRequest
from octavo.server.protocol.completion import CompletionRequest
from octavo.server.protocol.sampling import SamplingFields
from octavo.tokenizer.chat_template import choose_template, knows_tools, with_tools_told

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.server.settings import ServerSettings

_T = TypeVar("_T")
LONG_TEXT = 10_000  # characters or ids; what is shorter is tokenized faster than a thread is reached


async def completion_prompts(engine: AsyncEngine, body: CompletionRequest) -> list[Prompt]:
    """The prompts of a text completion.

    Raises:
        RequestError: a prompt that is none, or does not fit the context.
    """
    given = body.prompts()
    special = body.add_special_tokens is not False
    room = body.max_tokens or 1
    return await near_or_far(
        sum(map(len, given)), lambda: [_prompt(engine, body, prompt, "prompt", special, room) for prompt in given]
    )


async def chat_prompt(
    engine: AsyncEngine, settings: ServerSettings, body: ChatCompletionRequest, max_tokens: int | None
) -> Prompt:
    """The prompt of a conversation. `max_tokens` is what the answer needs where the prompt is to be cut to fit.

    Raises:
        RequestError: messages that are none, that the template refuses, or that do not fit the context.
    """

    def make() -> Prompt:
        text = render_chat(engine, settings, body)
        return _prompt(engine, body, text, "messages", bool(body.add_special_tokens), max_tokens or 1)

    return await near_or_far(_num_chars(body.messages), make)


async def chat_token_ids(engine: AsyncEngine, settings: ServerSettings, body: ChatCompletionRequest) -> list[int]:
    """The token ids of a conversation, which may be longer than the context.

    Raises:
        InvalidRequestError: messages that are none, or that the template refuses.
    """

    def encode() -> list[int]:
        text = render_chat(engine, settings, body)
        assert engine.tokenizer is not None
        return engine.tokenizer.encode(text, add_special_tokens=bool(body.add_special_tokens))

    return await near_or_far(_num_chars(body.messages), encode)


def check_room(engine: AsyncEngine, prompts: list[Prompt], max_tokens: int | None, field: str) -> None:
    """Refuse a request that asks for more tokens than the context has left. `max_tokens` is None when it did not ask.

    Raises:
        ContextLengthError: saying both counts and the limit.
    """
    limit = engine.model_config.max_model_len
    num_prompt_tokens = max(len(prompt.token_ids) for prompt in prompts)
    if max_tokens is not None and num_prompt_tokens + max_tokens > limit:
        raise ContextLengthError(
            f"this model's maximum context length is {limit} tokens, but {num_prompt_tokens + max_tokens} were asked "
            f"for ({num_prompt_tokens} in the prompt, {max_tokens} by {field}); shorten the prompt or lower {field}",
            param=field,
        )


def _prompt(
    engine: AsyncEngine, body: SamplingFields, given: str | list[int], field: str, special: bool, room: int
) -> Prompt:
    """`given`, which comes from the request's `field`, as a Prompt that leaves `room` tokens if it is to be cut."""
    if body.truncate_prompt_tokens is not None:
        given = _truncated(engine, body, given, special, room)
    key = "prompt" if isinstance(given, str) else "prompt_token_ids"
    try:
        return engine.inputs.prompt({key: given, "cache_salt": body.cache_salt}, add_special_tokens=special)
    except RequestError as error:
        if error.param in ("prompt", "prompt_token_ids"):
            error.param = field
        raise


def _truncated(
    engine: AsyncEngine, body: SamplingFields, given: str | list[int], special: bool, room: int
) -> list[int] | str:
    """The ids of a prompt, cut to `truncate_prompt_tokens`."""
    most, limit = body.truncate_prompt_tokens, engine.model_config.max_model_len
    if most == -1:
        most = limit - room
    if most is None or not 1 <= most < limit:
        raise InvalidRequestError(
            f"truncate_prompt_tokens must be -1 (as many as fit) or from 1 to {limit - 1}, which leaves room for a "
            f"token, got {body.truncate_prompt_tokens}",
            param="truncate_prompt_tokens",
        )
    if isinstance(given, str):
        if engine.tokenizer is None or not given:
            return given  # refused with a reason by the input processor
        given = engine.tokenizer.encode(given, add_special_tokens=special)
    return given[:most] if body.truncation_side == "right" else given[-most:]


def render_chat(engine: AsyncEngine, settings: ServerSettings, body: ChatCompletionRequest) -> str:
    """The conversation as the model's template writes it.

    Raises:
        InvalidRequestError: messages that are none, or that the template refuses.
    """
    if engine.tokenizer is None:
        raise InvalidRequestError(
            "the server runs without a tokenizer and can't read messages; send token ids to /v1/completions",
            param="messages",
        )
    template = choose_template(engine.tokenizer.chat_template, engine.chat_template, has_tools=bool(body.tools))
    messages, tools = with_tools_told(
        template, _with_known_roles(body.messages, template), _tools(settings, body, template)
    )
    text = engine.tokenizer.apply_chat_template(
        messages,
        tools=tools,
        add_generation_prompt=body.opens_message,
        continue_final_message=bool(body.continue_final_message),
        tokenize=False,
        chat_template=template,
        chat_template_content_format=settings.chat_template_content_format,
        chat_template_kwargs={**settings.default_chat_template_kwargs, **body.template_kwargs()},
    )
    assert isinstance(text, str)
    return text


def _tools(settings: ServerSettings, body: ChatCompletionRequest, template: str) -> list[dict[str, Any]] | None:
    """The tools that the prompt tells of. Those that may not be called are left to templates that know of tools."""
    if not body.tools:
        return None
    hidden = settings.exclude_tools_when_tool_choice_none or not knows_tools(template)
    if body.tool_choice == "none" and hidden:
        return None
    return [
        tool.model_dump(exclude_unset=True, exclude={"function": {"strict"}}) | {"type": "function"}
        for tool in body.tools
    ]


def _with_known_roles(messages: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
    """A developer is a system to templates that were written before there were developers."""
    if "developer" in template:
        return messages
    return [{**message, "role": "system"} if message.get("role") == "developer" else message for message in messages]


def _num_chars(messages: list[dict[str, Any]]) -> int:
    """Of all contents, roughly: enough to tell long from short."""
    total = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            total += len(content)
        elif isinstance(content, list):
            total += sum(len(str(part.get("text", ""))) for part in content if isinstance(part, dict))
    return total


async def near_or_far(size: int, make: Callable[[], _T]) -> _T:
    """What `make` gives, off the event loop when its text is long: `size` characters or ids."""
    return await asyncio.to_thread(make) if size > LONG_TEXT else make()
