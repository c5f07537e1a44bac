"""Errors over HTTP: each class and each bad body gives its status, OpenAI's error object, and nothing of the inside."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from asgi_client import app_of
from asgi_request import Answer, ask, ask_json
from fake_async_engine import FakeAsyncEngine
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.errors import (
    ConfigError,
    ContextLengthError,
    EngineDeadError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    OutOfMemoryError,
    OverloadedError,
    WeightError,
)
from octavo.server.errors import ApiError, error_reply

APP = app_of(FakeAsyncEngine(), log_requests=False)
INSIDE = "RuntimeError: <Tensor object at 0x7f3a9c0d12e0> in /usr/lib/secret.py"


class BrokenEngine(FakeAsyncEngine):
    """Every look at its health raises `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.failure = error

    def health(self) -> str | None:
        raise self.failure


def answer_to(error: Exception) -> Answer:
    return ask(app_of(BrokenEngine(error)), "GET", "/health")


@pytest.mark.parametrize(
    ("error", "status", "kind", "message", "param"),
    [
        (InvalidRequestError("n must be 1 or more", param="n"), 400, "BadRequestError", "n must be 1 or more", "n"),
        (ContextLengthError("5 of 4 tokens", param="prompt"), 400, "BadRequestError", "5 of 4 tokens", "prompt"),
        (NotFoundError("no adapter a", param="model"), 404, "NotFoundError", "no adapter a", "model"),
        (OverloadedError("8 wait already"), 503, "Service Unavailable", "8 wait already", None),
        (ApiError(409, "not now", param="x"), 409, "Conflict", "not now", "x"),
        (ApiError(400, "bad", type="own", code="own_code"), 400, "own", "bad", None),
        (HTTPException(418, "a teapot"), 418, "I'm a Teapot", "a teapot", None),
        (HTTPException(499, "left"), 499, "Error", "left", None),
    ],
)
def test_what_a_request_caused_is_told(error: Exception, status: int, kind: str, message: str, param: Any) -> None:
    answer = answer_to(error)
    code = error.code if isinstance(error, ApiError) and error.code else status
    assert answer.status == status
    assert answer.error == {"message": message, "type": kind, "param": param, "code": code}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (EngineDeadError(INSIDE), 503, "Service Unavailable"),
        (EngineError(INSIDE), 500, "InternalServerError"),
        (OutOfMemoryError(INSIDE), 500, "InternalServerError"),
        (ConfigError(INSIDE), 500, "InternalServerError"),
        (WeightError(INSIDE), 500, "InternalServerError"),
        (RuntimeError(INSIDE), 500, "InternalServerError"),
        (ValueError(INSIDE), 500, "InternalServerError"),
    ],
)
def test_what_comes_from_the_depths_is_logged_and_not_told(
    error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="octavo"):
        answer = answer_to(error)
    assert (answer.status, answer.error["type"]) == (status, kind)
    for secret in ("Tensor", "0x7f", "secret", "Error:", "Traceback"):
        assert secret not in answer.content.decode()
    assert "secret.py" in caplog.text


def test_an_unforeseen_error_is_logged_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="octavo"):
        answer_to(RuntimeError("boom"))
    assert caplog.text.count("Traceback") == 1
    assert "in health" in caplog.text


def test_a_full_queue_says_when_to_come_back() -> None:
    assert int(answer_to(OverloadedError("full")).headers["retry-after"]) >= 1
    assert "retry-after" not in answer_to(EngineDeadError("gone")).headers


def test_addresses_and_what_no_utf8_can_carry_are_taken_out_of_messages() -> None:
    answer = answer_to(InvalidRequestError("the template failed: <X object at 0x7f3a9c0d12e0> \ud800"))
    assert answer.status == 400
    assert answer.error["message"] == "the template failed: <X object at 0x...> \\ud800"
    assert len(error_reply(InvalidRequestError("x" * 10_000)).body["error"]["message"]) == 2000


BAD_BODIES = [
    (b"", "the body is missing", None),
    (b"{", "no valid JSON", None),
    (b'{"prompt": "a"', "no valid JSON: Expecting ',' delimiter at character 14", None),
    (b"null", "must be an object, got None", None),
    (b"[]", "must be an object, got []", None),
    (b'[{"prompt": "a"}]', "must be an object", None),
    (b'"prompt"', "must be an object", None),
    (b'{"prompt": 5}', "prompt must be a string, got 5", "prompt"),
    (b'{"prompt": NaN}', "prompt must be a string, got nan", "prompt"),
    (b'{"prompt": "a", "add_special_tokens": "perhaps"}', "must be true or false, got 'perhaps'", "add_special_tokens"),
    (b'{"messages": [{"role": "user"}, 7]}', "messages.1 must be an object, got 7", "messages.1"),
    (b'{"model": 1, "prompt": []}', "model must be a string, got 1 (wrong as well: prompt)", "model"),
    (b'{"prompt": "\\ud800"}', "lone surrogate", "prompt"),
    (b'{"prompt": "a", "\\ud800": 1}', "lone surrogates", None),
    (b'{"prompt": "\xff"}', "no valid UTF-8", None),
    (b'{"prompt": ' + b"9" * 5000 + b"}", "too many digits", None),
    (b"[" * 100_000, "nested too deep", None),
    (b'{"a":' * 100_000, "nested too deep", None),
    (b'{"prompt": "a", "x": ' + b"[" * 300 + b"]" * 300 + b"}", "more than 64 levels deep", None),
    (b"[" * 300 + b"]" * 300, "more than 64 levels deep", None),
]


@pytest.mark.parametrize(("body", "message", "param"), BAD_BODIES, ids=lambda value: repr(value)[:40])
def test_a_bad_body_is_a_400_that_says_what_is_wrong(body: bytes, message: str, param: str | None) -> None:
    answer = ask_json(app_of(FakeAsyncEngine()), "/tokenize", body)
    assert answer.status == 400
    assert message in answer.error["message"]
    assert (answer.error["param"], answer.error["code"]) == (param, 400)


@pytest.mark.parametrize(("depth", "status"), [(63, 200), (64, 400)])
def test_the_depth_limit_counts_the_body_itself_as_a_level(depth: int, status: int) -> None:
    nested = b"[" * depth + b"]" * depth
    body = b'{"prompt": "a", "x": ' + nested + b"}"
    assert ask_json(app_of(FakeAsyncEngine()), "/tokenize", body).status == status


def test_a_repeated_key_and_an_infinite_number_do_no_harm() -> None:
    app = app_of(FakeAsyncEngine())
    twice = ask_json(app, "/tokenize", b'{"prompt": "a", "prompt": "b", "x": -Infinity}')
    assert twice.status == 200
    assert twice.json()["tokens"] == ask_json(app, "/tokenize", {"prompt": "b"}).json()["tokens"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_is_not_sent_as_json_is_refused(content_type: str) -> None:
    answer = ask_json(app_of(FakeAsyncEngine()), "/tokenize", {"prompt": "a"}, headers={"content-type": content_type})
    assert answer.status == 400
    assert "Content-Type: application/json" in answer.error["message"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_a_body_that_is_sent_as_json_is_taken(content_type: str) -> None:
    app = app_of(FakeAsyncEngine())
    assert ask_json(app, "/tokenize", {"prompt": "a"}, headers={"content-type": content_type}).status == 200


def test_a_field_of_several_types_is_one_sentence() -> None:
    app = app_of(FakeAsyncEngine())
    error = ask_json(app, "/v1/completions", {"prompt": 5}).error
    assert (error["message"], error["param"]) == ("prompt must be a string or a list, got 5", "prompt")
    error = ask_json(app, "/v1/completions", {"prompt": [1, {}]}).error
    assert error["param"] == "prompt.1"
    assert "got {}" in error["message"]
    error = ask_json(app, "/v1/completions", b'{"prompt": "a", "temperature": NaN}').error
    assert (error["message"], error["param"]) == ("temperature must be a finite number, got nan", "temperature")


def test_an_unknown_route_is_a_404_that_names_the_nearest() -> None:
    app = app_of(FakeAsyncEngine())
    answer = ask(app, "POST", "/v1/chat/completion")
    assert answer.status == 404
    assert "'/v1/chat/completion'; did you mean '/v1/chat/completions'" in answer.error["message"]
    assert "/v1/models, " in ask(app, "GET", "/qqqqqqqqqq").error["message"]
    assert ask(app, "GET", "/" + "q" * 100_000).status == 404


def test_a_wrong_method_is_a_405_that_says_the_right_one() -> None:
    app = app_of(FakeAsyncEngine())
    answer = ask(app, "DELETE", "/tokenize")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.error["message"] == "the route does not take DELETE; use POST"
    assert set(ask(app, "PUT", "/ping").headers["allow"].split(", ")) == {"GET", "POST"}


def test_the_openapi_document_describes_errors_as_they_are() -> None:
    document = ask(app_of(FakeAsyncEngine()), "GET", "/openapi.json").json()
    assert {"/tokenize", "/v1/chat/completions", "/v1/completions", "/v1/models"} <= set(document["paths"])
    responses = document["paths"]["/tokenize"]["post"]["responses"]
    assert set(responses) == {"200", "4XX", "5XX"}
    schema = document["components"]["schemas"]["ErrorObject"]["properties"]
    assert set(schema) == {"message", "type", "param", "code"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = (
    *("model", "prompt", "messages", "tokens", "tools", "add_special_tokens", "chat_template_kwargs", "role"),
    *("input", "instructions", "text", "reasoning", "tool_choice", "include", "metadata", "system", "thinking"),
)
_PATHS = ("/tokenize", "/detokenize", "/v1/completions", "/v1/chat/completions", "/v1/responses")
_ANTHROPIC_PATHS = ("/v1/messages", "/v1/messages/count_tokens")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*_PATHS, *_ANTHROPIC_PATHS]),
    st.dictionaries(st.sampled_from(_FIELDS), _JSON, min_size=1) | _JSON,
)
def test_no_json_is_a_servers_error(path: str, body: Any) -> None:
    if path == "/v1/messages" and isinstance(body, dict):
        body = {"max_tokens": 5, **body}
    answer = ask_json(APP, path, body)
    assert answer.status < 500
    if answer.status != 200:
        error = answer.json()["error"] if path in _ANTHROPIC_PATHS else answer.error
        assert error["message"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=50))
def test_no_bytes_are_a_servers_error(body: bytes) -> None:
    assert ask_json(APP, "/tokenize", body).status == 400
