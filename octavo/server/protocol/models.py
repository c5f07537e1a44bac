"""The models that a server offers, as OpenAI's clients read them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelPermission(BaseModel):
    id: str
    object: Literal["model_permission"] = "model_permission"
    created: int  # Unix time, seconds
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int  # Unix time, seconds
    owned_by: str = "octavo"
    root: str  # the model as it was named to the server
    parent: str | None = None
    max_model_len: int  # tokens
    permission: list[ModelPermission]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
