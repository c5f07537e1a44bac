"""POST /tokenize and /detokenize, against the tokenizer itself."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from asgi_client import app_of
from asgi_request import ask_json
from fake_async_engine import FakeAsyncEngine, tiny_tokenizer

TEXT = "naïve 日本語 🙂 <|im_end|>"
USER = {"role": "user", "content": "hi"}


def tokenized(**body: Any) -> Any:
    answer = ask_json(app_of(FakeAsyncEngine()), "/tokenize", body)
    assert answer.status == 200, answer.content
    return answer.json()


def refused(path: str, body: Any, engine: FakeAsyncEngine | None = None) -> dict[str, Any]:
    answer = ask_json(app_of(engine or FakeAsyncEngine()), path, body)
    assert answer.status == 400, answer.content
    return answer.error


def test_a_prompt() -> None:
    ids = tiny_tokenizer().encode(TEXT)
    assert tokenized(prompt=TEXT) == {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": None}
    assert tokenized(prompt="")["tokens"] == []


def test_token_strs_are_the_vocabularys() -> None:
    answer = tokenized(prompt=TEXT, return_token_strs=True)
    names = {token_id: token for token, token_id in tiny_tokenizer().get_vocab().items()}
    assert answer["token_strs"] == [names[token_id] for token_id in answer["tokens"]]


def test_special_tokens_are_added_to_a_prompt_unless_told_otherwise_and_to_messages_if_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeAsyncEngine()
    asked: list[bool] = []

    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        asked.append(add_special_tokens)
        return [1]

    monkeypatch.setattr(engine.tokenizer, "encode", encode)
    for body in ({"prompt": "a"}, {"messages": [USER]}):
        for add in (None, True, False):
            ask_json(app_of(engine), "/tokenize", {**body, "add_special_tokens": add})
    assert asked == [True, True, False, False, True, False]


def test_messages_are_what_a_chat_sends_to_the_model() -> None:
    for fields in (
        {},
        {"add_generation_prompt": False},
        {"continue_final_message": True, "messages": [USER, {"role": "assistant", "content": "So"}]},
        {"chat_template_kwargs": {"mood": "calm"}},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be short"}]}, USER]},
    ):
        body = {"messages": [USER], **fields}
        engine = FakeAsyncEngine()
        assert ask_json(app_of(engine), "/v1/chat/completions", body).status == 200
        assert tokenized(**body)["tokens"] == engine.calls[0].prompt.token_ids


def test_a_prompt_longer_than_the_context_is_counted() -> None:
    assert tokenized(prompt="1 " * 2000)["count"] > 512


def test_long_texts_are_tokenized_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeAsyncEngine()
    threads: list[bool] = []

    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        threads.append(threading.current_thread() is threading.main_thread())
        return [1]

    monkeypatch.setattr(engine.tokenizer, "encode", encode)
    for body in (
        {"prompt": "a" * 10_000},
        {"prompt": "a" * 10_001},
        {"messages": [USER]},
        {"messages": [{"role": "user", "content": "a" * 10_001}]},
    ):
        assert ask_json(app_of(engine), "/tokenize", body).status == 200
    assert threads == [True, False, True, False]


def test_long_texts_give_the_same_ids_and_leave_the_loop_free() -> None:
    text = TEXT * 1000
    assert tokenized(prompt=text)["tokens"] == tiny_tokenizer().encode(text)
    answer = ask_json(app_of(FakeAsyncEngine()), "/detokenize", {"tokens": tiny_tokenizer().encode(text)})
    assert answer.json() == {"prompt": text}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "neither"),
        ({"prompt": "a", "messages": [USER]}, "prompt", "both"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"role": "user"}]}, "messages", "content is missing"),
        ({"messages": [USER], "chat_template": "x"}, "chat_template", "--chat-template"),
        ({"prompt": ["a"]}, "prompt", "must be a string"),
    ],
)
def test_what_can_not_be_tokenized(body: Any, param: str, message: str) -> None:
    error = refused("/tokenize", body)
    assert error["param"] == param
    assert message in error["message"]


def test_ids_become_text_again() -> None:
    ids = tiny_tokenizer().encode(TEXT)
    app = app_of(FakeAsyncEngine())
    assert ask_json(app, "/detokenize", {"tokens": ids}).json() == {"prompt": TEXT}
    assert ask_json(app, "/detokenize", {"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize("token_id", [-1, 10**6, 10**30])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    error = refused("/detokenize", {"tokens": [5, token_id]})
    assert error["param"] == "tokens.1"
    assert f"from 0 to {len(tiny_tokenizer()) - 1}, got {token_id}" in error["message"]


def test_what_is_no_list_of_ids_is_refused() -> None:
    assert refused("/detokenize", {})["message"] == "tokens is missing; it is required"
    assert refused("/detokenize", {"tokens": ["x"]})["param"] == "tokens.0"
    assert refused("/detokenize", {"tokens": [1.5]})["message"] == "tokens.0 must be an integer, got 1.5"


def test_without_a_tokenizer_both_are_refused() -> None:
    engine = FakeAsyncEngine()
    engine.tokenizer = None
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert "without a tokenizer" in refused(path, body, engine)["message"]
