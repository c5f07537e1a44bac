"""RequestModel: what every request body has in common. Fields that it does not know are kept, and told of later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

MAX_JSON_DEPTH = 64


class RequestModel(BaseModel):
    """A JSON object of a request. What is in `model_extra` has no meaning here: see `octavo.server.fields`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_depth(cls, data: Any) -> Any:
        level = _containers([data])
        for _ in range(MAX_JSON_DEPTH):
            level = _containers(child for item in level for child in (item.values() if type(item) is dict else item))
        if level:
            raise PydanticCustomError("too_deep", "is nested more than {limit} levels deep", {"limit": MAX_JSON_DEPTH})
        return data


def _containers(items: Iterable[Any]) -> list[Any]:
    return [item for item in items if type(item) is dict or type(item) is list]
