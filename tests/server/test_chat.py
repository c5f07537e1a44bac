"""POST /v1/chat/completions: shapes, field by field, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgi_client import MODEL, events_of, post
from fake_async_engine import FakeAsyncEngine, tiny_tokenizer

from octavo.errors import EngineDeadError, EngineError

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
TEXT = "naïve 日本語 🙂 fox"


def chat(engine: FakeAsyncEngine | None = None, *, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    response = post(engine or FakeAsyncEngine([TEXT]), PATH, {"messages": [USER], **fields}, **(settings or {}))
    assert response.status_code == 200, response.text
    return response.json()


def refused(engine: FakeAsyncEngine | None = None, *, status: int = 400, **fields: Any) -> dict[str, Any]:
    response = post(engine or FakeAsyncEngine([TEXT]), PATH, {"messages": [USER], **fields})
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    return error


def prompt_of(**fields: Any) -> str:
    """The text that the model is given."""
    engine = FakeAsyncEngine()
    chat(engine, **fields)
    return engine.calls[0].prompt.text or ""


def test_the_answer_field_by_field() -> None:
    num_prompt_tokens = len(tiny_tokenizer().encode(RENDERED, add_special_tokens=False))
    num_tokens = len(tiny_tokenizer().encode(TEXT)) + 1
    answer = chat()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": TEXT,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [],
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": num_prompt_tokens + num_tokens,
            "prompt_tokens_details": None,
        },
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }


def test_n_choices_each_with_its_text() -> None:
    answer = chat(FakeAsyncEngine(["one", "two words", "three more words"]), n=3)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert [c["message"]["content"] for c in answer["choices"]] == ["one", "two words", "three more words"]


def test_logprobs_have_text_bytes_and_the_most_likely_tokens() -> None:
    answer = chat(logprobs=True, top_logprobs=4, return_token_ids=True)
    choice = answer["choices"][0]
    content = choice["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content[:-1]).decode() == TEXT
    assert [entry["logprob"] for entry in content] == [-1.5] * len(choice["token_ids"])
    # The fake's order: the token before the chosen one, the chosen one, the next two; the last is impossible.
    assert [[top["logprob"] for top in entry["top_logprobs"]] for entry in content] == [
        [-0.25, -1.5, -3.0, -9999.0]
    ] * len(content)
    assert all(entry["top_logprobs"][1]["token"] == entry["token"] for entry in content)
    assert answer["prompt_token_ids"] == tiny_tokenizer().encode(RENDERED, add_special_tokens=False)


@pytest.mark.parametrize(("given", "num_top"), [({}, 0), ({"top_logprobs": 0}, 0), ({"top_logprobs": 1}, 1)])
def test_fewer_top_logprobs_leave_the_chosen_token_out(given: dict[str, Any], num_top: int) -> None:
    entry = chat(logprobs=True, **given)["choices"][0]["logprobs"]["content"][0]
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.25][:num_top]


def test_tokens_as_token_ids() -> None:
    choice = chat(logprobs=True, return_tokens_as_token_ids=True, return_token_ids=True)["choices"][0]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == [f"token_id:{i}" for i in choice["token_ids"]]


def test_prompt_logprobs() -> None:
    rows = chat(prompt_logprobs=1)["prompt_logprobs"]
    ids = tiny_tokenizer().encode(RENDERED, add_special_tokens=False)
    assert rows[0] is None
    assert [set(row) for row in rows[1:]] == [{str(token_id), str(token_id - 1)} for token_id in ids[1:]]
    assert rows[1][str(ids[1])] == {"logprob": -1.5, "rank": 2, "decoded_token": tiny_tokenizer().decode([ids[1]])}


def test_usage_details_when_the_server_gives_them() -> None:
    engine = FakeAsyncEngine()
    engine.num_cached_tokens = 7
    usage = chat(engine, settings={"enable_prompt_tokens_details": True})["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 7}


def test_the_stream_field_by_field() -> None:
    engine = FakeAsyncEngine(["the fox"])
    body = {"messages": [USER], "stream": True, "stream_options": {"include_usage": True}}
    events = events_of(post(engine, PATH, body))
    assert {(e["object"], e["model"]) for e in events} == {("chat.completion.chunk", MODEL)}
    assert len({(e["id"], e["created"]) for e in events}) == 1
    role, *texts, last, usage = [{k: e[k] for k in e if k in ("choices", "usage")} for e in events]
    plain = {"index": 0, "logprobs": None, "finish_reason": None}
    assert role == {"choices": [{**plain, "delta": {"role": "assistant", "content": ""}}]}
    assert all(e == {"choices": [{**plain, "delta": e["choices"][0]["delta"]}]} for e in texts)
    assert "".join(e["choices"][0]["delta"]["content"] for e in texts) == "the fox"
    assert last == {"choices": [{**plain, "delta": {}, "finish_reason": "stop", "stop_reason": None}]}
    counts = chat(FakeAsyncEngine(["the fox"]))["usage"]
    assert usage == {"choices": [], "usage": counts}


def test_developer_becomes_system_where_the_template_knows_none() -> None:
    messages = [{"role": "developer", "content": "be brief"}, USER]
    assert prompt_of(messages=messages).startswith("<|im_start|>system\nbe brief<|im_end|>")
    engine = FakeAsyncEngine()
    engine.chat_template = "{% for m in messages %}{{ m.role }} {% endfor %}{# developer #}"
    chat(engine, messages=messages)
    assert engine.calls[0].prompt.text == "developer user "


def test_content_parts_of_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "user\none\ntwo<" in prompt_of(messages=[{"role": "user", "content": parts}])


def test_template_options() -> None:
    assert prompt_of(add_generation_prompt=False) == RENDERED.removesuffix("<|im_start|>assistant\n")
    assert "[calm]" in prompt_of(chat_template_kwargs={"mood": "calm"})
    assert "[effort high]" in prompt_of(reasoning_effort="high")
    assert prompt_of(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none") == RENDERED


def test_a_final_message_is_continued_and_echoed() -> None:
    messages = [USER, {"role": "assistant", "content": "The answer"}]
    engine = FakeAsyncEngine([" is 42"])
    answer = chat(engine, messages=messages, continue_final_message=True, echo=True)
    assert (engine.calls[0].prompt.text or "").endswith("<|im_start|>assistant\nThe answer")
    assert answer["choices"][0]["message"]["content"] == "The answer is 42"
    body = {"messages": messages, "continue_final_message": True, "echo": True, "stream": True}
    events = events_of(post(FakeAsyncEngine([" is 42"]), PATH, body))
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events) == "The answer is 42"


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    answer = chat(max_tokens=7, max_completion_tokens=2)
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["choices"][0]["finish_reason"] == "length"


def test_request_goes_before_the_models_default_and_that_before_openais() -> None:
    engine = FakeAsyncEngine(defaults={"temperature": 0.3, "top_k": 5, "max_tokens": 40})
    chat(engine, top_k=9)
    params = engine.calls[0].params
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.3, 9, 1.0, 40)
    engine = FakeAsyncEngine()
    chat(engine, temperature=None, max_tokens=None, stop=None)
    params = engine.calls[0].params
    assert (params.temperature, params.max_tokens, params.stop) == (1.0, None, [])


def test_every_sampling_field_arrives() -> None:
    given = {
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "temperature": 0.7,
        "top_p": 0.9, "top_k": 11, "min_p": 0.1, "seed": 5, "stop": ["zzz"], "stop_token_ids": [9],
        "bad_words": ["bad"], "include_stop_str_in_output": True, "ignore_eos": True, "min_tokens": 2,
        "max_tokens": 12, "allowed_token_ids": [4, 5], "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }  # fmt: skip
    engine = FakeAsyncEngine(policy="priority")
    chat(
        engine, **given, logit_bias={"7": 3}, priority=4, cache_salt="salt", user="me", metadata={"a": "b"}, store=True
    )
    call = engine.calls[0]
    assert {name: getattr(call.params, name) for name in given} == given
    assert (call.params.logit_bias, call.priority, call.prompt.cache_salt) == ({7: 3.0}, 4, "salt")


def test_ids_of_requests() -> None:
    body = {"messages": [USER]}
    named = post(FakeAsyncEngine(), PATH, body, headers={"x-request-id": "my-id.1"})
    assert named.json()["id"] == "chatcmpl-my-id.1"
    odd = post(FakeAsyncEngine(), PATH, body, headers={"x-request-id": 'x"\\ y'})
    assert len(odd.json()["id"]) == len("chatcmpl-") + 32
    assert chat(request_id="in-body")["id"] == "chatcmpl-in-body"


def test_an_unknown_field_is_named_in_a_header() -> None:
    for stream in (False, True):
        response = post(FakeAsyncEngine(), PATH, {"messages": [USER], "temprature": 1, "stream": stream})
        assert response.status_code == 200
        assert response.headers["x-octavo-ignored-fields"] == "temprature"


def test_an_empty_model_is_the_first_one_and_an_unknown_one_is_404() -> None:
    assert chat(model="")["model"] == MODEL
    error = refused(status=404, model="gpt-9")
    assert error["param"] == "model"
    assert MODEL in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema or structural_tag, got 'xml'"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "json_schema.schema"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of.*got none"),
        ({"guided_json": {"type": "object"}}, "guided_json", "use structured_outputs"),
        ({"use_beam_search": True}, "use_beam_search", "not supported yet"),
        ({"functions": [{}]}, "functions", "not supported yet"),
        ({"chat_template": "{{ x }}"}, "chat_template", "--chat-template"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream is false"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs to true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20, got 21"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "from 0 to 20"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "stream"),
        ({"temperature": 3}, "temperature", r"in \[0, 2\], got 3"),
        ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "1 or more"),
        ({"max_tokens": 600}, "max_tokens", "maximum context length is 512 tokens.*20 in the prompt, 600"),
        ({"max_completion_tokens": 600}, "max_completion_tokens", "lower max_completion_tokens"),
        ({"messages": []}, "messages", "must not be empty"),
        ({"messages": [{"role": "user", "content": "fox " * 600}]}, "messages", "max_model_len is 512"),
        ({"messages": [{"role": "user", "content": "fox " * 6000}]}, "messages", "max_model_len is 512"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "image_url"),
        ({"messages": [{"content": "hi"}]}, "messages", "role"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", "one of them"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "tokenize"),
        ({"priority": 1}, "priority", "scheduling_policy"),
        ({"cache_salt": ""}, "cache_salt", "1 to 128"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"stop_token_ids": [100000]}, "stop_token_ids", "outside the vocabulary"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "from 1 to 511"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(fields: dict[str, Any], param: str, words: str) -> None:
    error = refused(**fields)
    assert error["param"] == param
    assert re.search(words, error["message"])


def test_echo_and_role_with_lone_surrogates_do_no_harm() -> None:
    engine = FakeAsyncEngine(["!"])
    engine.chat_template = "{% for m in messages %}{{ m.content[:2] }}{% endfor %}"
    messages = [{"role": "\ud800", "content": "hi \udfff"}]
    answer = chat(engine, messages=messages, add_generation_prompt=False, echo=True)
    assert answer["choices"][0]["message"]["content"] == "hi ?!"


def test_a_prompt_is_cut_to_the_tokens_that_are_asked_for() -> None:
    ids = tiny_tokenizer().encode(RENDERED, add_special_tokens=False)
    for side, kept in (("left", ids[-5:]), ("right", ids[:5])):
        engine = FakeAsyncEngine()
        chat(engine, truncate_prompt_tokens=5, truncation_side=side)
        assert engine.calls[0].prompt.token_ids == kept
    engine = FakeAsyncEngine()
    chat(engine, truncate_prompt_tokens=-1, max_tokens=500)
    assert engine.calls[0].prompt.token_ids == ids[-12:]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_output_has_a_status(stream: bool) -> None:
    engine = FakeAsyncEngine()
    engine.overloaded = True
    refused(engine, status=503, stream=stream)
    for error, status in ((EngineDeadError("gone"), 503), (EngineError("failed"), 500)):
        engine = FakeAsyncEngine()
        engine.fail_after, engine.error = 0, error
        refused(engine, status=status, stream=stream)
