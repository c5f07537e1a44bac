"""Endpoint: where a server is and the key it asks for, and the httpx clients that reach it.

It knows the forms of an address and nothing of what is asked there.
"""

from __future__ import annotations

import ipaddress
import ssl
from urllib.parse import unquote, urlsplit

import httpx

from octavo import envs
from octavo.errors import ConfigError

DEFAULT_URL = "http://localhost:8000"
CONNECT_TIMEOUT = 10.0  # seconds; an answer itself may take as long as it needs
_FORMS = "give http://HOST:PORT, https://HOST:PORT (with or without /v1 behind it) or unix:///PATH/TO.SOCK"


class Endpoint:
    """The address of a server that speaks OpenAI's API.

    Args:
        url: http://host:8000, http://host:8000/v1, https://..., or unix:///path/to.sock.
        api_key: sent as a bearer token; None: the first of OCTAVO_API_KEY, if that is set.

    Raises:
        ConfigError: `url` has none of these forms.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self.url = url
        self.socket: str | None = None  # the path of a Unix-domain socket
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"url {url!r} is no address ({error}); {_FORMS}") from None
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            self.socket = unquote(parts.path)
            self.base_url = "http://localhost"
        elif parts.scheme in ("http", "https") and host and not parts.query and not parts.fragment:
            self.base_url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        else:
            raise ConfigError(f"url {url!r} is no address of a server; {_FORMS}")
        self.is_tls = parts.scheme == "https"
        self.host = host or "localhost"
        self.port = port or (443 if self.is_tls else 80)
        self.path_prefix = urlsplit(self.base_url).path
        self.api_key = api_key or next(iter(envs.api_keys()), None)
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("the API key must be printable ASCII; look for a line break or a stray character in it")

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def client(self) -> httpx.Client:
        """A client that waits as long as an answer takes."""
        return httpx.Client(
            base_url=self.base_url,
            headers=self.headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            transport=httpx.HTTPTransport(uds=self.socket) if self.socket else None,
            trust_env=not self._is_local(),
        )

    def async_client(self, max_connections: int) -> httpx.AsyncClient:
        """The same for many requests at once."""
        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers=self.headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            limits=limits,
            transport=httpx.AsyncHTTPTransport(uds=self.socket, limits=limits) if self.socket else None,
            trust_env=not self._is_local(),
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.is_tls else None

    def _is_local(self) -> bool:
        """On this machine: a proxy that the environment names does not lead there."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
