"""Addresses: the forms that are taken, the ones that are refused, keys, proxies."""

from __future__ import annotations

import pytest

from octavo.client.endpoint import Endpoint
from octavo.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "base_url", "host", "port", "prefix"),
    [
        ("http://host:8000", "http://host:8000", "host", 8000, ""),
        ("http://host:8000/", "http://host:8000", "host", 8000, ""),
        ("http://host:8000/v1", "http://host:8000", "host", 8000, ""),
        ("http://host:8000/v1/", "http://host:8000", "host", 8000, ""),
        ("https://host/llm/v1", "https://host/llm", "host", 443, "/llm"),
        ("http://[::1]:80", "http://[::1]:80", "::1", 80, ""),
    ],
)
def test_addresses(url: str, base_url: str, host: str, port: int, prefix: str) -> None:
    endpoint = Endpoint(url)
    assert endpoint.base_url == base_url
    assert (endpoint.host, endpoint.port, endpoint.path_prefix, endpoint.socket) == (host, port, prefix, None)


def test_a_socket() -> None:
    endpoint = Endpoint("unix:///run/octavo%20one.sock")
    assert endpoint.socket == "/run/octavo one.sock"


@pytest.mark.parametrize(
    "url", ["host:8000", "", "ftp://host", "http://", "http://host:x", "http://h?a=1", "unix://a/b"]
)
def test_what_is_no_address_is_refused_with_the_forms(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT") as error:
        Endpoint(url)
    assert repr(url) in str(error.value)


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTAVO_API_KEY", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert Endpoint("http://host").headers == {}
    monkeypatch.setenv("OCTAVO_API_KEY", "from-env")
    assert Endpoint("http://host").headers == {"authorization": "Bearer from-env"}
    assert Endpoint("http://host", "given").headers == {"authorization": "Bearer given"}
    with pytest.raises(ConfigError, match="printable"):
        Endpoint("http://host", "a\nb")


def test_a_proxy_of_the_environment_is_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    for url, is_local in (("http://localhost:1", True), ("http://127.0.0.1:1", True), ("http://other:1", False)):
        with Endpoint(url).client() as client:
            assert client.trust_env is not is_local
