"""The fields that chat and text completions share, and how they become SamplingParams.

Types are declared here; bounds are those of SamplingParams, which says them better. An explicit null is "not given".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from octavo.errors import InvalidRequestError, shown
from octavo.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
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
    "thinking_token_budget",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stream_interval",
)
_NOT_YET = (
    "use_beam_search",
    "repetition_detection",
    "watermarking",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
)


class JsonSchemaFormat(RequestModel):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None  # what is enforced is enforced either way, and what can't be is refused


class ResponseFormat(RequestModel):
    type: str  # text, json_object, json_schema, structural_tag
    json_schema: JsonSchemaFormat | None = None


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
    structured_outputs: dict[str, Any] | None = None  # the fields of StructuredOutputsParams
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
            raise InvalidRequestError(
                f"{name[:40]} is not supported; use structured_outputs, for example "
                '{"structured_outputs": {"regex": ...}}, or response_format',
                param=name[:40],
            )
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequestError(
            "prompt_logprobs can't be given in a stream; set stream to false or leave prompt_logprobs out",
            param="prompt_logprobs",
        )


def structure_of(body: SamplingFields) -> StructuredOutputsParams | None:
    """What response_format and structured_outputs ask for.

    Raises:
        InvalidRequestError: both ask for something, or one of them is wrong, naming the field.
    """
    wanted = _of_response_format(body.response_format)
    if body.structured_outputs is None:
        return wanted
    if wanted is not None:
        raise InvalidRequestError(
            f"response_format (of type {shown(body.response_format and body.response_format.type)}) and "
            "structured_outputs can't be given both; leave one out",
            param="structured_outputs",
        )
    return StructuredOutputsParams(**body.structured_outputs)


def _of_response_format(given: ResponseFormat | None) -> StructuredOutputsParams | None:
    if given is None or given.type == "text":
        return None
    match given.type:
        case "json_object":
            return StructuredOutputsParams(json_object=True)
        case "json_schema":
            schema = None if given.json_schema is None else given.json_schema.schema_
            if schema is None:
                raise InvalidRequestError(
                    "response_format of type 'json_schema' needs json_schema.schema, a JSON schema",
                    param="response_format",
                )
            return StructuredOutputsParams(json=schema if isinstance(schema, dict) else json.dumps(schema))
        case "structural_tag":
            return StructuredOutputsParams(structural_tag=given.model_dump(exclude_unset=True))
    raise InvalidRequestError(
        f"response_format.type must be text, json_object, json_schema or structural_tag, got {shown(given.type)}",
        param="response_format",
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
    fields["structured_outputs"] = structure_of(body)
    kind = RequestOutputKind.DELTA if body.stream else RequestOutputKind.FINAL_ONLY
    return SamplingParams(output_kind=kind, **fields)
