"""Structured outputs of the default model on a GPU: the masks' kernel in the engine, with steps that wait for a mask.

In float32, where a schedule does not change which token wins.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams, StructuredOutputsParams

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WORDS = r"[A-Z][a-z]{2,6} is (good|bad)\."
STRUCTURES: list[dict[str, Any] | None] = [None, {"json": PERSON}, {"regex": WORDS}, {"choice": ["red", "green"]}]
PARAMS = [
    SamplingParams(
        temperature=(0.0, 1.5)[index % 2],
        seed=index,
        n=1 + index % 2,
        max_tokens=60,
        structured_outputs=None if fields is None else StructuredOutputsParams(**fields),
    )
    for index, fields in enumerate(STRUCTURES * 6)
]


def open_llm(gguf: str, **options: Any) -> LLM:
    return LLM(gguf, dtype="float32", max_model_len=256, use_tqdm_on_load=False, **options)


def texts(llm: LLM) -> list[list[tuple[str, str | None]]]:
    prompts = [f"An example, number {index}: " for index in range(len(PARAMS))]
    outputs = llm.generate(prompts, PARAMS, use_tqdm=False)
    return [[(each.text, each.finish_reason) for each in output.outputs] for output in outputs]


@pytest.fixture(scope="module")
def expected(gguf: str) -> list[list[tuple[str, str | None]]]:
    with open_llm(gguf) as llm:
        return texts(llm)


def test_outputs_have_their_form(expected: list[list[tuple[str, str | None]]]) -> None:
    num_complete = 0
    for fields, completions in zip(STRUCTURES * 6, expected, strict=True):
        for text, finish_reason in completions:
            if fields is None or finish_reason != "stop":
                continue
            num_complete += 1
            if "json" in fields:
                person = json.loads(text)
                assert set(person) == {"name", "age"}
                assert len(person["name"]) <= 12
                assert person["age"] >= 0
            else:
                assert re.fullmatch(fields.get("regex", "red|green"), text), text
    assert num_complete >= 20  # of 27


@pytest.mark.parametrize(
    "options",
    [
        {"async_scheduling": False, "enable_prefix_caching": False},
        {"enforce_eager": True, "max_num_batched_tokens": 64},
        {"num_gpu_blocks_override": 24, "block_size": 16},
    ],
    ids=["synchronous", "eager", "preempted"],
)
def test_schedules_do_not_change_outputs(
    gguf: str, expected: list[list[tuple[str, str | None]]], options: dict[str, Any]
) -> None:
    with open_llm(gguf, **options) as llm:
        assert texts(llm) == expected
        if "num_gpu_blocks_override" in options:
            assert llm._engine.stats.num_preemptions > 0  # type: ignore[attr-defined]


def test_fields_that_leave_no_token_end_the_output(gguf: str) -> None:
    with open_llm(gguf) as llm:
        digits = llm.get_tokenizer().encode("0123456789", add_special_tokens=False)
        structure = StructuredOutputsParams(regex="[0-9]{2}[a-z]+!")
        params = [
            SamplingParams(max_tokens=20, seed=seed, allowed_token_ids=digits, structured_outputs=structure)
            for seed in range(32)
        ]
        for output in llm.generate(["x"] * len(params), params, use_tqdm=False):
            (completion,) = output.outputs
            assert (completion.finish_reason, completion.stop_reason) == ("length", "no_allowed_token")
            assert re.fullmatch("[0-9]{2}", completion.text)
