"""A chat completion that another API asks for: what its errors are called there."""

from __future__ import annotations

import pytest

from octavo.errors import ContextLengthError, InvalidRequestError, RequestError
from octavo.server.protocol.as_chat import SamplingExtras, chat_request, named
from octavo.server.protocol.chat import ChatCompletionRequest


def test_an_error_has_the_name_that_the_client_knows_and_stays_as_it_is_for_others() -> None:
    kept = ContextLengthError("messages are too long for messages", param="messages")
    for _ in range(2):
        with (
            pytest.raises(ContextLengthError, match=r"^input are too long for messages$") as told,
            named({"messages": "input"}),
        ):
            raise kept
        assert told.value.param == "input"
    assert (kept.param, str(kept)) == ("messages", "messages are too long for messages")


@pytest.mark.parametrize("param", [None, "temperature"])
def test_other_errors_pass(param: str | None) -> None:
    error = InvalidRequestError("no", param=param)
    with pytest.raises(RequestError) as told, named({"messages": "input"}):
        raise error
    assert told.value is error


def test_a_form_that_chat_completions_do_not_have_is_an_error_of_the_request() -> None:
    with pytest.raises(InvalidRequestError, match="temperature must be a number, got 'hot'") as told:
        chat_request({"messages": [], "temperature": "hot"})
    assert told.value.param == "temperature"


def test_the_sampling_fields_of_other_apis_are_those_of_chat() -> None:
    assert set(SamplingExtras.model_fields) <= set(ChatCompletionRequest.model_fields)
