"""The life of a server: its socket, its two processes, its signals, and how it ends.

It knows uvicorn, and nothing of routes. The engine process starts first, and gets ready while this one loads the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.config import EngineArgs
from octavo.engine.remote import EngineProcess
from octavo.log import get_logger
from octavo.server.listener import address_of, listening
from octavo.server.settings import ServerSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from octavo.engine.async_engine import AsyncEngine

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Where the server listens, and with which certificate."""

    host: str | None = None  # None: all interfaces
    port: int = 8000  # 0: any free one
    uds: str | None = None  # a Unix-domain socket in place of host and port
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = ssl.CERT_NONE
    log_level: str = "warning"  # of uvicorn


def serve(
    engine_args: EngineArgs,
    settings: ServerSettings,
    network: Network,
    *,
    shutdown_timeout: float,
    max_num_queued_reqs: int | None,
    health_timeout: float,
) -> int:
    """Serve until a signal comes (0) or the engine is lost (1).

    After the first SIGTERM or SIGINT no new requests are taken, and those under way have `shutdown_timeout` seconds to
    finish; a second one ends them at once.

    Raises:
        ConfigError: the address can't be listened on, or an argument of the engine is wrong.
        ModelError, EngineError: the engine can't start.
    """
    with (
        listening(network.host, network.port, network.uds) as listener,
        contextlib.closing(EngineProcess.start(engine_args)) as process,
    ):
        import uvloop

        life = _Life(settings, network, listener, shutdown_timeout)
        options = {
            "max_num_queued_reqs": max_num_queued_reqs,
            "health_timeout": health_timeout,
            "log_stats": not engine_args.disable_log_stats,
        }
        return uvloop.run(life.run(process, options))


@contextlib.asynccontextmanager
async def running_app(engine_args: EngineArgs, settings: ServerSettings) -> AsyncGenerator[FastAPI, None]:
    """The server's application over an engine process of its own, without a socket.

    Raises:
        ConfigError, ModelError, EngineError: the engine can't start.
    """
    with contextlib.closing(EngineProcess.start(engine_args)) as process:
        from octavo.engine.async_engine import AsyncEngine
        from octavo.server.app import create_app

        engine = await AsyncEngine.start(process, model_name=settings.served_model_names[0])
        try:
            yield create_app(engine, settings)
        finally:
            await engine.close()


class _Life:
    """One run of a server, from its engine's start to its end."""

    def __init__(
        self, settings: ServerSettings, network: Network, listener: socket.socket, shutdown_timeout: float
    ) -> None:
        self._settings = settings
        self._network = network
        self._listener = listener
        self._shutdown_timeout = shutdown_timeout
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._started = time.monotonic()

    async def run(self, process: EngineProcess, options: dict[str, Any]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        starting = asyncio.create_task(self._start_engine(process, options))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return 0
        stopping.cancel()
        engine = starting.result()
        try:
            cause = await self._serve(engine)
        finally:
            await engine.close()
        if cause is not None:
            logger.error("the server ends, since its engine has stopped: %s", cause)
            return 1
        logger.info("the server has ended")
        return 0

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            self._force.set()
        else:
            logger.info(
                "%s: no new requests; those under way have %g s to finish (once more: end now)",
                signal.Signals(number).name,
                self._shutdown_timeout,
            )
        self._stop.set()

    async def _start_engine(self, process: EngineProcess, options: dict[str, Any]) -> AsyncEngine:
        # Loaded while the engine process loads its own.
        from octavo.engine.async_engine import AsyncEngine
        from octavo.server import app, http_server  # noqa: F401

        return await AsyncEngine.start(process, model_name=self._settings.served_model_names[0], **options)

    async def _serve(self, engine: AsyncEngine) -> str | None:
        """Serve until a signal (None) or the engine's death (why)."""
        from octavo.server.app import create_app
        from octavo.server.http_server import HTTPServer

        network = self._network
        server = HTTPServer(
            create_app(engine, self._settings),
            log_level=network.log_level,
            shutdown_timeout=self._shutdown_timeout,
            ssl_keyfile=network.ssl_keyfile,
            ssl_certfile=network.ssl_certfile,
            ssl_ca_certs=network.ssl_ca_certs,
            ssl_cert_reqs=network.ssl_cert_reqs,
        )
        logger.info(
            "%s is served at %s (ready after %.1f s)",
            ", ".join(self._settings.served_model_names),
            address_of(self._listener, tls=network.ssl_certfile is not None),
            time.monotonic() - self._started,
        )
        dying = asyncio.create_task(engine.wait_for_death())
        stopping = asyncio.create_task(self._stop.wait())
        forcing = asyncio.create_task(self._force.wait())
        serving = asyncio.create_task(server.run(self._listener))
        try:
            await asyncio.wait([serving, dying, stopping], return_when=asyncio.FIRST_COMPLETED)
            engine.drain()
            server.stop()
            await asyncio.wait([serving, forcing, dying], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                server.stop(at_once=forcing.done())
            await serving
        finally:
            for task in (dying, stopping, forcing):
                task.cancel()
        return dying.result() if dying.done() and not dying.cancelled() else None
