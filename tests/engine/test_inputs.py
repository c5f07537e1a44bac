"""InputProcessor: token ids of every kind, and parameters that the caller may change afterwards."""

from __future__ import annotations

import enum
from array import array
from collections import deque
from typing import Any

import numpy as np
import pytest
from fake_engine_process import opened_model

from octavo.engine.generation_config import SamplingDefaults
from octavo.engine.inputs import InputProcessor
from octavo.errors import InvalidRequestError
from octavo.sampling_params import SamplingParams

MODEL = opened_model().config  # 50 tokens


class Word(enum.IntEnum):
    HELLO = 5


@pytest.fixture
def inputs() -> InputProcessor:
    return InputProcessor(MODEL.model, MODEL.scheduler, None, SamplingDefaults({}))


@pytest.mark.parametrize(
    "given",
    [[0, 49], (0, 49), range(3, 6), array("i", [7, 8]), deque([1, 2]), [1, Word.HELLO], [np.int64(0), np.uint8(9)]],
    ids=repr,
)
def test_ids_of_any_sequence_are_taken_as_a_list(given: Any, inputs: InputProcessor) -> None:
    prompt = inputs.prompt(given)
    assert prompt.token_ids == list(given)
    assert {type(prompt.token_ids), *map(type, prompt.token_ids)} == {list, int}
    assert prompt.token_ids is not given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([3, True], r"prompt_token_ids\[1\] must be an integer, got True"),
        ([False, 3], r"prompt_token_ids\[0\] must be an integer, got False"),
        ([3, 4, 1.0], r"prompt_token_ids\[2\] must be an integer, got 1.0"),
        ([3, [4]], r"prompt_token_ids\[1\] must be an integer, got \[4\]"),
        ([[3], [4]], r"prompt_token_ids\[0\] must be an integer, got \[3\]"),
        ([3, None, "x"], r"prompt_token_ids\[1\] must be an integer, got None"),
        ([Word.HELLO, "x"], r"prompt_token_ids\[1\] must be an integer, got 'x'"),
        ([np.float64(3)], r"prompt_token_ids\[0\] must be an integer"),
        ([2**70, "x"], r"prompt_token_ids\[1\] must be an integer, got 'x'"),
        (array("d", [3.0]), r"prompt_token_ids\[0\] must be an integer, got 3.0"),
        ([3, -1, 4], r"prompt_token_ids holds -1, which is outside the vocabulary \(0 to 49\)"),
        ([3, 50], r"prompt_token_ids holds 50, which is outside the vocabulary \(0 to 49\)"),
        ([3, 2**70], r"prompt_token_ids holds 1180591620717411303424, which is outside"),
        ([], "the prompt is empty"),
        ({3, 4}, "must be a list of integers"),
        ("34", "must be a list of integers"),
    ],
    ids=repr,
)
def test_what_are_no_ids_is_refused(given: Any, message: str, inputs: InputProcessor) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        inputs.prompt({"prompt_token_ids": given})


def test_a_request_keeps_its_parameters_when_the_caller_changes_theirs(inputs: InputProcessor) -> None:
    params, expected = (
        SamplingParams(
            stop_token_ids=[1, 2],
            allowed_token_ids=[1, 2, 3],
            logit_bias={1: 1.0},
            logprob_token_ids=[1, 2],
            prompt_logprob_token_ids=[[1, 2], [3]],
            extra_args={"deep": [1, {"a": [2]}]},
        )
        for _ in range(2)
    )
    (request,) = inputs.requests("a", inputs.prompt([1, 2, 3]), params)
    params.temperature = 0.5
    params.stop.append("x")  # type: ignore[union-attr]
    params.stop_token_ids.append(9)
    params.bad_words.append("x")
    for name in ("allowed_token_ids", "logprob_token_ids"):
        getattr(params, name).append(9)
    params.logit_bias[9] = 9.0  # type: ignore[index]
    params.prompt_logprob_token_ids[0].append(9)  # type: ignore[index]
    params.extra_args["deep"][1]["a"].append(9)  # type: ignore[index]
    assert request.params == expected


def test_a_clone_is_equal_and_shares_nothing_that_can_change() -> None:
    params = SamplingParams(
        n=2,
        stop=["a"],
        stop_token_ids=[1],
        bad_words=["b"],
        logit_bias={1: 1.0},
        allowed_token_ids=[1],
        logprob_token_ids=[1],
        prompt_logprob_token_ids=[[1]],
        extra_args={"a": [1]},
    )
    twin = params.clone()
    assert twin == params
    shared = {
        name
        for name in SamplingParams.__dataclass_fields__
        if isinstance(value := getattr(params, name), list | dict) and getattr(twin, name) is value
    }
    assert shared == set()
    assert SamplingParams().clone() == SamplingParams()
