"""Chat completions as OpenAI's clients write and read them: the request, its check, and the answer's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from octavo.errors import InvalidRequestError, shown
from octavo.parsers.tools import ToolRequest
from octavo.sampling_params import SamplingParams
from octavo.server.protocol.sampling import SamplingFields, check_supported, refuse, sampling_params
from octavo.server.protocol.tools import ToolCallObject, ToolDefinition, chat_tools
from octavo.server.protocol.usage import Usage

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_NOT_YET = ("functions", "function_call", "audio", "media_io_kwargs", "mm_processor_kwargs")


class ChatCompletionRequest(SamplingFields):
    messages: list[dict[str, Any]] = Field(description="{role, content} each; content is text or a list of text parts")
    max_completion_tokens: int | None = None  # goes before max_tokens
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: str | dict[str, Any] | None = None  # absent: auto if there are tools
    parallel_tool_calls: bool | None = None  # false: one call at most
    reasoning_effort: str | None = Field(default=None, description=f"a variable of the template: {', '.join(EFFORTS)}")
    include_reasoning: bool | None = None  # false: the answer does not show it

    add_generation_prompt: bool | None = None  # absent: yes, unless the final message is continued
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None  # a variable of the template

    # Refused with a reason unless null or empty.
    chat_template: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    media_io_kwargs: Any = None
    mm_processor_kwargs: Any = None

    @property
    def opens_message(self) -> bool:
        """Whether the answer is a message of its own."""
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    def template_kwargs(self) -> dict[str, Any]:
        """The variables that the request sets for the template."""
        kwargs: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            kwargs["reasoning_effort"] = self.reasoning_effort
            # What switches the reasoning on and off in templates that know no efforts.
            kwargs["enable_thinking"] = kwargs["thinking"] = self.reasoning_effort != "none"
        if self.documents is not None:
            kwargs["documents"] = self.documents
        return {**kwargs, **(self.chat_template_kwargs or {})}

    def tool_request(self) -> ToolRequest:
        """The tools, and what is to be done with them.

        Raises:
            InvalidRequestError: naming the field that is wrong.
        """
        return chat_tools(self.tools, self.tool_choice, self.parallel_tool_calls)

    def sampling_params(self, defaults: Mapping[str, Any], max_logprobs: int) -> SamplingParams:
        """The parameters of the request. `max_logprobs` is the server's bound of top_logprobs, -1 for none.

        Raises:
            InvalidRequestError: a field that is out of range or not supported, naming it.
        """
        check_supported(self)
        for name in _NOT_YET:
            if getattr(self, name):
                raise refuse(name)
        self.tool_request()
        if self.reasoning_effort is not None and self.reasoning_effort not in EFFORTS:
            raise InvalidRequestError(
                f"reasoning_effort must be one of {', '.join(EFFORTS)}, got {shown(self.reasoning_effort)}",
                param="reasoning_effort",
            )
        if self.chat_template:
            raise InvalidRequestError(
                "chat_template can't be given in a request; the server takes it as --chat-template",
                param="chat_template",
            )
        max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if max_tokens is not None and max_tokens < 1:
            raise InvalidRequestError(
                f"{self.max_tokens_field} must be an integer of 1 or more, got {max_tokens}",
                param=self.max_tokens_field,
            )
        return sampling_params(
            self,
            defaults,
            {"max_tokens": None},
            max_tokens=max_tokens,
            logprobs=self._num_logprobs(max_logprobs),
        )

    @property
    def max_tokens_field(self) -> str:
        """The name of the field that bounds the answer."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    def _num_logprobs(self, most: int) -> int | None:
        top = self.top_logprobs or 0
        if top < -1 or (most != -1 and (top > most or top == -1)):
            raise InvalidRequestError(
                f"top_logprobs must be an integer from 0 to {most if most != -1 else 'the size of the vocabulary'}, "
                f"got {top}",
                param="top_logprobs",
            )
        if self.logprobs:
            return None if self.logprob_token_ids is not None and not top else top
        if top:
            raise InvalidRequestError("top_logprobs needs logprobs; set logprobs to true", param="top_logprobs")
        return None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatLogprob]


class ChatMessage(BaseModel):
    role: str
    content: str | None = None
    refusal: str | None = None
    annotations: list[dict[str, Any]] | None = None
    audio: dict[str, Any] | None = None
    function_call: dict[str, Any] | None = None
    tool_calls: list[ToolCallObject] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None  # the same, if the server is asked to say it by this name too


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatCompletionResponse(BaseModel):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] | None = None
