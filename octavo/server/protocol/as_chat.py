"""What the APIs share whose requests stand for a chat completion: its sampling fields, and how it is made.

It knows neither of these APIs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from octavo.errors import InvalidRequestError, RequestError
from octavo.server.body_errors import body_problem
from octavo.server.protocol.base import RequestModel
from octavo.server.protocol.chat import ChatCompletionRequest


class SamplingExtras(RequestModel):
    """Sampling fields that these APIs lack, under the names that they have in chat, which takes them as they are."""

    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None  # by token id
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None
    priority: int | None = None

    def extras(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name in SamplingExtras.model_fields if (value := getattr(self, name)) is not None}


def chat_request(fields: Mapping[str, Any]) -> ChatCompletionRequest:
    """The chat completion with these fields.

    Raises:
        InvalidRequestError: there is none, since one of them has a wrong form.
    """
    try:
        return ChatCompletionRequest(**fields)
    except ValidationError as error:
        problem = body_problem([{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors()], dict(fields))
        raise InvalidRequestError(problem.message, param=problem.param) from None


@contextlib.contextmanager
def named(names: Mapping[str, str]) -> Iterator[None]:
    """What a chat completion complains of has the name that the client knows: `names`, from the one to the other."""
    try:
        yield
    except RequestError as error:
        given, message = error.param, str(error)
        if given is None or given not in names:
            raise
        if message.startswith(given):
            message = names[given] + message[len(given) :]
        # A new one: this one may be told to others too, who call the field otherwise.
        raise type(error)(message, param=names[given]) from error
