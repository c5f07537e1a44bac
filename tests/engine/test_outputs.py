"""OutputProcessor without a tokenizer: which outputs come when, and what they hold."""

from __future__ import annotations

import pytest

from octavo.engine.inputs import Prompt
from octavo.engine.outputs import OutputProcessor
from octavo.outputs import RequestOutput
from octavo.request import FinishReason, Request, RequestUpdate, TokenLogprobs
from octavo.sampling_params import RequestOutputKind, SamplingParams

CUMULATIVE, DELTA, FINAL_ONLY = RequestOutputKind


def make_processor(num_sequences: int = 1, **fields: object) -> OutputProcessor:
    params = SamplingParams(detokenize=False, n=num_sequences, **fields)  # type: ignore[arg-type]
    requests = [
        Request(request_id=f"a{index}", prompt_token_ids=[1, 2], params=params) for index in range(num_sequences)
    ]
    processor = OutputProcessor(None)
    processor.add("a", Prompt(text=None, token_ids=[1, 2]), params, requests)
    return processor


def update(*token_ids: int, index: int = 0, reason: FinishReason | None = None) -> RequestUpdate:
    return RequestUpdate(
        request_id=f"a{index}", new_token_ids=list(token_ids), finish_reason=reason, num_cached_tokens=5
    )


def run(processor: OutputProcessor, steps: list[list[RequestUpdate]]) -> list[list[RequestOutput]]:
    outputs = []
    for updates in steps:
        found, stopped = processor.process(updates)
        assert not stopped
        outputs.append(found)
    return outputs


STEPS = [[3], [4, 5], [6]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (CUMULATIVE, [[3], [3, 4, 5], [3, 4, 5, 6]]),
        (DELTA, [[3], [4, 5], [6]]),
        (FINAL_ONLY, [None, None, [3, 4, 5, 6]]),
    ],
)
def test_each_kind_shows_its_tokens(kind: RequestOutputKind, expected: list[list[int] | None]) -> None:
    processor = make_processor(output_kind=kind)
    steps = [[update(*ids, reason=FinishReason.LENGTH if ids == STEPS[-1] else None)] for ids in STEPS]
    outputs = run(processor, steps)
    assert [found[0].outputs[0].token_ids if found else None for found in outputs] == expected
    (last,) = outputs[-1]
    assert last.finished
    assert last.outputs[0].finish_reason == "length"
    assert last.outputs[0].text == ""
    assert last.num_cached_tokens == 5
    assert last.metrics is not None
    assert last.metrics.num_generation_tokens == 4
    assert last.metrics.first_token_ts is not None
    assert last.metrics.last_token_ts is not None
    assert last.metrics.queued_ts <= last.metrics.first_token_ts <= last.metrics.last_token_ts
    assert not processor._by_sequence


def test_outputs_do_not_change_after_they_were_handed_out() -> None:
    processor = make_processor(output_kind=CUMULATIVE)
    first = update(3)
    ((output,), (later,)) = run(processor, [[first], [update(4)]])
    assert first.new_token_ids == [3]
    assert output.outputs[0].token_ids == [3]
    assert later.outputs[0].token_ids == [3, 4]


def test_the_final_output_of_several_sequences_comes_with_the_last_one() -> None:
    processor = make_processor(2, output_kind=FINAL_ONLY)
    end = FinishReason.STOP
    steps = [
        [update(3), update(4, index=1)],
        [update(5, reason=end), update(6, index=1)],
        [update(7, index=1, reason=end)],
    ]
    outputs = run(processor, steps)
    assert outputs[:2] == [[], []]
    ((output,),) = outputs[2:]
    assert [completion.token_ids for completion in output.outputs] == [[3, 5], [4, 6, 7]]


@pytest.mark.parametrize("kind", [DELTA, FINAL_ONLY])
def test_log_probabilities_come_with_their_tokens(kind: RequestOutputKind) -> None:
    processor = make_processor(output_kind=kind, logprobs=0)
    one = update(3, 4, reason=FinishReason.LENGTH)
    one.logprobs = [TokenLogprobs([3], [-1.0], 1), TokenLogprobs([4], [-0.5], 2)]
    ((output,),) = run(processor, [[one]])
    completion = output.outputs[0]
    assert completion.token_ids == [3, 4]
    assert completion.cumulative_logprob == -1.5
    assert completion.logprobs is not None
    assert [{token: entry.rank for token, entry in row.items()} for row in completion.logprobs if row] == [
        {3: 1},
        {4: 2},
    ]


def test_a_request_without_tokens_ends_too() -> None:
    processor = make_processor(output_kind=FINAL_ONLY)
    ((output,),) = run(processor, [[update(reason=FinishReason.ABORT)]])
    assert output.outputs[0].token_ids == []
    assert output.outputs[0].finish_reason == "abort"
