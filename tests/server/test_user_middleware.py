"""Middleware that a user brings by import path."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_client import app_of
from asgi_request import Answer, ask
from fake_async_engine import FakeAsyncEngine

from octavo.errors import ConfigError


class Marking:
    """ASGI middleware that adds a header."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-order", b"class")]
            await send(message)

        await self.app(scope, receive, marked)


async def function(request: Any, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["x-order"] = ", ".join([*response.headers.getlist("x-order"), "function"])
    return response


async def failing(request: Any, call_next: Any) -> Any:
    raise RuntimeError("secret")


@pytest.fixture(autouse=True)
def _module() -> Iterator[None]:
    module: Any = types.ModuleType("users_middleware")
    module.Marking, module.function, module.failing, module.number = Marking, function, failing, 5
    sys.modules["users_middleware"] = module
    yield
    del sys.modules["users_middleware"]


def version(*paths: str, **settings: Any) -> Answer:
    return ask(app_of(FakeAsyncEngine(), middleware=paths, **settings), "GET", "/version")


def test_a_class_and_a_function_stand_around_the_routes() -> None:
    assert version("users_middleware.Marking").headers["x-order"] == "class"
    assert version("users_middleware.function").headers["x-order"] == "function"


def test_each_wraps_those_before_it() -> None:
    assert version("users_middleware.Marking", "users_middleware.function").headers["x-order"] == "class, function"


def test_a_function_that_fails_is_an_internal_error_without_details() -> None:
    answer = version("users_middleware.failing")
    assert (answer.status, answer.error["type"]) == (500, "InternalServerError")
    assert b"secret" not in answer.content


def test_it_sees_no_request_without_a_key() -> None:
    app = app_of(FakeAsyncEngine(), middleware=("users_middleware.failing",), api_keys=("key",))
    assert ask(app, "GET", "/v1/models").status == 401
    assert ask(app, "GET", "/v1/models", headers={"authorization": "Bearer key"}).status == 500


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Marking", "is no import path"),
        ("no_such_module.Marking", "No module named 'no_such_module'"),
        ("users_middleware.nothing", "has no attribute 'nothing'"),
        ("users_middleware.number", "must be a class or an async function"),
    ],
)
def test_a_bad_path_is_refused_when_the_app_is_made(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        app_of(FakeAsyncEngine(), middleware=(path,))
