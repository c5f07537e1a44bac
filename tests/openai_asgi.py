"""Questions of the official `openai` client, unmodified, to the app without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from asgi_client import app_of
from fake_async_engine import FakeAsyncEngine
from openai import AsyncOpenAI

TEXT = "naïve 日本語 🙂 fox"


def ask(
    question: Callable[[AsyncOpenAI], Awaitable[Any]],
    *,
    engine: FakeAsyncEngine | None = None,
    key: str = "secret",
    **settings: Any,
) -> Any:
    """What a client gets."""

    async def run() -> Any:
        app = app_of(engine or FakeAsyncEngine([TEXT], seed=1), **settings)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
        async with AsyncOpenAI(base_url="http://server/v1", api_key=key, http_client=http, max_retries=0) as client:
            return await question(client)

    return asyncio.run(run())
