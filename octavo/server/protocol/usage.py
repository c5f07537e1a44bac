"""Token counts of a request: how a client asks for them in a stream, and their form in answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from octavo.errors import InvalidRequestError
from octavo.server.protocol.base import RequestModel


class StreamOptions(RequestModel):
    include_usage: bool | None = None  # one more chunk at the end, with the usage and no choices
    continuous_usage_stats: bool | None = None  # and the usage so far in every chunk


class PromptTokensDetails(BaseModel):
    cached_tokens: int | None = None


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None  # absent where no reasoning is told apart


def usage_dict(
    num_prompt_tokens: int,
    num_completion_tokens: int,
    num_cached_tokens: int | None,
    num_reasoning_tokens: int | None = None,
) -> dict[str, Any]:
    """A `Usage`. `num_cached_tokens` and `num_reasoning_tokens` are None where those details are not told."""
    usage: dict[str, Any] = {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
        "prompt_tokens_details": None if num_cached_tokens is None else {"cached_tokens": num_cached_tokens},
    }
    if num_reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": num_reasoning_tokens}
    return usage


def stream_usage(stream: bool, options: StreamOptions | None, forced: bool) -> tuple[bool, bool]:
    """Whether a stream ends with a usage chunk, and whether each of its chunks carries the usage so far.

    Raises:
        InvalidRequestError: options for a stream that is none.
    """
    if options is None:
        return forced, False
    if not stream:
        raise InvalidRequestError(
            "stream_options are given, but stream is false; set stream to true or leave stream_options out",
            param="stream_options",
        )
    at_end = forced or bool(options.include_usage)
    return at_end, at_end and bool(options.continuous_usage_stats)
