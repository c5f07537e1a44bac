"""Anthropic's Messages API: the request, the chat completion that it stands for, and the answer's form."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from octavo.errors import InvalidRequestError, shown
from octavo.server.protocol.as_chat import SamplingExtras, chat_request
from octavo.server.protocol.base import RequestModel
from octavo.server.protocol.chat import ChatCompletionRequest
from octavo.server.protocol.sampling import refuse

_NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
}


class Thinking(RequestModel):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None  # omitted: the answer has no thinking blocks

    def check(self) -> None:
        if self.type == "enabled" and (self.budget_tokens is None or self.budget_tokens < 1):
            raise InvalidRequestError(
                f"thinking.budget_tokens must be an integer of 1 or more where thinking is enabled, "
                f"got {self.budget_tokens}",
                param="thinking.budget_tokens",
            )


class JSONFormat(RequestModel):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestModel):
    effort: str | None = None  # a variable of the template
    format: JSONFormat | None = None


class ToolChoice(RequestModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None  # of type tool only
    disable_parallel_tool_use: bool | None = None


class PromptFields(RequestModel):
    """What becomes the prompt: POST /v1/messages/count_tokens."""

    model: str | None = None  # absent or empty: the first served name
    messages: list[dict[str, Any]] = Field(description="{role, content} each; content is text or a list of blocks")
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, description="functions of the client: name, input_schema")
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Accepted as hints that ask for nothing here.
    cache_control: dict[str, Any] | None = None  # prefixes are cached as they come
    speed: str | None = None

    def names(self) -> dict[str, str]:
        """What the chat completion calls otherwise."""
        if self.output_config is not None and self.output_config.format is not None:
            return {**_NAMES, "structured_outputs.json": "output_config.format.schema"}
        return _NAMES

    def chat_fields(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields of the chat completion. `messages` are the whole conversation in its form.

        Raises:
            InvalidRequestError: tools, or a choice of them, that are none or not supported.
        """
        tools = [_tool(tool, f"tools.{index}") for index, tool in enumerate(self.tools or [])]
        config = self.output_config or OutputConfig()
        goes_on = bool(messages) and messages[-1]["role"] == "assistant"
        if goes_on and messages[-1]["content"] is None:
            raise InvalidRequestError(
                "messages end with a turn of the assistant without text, which can't be gone on with; "
                "end them with the user's turn",
                param="messages",
            )
        return {
            "model": self.model,
            "messages": messages,
            "tools": tools or None,
            "tool_choice": self._tool_choice([tool["function"]["name"] for tool in tools]),
            "parallel_tool_calls": (
                False if self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use else None
            ),
            "reasoning_effort": config.effort,
            "response_format": None if config.format is None else _response_format(config.format),
            "chat_template_kwargs": self._template_kwargs(),
            "add_generation_prompt": not goes_on,
            "continue_final_message": goes_on,
        }

    def _tool_choice(self, names: list[str]) -> Any:
        choice = self.tool_choice
        if choice is None:
            return None
        if choice.type != "tool":
            if choice.type == "any" and not names:
                raise InvalidRequestError("tool_choice 'any' needs tools, and there are none", param="tool_choice")
            return {"any": "required"}.get(choice.type, choice.type)
        if choice.name not in names:
            known = f"one of {', '.join(map(repr, names))}" if names else "that of a tool, but there are none"
            raise InvalidRequestError(
                f"tool_choice.name must be {known}; got {shown(choice.name)}", param="tool_choice.name"
            )
        return {"type": "function", "function": {"name": choice.name}}

    def _template_kwargs(self) -> dict[str, Any] | None:
        """Whether the model is to think, under the names by which templates ask."""
        if self.thinking is None:
            return self.chat_template_kwargs
        thinks = self.thinking.type != "disabled"
        return {"enable_thinking": thinks, "thinking": thinks, **(self.chat_template_kwargs or {})}


class MessagesRequest(SamplingExtras, PromptFields):
    """POST /v1/messages."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None

    # Accepted as hints that ask for nothing here.
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None

    # Refused with a reason unless null or empty.
    container: Any = None
    mcp_servers: Any = None

    def check(self) -> None:
        """Raises:
        InvalidRequestError: a field that is out of range, or asks for what is not built.
        """
        for name in ("container", "mcp_servers"):
            if getattr(self, name):
                raise refuse(name)
        if self.max_tokens < 1:
            raise InvalidRequestError(
                f"max_tokens must be an integer of 1 or more, got {self.max_tokens}", param="max_tokens"
            )
        if self.stop_sequences and "" in self.stop_sequences:
            raise InvalidRequestError("stop_sequences must not hold an empty text", param="stop_sequences")
        if self.thinking is not None:
            self.thinking.check()

    def as_chat(self, messages: list[dict[str, Any]]) -> ChatCompletionRequest:
        """The chat completion that says the same."""
        fields = {
            **self.extras(),
            **self.chat_fields(messages),
            "stream": self.stream,
            "max_completion_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.thinking is not None:
            fields["include_reasoning"] = self.thinking.display != "omitted"
            if self.thinking.type == "enabled":
                fields["thinking_token_budget"] = self.thinking.budget_tokens
        return chat_request(fields)


class CountTokensRequest(PromptFields):
    """POST /v1/messages/count_tokens."""

    def as_chat(self, messages: list[dict[str, Any]]) -> ChatCompletionRequest:
        return chat_request(self.chat_fields(messages))


def _tool(given: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool in a chat completion's form."""
    kind = given.get("type")
    if kind not in (None, "custom"):
        raise InvalidRequestError(
            f"{where} is of type {shown(kind)}, which this server does not have; give tools with name and "
            "input_schema, without a type",
            param=f"{where}.type",
        )
    for name, types, allowed, required in (
        ("name", str, "the name of the tool", True),
        ("input_schema", dict, "a JSON schema as an object", True),
        ("description", str, "a string", False),
        ("strict", bool, "true or false", False),
    ):
        value = given.get(name)
        if (value is None and required) or (value is not None and not isinstance(value, types)):
            raise InvalidRequestError(f"{where}.{name} must be {allowed}, got {shown(value)}", param=f"{where}.{name}")
    function = {
        "name": given["name"],
        "description": given.get("description"),
        "parameters": given["input_schema"],
        "strict": given.get("strict"),
    }
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _response_format(given: JSONFormat) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": given.schema_, "strict": True}}


class OutputTokensDetails(BaseModel):
    thinking_tokens: int


class MessageUsage(BaseModel):
    """All tokens of the prompt are input_tokens and cache_read_input_tokens together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class Message(BaseModel):
    """The answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]] = Field(description="blocks of type thinking, text and tool_use")
    stop_reason: (
        Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"] | None
    ) = None
    stop_sequence: str | None = None
    stop_details: None = None
    usage: MessageUsage


class MessageTokensCount(BaseModel):
    input_tokens: int


class MessageErrorObject(BaseModel):
    type: str
    message: str


class MessageError(BaseModel):
    """The body of every answer below /v1/messages that is an error."""

    type: Literal["error"] = "error"
    error: MessageErrorObject
