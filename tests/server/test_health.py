"""Health, readiness, load, version and metrics, and what is counted and logged of each request."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from asgi_client import app_of
from asgi_request import ask, ask_json
from fake_async_engine import FakeAsyncEngine

import octavo
from octavo.observability.prometheus import ServerMetrics


def test_a_well_engine() -> None:
    app = app_of(FakeAsyncEngine())
    for method, path in (("GET", "/health"), ("GET", "/ready"), ("GET", "/ping"), ("POST", "/ping")):
        answer = ask(app, method, path)
        assert (answer.status, answer.json()) == (200, {})


def test_an_engine_that_makes_no_progress() -> None:
    engine = FakeAsyncEngine()
    engine.sick = "the engine has work, and has made no progress for 61 seconds"
    app = app_of(engine)
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        answer = ask(app, method, path)
        assert answer.status == 503
        assert answer.error == {"message": engine.sick, "type": "Service Unavailable", "param": None, "code": 503}
    assert ask(app, "GET", "/ready").status == 200


def test_a_dead_engine() -> None:
    engine = FakeAsyncEngine()
    engine.dead = True
    app = app_of(engine)
    assert ask(app, "GET", "/health").status == 503
    assert ask(app, "GET", "/ready").status == 503
    assert ask(app, "GET", "/version").status == 200
    answer = ask_json(app, "/v1/completions", {"prompt": "a"})
    assert (answer.status, answer.error["type"]) == (503, "Service Unavailable")


def test_a_full_queue() -> None:
    engine = FakeAsyncEngine()
    engine.overloaded = True
    answer = ask_json(app_of(engine), "/v1/completions", {"prompt": "a"})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


def test_version_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(FakeAsyncEngine())
    assert ask(app, "GET", "/version").json() == {"version": octavo.__version__}
    assert ask(app, "GET", "/load").json() == {"server_load": 0}
    monkeypatch.setattr(FakeAsyncEngine, "num_unfinished", 3)
    assert ask(app, "GET", "/load").json() == {"server_load": 3}


def test_requests_are_counted_by_the_templates_of_their_routes() -> None:
    engine = FakeAsyncEngine()
    app = app_of(engine)
    ask(app, "GET", "/v1/models/tiny")
    ask(app, "GET", "/v1/models/no/such")
    ask_json(app, "/tokenize", {"prompt": 5})
    ask(app, "GET", "/tokenize")
    ask(app, "GET", "/no/such\nroute")
    ask(app, "BREW", "/health")
    assert engine.metrics.requests == [
        ("GET", "/v1/models/{model_id:path}", 200),
        ("GET", "/v1/models/{model_id:path}", 404),
        ("POST", "/tokenize", 400),
        ("GET", "/tokenize", 405),
        ("GET", "unknown", 404),
        ("OTHER", "/health", 405),
    ]


def test_metrics_are_prometheus_text() -> None:
    engine: Any = FakeAsyncEngine()
    engine.metrics = ServerMetrics("tiny")
    app = app_of(engine)
    ask(app, "GET", "/version")
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'http_requests_total{handler="/version",method="GET",status="200"} 1.0' in answer.content.decode()


def test_each_request_is_one_log_line_without_a_clients_text(caplog: pytest.LogCaptureFixture) -> None:
    app = app_of(FakeAsyncEngine())
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="octavo"):
        ask(app, "GET", "/v1/models/INFO forged")
        ask(app, "GET", "/\nINFO forged")
        ask(app, "GET", "/health")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" (")[0] for line in lines] == [
        "127.0.0.1 GET /v1/models/{model_id:path} 404",
        "127.0.0.1 GET unknown 404",
    ]


def test_request_lines_can_be_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    app = app_of(FakeAsyncEngine(), log_requests=False)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="octavo"):
        ask(app, "GET", "/version")
    assert not caplog.records


def test_docs_can_be_turned_off() -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert ask(app_of(FakeAsyncEngine()), "GET", path).status == 200
        assert ask(app_of(FakeAsyncEngine(), disable_docs=True), "GET", path).status == 404
