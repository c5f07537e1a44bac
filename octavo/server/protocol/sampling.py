"""The fields that chat and text completions share, and how they become SamplingParams.

Types are declared here; bounds are those of SamplingParams, which says them better. An explicit null is "not given".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from octavo.errors import InvalidRequestError
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.server.protocol.base import RequestModel
from octavo.server.protocol.usage import StreamOptions

# The fields that SamplingParams has under the same name.
_SAME_NAME = (
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "bad_words",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "logprob_token_ids",
    "logit_bias",
    "allowed_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stream_interval",
    "thinking_token_budget",
)
_NOT_YET = (
    "structured_outputs",
    "use_beam_search",
    "repetition_detection",
    "watermarking",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
)


class ResponseFormat(RequestModel):
    type: str


class SamplingFields(RequestModel):
    """What chat and text completions have in common."""

    model: str | None = None  # absent or empty: the first served name
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None  # by token id
    response_format: ResponseFormat | None = None

    # Accepted as hints that ask for nothing here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    session_id: str | None = None
    length_penalty: float | None = None  # of beam search

    # Beyond OpenAI's, with vLLM's names.
    repetition_penalty: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    stream_interval: int | None = None
    thinking_token_budget: int | None = None  # most tokens of reasoning
    echo: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None  # -1: as many as fit
    truncation_side: Literal["left", "right"] | None = None  # the side that is cut off; left when absent
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    request_id: str | None = None

    # Refused with a reason unless null or false.
    structured_outputs: Any = None
    use_beam_search: Any = None
    repetition_detection: Any = None
    watermarking: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: Any = None


def refuse(name: str, what: str | None = None) -> InvalidRequestError:
    """The error for a field that asks for what is not built."""
    return InvalidRequestError(f"{what or name} is not supported yet; leave {name} out", param=name)


def check_supported(body: SamplingFields) -> None:
    """Refuse what is not built.

    Raises:
        InvalidRequestError: naming the field.
    """
    for name in _NOT_YET:
        if getattr(body, name):
            raise refuse(name)
    for name, value in (body.model_extra or {}).items():
        if name.startswith("guided_") and value:
            raise refuse(name)
    if body.response_format is not None and body.response_format.type != "text":
        raise refuse("response_format", f"response_format of type {body.response_format.type[:40]!r}")
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequestError(
            "prompt_logprobs can't be given in a stream; set stream to false or leave prompt_logprobs out",
            param="prompt_logprobs",
        )


def sampling_params(
    body: SamplingFields, defaults: Mapping[str, Any], fallback: Mapping[str, Any], **resolved: Any
) -> SamplingParams:
    """The parameters of a request.

    Args:
        defaults: what the model suggests for fields that are not given; it goes before `fallback`, the API's own.
        resolved: fields that the caller has settled from several ones of the request; None is not given.

    Raises:
        InvalidRequestError: a value out of range, naming the field.
    """
    fields = {**fallback, **defaults}
    fields.update((name, value) for name in _SAME_NAME if (value := getattr(body, name)) is not None)
    fields.update((name, value) for name, value in resolved.items() if value is not None)
    kind = RequestOutputKind.DELTA if body.stream else RequestOutputKind.FINAL_ONLY
    return SamplingParams(output_kind=kind, **fields)
