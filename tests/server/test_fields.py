"""Fields that nobody knows: told in a header and in the log, or refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from asgi_client import app_of
from asgi_request import Answer, ask_json
from fake_async_engine import FakeAsyncEngine

HEADER = "x-octavo-ignored-fields"


def post(path: str, body: Any, **settings: Any) -> Answer:
    return ask_json(app_of(FakeAsyncEngine(), **settings), path, body)


def test_known_fields_give_no_header() -> None:
    answer = post("/tokenize", {"prompt": "a", "return_token_strs": True})
    assert answer.status == 200
    assert HEADER not in answer.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/completions", {"prompt": "a", "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    ],
)
def test_unknown_fields_are_named_in_a_header_and_in_the_log(
    path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="octavo"):
        answer = post(path, {**body, "tempreture": 1, "zzz": {"a": [1]}})
    assert answer.status == 200
    assert answer.headers[HEADER] == "tempreture, zzz"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: unknown fields are ignored: tempreture, zzz"
    ]


def test_unknown_fields_of_an_inner_object_are_named_by_their_path() -> None:
    body = {"prompt": "a", "stream": True, "stream_options": {"include_usage": True, "usage": 1}}
    assert post("/v1/completions", body).headers[HEADER] == "stream_options.usage"
    strict = post("/v1/completions", body, strict_fields=True)
    assert strict.error["param"] == "stream_options.usage"
    assert "'stream_options.include_usage'" in strict.error["message"]


def test_strict_fields_are_refused_with_the_nearest_name() -> None:
    answer = post("/v1/completions", {"prompt": "a", "tempreture": 1}, strict_fields=True)
    assert answer.status == 400
    assert answer.error["message"] == "unknown field 'tempreture'; did you mean 'temperature'?"
    assert (answer.error["type"], answer.error["param"]) == ("BadRequestError", "tempreture")
    assert post("/tokenize", {"prompt": "a"}, strict_fields=True).status == 200


def test_a_name_can_not_break_the_header_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    names = ["a\r\nset-cookie: b", "ключ", "a,b", "x" * 5000, ""]
    with caplog.at_level(logging.WARNING, logger="octavo"):
        answer = post("/tokenize", {"prompt": "a", **dict.fromkeys(names, 1)})
    assert answer.headers[HEADER] == f"a??set-cookie: b, ????, a?b, {'x' * 64}, "
    assert "\n" not in caplog.records[0].getMessage()
    assert post("/tokenize", {"prompt": "a", "x" * 5000: 1}, strict_fields=True).status == 400


def test_of_many_the_first_are_named() -> None:
    answer = post("/tokenize", {"prompt": "a", **{f"x{index}": 1 for index in range(1000)}})
    assert answer.headers[HEADER] == ", ".join(f"x{index}" for index in range(20)) + ", ..."
