"""OpenAI's Responses API: the request, the chat completion that it stands for, and the answer's form."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, Field

from octavo.errors import InvalidRequestError, shown, unknown_name
from octavo.server.protocol.as_chat import SamplingExtras, chat_request
from octavo.server.protocol.base import RequestModel
from octavo.server.protocol.chat import ChatCompletionRequest
from octavo.server.protocol.sampling import refuse

_NOT_YET = ("conversation", "prompt", "moderation")
LOGPROBS = "message.output_text.logprobs"
# Parts of answers that a client may want beside the usual ones; what only built-in tools have asks for nothing here.
_INCLUDABLE = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_MAX_METADATA = (16, 64, 512)  # pairs, characters of a key, characters of a value
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


class ReasoningOptions(RequestModel):
    effort: str | None = None  # a variable of the template
    summary: str | None = None  # there are none: the reasoning itself is told
    generate_summary: str | None = None


class TextFormat(RequestModel):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def response_format(self) -> dict[str, Any]:
        """The same in a chat completion's form."""
        if self.type != "json_schema":
            return {"type": self.type}
        if self.schema_ is None:
            raise InvalidRequestError(
                "text.format.schema is missing; a format of type json_schema needs it", param="text.format.schema"
            )
        schema = {
            "name": self.name or "output",
            "description": self.description,
            "schema": self.schema_,
            "strict": self.strict,
        }
        return {"type": self.type, "json_schema": {key: value for key, value in schema.items() if value is not None}}


class TextOptions(RequestModel):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None  # asks for nothing here


class ResponseStreamOptions(RequestModel):
    include_obfuscation: bool | None = None  # asks for nothing here


class FunctionTool(RequestModel):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters or {"type": "object", "properties": {}},
            "strict": self.strict,
        }
        return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


class InputFields(RequestModel):
    """What becomes the prompt."""

    model: str | None = None  # absent or empty: the first served name
    input: str | list[dict[str, Any]] | None = Field(default=None, description="text, or input items")
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, description="of type function")
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Refused with a reason unless null or empty.
    conversation: Any = None

    def check_input(self) -> None:
        """Raises:
        InvalidRequestError: there is no input, or a field asks for what is not built.
        """
        for name in _NOT_YET:
            if getattr(self, name, None):
                raise refuse(name)
        if not self.input and self.previous_response_id is None:
            raise InvalidRequestError("input is missing or empty; give text or a list of input items", param="input")

    def names(self) -> dict[str, str]:
        """What the chat completion calls otherwise."""
        if self.text is not None and self.text.format is not None:
            return {**_NAMES, "structured_outputs.json": "text.format.schema"}
        return _NAMES

    def chat_fields(self) -> dict[str, Any]:
        """The fields of the chat completion, but its messages.

        Raises:
            InvalidRequestError: tools, or a choice of them, that are none or not supported.
        """
        tools = [_function_tool(tool, index) for index, tool in enumerate(self.tools or [])]
        choice, allowed = _tool_choice(self.tool_choice, [tool.name for tool in tools])
        return {
            "model": self.model,
            "tools": [tool.as_chat() for tool in tools if allowed is None or tool.name in allowed] or None,
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "reasoning_effort": None if self.reasoning is None else self.reasoning.effort,
            "chat_template_kwargs": self.chat_template_kwargs,
            "response_format": (
                None if self.text is None or self.text.format is None else self.text.format.response_format()
            ),
        }


class ResponsesRequest(SamplingExtras, InputFields):
    """POST /v1/responses."""

    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None  # absent: yes, where the server keeps any
    background: bool | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    stop: str | list[str] | None = None
    thinking_token_budget: int | None = None  # as in chat completions, which OpenAI's API lacks
    metadata: dict[str, str] | None = None

    # Accepted as hints that ask for nothing here.
    max_tool_calls: int | None = None  # of built-in tools
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None

    # Refused with a reason unless null or empty.
    prompt: Any = None
    moderation: Any = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or [])

    def check(self) -> None:
        """Raises:
        InvalidRequestError: a field that is out of range, or does not go with another.
        """
        self.check_input()
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise InvalidRequestError(
                f"max_output_tokens must be an integer of 1 or more, got {self.max_output_tokens}",
                param="max_output_tokens",
            )
        for name in self.include or []:
            if name not in _INCLUDABLE:
                raise InvalidRequestError(unknown_name("value of include", name[:100], _INCLUDABLE), param="include")
        if self.top_logprobs and not self.wants_logprobs:
            raise InvalidRequestError(
                f"top_logprobs needs {LOGPROBS!r} in include; add it, or leave top_logprobs out", param="top_logprobs"
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "stream_options are given, but stream is false; set stream to true or leave stream_options out",
                param="stream_options",
            )
        if self.background and self.store is False:
            raise InvalidRequestError(
                "a response in the background has to be stored, since it is asked for by its id; leave store out",
                param="background",
            )
        self._check_metadata()

    def _check_metadata(self) -> None:
        most, longest_key, longest_value = _MAX_METADATA
        given = self.metadata or {}
        if len(given) > most or any(len(k) > longest_key or len(v) > longest_value for k, v in given.items()):
            raise InvalidRequestError(
                f"metadata may have {most} pairs, with keys of {longest_key} characters and values of "
                f"{longest_value} at most",
                param="metadata",
            )

    def as_chat(self, messages: list[dict[str, Any]]) -> ChatCompletionRequest:
        """The chat completion that says the same. `messages` are the whole conversation in its form."""
        return chat_request(
            {
                **self.extras(),
                **self.chat_fields(),
                "messages": messages,
                # In the background, what is under way can be looked at; log probabilities come with their text.
                "stream": bool(self.stream or self.background or self.wants_logprobs),
                "stop": self.stop,
                "thinking_token_budget": self.thinking_token_budget,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "max_completion_tokens": self.max_output_tokens,
                "logprobs": self.wants_logprobs or None,
                "top_logprobs": self.top_logprobs,
            }
        )


class InputTokensRequest(InputFields):
    """POST /v1/responses/input_tokens."""

    personality: str | None = None  # asks for nothing here

    def as_chat(self, messages: list[dict[str, Any]]) -> ChatCompletionRequest:
        return chat_request({**self.chat_fields(), "messages": messages})


def _function_tool(given: dict[str, Any], index: int) -> FunctionTool:
    where = f"tools.{index}"
    kind = given.get("type")
    if kind != "function":
        raise InvalidRequestError(
            f"{where} is of type {shown(kind)}, which this server does not have; give tools of type 'function'",
            param=f"{where}.type",
        )
    if not isinstance(given.get("name"), str) or not given["name"]:
        raise InvalidRequestError(
            f"{where}.name must be the name of the function, got {shown(given.get('name'))}", param=f"{where}.name"
        )
    for name, types, allowed in (
        ("description", str, "a string"),
        ("parameters", dict, "a JSON schema as an object"),
        ("strict", bool, "true or false"),
    ):
        if given.get(name) is not None and not isinstance(given[name], types):
            raise InvalidRequestError(
                f"{where}.{name} must be {allowed}, got {shown(given[name])}", param=f"{where}.{name}"
            )
    return FunctionTool(**given)


def _tool_choice(given: str | dict[str, Any] | None, names: list[str]) -> tuple[Any, Collection[str] | None]:
    """The choice in a chat completion's form, and the names of the tools that it leaves; None: all."""
    if given is None or isinstance(given, str):
        if given not in (None, "none", "auto", "required"):
            raise InvalidRequestError(
                f"tool_choice must be 'none', 'auto', 'required', or an object with a type, got {shown(given)}",
                param="tool_choice",
            )
        return given, None
    kind = given.get("type")
    if kind == "function":
        _check_named(given.get("name"), names, "tool_choice.name")
        return {"type": "function", "function": {"name": given["name"]}}, None
    if kind != "allowed_tools":
        raise InvalidRequestError(
            f"tool_choice is of type {shown(kind)}, which this server does not have; give 'function' or "
            "'allowed_tools'",
            param="tool_choice.type",
        )
    mode, tools = given.get("mode"), given.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise InvalidRequestError(
            "tool_choice of type allowed_tools needs a mode, 'auto' or 'required', and a list of tools",
            param="tool_choice",
        )
    allowed = [tool.get("name") if isinstance(tool, dict) else None for tool in tools]
    for index, name in enumerate(allowed):
        _check_named(name, names, f"tool_choice.tools.{index}.name")
    return mode, [name for name in allowed if name is not None]


def _check_named(name: Any, names: list[str], where: str) -> None:
    if name not in names:
        known = f"one of the tools: {', '.join(map(repr, names))}" if names else "one of the tools, but there are none"
        raise InvalidRequestError(f"{where} must be the name of {known}; got {shown(name)}", param=where)


class InputTokensDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: str


class ResponseErrorDetails(BaseModel):
    code: str
    message: str


class ResponseObject(BaseModel):
    """The answer; the fields that are not named repeat the request."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    completed_at: float | None = None
    status: Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
    model: str
    output: list[dict[str, Any]] = Field(description="items of type reasoning, message and function_call")
    usage: ResponseUsage | None = None
    error: ResponseErrorDetails | None = None
    incomplete_details: IncompleteDetails | None = None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputTokensCount(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
