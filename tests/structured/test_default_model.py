"""Structured outputs of the default model: always of their form, with every sampling field, alone and in batches."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from all_kernels import needs_cpp_kernels
from structured_schemas import SCHEMAS

from octavo import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from octavo.errors import InvalidRequestError
from octavo.sampling_params import ReasoningMarkers

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER
PERSON = SCHEMAS[22]


def generate(llm: LLM, prompts: Sequence[str], params: Sequence[SamplingParams]) -> list[RequestOutput]:
    return llm.generate(list(prompts), list(params), use_tqdm=False)


def sample_schemas(llm: LLM, runs: Sequence[tuple[int, Any]], max_tokens: int) -> int:
    """Runs (seed, schema) at a high temperature: each output is valid or too long. How many are complete."""
    params = [
        SamplingParams(
            temperature=1.5, seed=seed, max_tokens=max_tokens, structured_outputs=StructuredOutputsParams(json=schema)
        )
        for seed, schema in runs
    ]
    outputs = generate(llm, ["Here is an example in JSON:\n"] * len(runs), params)
    num_complete = 0
    for (_, schema), output in zip(runs, outputs, strict=True):
        (completion,) = output.outputs
        if completion.finish_reason == "stop":
            jsonschema.validate(json.loads(completion.text), schema, format_checker=CHECKER)
            num_complete += 1
        else:
            assert completion.finish_reason == "length"
            assert completion.stop_reason is None
            assert len(completion.token_ids) == max_tokens
    return num_complete


def test_outputs_have_the_form_of_their_schemas(default_llm: LLM) -> None:
    runs = [(index, SCHEMAS[index]) for index in range(0, 40, 2)]
    assert sample_schemas(default_llm, runs, 60) >= 12


@pytest.mark.slow
def test_outputs_have_the_form_of_their_schemas_in_300_runs(default_llm: LLM) -> None:
    runs = [(1000 + index, SCHEMAS[index % 40]) for index in range(300)]
    assert sample_schemas(default_llm, runs, 250) >= 270


def test_kinds(default_llm: LLM) -> None:
    grammar = 'root ::= "SELECT " [a-z]{1,8} (", " [a-z]{1,8}){0,2} " FROM " [a-z]{1,8}'
    structures = [
        StructuredOutputsParams(regex=r"[A-Z][a-z]{2,6} is (good|bad)\."),
        StructuredOutputsParams(choice=["red", "green", "blue/violet"]),
        StructuredOutputsParams(grammar=grammar),
        StructuredOutputsParams(grammar="start: WORD\nWORD: /[a-z]{1,4}/"),
    ]
    patterns = [r"[A-Z][a-z]{2,6} is (good|bad)\.", "red|green|blue/violet",
                "SELECT [a-z]{1,8}(, [a-z]{1,8}){0,2} FROM [a-z]{1,8}", "[a-z]{1,4}"]  # fmt: skip
    params = [SamplingParams(temperature=1.5, n=3, seed=4, max_tokens=60, structured_outputs=s) for s in structures]
    for output, pattern in zip(generate(default_llm, ["Say:"] * 4, params), patterns, strict=True):
        assert len(output.outputs) == 3
        for completion in output.outputs:
            assert completion.finish_reason == "stop"
            assert re.fullmatch(pattern, completion.text), completion.text


FIELDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "n": {"n": 3, "temperature": 1.2},
    "truncated": {"top_k": 5, "top_p": 0.5, "min_p": 0.1},
    "penalties": {"presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 1.5},
    "logit_bias": {"logit_bias": {0: 100, 2: 100, 28: -100}},
    "bad_words": {"bad_words": ["John", "Alice"]},
    "min_tokens": {"min_tokens": 30},
    "ignore_eos": {"ignore_eos": True},
    "stop tokens": {"stop_token_ids": [1, 5]},
    "logprobs": {"logprobs": 3, "prompt_logprobs": 1},
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_sampling_field(name: str, default_llm: LLM) -> None:
    params = SamplingParams(
        max_tokens=64, seed=1, structured_outputs=StructuredOutputsParams(json=PERSON), **FIELDS[name]
    )
    (output,) = generate(default_llm, ["A person as JSON: "], [params])
    for completion in output.outputs:
        assert completion.finish_reason == "stop", completion
        jsonschema.validate(json.loads(completion.text), PERSON)
        if params.logprobs is not None:
            assert completion.logprobs is not None
            for token_id, row in zip(completion.token_ids, completion.logprobs, strict=True):
                assert math.isfinite(row[token_id].logprob)


def test_fields_that_leave_no_token_end_the_output(default_llm: LLM) -> None:
    digits = default_llm.get_tokenizer().encode("0123456789", add_special_tokens=False)
    structure = StructuredOutputsParams(regex="[0-9]{2}[a-z]+!")
    params = SamplingParams(max_tokens=20, allowed_token_ids=digits, structured_outputs=structure)
    free = SamplingParams(max_tokens=8, temperature=0)
    output, other = generate(default_llm, ["x"] * 2, [params, free])
    (completion,) = output.outputs
    assert (completion.finish_reason, completion.stop_reason) == ("length", "no_allowed_token")
    assert re.fullmatch("[0-9]{2}", completion.text)
    (alone,) = generate(default_llm, ["x"], [free])
    assert other.outputs[0].text == alone.outputs[0].text


def test_a_stop_string_ends_the_output(default_llm: LLM) -> None:
    params = SamplingParams(stop=["age"], max_tokens=64, structured_outputs=StructuredOutputsParams(json=PERSON))
    (output,) = generate(default_llm, ["x"], [params])
    assert output.outputs[0].stop_reason == "age"
    assert "age" not in output.outputs[0].text


def test_reasoning_comes_before_the_structure(default_llm: LLM) -> None:
    end = default_llm.get_tokenizer().encode("</think>", add_special_tokens=False)
    params = SamplingParams(
        temperature=1,
        seed=3,
        max_tokens=60,
        thinking_token_budget=12,
        reasoning_markers=ReasoningMarkers(end_token_ids=end),
        structured_outputs=StructuredOutputsParams(choice=["yes", "no"]),
    )
    (output,) = generate(default_llm, ["<think>"], [params])
    assert re.fullmatch(r"(?s).+</think>(yes|no)", output.outputs[0].text)
    assert len(output.outputs[0].token_ids) <= 12 + len(end) + 3
    with pytest.raises(InvalidRequestError, match="thinking_token_budget needs a model"):
        generate(default_llm, ["x"], [SamplingParams(thinking_token_budget=3)])


def _mixed(llm: LLM) -> list[list[str]]:
    prompt = "A list of things, as it could stand in a file that is written by a program, in JSON: "
    params = [
        SamplingParams(
            temperature=1,
            seed=index,
            n=1 + index % 2,
            max_tokens=40,
            structured_outputs=StructuredOutputsParams(json=SCHEMAS[18 + index % 20]) if index % 3 else None,
        )
        for index in range(12)
    ]
    outputs = generate(llm, [prompt] * 12, params)
    return [[completion.text for completion in output.outputs] for output in outputs]


@pytest.mark.slow
@needs_cpp_kernels  # with plain torch the sums of a row depend on the rows beside it
def test_schedules_do_not_change_outputs(default_gguf: Path, default_llm: LLM) -> None:
    """Synchronous, asynchronous, preempted, with and without cached prefixes: a seeded output is the same."""
    expected = _mixed(default_llm)
    assert _mixed(default_llm) == expected  # the prompt is cached now
    common: dict[str, Any] = {"model": str(default_gguf), "max_model_len": 256, "use_tqdm_on_load": False}
    for options in (
        {"async_scheduling": False, "enable_prefix_caching": False},
        {"num_gpu_blocks_override": 24, "block_size": 16},
        {"enforce_eager": True, "max_num_batched_tokens": 256},
    ):
        with LLM(**common, **options) as llm:
            assert _mixed(llm) == expected, options
            if "num_gpu_blocks_override" in options:
                assert llm._engine.stats.num_preemptions > 0


def test_bad_structures_are_refused_at_the_call(default_llm: LLM) -> None:
    good = SamplingParams(max_tokens=2)
    bad = SamplingParams(structured_outputs=StructuredOutputsParams(json={"properties": {"a": {"not": {}}}}))
    with pytest.raises(InvalidRequestError, match="#/properties/a/not") as caught:
        generate(default_llm, ["a", "b"], [good, bad])
    assert caught.value.param == "structured_outputs.json"
    assert not default_llm._engine.has_unfinished
