"""`octavo complete` against a small server."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

import pytest
from local_server import App, Reply, events, serving

from octavo.cli import complete
from octavo.errors import ConfigError, InvalidRequestError


def handler(path: str, headers: dict[str, str], body: Any) -> Reply:
    if path == "/v1/models":
        return Reply({"data": [{"id": "m1"}, {"id": "m2"}]})
    if body["prompt"] == "bad":
        return Reply({"error": {"message": "that is bad", "param": "prompt"}}, status=400)
    return Reply(pieces=events(*({"choices": [{"text": text}]} for text in (" is", " Pa", "ris")), "[DONE]"))


def run(*args: str) -> tuple[int, App]:
    app = App(handler)
    parser = argparse.ArgumentParser()
    complete.add_arguments(parser)
    with serving(app) as url:
        return complete.run(parser.parse_args([*args, "--url", url])), app


def test_prompts_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    code, app = run("one", "two", "-m", "m2", "--api-key", "k", "--top-k", "5", "--seed", "0")
    assert code == 0
    assert capsys.readouterr().out == "one is Paris\n\ntwo is Paris\n\n"
    _, headers, body = app.asked[1]
    assert headers["authorization"] == "Bearer k"
    assert {name: body[name] for name in ("model", "prompt", "max_tokens", "top_k", "seed")} == {
        "model": "m2",
        "prompt": "one",
        "max_tokens": 128,
        "top_k": 5,
        "seed": 0,
    }
    assert "temperature" not in body


def test_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n two\n"))
    _, app = run("--max-tokens", "7")
    assert [body["prompt"] for _, _, body in app.asked[1:]] == ["one", " two"]
    assert {body["max_tokens"] for _, _, body in app.asked[1:]} == {7}


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidRequestError, match="that is bad"):
        run("bad")
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="has no such model: unknown model 'm3'; valid: m1, m2"):
        run("one", "--model", "m3")
