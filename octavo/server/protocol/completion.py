"""Text completions as OpenAI's clients write and read them: the request, its check, and the answer's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from octavo.errors import InvalidRequestError
from octavo.sampling_params import SamplingParams
from octavo.server.protocol.sampling import SamplingFields, check_supported, refuse, sampling_params
from octavo.server.protocol.usage import Usage

MAX_PROMPTS = 1024
DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingFields):
    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    prompt_embeds: Any = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one.

        Raises:
            InvalidRequestError: none, or too many.
        """
        prompt = self.prompt
        if prompt is None or prompt == []:
            raise InvalidRequestError(
                "prompt is missing; give a string, a list of token ids, or a list of these", param="prompt"
            )
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        if len(prompt) > MAX_PROMPTS:
            raise InvalidRequestError(
                f"prompt holds {len(prompt)} prompts, at most {MAX_PROMPTS} are allowed; send several requests",
                param="prompt",
            )
        return prompt  # type: ignore[return-value]

    @property
    def scores_prompt_only(self) -> bool:
        """Nothing is to be generated: the prompt itself is the answer."""
        return bool(self.echo) and self.max_tokens == 0

    def sampling_params(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """The parameters of each prompt.

        Raises:
            InvalidRequestError: a field that is out of range or not supported, naming it.
        """
        check_supported(self)
        if self.prompt_embeds:
            raise refuse("prompt_embeds")
        if self.suffix:
            raise InvalidRequestError(
                "suffix is not supported: the model was not trained to fill in the middle; leave it out", param="suffix"
            )
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequestError("best_of is not supported; leave it out, or set n", param="best_of")
        return sampling_params(
            self,
            defaults,
            {"max_tokens": DEFAULT_MAX_TOKENS},
            max_tokens=1 if self.scores_prompt_only else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo and self.prompt_logprobs is None else None,
        )


class CompletionLogprobs(BaseModel):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage
