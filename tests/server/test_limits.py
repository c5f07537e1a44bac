"""The limit on bodies, announced and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgi_client import JSON, app_of
from asgi_request import ask, ask_json
from fake_async_engine import FakeAsyncEngine

LIMIT = 1000


def body_of(num_bytes: int) -> bytes:
    empty = json.dumps({"prompt": ""})
    return json.dumps({"prompt": "a" * (num_bytes - len(empty))}).encode()


def limited() -> Any:
    return app_of(FakeAsyncEngine(), max_body_bytes=LIMIT)


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    assert ask_json(limited(), "/tokenize", body_of(LIMIT)).status == 200
    answer = ask_json(limited(), "/tokenize", body_of(LIMIT + 1))
    assert answer.status == 413
    assert answer.error["type"] == "Content Too Large"
    assert str(LIMIT) in answer.error["message"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("size", [1, 7, 999])
def test_a_body_in_pieces_counts_as_a_whole(size: int) -> None:
    def pieces(num_bytes: int) -> list[bytes]:
        body = body_of(num_bytes)
        return [body[start : start + size] for start in range(0, len(body), size)]

    assert ask(limited(), "POST", "/tokenize", headers=JSON, body=pieces(LIMIT)).status == 200
    answer = ask(limited(), "POST", "/tokenize", headers=JSON, body=pieces(LIMIT + 1))
    assert answer.status == 413
    assert str(LIMIT) in answer.error["message"]


def test_a_body_that_announces_less_than_it_has_is_stopped_too() -> None:
    answer = ask_json(limited(), "/tokenize", body_of(LIMIT + 1), headers={"content-length": "5"})
    assert answer.status == 413


def test_what_is_announced_too_large_is_not_read() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    for announced in (b"1001", b"9" * 5000):
        sent.clear()
        scope = {"type": "http", "method": "POST", "path": "/tokenize", "headers": [(b"content-length", announced)]}
        asyncio.run(limited()(scope, receive, send))
        assert sent[0]["status"] == 413


def test_the_limit_comes_before_the_key() -> None:
    app = app_of(FakeAsyncEngine(), max_body_bytes=LIMIT, api_keys=("key",))
    assert ask_json(app, "/tokenize", body_of(LIMIT + 1)).status == 413
