"""API keys: which routes ask for one, which keys pass, and paths that try to look like an open one."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

import pytest
from asgi_client import app_of
from asgi_request import Answer, ask
from fake_async_engine import FakeAsyncEngine

KEYS = ("first-key", "zweiter-schlüssel")
OPEN = ("/", "/page/page.css", "/page/page.js", "/health", "/ready", "/ping", "/version")
GUARDED = (
    "/v1/models",
    "/v1/models/tiny",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/cancel",
    "/tokenize",
    "/detokenize",
    "/metrics",
    "/load",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/nowhere",
)
OF_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")


def get(path: str, authorization: str | None = None, *, root_path: str = "", **settings: Any) -> Answer:
    app = app_of(FakeAsyncEngine(), **{"api_keys": KEYS, **settings})
    headers = {} if authorization is None else {"authorization": authorization.encode().decode("latin-1")}
    return ask(app, "GET", path, headers=headers, root_path=root_path)


@pytest.mark.parametrize("path", OPEN)
def test_open_routes_ask_for_no_key(path: str) -> None:
    assert get(path).status == 200


@pytest.mark.parametrize("path", GUARDED)
def test_all_others_do_even_those_that_are_none(path: str) -> None:
    answer = get(path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["type"] == "Unauthorized"
    assert "Authorization: Bearer KEY" in answer.error["message"]
    assert get(path, f"Bearer {KEYS[0]}").status in (200, 404, 405)


def test_every_route_of_the_app_is_named_above() -> None:
    document = ask(app_of(FakeAsyncEngine()), "GET", "/openapi.json").json()
    paths = {path.replace("{model_id}", "tiny").replace("{response_id}", "resp_1") for path in document["paths"]}
    assert paths <= {*OPEN, *GUARDED, *OF_ANTHROPIC}


def test_without_keys_all_is_open() -> None:
    assert get("/v1/models", api_keys=()).status == 200


@pytest.mark.parametrize("authorization", [f"Bearer {KEYS[0]}", f"Bearer {KEYS[1]}", f"bearer  {KEYS[0]} "])
def test_each_key_opens(authorization: str) -> None:
    assert get("/v1/models", authorization).status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer first",  # the beginning of a key
        "Bearer first-key2",
        "Bearer FIRST-KEY",
        "Bearer first-key,zweiter-schlüssel",
        "first-key",
        "Basic first-key",
        "Bearer\tfirst-key",
    ],
)
def test_nothing_else_does(authorization: str) -> None:
    answer = get("/v1/models", authorization)
    assert answer.status == 401
    assert "first-key" not in answer.error["message"]


@pytest.mark.parametrize("path", [*OF_ANTHROPIC, "/v1/models"])
def test_a_key_may_come_as_anthropics_clients_send_it(path: str) -> None:
    app = app_of(FakeAsyncEngine(), api_keys=KEYS)
    for headers, status in (
        ({}, 401),
        ({"x-api-key": "first"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": KEYS[0]}, None),
        ({"authorization": f"Bearer {KEYS[0]}"}, None),
        ({"x-api-key": "of another server", "authorization": f"Bearer {KEYS[0]}"}, None),
        ({"x-api-key": KEYS[0], "authorization": "Bearer of-another-server"}, None),
        ({"x-api-key": "wrong", "authorization": "Bearer wrong"}, 401),
    ):
        answer = ask(app, "GET", path, headers=headers)
        assert answer.status == status or (status is None and answer.status in (200, 405)), headers
        if status == 401 and path in OF_ANTHROPIC:
            assert answer.json()["error"]["type"] == "authentication_error"
    assert _status_of([(b"x-api-key", KEYS[0].encode()), (b"x-api-key", b"x")]) == 401


@pytest.mark.parametrize("header", ["api-key", "cookie"])
def test_a_key_in_another_header_does_not_count(header: str) -> None:
    app = app_of(FakeAsyncEngine(), api_keys=KEYS)
    assert ask(app, "GET", "/v1/models", headers={header: KEYS[0]}).status == 401


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    original = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return original(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for authorization in (f"Bearer {KEYS[0]}", "Bearer x"):
        compared.clear()
        get("/v1/models", authorization)
        assert compared == [32, 32]  # digests of both keys, also when the first matched


@pytest.mark.parametrize(
    "path",
    [
        "//health",
        "/health/",
        "/health/../v1/models",
        "/health/..%2fv1%2fmodels",
        "/%68ealth",
        "/v1/models?/health",
        "/v1/models#/health",
        "/v1/models/../../health",
        "/page/../v1/models",
        "/page/",
        "/page/page.js/",
        "/HEALTH",
        "/health\x00",
        "/version/",
        "",
        "*",
        "http://server/health",
    ],
)
def test_a_path_that_looks_like_an_open_one_is_none(path: str) -> None:
    assert get(path).status == 401


def test_the_host_header_has_no_say() -> None:
    app = app_of(FakeAsyncEngine(), api_keys=KEYS)
    for host in ("server/health?", "server/health#", "x/version\\"):
        assert ask(app, "GET", "/v1/models", headers={"host": host}).status == 401


def test_below_a_root_path_the_same_routes_are_open() -> None:
    for prefix in ("", "/api"):  # a proxy may strip the prefix or leave it
        assert get(f"{prefix}/health", root_path="/api").status == 200
        assert get(f"{prefix}/v1/models", root_path="/api").status == 401
        assert get(f"{prefix}/v1/models", f"Bearer {KEYS[0]}", root_path="/api").status == 200
    assert get("/apihealth", root_path="/api").status == 401
    assert get("/other/health", root_path="/api").status == 401


def test_the_root_path_of_the_settings_counts_with_or_without_a_slash() -> None:
    for root_path in ("/api", "/api/"):
        app = app_of(FakeAsyncEngine(), api_keys=KEYS, root_path=root_path)
        assert ask(app, "GET", "/api/health").status == 200
        assert ask(app, "GET", "/health").status == 200
        assert ask(app, "GET", "/api/v1/models").status == 401


def test_metrics_may_be_open() -> None:
    assert get("/metrics", metrics_need_key=False).status == 200
    assert get("/load", metrics_need_key=False).status == 401


def test_a_preflight_needs_no_key_and_the_request_after_it_does() -> None:
    app = app_of(FakeAsyncEngine(), api_keys=KEYS, allowed_origins=("https://a.example",))
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    preflight = ask(app, "OPTIONS", "/v1/chat/completions", headers=asked)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert ask(app, "OPTIONS", "/v1/chat/completions").status == 401
    refused = ask(app, "GET", "/v1/models", headers={"origin": "https://a.example"})
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"  # so that the page can read why
    asked["origin"] = "https://b.example"
    assert ask(app, "OPTIONS", "/v1/chat/completions", headers=asked).status == 400


def test_two_authorization_headers_are_refused() -> None:
    status = _status_of([(b"authorization", b"Bearer first-key"), (b"authorization", b"Bearer x")])
    assert status == 401
    assert _status_of([(b"authorization", b"Bearer first-key")]) == 200


def _status_of(headers: list[tuple[bytes, bytes]]) -> int:
    return int(_messages({"type": "http", "method": "GET", "headers": headers})[0]["status"])


def test_websockets_are_refused() -> None:
    assert _messages({"type": "websocket", "headers": []}) == [{"type": "websocket.close", "code": 1008}]


def _messages(scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"path": "/v1/models", "root_path": "", "query_string": b"", "scheme": "http", **scope}
    asyncio.run(app_of(FakeAsyncEngine(), api_keys=KEYS)(whole, receive, send))
    return sent
