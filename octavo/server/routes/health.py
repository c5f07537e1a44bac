"""How the server is: health, readiness, load, version, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.errors import ApiError
from octavo.server.state import engine_of
from octavo.version import __version__

router = APIRouter(tags=["state"])


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """200 while the engine is alive and makes progress with its work, else 503 with the reason."""
    reason = engine_of(request).health()
    if reason is not None:
        raise ApiError(503, reason)
    return {}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """200 while new requests are taken, else 503."""
    if not engine_of(request).is_ready():
        raise ApiError(503, "the server takes no requests now: it is starting or about to stop")
    return {}


# Two methods of one function would have one name in the OpenAPI document.
@router.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
async def ping(request: Request) -> dict[str, str]:
    """The same as /health."""
    return await health(request)


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of octavo."""
    return {"version": __version__}


@router.get("/load")
async def load(request: Request) -> dict[str, int]:
    """How many prompts are under way."""
    return {"server_load": engine_of(request).num_unfinished}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    content, media_type = engine_of(request).metrics.render()
    return Response(content, headers={"Content-Type": media_type})
