"""Which models are served."""

from __future__ import annotations

import hashlib
import time

from fastapi import APIRouter, Request

from octavo.server.protocol.models import ModelCard, ModelList, ModelPermission
from octavo.server.state import check_model, engine_of, settings_of

router = APIRouter(tags=["models"])

_CREATED = int(time.time())  # when the server started: the same in every answer


@router.get("/v1/models")
@router.get("/v1/models/", include_in_schema=False)
async def list_models(request: Request) -> ModelList:
    """All names under which the model is served."""
    return ModelList(data=[_card(request, name) for name in settings_of(request).served_model_names])


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> ModelCard:
    """One of them; the name may have slashes."""
    return _card(request, check_model(request, model_id))


def _card(request: Request, name: str) -> ModelCard:
    config = engine_of(request).model_config
    permission_id = f"modelperm-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return ModelCard(
        id=name,
        created=_CREATED,
        root=config.model,
        max_model_len=config.max_model_len,
        permission=[ModelPermission(id=permission_id, created=_CREATED)],
    )
