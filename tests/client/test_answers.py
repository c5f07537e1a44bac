"""Answers of a server: models, streams cut anywhere, and each way in which a server can fail."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from local_server import App, Reply, events, serving

from octavo.client.answers import choose_model, list_models, stream_chat, stream_completion
from octavo.client.endpoint import Endpoint
from octavo.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)

MODELS = {"object": "list", "data": [{"id": "first"}, {"id": "second"}]}
HELLO = [{"role": "user", "content": "hello"}]


def answer_with(reply: Reply) -> App:
    return App(lambda path, headers, body: Reply(MODELS) if path == "/v1/models" else reply)


def one_byte_pieces(stream: list[bytes]) -> list[bytes]:
    return [bytes([byte]) for byte in b"".join(stream)]


def chat_chunk(content: str | None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {} if content is None else {"content": content}}], **more}


def test_models_over_http_and_a_socket(tmp_path: Path) -> None:
    app = answer_with(Reply({}))
    with serving(app) as url:
        assert list_models(Endpoint(url + "/v1", "secret")) == ["first", "second"]
        assert choose_model(Endpoint(url), None) == "first"
        assert choose_model(Endpoint(url), "second") == "second"
        with pytest.raises(ConfigError, match="did you mean 'second'"):
            choose_model(Endpoint(url), "secnd")
    assert app.asked[0][0] == "/v1/models"
    assert app.asked[0][1]["authorization"] == "Bearer secret"
    with serving(app, tmp_path / "s.sock") as url:
        assert list_models(Endpoint(url)) == ["first", "second"]


def test_a_chat_is_streamed_however_it_is_cut() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    stream = events(
        chat_chunk("", usage=None),
        chat_chunk("Grüße "),
        chat_chunk("日本😀"),
        chat_chunk(None),
        {"choices": [], "usage": usage},
        "[DONE]",
    )
    app = answer_with(Reply(pieces=one_byte_pieces(stream)))
    with serving(app) as url:
        chunks = list(stream_chat(Endpoint(url), "first", HELLO, {"top_k": 3}))
    assert "".join(chunk.text for chunk in chunks) == "Grüße 日本😀"
    assert [chunk.num_tokens for chunk in chunks] == [0, 1, 2, 2, 7]
    path, _, body = app.asked[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "first",
        "messages": HELLO,
        "top_k": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_completion_is_streamed() -> None:
    stream = events({"choices": [{"index": 0, "text": "a"}]}, {"choices": [{"index": 0, "text": "b"}]}, "[DONE]")
    app = answer_with(Reply(pieces=stream))
    with serving(app) as url:
        assert "".join(c.text for c in stream_completion(Endpoint(url), "m", "p", {})) == "ab"
    assert app.asked[0][2]["prompt"] == "p"


def error_of(reply: Reply) -> Exception:
    with serving(answer_with(reply)) as url, pytest.raises(Exception) as caught:
        list(stream_chat(Endpoint(url), "m", HELLO, {}))
    return caught.value


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "top_p must be in (0, 1]", "param": "top_p"}, InvalidRequestError),
        (400, {"message": "too long", "code": "context_length_exceeded"}, ContextLengthError),
        (401, {"message": "wrong key"}, ConfigError),
        (404, {"message": "no model 'x'"}, NotFoundError),
        (503, {"message": "queue is full"}, OverloadedError),
        (500, {"message": "broken"}, EngineError),
    ],
)
def test_refusals_keep_the_servers_words(status: int, error: dict[str, str], kind: type[Exception]) -> None:
    found = error_of(Reply({"error": error}, status=status))
    assert type(found) is kind
    assert error["message"] in str(found)
    assert getattr(found, "param", None) == error.get("param")


def test_bodies_that_are_no_error_objects() -> None:
    assert "Bad Gateway" in str(error_of(Reply(status=502, pieces=[b"<h1>Bad Gateway</h1>"])))
    assert "nothing here" in str(error_of(Reply({"error": "nothing here"}, status=404)))
    assert "OpenAI" in str(error_of(Reply(pieces=[b"data: hello\n\n"])))


def test_an_error_in_mid_stream() -> None:
    stream = events(chat_chunk("a"), {"error": {"message": "the engine has stopped", "code": 500}}, "[DONE]")
    with serving(answer_with(Reply(pieces=stream))) as url:
        chunks = stream_chat(Endpoint(url), "m", HELLO, {})
        assert next(chunks).text == "a"
        with pytest.raises(EngineError, match="the engine has stopped"):
            next(chunks)


@pytest.mark.parametrize("breaks_off", [True, False])
def test_a_stream_that_ends_too_early_is_an_error(breaks_off: bool) -> None:
    found = error_of(Reply(pieces=events(chat_chunk("a")), breaks_off=breaks_off))
    assert isinstance(found, EngineError)
    assert "ended before the answer did" in str(found)


def test_no_server_says_the_address_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for address in (url, f"unix://{tmp_path}/none.sock"):
        with pytest.raises(EngineError, match="octavo serve") as error:
            list_models(Endpoint(address))
        assert address in str(error.value)


def test_something_else_that_answers_is_named_as_such() -> None:
    with (
        serving(App(lambda path, headers, body: Reply([1]))) as url,
        pytest.raises(EngineError, match="does not speak"),
    ):
        list_models(Endpoint(url))
