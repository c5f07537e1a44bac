"""Text to token ids and back, as vLLM's clients ask for it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from octavo.errors import InvalidRequestError
from octavo.server.protocol.base import RequestModel
from octavo.server.protocol.chat import ChatCompletionRequest
from octavo.server.protocol.tools import ToolDefinition


class TokenizeRequest(RequestModel):
    """A prompt, or the messages of a conversation: exactly one of both."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None  # absent: true for a prompt, false for messages, whose template adds them
    return_token_strs: bool | None = None

    # Of messages only.
    add_generation_prompt: bool | None = None  # absent: yes, unless the final message is continued
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[ToolDefinition] | None = None
    chat_template: Any = Field(default=None, description="refused unless null: the server was given its template")

    def check(self) -> None:
        """Raises:
        InvalidRequestError: neither of prompt and messages is given, or both are, or a template is.
        """
        if (self.prompt is None) == (self.messages is None):
            given = "neither" if self.prompt is None else "both"
            raise InvalidRequestError(f"give prompt or messages, one of them; {given} were given", param="prompt")
        if self.chat_template is not None:
            raise InvalidRequestError(
                "chat_template can't be given in a request; the server takes it as --chat-template",
                param="chat_template",
            )

    def as_chat(self) -> ChatCompletionRequest:
        """The chat completion that would send the same messages to the model."""
        return ChatCompletionRequest(
            messages=self.messages or [],
            add_special_tokens=self.add_special_tokens,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            chat_template_kwargs=self.chat_template_kwargs,
            tools=self.tools,
        )


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int  # tokens of a prompt and its answer
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(RequestModel):
    model: str | None = None
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    prompt: str
