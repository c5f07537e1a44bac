"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

import pytest
from asgi_request import ask, ask_json
from fake_async_engine import FakeAsyncEngine
from openai.types import Model

from octavo.server.app import create_app
from octavo.server.settings import ServerSettings

NAMES = ("tiny", "org/tiny-instruct", "a/b/c")


def app() -> Any:
    engine: Any = FakeAsyncEngine(max_model_len=77)
    return create_app(engine, ServerSettings(served_model_names=NAMES))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/"])
def test_all_served_names_are_listed(path: str) -> None:
    answer = ask(app(), "GET", path)
    assert answer.status == 200
    listed = answer.json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == list(NAMES)
    card = listed["data"][0]
    permission = card.pop("permission")[0]
    assert Model.model_validate(card).created > 1_700_000_000
    assert card == {
        "id": "tiny",
        "object": "model",
        "created": card["created"],
        "owned_by": "octavo",
        "root": "tiny/model",
        "parent": None,
        "max_model_len": 77,
    }
    assert permission["object"] == "model_permission"
    assert permission["allow_sampling"] is True


@pytest.mark.parametrize("name", NAMES)
def test_one_is_found_by_a_name_with_slashes(name: str) -> None:
    cards = {card["id"]: card for card in ask(app(), "GET", "/v1/models").json()["data"]}
    assert ask(app(), "GET", f"/v1/models/{name}").json() == cards[name]


@pytest.mark.parametrize("name", ["tinny", "org", "a/b/c/", "TINY", "\ud7ff" * 5000])
def test_an_unknown_one_is_a_404_that_names_valid_ones(name: str) -> None:
    answer = ask(app(), "GET", f"/v1/models/{name}")
    assert answer.status == 404
    assert (answer.error["type"], answer.error["param"]) == ("NotFoundError", "model")
    assert all(valid in answer.error["message"] for valid in NAMES)
    assert len(answer.content) < 2500


def test_a_request_without_a_model_or_with_any_served_name_is_taken() -> None:
    for model in (None, "", *NAMES):
        assert ask_json(app(), "/tokenize", {"prompt": "a", "model": model}).status == 200
    answer = ask_json(app(), "/tokenize", {"prompt": "a", "model": "tinny"})
    assert answer.status == 404
    assert answer.error["message"] == f"there is no model 'tinny' here; this server has {', '.join(map(repr, NAMES))}"
