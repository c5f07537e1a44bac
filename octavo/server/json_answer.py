"""The answer to a request that does not stream: all outputs are awaited, for as long as somebody waits for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from octavo.server.generation import CLIENT_CLOSED_REQUEST, ClientDisconnected, Outputs, PromptOutput, while_connected


async def answer_once(
    request: Request,
    outputs: Outputs,
    whole: Callable[[Sequence[PromptOutput]], Mapping[str, Any]],
    headers: Mapping[str, str],
) -> Response:
    """What `whole` makes of the outputs, as JSON. Raises what `outputs` raises."""

    async def collect() -> list[PromptOutput]:
        return [item async for item in outputs]

    try:
        items = await while_connected(request.receive, collect())
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(msgspec.json.encode(whole(items)), media_type="application/json", headers=dict(headers))
