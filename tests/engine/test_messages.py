"""What crosses the border between the processes comes out as it went in."""

from __future__ import annotations

import msgspec
import pytest
from fake_engine_process import opened_model

from octavo.config import EngineArgs
from octavo.engine.messages import (
    Add,
    Finish,
    Open,
    Opened,
    Step,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from octavo.observability.stats import EngineStats
from octavo.request import FinishReason, Request, RequestUpdate, TokenLogprobs
from octavo.sampling_params import ReasoningMarkers, RequestOutputKind, SamplingParams, StructuredOutputsParams

REQUEST = Request(
    request_id="a",
    prompt_token_ids=[1, 2, 3],
    params=SamplingParams(
        n=2,
        temperature=0.5,
        stop=["x", "yé"],
        logit_bias={3: -1.5},
        logprobs=5,
        output_kind=RequestOutputKind.DELTA,
        extra_args={"deep": [1, {"a": None}]},
        structured_outputs=StructuredOutputsParams(json={"maximum": 10**30}).as_text(),
        thinking_token_budget=5,
        reasoning_markers=ReasoningMarkers(start_token_ids=[1], end_token_ids=[2, 3]),
    ),
    eos_token_ids=(2, 7),
    bad_words_token_ids=[[1], [2, 3]],
    max_tokens=9,
    seed=(1 << 63) - 1,
    cache_salt="salt",
    priority=-3,
)
UPDATE = RequestUpdate(
    request_id="a",
    new_token_ids=[4],
    logprobs=[TokenLogprobs([4, 5], [-0.5, float("-inf")], 2)],
    prompt_logprobs=[None, TokenLogprobs([2], [-1.0], 1)],
    finish_reason=FinishReason.STOP,
    stop_reason="x",
    num_cached_tokens=16,
    scheduled_ts=12.5,
)


@pytest.mark.parametrize(
    "message",
    [
        Open(EngineArgs.from_kwargs(max_model_len="8k", hf_overrides={"a": [1.5]}, gpu_memory_utilization=0.5)),
        Add([REQUEST]),
        Finish(["a", "b"], FinishReason.ABORT),
        Finish(["a"], FinishReason.STOP, "x"),
    ],
)
def test_to_the_engine(message: Open | Add | Finish) -> None:
    assert decode_to_engine(encode(message)) == message


@pytest.mark.parametrize(
    "message", [Opened(opened_model()), Step([UPDATE], EngineStats(num_running=3, kv_cache_usage=0.25), 7)]
)
def test_from_the_engine(message: Opened | Step) -> None:
    assert decode_from_engine(encode(message)) == message


def test_anything_else_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_to_engine(msgspec.msgpack.encode({"type": "Add", "requests": [{"request_id": 5}]}))
