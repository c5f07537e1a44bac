"""What the commands ask of a server: its models, streamed chats and streamed completions."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from octavo.client.endpoint import Endpoint
from octavo.client.errors import broken_off, error_in, server_error, unreachable
from octavo.client.sse import DONE, EventParser
from octavo.errors import ConfigError, EngineError, unknown_name


class Chunk(NamedTuple):
    """A piece of an answer."""

    text: str
    num_tokens: int  # of the answer so far: counted by chunks, until the server says the true number at the end


def list_models(endpoint: Endpoint) -> list[str]:
    """The names of the models that the server has.

    Raises:
        EngineError: no server there, or none that speaks OpenAI's API.
        ConfigError: the API key is refused.
    """
    with _connection(endpoint) as client:
        response = client.get("/v1/models")
    if response.status_code != 200:
        raise server_error(response.status_code, response.content)
    try:
        return [str(card["id"]) for card in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"what answers at {endpoint.url} does not speak OpenAI's API; check the address") from None


def choose_model(endpoint: Endpoint, name: str | None) -> str:
    """`name` if the server has it; without one, the server's first model.

    Raises:
        ConfigError: the server has no such model; the message lists those that it has.
        EngineError: as `list_models`.
    """
    names = list_models(endpoint)
    if name is None and names:
        return names[0]
    if name is None or name not in names:
        raise ConfigError(f"the server at {endpoint.url} has no such model: {unknown_name('model', name or '', names)}")
    return name


def stream_chat(
    endpoint: Endpoint, model: str, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]
) -> Generator[Chunk, None, None]:
    """Answer one conversation; `fields` are further fields of the request. Closing the generator stops the answer.

    Raises:
        RequestError: the server refuses the request.
        EngineError: the server is not there, is overloaded, or fails.
        ConfigError: the API key is refused.
    """
    body = {**fields, "model": model, "messages": messages}
    return _stream(endpoint, "/v1/chat/completions", body)


def stream_completion(
    endpoint: Endpoint, model: str, prompt: str, fields: Mapping[str, Any]
) -> Generator[Chunk, None, None]:
    """Complete one prompt. Fields and errors as those of `stream_chat`."""
    return _stream(endpoint, "/v1/completions", {**fields, "model": model, "prompt": prompt})


def _stream(endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Generator[Chunk, None, None]:
    request = {**body, "stream": True, "stream_options": {"include_usage": True}}
    num_tokens = 0
    with _connection(endpoint) as client, client.stream("POST", path, json=request) as response:
        if response.status_code != 200:
            raise server_error(response.status_code, response.read())
        parser = EventParser()
        for piece in response.iter_bytes():
            for event in parser.feed(piece):
                if event == DONE:
                    return
                chunk = msgspec.json.decode(event)
                if "error" in chunk:
                    raise error_in(chunk)
                text = _text(chunk)
                num_tokens += bool(text)
                if usage := chunk.get("usage"):
                    num_tokens = usage["completion_tokens"]
                yield Chunk(text, num_tokens)
    raise broken_off(endpoint.url)


def _text(chunk: Mapping[str, Any]) -> str:
    for choice in chunk.get("choices", ()):
        text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        return text or ""
    return ""


@contextmanager
def _connection(endpoint: Endpoint) -> Generator[httpx.Client, None, None]:
    """A client of the endpoint, with its failures as octavo's errors."""
    if endpoint.socket is not None and not Path(endpoint.socket).is_socket():
        raise unreachable(endpoint.url, "there is no such socket")
    try:
        with endpoint.client() as client:
            yield client
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise unreachable(endpoint.url, error) from None
    except httpx.TransportError:
        raise broken_off(endpoint.url) from None
    except msgspec.DecodeError:
        raise EngineError(f"what answers at {endpoint.url} does not speak OpenAI's API; check the address") from None
