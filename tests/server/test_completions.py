"""POST /v1/completions: shapes, field by field, prompts of every form, scoring, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgi_client import MODEL, events_of, post
from fake_async_engine import FakeAsyncEngine, tiny_tokenizer

PATH = "/v1/completions"
TEXT = "the lazy dog"
IDS = tiny_tokenizer().encode("hi there")


def complete(engine: FakeAsyncEngine | None = None, **fields: Any) -> Any:
    response = post(engine or FakeAsyncEngine([TEXT]), PATH, {"prompt": "hi there", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_answer_field_by_field() -> None:
    answer = complete()
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    num_tokens = len(tiny_tokenizer().encode(TEXT)) + 1
    assert answer == {
        "object": "text_completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "text": TEXT,
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
                "prompt_token_ids": None,
                "prompt_logprobs": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": len(IDS),
            "completion_tokens": num_tokens,
            "total_tokens": len(IDS) + num_tokens,
            "prompt_tokens_details": None,
        },
    }


def test_the_default_length_is_16_tokens() -> None:
    answer = complete(FakeAsyncEngine(["z" * 40]))
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (16, "length")


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("hi there", [IDS]),
        (IDS, [IDS]),
        (["hi there", "fox"], [IDS, tiny_tokenizer().encode("fox")]),
        ([IDS, [5, 6]], [IDS, [5, 6]]),
    ],
)
def test_prompts_of_every_form(prompt: Any, seen: list[list[int]]) -> None:
    engine = FakeAsyncEngine(["a"])
    answer = complete(engine, prompt=prompt, n=2)
    assert sorted(call.prompt.token_ids for call in engine.calls) == sorted(seen)
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(seen)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, seen))
    assert answer["usage"]["completion_tokens"] == 2 * 2 * len(seen)
    assert engine.num_unfinished == 0


@pytest.mark.parametrize("stream", [False, True])
def test_choices_of_several_prompts_are_numbered_by_prompt(stream: bool) -> None:
    engine = FakeAsyncEngine(["one", "two"], seed=2)
    body = {"prompt": ["fox", "dog", "hi"], "n": 2, "echo": True, "stream": stream}
    response = post(engine, PATH, body)
    texts = dict.fromkeys(range(6), "")
    for event in events_of(response) if stream else [response.json()]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert list(texts.values()) == ["foxone", "foxtwo", "dogone", "dogtwo", "hione", "hitwo"]


def test_logprobs_in_the_old_form() -> None:
    choice = complete(logprobs=2, return_token_ids=True)["choices"][0]
    logprobs, ids = choice["logprobs"], choice["token_ids"]
    assert set(logprobs) == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
    assert logprobs["tokens"] == [tiny_tokenizer().decode([i]) for i in ids]
    assert logprobs["token_logprobs"] == [-1.5] * len(ids)
    assert choice["prompt_token_ids"] == IDS
    for token, offset in zip(logprobs["tokens"][:-1], logprobs["text_offset"][:-1], strict=True):
        assert TEXT.startswith(token, offset)
    for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
        assert top[token] == -1.5
        assert sorted(top.values()) == [-1.5, -0.25]


def test_offsets_count_characters_when_tokens_are_parts_of_them() -> None:
    text = "a🙂é語b"
    for seed in range(5):
        answer = complete(
            FakeAsyncEngine([text], seed=seed), prompt="日本", logprobs=0, echo=True, return_token_ids=True
        )
        choice = answer["choices"][0]
        assert choice["text"] == "日本" + text
        ids = [*choice["prompt_token_ids"], *choice["token_ids"]]
        data, offsets = b"", []
        for token_id in ids:
            offsets.append(len(data.decode("utf-8", "ignore")))
            data += tiny_tokenizer().token_bytes[token_id]
        assert choice["logprobs"]["text_offset"] == offsets


def test_echo_scores_the_prompt() -> None:
    for prompt, text in (("hi there", TEXT), (IDS, TEXT), (IDS, "")):
        answer = complete(FakeAsyncEngine([text]), prompt=prompt, echo=True, logprobs=1, max_tokens=0)
        choice = answer["choices"][0]
        assert choice["text"] == "hi there"
        assert choice["finish_reason"] == "length"
        assert choice["logprobs"]["token_logprobs"] == [None] + [-1.5] * (len(IDS) - 1)
        assert choice["logprobs"]["top_logprobs"][0] is None
        assert "".join(choice["logprobs"]["tokens"]) == "hi there"
        assert choice["logprobs"]["text_offset"] == [0, 1, 2]
        assert answer["usage"]["completion_tokens"] == 0
        assert choice["prompt_logprobs"] is None


def test_prompt_logprobs_belong_to_their_prompt() -> None:
    answer = complete(prompt=[[5, 6], [7, 8, 9]], prompt_logprobs=0)
    rows = [[row and list(row) for row in choice["prompt_logprobs"]] for choice in answer["choices"]]
    assert rows == [[None, ["6"]], [None, ["8"], ["9"]]]


def test_impossible_tokens_have_a_number() -> None:
    top = complete(logprobs=4)["choices"][0]["logprobs"]["top_logprobs"][0]
    assert min(top.values()) == -9999.0


def test_special_tokens_that_are_written_out_count_in_offsets() -> None:
    prompt = "<|im_start|>fox"
    choice = complete(prompt=prompt, echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert (choice["text"], choice["logprobs"]["text_offset"][:2]) == (prompt, [0, len("<|im_start|>")])
    ids = tiny_tokenizer().encode(prompt)
    choice = complete(prompt=ids, echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert (choice["text"], choice["logprobs"]["text_offset"][:2]) == ("fox", [0, 0])


def test_stop_reasons() -> None:
    assert complete(stop=["lazy"])["choices"][0]["stop_reason"] == "lazy"
    token_id = tiny_tokenizer().encode(TEXT)[1]
    choice = complete(stop_token_ids=[token_id])["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", token_id)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": []}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": ["a"] * 1025}, "prompt", "1025 prompts, at most 1024"),
        ({"prompt": [1, 100000]}, "prompt", "outside the vocabulary"),
        ({"prompt": [5] * 512}, "prompt", "512 tokens.*max_model_len is 512"),
        ({"prompt": "fox", "max_tokens": 512}, "max_tokens", "maximum context length is 512"),
        ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ({"suffix": "x"}, "suffix", "not trained"),
        ({"best_of": 3}, "best_of", "set n"),
        ({"logprobs": 21}, "logprobs", "at most 20"),
        ({"logprobs": -2}, "logprobs", "got -2"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds", "not supported yet"),
        ({"guided_regex": "a"}, "guided_regex", "use structured_outputs"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema or structural_tag, got 'xml'"),
        ({"stream_options": {}}, "stream_options", "stream is false"),
        ({"n": 0}, "n", "1 to"),
        ({"n": 2, "temperature": 0}, "n", "greedy"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], param: str, words: str) -> None:
    response = post(FakeAsyncEngine([TEXT]), PATH, {"prompt": "hi", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert re.search(words, error["message"])


def test_one_bad_prompt_of_several_refuses_all() -> None:
    engine = FakeAsyncEngine()
    response = post(engine, PATH, {"prompt": ["fine", ""]})
    assert response.status_code == 400
    assert engine.calls == []


def test_a_failure_of_one_prompt_ends_the_others() -> None:
    engine = FakeAsyncEngine(["x" * 20], seed=1)
    engine.fail_after = 3
    response = post(engine, PATH, {"prompt": ["a", "b", "c"], "stream": False, "max_tokens": 30})
    assert response.status_code == 503
    assert engine.num_unfinished == 0
    assert len(engine.aborted) == 3
