"""Every field of SamplingParams seen from outside: what comes back from generate."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch

from octavo import LLM, RequestOutput, RequestOutputKind, SamplingParams
from octavo.outputs import FlatLogprobs

PROMPT = "The capital of France is"


def one(llm: LLM, prompt: Any = PROMPT, **fields: Any) -> RequestOutput:
    (output,) = llm.generate(prompt, SamplingParams(**({"temperature": 0.0} | fields)), use_tqdm=False)
    return output


def text(llm: LLM, **fields: Any) -> str:
    return one(llm, **fields).outputs[0].text


# ---- stopping ----


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("length", [1, 3, 6, 11])
def test_the_text_ends_exactly_at_a_stop_string(length: int, include: bool, default_llm: LLM) -> None:
    whole = text(default_llm, max_tokens=24)
    for start in (5, 9, 17):
        stop = whole[start : start + length]
        output = one(default_llm, max_tokens=24, stop=["never there", stop], include_stop_str_in_output=include)
        completion = output.outputs[0]
        cut = whole.index(stop)
        assert completion.text == whole[: cut + len(stop) * include]
        assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    assert not default_llm._engine.has_unfinished


def test_a_stop_string_that_never_comes_takes_no_text_away(default_llm: LLM) -> None:
    whole = text(default_llm, max_tokens=12)
    output = one(default_llm, max_tokens=12, stop=[whole[-4:] + "never"])
    assert output.outputs[0].text == whole
    assert output.outputs[0].finish_reason == "length"


def test_stop_tokens_end_the_tokens_and_stay_out_of_the_text(default_llm: LLM) -> None:
    whole = one(default_llm, max_tokens=12).outputs[0]
    stop = whole.token_ids[4]
    first = whole.token_ids.index(stop)
    completion = one(default_llm, max_tokens=12, stop_token_ids=[stop]).outputs[0]
    assert completion.token_ids == whole.token_ids[: first + 1]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    tokenizer = default_llm.get_tokenizer()
    assert completion.text == tokenizer.decode(whole.token_ids[:first])
    kept = one(default_llm, max_tokens=12, stop_token_ids=[stop], include_stop_str_in_output=True).outputs[0]
    assert kept.text == tokenizer.decode(whole.token_ids[: first + 1])
    later = one(default_llm, max_tokens=12, stop_token_ids=[stop], min_tokens=first + 2).outputs[0]
    assert stop not in later.token_ids[: first + 1]


def test_end_of_sequence_min_tokens_and_ignore_eos(default_llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]

    def answer(**fields: Any) -> Any:
        params = SamplingParams(temperature=0.0, max_tokens=60, **fields)
        return default_llm.chat(messages, params, use_tqdm=False)[0].outputs[0]

    eos = default_llm.get_tokenizer().eos_token_id
    plain = answer()
    assert (plain.finish_reason, plain.stop_reason, plain.token_ids[-1]) == ("stop", None, eos)
    longer = answer(min_tokens=len(plain.token_ids) + 3)
    assert len(longer.token_ids) >= len(plain.token_ids) + 3
    assert eos not in longer.token_ids[: len(plain.token_ids) + 3 - 1]
    ignored = answer(ignore_eos=True)
    assert ignored.finish_reason == "length"
    assert ignored.token_ids[: len(plain.token_ids)] == plain.token_ids
    shown = answer(skip_special_tokens=False, include_stop_str_in_output=True)
    assert shown.text.endswith("<|im_end|>")


def test_without_max_tokens_the_context_is_the_limit(default_llm: LLM) -> None:
    prompt = [5] * 1000
    completion = one(default_llm, prompt, max_tokens=None, ignore_eos=True).outputs[0]
    assert len(completion.token_ids) == 24
    assert completion.finish_reason == "length"
    assert len(one(default_llm, [5] * 1023, max_tokens=50, ignore_eos=True).outputs[0].token_ids) == 1


# ---- choosing ----


def test_bans_and_biases(default_llm: LLM) -> None:
    tokenizer = default_llm.get_tokenizer()
    paris = one(default_llm, max_tokens=1).outputs[0].token_ids[0]
    assert "Paris" not in text(default_llm, max_tokens=8, bad_words=["Paris"])
    assert one(default_llm, max_tokens=1, logit_bias={paris: -100}).outputs[0].token_ids != [paris]
    allowed = [paris, 100, 200]
    assert set(
        one(default_llm, max_tokens=8, temperature=1.5, seed=3, allowed_token_ids=allowed).outputs[0].token_ids
    ) <= {*allowed}
    forced = one(default_llm, max_tokens=4, logit_bias={500: 100.0}).outputs[0].token_ids
    assert forced == [500] * 4
    whole = one(default_llm, max_tokens=12).outputs[0]
    words = tokenizer.decode(whole.token_ids[2:5])
    assert words not in text(default_llm, max_tokens=12, bad_words=[words])


def test_an_output_that_may_have_no_token_ends(default_llm: LLM) -> None:
    paris = one(default_llm, max_tokens=1).outputs[0].token_ids[0]
    output = one(default_llm, max_tokens=8, allowed_token_ids=[paris], bad_words=["Paris"]).outputs[0]
    assert (output.text, output.token_ids) == ("", [])
    assert (output.finish_reason, output.stop_reason) == ("length", "no_allowed_token")


def test_penalties_change_what_repeats(default_llm: LLM) -> None:
    prompt = "a b a b a b a b a b"
    repeated = one(default_llm, prompt, max_tokens=16).outputs[0].token_ids
    for field, value in (("repetition_penalty", 1.8), ("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
        assert len(set(one(default_llm, prompt, max_tokens=16, **{field: value}).outputs[0].token_ids)) > len(
            set(repeated)
        )


@pytest.fixture(scope="module")
def tiny(make_llm: Callable[..., LLM]) -> Iterator[LLM]:
    with make_llm("llama") as llm:
        yield llm


def random_params(rng: random.Random, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.5, 1.0, 1.7]),
        top_p=rng.choice([1.0, 0.9, 0.5]),
        top_k=rng.choice([0, 5, 40]),
        min_p=rng.choice([0.0, 0.05]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        presence_penalty=rng.choice([0.0, 0.5]),
        seed=seed,
        max_tokens=24,
        ignore_eos=True,
        detokenize=False,
        logprobs=rng.choice([None, 2]),
    )


@pytest.mark.parametrize(
    "options", [{}, {"async_scheduling": True}, {"num_gpu_blocks_override": 18}, {"max_num_seqs": 3}]
)
def test_a_seeded_request_gets_the_same_tokens_in_any_company(
    options: dict[str, Any], tiny: LLM, make_llm: Callable[..., LLM]
) -> None:
    rng = random.Random(1)
    prompts = [[rng.randrange(2, tiny_models.VOCAB) for _ in range(rng.randrange(1, 60))] for _ in range(20)]
    params = [random_params(rng, seed) for seed in range(20)]
    alone = [
        tiny.generate([ids], [p], use_tqdm=False)[0].outputs[0].token_ids
        for ids, p in zip(prompts, params, strict=True)
    ]
    assert len({tuple(tokens) for tokens in alone}) == 20
    with make_llm("llama", **options) as llm:
        together = llm.generate(prompts, params, use_tqdm=False)
        assert [output.outputs[0].token_ids for output in together] == alone
        backwards = llm.generate(prompts[::-1], params[::-1], use_tqdm=False)
        assert [output.outputs[0].token_ids for output in backwards[::-1]] == alone


def test_unseeded_requests_differ_and_the_engines_seed_repeats_them(make_llm: Callable[..., LLM]) -> None:
    params = SamplingParams(max_tokens=12, ignore_eos=True, detokenize=False)
    runs = []
    for seed in (0, 0, 1):
        with make_llm("llama", seed=seed) as llm:
            outputs = llm.generate([[3, 4, 5]] * 3, params, use_tqdm=False)
            runs.append([tuple(output.outputs[0].token_ids) for output in outputs])
            assert len(set(runs[-1])) == 3
    assert runs[0] == runs[1] != runs[2]


def test_n_completions_of_a_prompt(tiny: LLM) -> None:
    params = SamplingParams(n=4, max_tokens=10, seed=7, ignore_eos=True, detokenize=False)
    first, second = tiny.generate([[3, 4, 5], [6, 7]], params, use_tqdm=False)
    assert [completion.index for completion in first.outputs] == [0, 1, 2, 3]
    assert len({tuple(completion.token_ids) for completion in first.outputs}) == 4
    assert first.prompt_token_ids == [3, 4, 5]
    assert second.prompt_token_ids == [6, 7]
    single = SamplingParams(max_tokens=10, seed=8, ignore_eos=True, detokenize=False)
    (again,) = tiny.generate([[3, 4, 5]], single, use_tqdm=False)
    assert again.outputs[0].token_ids == first.outputs[1].token_ids


def test_outputs_come_in_the_order_of_the_inputs_with_their_own_params(default_llm: LLM) -> None:
    prompts = ["One", {"prompt": "Two"}, [100, 200, 300], {"prompt_token_ids": [7, 8], "prompt": "as text"}]
    params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (9, 1, 5, 3)]
    outputs = default_llm.generate(prompts, params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [9, 1, 5, 3]
    assert [output.prompt for output in outputs] == ["One", "Two", None, "as text"]
    assert outputs[2].prompt_token_ids == [100, 200, 300]
    assert all(output.finished for output in outputs)
    ids = [int(output.request_id) for output in outputs]
    assert ids == list(range(ids[0], ids[0] + 4))


# ---- reporting ----


@torch.inference_mode()
def test_logprobs_of_prompt_and_output_against_transformers(tiny: LLM) -> None:
    rng = random.Random(2)
    reference = tiny_models.build("llama")
    for length in (1, 16, 45):
        prompt = [rng.randrange(2, tiny_models.VOCAB) for _ in range(length)]
        params = SamplingParams(
            temperature=0.8, seed=1, max_tokens=6, ignore_eos=True, logprobs=3, prompt_logprobs=2, detokenize=False
        )
        (output,) = tiny.generate([prompt], params, use_tqdm=False)
        completion = output.outputs[0]
        wanted = torch.log_softmax(reference(torch.tensor([prompt + completion.token_ids])).logits[0], dim=-1)
        assert output.prompt_logprobs is not None
        assert completion.logprobs is not None
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == length
        positions = [*output.prompt_logprobs[1:], *completion.logprobs]
        for index, position in enumerate(positions):
            assert position is not None
            chosen = (prompt + completion.token_ids)[index + 1]
            top = wanted[index].topk(2 if index < length - 1 else 3).indices.tolist()
            assert next(iter(position)) == chosen
            assert set(position) == {chosen, *top}
            for token_id, entry in position.items():
                assert abs(entry.logprob - wanted[index, token_id].item()) < 1e-4
                rank = int((wanted[index] > wanted[index, token_id] + 1e-6).sum()) + 1
                assert entry.rank == rank
        total = sum(position[t].logprob for t, position in zip(completion.token_ids, completion.logprobs, strict=True))  # type: ignore[index]
        assert completion.cumulative_logprob == pytest.approx(total)


@pytest.mark.parametrize("options", [{"max_num_batched_tokens": 8, "max_num_seqs": 8}, {"async_scheduling": True}])
def test_prompt_logprobs_do_not_depend_on_chunks_or_caches(
    options: dict[str, Any], tiny: LLM, make_llm: Callable[..., LLM]
) -> None:
    prompt = list(range(2, 60))
    params = SamplingParams(temperature=0.0, max_tokens=2, prompt_logprobs=0, detokenize=False)
    (plain,) = tiny.generate([prompt], params, use_tqdm=False)
    with make_llm("llama", **options) as llm:
        for _ in range(2):
            (output,) = llm.generate([prompt], params, use_tqdm=False)
            assert output.prompt_logprobs is not None
            assert plain.prompt_logprobs is not None
            assert len(output.prompt_logprobs) == 58
            for got, wanted in zip(output.prompt_logprobs[1:], plain.prompt_logprobs[1:], strict=True):
                assert got is not None
                assert wanted is not None
                assert list(got) == list(wanted)
                assert next(iter(got.values())).logprob == pytest.approx(next(iter(wanted.values())).logprob, abs=1e-4)


def test_scoring_of_given_ids(tiny: LLM) -> None:
    (output,) = tiny.generate(
        [[5, 6, 7, 8]],
        SamplingParams(
            temperature=0.0,
            max_tokens=2,
            detokenize=False,
            logprob_token_ids=[9, 10],
            prompt_logprob_token_ids=[[11, -1], [12, 13]],
            prompt_logprob_start=2,
        ),
        use_tqdm=False,
    )
    assert output.outputs[0].logprobs is not None
    assert [
        set(position or {}) - {t}
        for position, t in zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
    ] == [
        {9, 10},
        {9, 10},
    ]
    assert output.prompt_logprobs is not None
    assert [list(position or {}) for position in output.prompt_logprobs] == [[], [6], [7, 11], [8, 12, 13]]


def test_whole_vocabulary_flat_and_decoded(default_llm: LLM, make_llm: Callable[..., LLM]) -> None:
    with make_llm("llama", max_logprobs=-1) as llm:
        params = SamplingParams(temperature=0.0, max_tokens=2, logprobs=-1, flat_logprobs=True, detokenize=False)
        (output,) = llm.generate([[5, 6]], params, use_tqdm=False)
        flat = output.outputs[0].logprobs
        assert isinstance(flat, FlatLogprobs)
        assert [len(position or {}) for position in flat] == [tiny_models.VOCAB] * 2
        assert sum(2.718281828**entry.logprob for entry in flat[0].values()) == pytest.approx(1, abs=1e-4)
    position = one(default_llm, max_tokens=1, logprobs=True).outputs[0].logprobs
    assert position is not None
    assert position[0] is not None
    assert [entry.decoded_token for entry in position[0].values()] == [" Paris"]


def test_without_detokenizing_there_is_no_text(default_llm: LLM) -> None:
    completion = one(default_llm, max_tokens=3, detokenize=False).outputs[0]
    assert completion.text == ""
    assert len(completion.token_ids) == 3


@pytest.mark.parametrize("interval", [None, 4])
@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_output_kinds_and_stream_interval(kind: RequestOutputKind, interval: int | None, default_llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=13, ignore_eos=True, output_kind=kind, stream_interval=interval)
    outputs = list(default_llm._run(default_llm._jobs([PROMPT], params, None, add_special_tokens=True)))
    whole = text(default_llm, max_tokens=13, ignore_eos=True)
    pieces = [output.outputs[0] for output in outputs]
    assert outputs[-1].finished
    if kind is RequestOutputKind.FINAL_ONLY:
        assert len(outputs) == 1
        assert pieces[0].text == whole
    elif kind is RequestOutputKind.DELTA:
        assert "".join(piece.text for piece in pieces) == whole
        assert sum(len(piece.token_ids) for piece in pieces) == 13
    else:
        assert pieces[-1].text == whole
        assert all(late.text.startswith(early.text) for early, late in pairwise(pieces))
    if kind is not RequestOutputKind.FINAL_ONLY:
        assert len(outputs) == (13 if interval is None else 4)


def test_a_batch_mixes_everything(default_llm: LLM) -> None:
    params = [
        SamplingParams(temperature=0.0, max_tokens=8),
        SamplingParams(temperature=1.3, top_p=0.9, seed=1, max_tokens=8),
        SamplingParams(temperature=0.7, top_k=5, n=2, seed=2, max_tokens=8),
        SamplingParams(temperature=0.0, repetition_penalty=1.3, max_tokens=8, stop="."),
        SamplingParams(temperature=0.0, max_tokens=8, logprobs=2, bad_words=["the"]),
        SamplingParams(temperature=1.0, min_p=0.1, seed=4, max_tokens=8, min_tokens=8, logit_bias={300: 3}),
        SamplingParams(temperature=0.0, max_tokens=8, allowed_token_ids=list(range(1000, 2000))),
    ]
    together = default_llm.generate([PROMPT] * len(params), params, use_tqdm=False)
    assert together[0].outputs[0].token_ids == one(default_llm, max_tokens=8).outputs[0].token_ids
    assert [len(output.outputs) for output in together] == [1, 1, 2, 1, 1, 1, 1]
    assert "." not in together[3].outputs[0].text
    assert all(1000 <= i < 2000 for i in together[6].outputs[0].token_ids)


# ---- defaults ----


def test_defaults_come_from_the_model_unless_turned_off(
    tiny_folder: Callable[[str], Any], tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    generation = {"temperature": 0.6, "top_k": 20, "eos_token_id": [9, 11], "max_new_tokens": 5, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))

    def defaults(**options: Any) -> SamplingParams:
        with LLM(str(folder), skip_tokenizer_init=True, use_tqdm_on_load=False, **options) as llm:
            assert llm._config.model.eos_token_ids == (9, 11)
            (output,) = llm.generate([[3]], None, use_tqdm=False)
            params = llm.get_default_sampling_params()
            assert len(output.outputs[0].token_ids) <= (params.max_tokens or 0)
            return params

    found = defaults()
    assert (found.temperature, found.top_k, found.max_tokens) == (0.6, 20, 5)
    for neutral in ("vllm", "none"):
        found = defaults(generation_config=neutral)
        assert (found.temperature, found.top_k, found.max_tokens) == (1.0, 0, 16)
    found = defaults(override_generation_config={"top_p": 0.5, "temperature": 0.2})
    assert (found.temperature, found.top_k, found.top_p) == (0.2, 20, 0.5)
    found = defaults(generation_config="vllm", override_generation_config={"top_p": 0.5})
    assert (found.temperature, found.top_k, found.top_p) == (1.0, 0, 0.5)
    other = tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text('{"max_new_tokens": 3}')
    options = {"skip_tokenizer_init": True, "use_tqdm_on_load": False, "generation_config": str(other)}
    with LLM(str(folder), **options) as llm:  # the length of a folder is a limit for all
        (output,) = llm.generate([[3]], SamplingParams(max_tokens=50, ignore_eos=True), use_tqdm=False)
        assert len(output.outputs[0].token_ids) == 3
