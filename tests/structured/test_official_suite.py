"""The core keywords of the JSON-Schema-Test-Suite: a schema is refused, or what it calls invalid can't be written.

`json_schema_suite/draft2020-12.json` holds files of the suite (MIT, see its LICENSE), one key each, without `$schema`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.errors import InvalidRequestError

SUITE: dict[str, list[Any]] = json.loads((Path(__file__).parent / "json_schema_suite/draft2020-12.json").read_text())
# Valid instances that have another spelling than the one that the schema leads to: 1.0 for 1, keys in another order.
OTHER_SPELLINGS = {"allOf": 1, "const": 5, "enum": 4, "type": 1}
REFUSED = {"oneOf": 24, "patternProperties": 15, "ref": 34, "uniqueItems": 41}  # instances; of others at most five


def written(instance: Any, schema: Any) -> Any:
    """The instance with its properties in the order in which the schema names them: so they are written."""
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(instance, dict):
        named = schema.get("properties", {})
        places = {name: place for place, name in enumerate(named)}
        names = sorted(instance, key=lambda name: places.get(name, len(places)))
        return {name: written(instance[name], named.get(name, {})) for name in names}
    if isinstance(instance, list):
        return [written(item, schema.get("items", {})) for item in instance]
    return instance


@pytest.mark.parametrize("keyword", SUITE)
def test_keyword(keyword: str, accepts: Callable[..., bool]) -> None:
    num_refused, spelled_otherwise, num_right = 0, [], 0
    for group in SUITE[keyword]:
        for case in group["tests"]:
            text = json.dumps(written(case["data"], group["schema"]), ensure_ascii=False)
            try:
                allowed = accepts(text, json=group["schema"])
            except InvalidRequestError:
                num_refused += 1
                continue
            name = f"{group['description']}: {case['description']}"
            assert case["valid"] or not allowed, name
            if allowed == case["valid"]:
                num_right += 1
            else:
                spelled_otherwise.append(name)
    assert num_right > 0
    assert len(spelled_otherwise) == OTHER_SPELLINGS.get(keyword, 0), spelled_otherwise
    assert num_refused <= REFUSED.get(keyword, 5)
