"""Bad input of every kind: one error of the tree, quickly, that says what to do; the LLM works on afterwards."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from octavo import LLM, EngineArgs, OctavoError, SamplingParams
from octavo.errors import (
    ConfigError,
    ContextLengthError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedModelError,
    WeightError,
)

GREEDY = SamplingParams(temperature=0.0, max_tokens=4)


@contextmanager
def assert_refused(error: type[OctavoError], *words: str) -> Iterator[None]:
    """The block raises `error` within a second, with all `words` in its message."""
    started = time.perf_counter()
    with pytest.raises(error) as caught:
        yield
    assert time.perf_counter() - started < 1.0
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert len(message) < 1500


# ---- requests: the LLM goes on ----


@pytest.fixture
def llm(default_llm: LLM) -> Iterator[LLM]:
    """The default model; after the test it must give its usual answer."""
    yield default_llm
    (output,) = default_llm.generate("The capital of France is", GREEDY, use_tqdm=False)
    assert "Paris" in output.outputs[0].text
    assert default_llm._engine.stats.kv_cache_usage == 0


REQUESTS: dict[str, tuple[Callable[[LLM], Any], type[OctavoError], tuple[str, ...]]] = {
    "empty prompt": (lambda llm: llm.generate(""), InvalidRequestError, ("empty", "at least one token")),
    "empty ids": (lambda llm: llm.generate({"prompt_token_ids": []}), InvalidRequestError, ("empty",)),
    "one of many is empty": (lambda llm: llm.generate(["a", "", "b"]), InvalidRequestError, ("empty",)),
    "id outside the vocabulary": (
        lambda llm: llm.generate([[1, 49152]]),
        InvalidRequestError,
        ("49152", "vocabulary", "0 to 49151"),
    ),
    "negative id": (lambda llm: llm.generate([[-1]]), InvalidRequestError, ("-1", "vocabulary")),
    "id of a wrong type": (lambda llm: llm.generate([[1, "a"]]), InvalidRequestError, ("[1]", "integer", "'a'")),
    "prompt too long": (lambda llm: llm.generate([[5] * 1024]), ContextLengthError, ("1024 tokens", "max_model_len")),
    "text too long": (lambda llm: llm.generate("many words " * 2000), ContextLengthError, ("max_model_len", "1024")),
    "too few params": (lambda llm: llm.generate(["a", "b"], [GREEDY]), InvalidRequestError, ("1", "2 prompts")),
    "params of a wrong type": (
        lambda llm: llm.generate("a", {"temperature": 0}),  # type: ignore[arg-type]
        InvalidRequestError,
        ("SamplingParams", "temperature"),
    ),
    "unknown argument": (
        lambda llm: llm.generate("a", samplin_params=GREEDY),
        InvalidRequestError,
        ("samplin_params", "did you mean 'sampling_params'"),
    ),
    "unknown argument of chat": (
        lambda llm: llm.chat([{"role": "user", "content": "a"}], tool=[]),
        InvalidRequestError,
        ("'tool'", "'tools'"),
    ),
    "prompt of a wrong type": (lambda llm: llm.generate(3), InvalidRequestError, ("prompts", "got 3")),
    "prompts of a wrong type": (lambda llm: llm.generate([3.5]), InvalidRequestError, ("a prompt must be", "3.5")),
    "unknown key": (lambda llm: llm.generate({"promt": "a"}), InvalidRequestError, ("did you mean 'prompt'",)),
    "no prompt in the dict": (
        lambda llm: llm.generate({"cache_salt": "a"}),
        InvalidRequestError,
        ("prompt_token_ids",),
    ),
    "empty salt": (lambda llm: llm.generate({"prompt": "a", "cache_salt": ""}), InvalidRequestError, ("cache_salt",)),
    "priority without the policy": (
        lambda llm: llm.generate(["a"], priority=[1]),
        InvalidRequestError,
        ("scheduling_policy='priority'",),
    ),
    "priority of the wrong length": (
        lambda llm: llm.generate(["a"], priority=[0, 0]),
        InvalidRequestError,
        ("1 prompts",),
    ),
    "too many logprobs": (
        lambda llm: llm.generate("a", SamplingParams(logprobs=21)),
        InvalidRequestError,
        ("logprobs is 21", "at most 20", "max_logprobs"),
    ),
    "all prompt logprobs": (
        lambda llm: llm.generate("a", SamplingParams(prompt_logprobs=-1)),
        InvalidRequestError,
        ("prompt_logprobs", "max_logprobs"),
    ),
    "stop id outside the vocabulary": (
        lambda llm: llm.generate("a", SamplingParams(stop_token_ids=[50000])),
        InvalidRequestError,
        ("stop_token_ids", "50000"),
    ),
    "bias outside the vocabulary": (
        lambda llm: llm.generate("a", SamplingParams(logit_bias={60000: 1})),
        InvalidRequestError,
        ("logit_bias", "60000"),
    ),
    "messages that are none": (lambda llm: llm.chat("hello"), InvalidRequestError, ("messages must be a list",)),
    "a message that is none": (lambda llm: llm.chat(["hello"]), InvalidRequestError, ("message",)),
    "a message without role": (lambda llm: llm.chat([{"content": "a"}]), InvalidRequestError, ("role",)),
    "a template that raises": (
        lambda llm: llm.chat(
            [{"role": "user", "content": "a"}], chat_template="{{ raise_exception('roles must alternate') }}"
        ),
        InvalidRequestError,
        ("roles must alternate",),
    ),
    "a reserved variable": (
        lambda llm: llm.chat([{"role": "user", "content": "a"}], chat_template_kwargs={"messages": []}),
        InvalidRequestError,
        ("messages",),
    ),
    "a template with an error": (
        lambda llm: llm.chat([{"role": "user", "content": "a"}], chat_template="{% for %}"),
        InvalidRequestError,
        ("template",),
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_bad_request_is_refused_and_the_llm_goes_on(case: str, llm: LLM) -> None:
    call, error, words = REQUESTS[case]
    with assert_refused(error, *words):
        call(llm)
    assert not llm._engine.has_unfinished


def test_an_empty_batch_gives_an_empty_list(llm: LLM) -> None:
    assert llm.generate([]) == []
    assert llm.generate([], []) == []
    assert llm.chat([]) == []


def test_an_interrupt_leaves_nothing_behind(llm: LLM) -> None:
    class Interrupted:
        """A progress bar at which the user presses Ctrl-C."""

        def __init__(self, **_: Any) -> None: ...
        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        def close(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b", "c"], [SamplingParams(max_tokens=n) for n in (1, 30, 30)], use_tqdm=Interrupted)
    assert not llm._engine.has_unfinished


PARAMS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "NaN temperature": ({"temperature": math.nan}, ("temperature", "nan", "[0, 2]")),
    "hot": ({"temperature": 2.1}, ("temperature", "2.1", "[0, 2]")),
    "temperature of a wrong type": ({"temperature": "0.5"}, ("temperature", "'0.5'")),
    "n of 0": ({"n": 0}, ("n ", "got 0", "1 to 16384")),
    "n with greedy": ({"n": 2, "temperature": 0}, ("n ", "temperature is 0")),
    "n too large": ({"n": 20000}, ("n ", "16384")),
    "empty stop": ({"stop": ""}, ("stop", "empty")),
    "an empty stop among others": ({"stop": ["a", ""]}, ("stop", "empty")),
    "stop without text": ({"stop": "a", "detokenize": False}, ("stop", "detokenize")),
    "top_p of 0": ({"top_p": 0}, ("top_p", "(0, 1]")),
    "top_k": ({"top_k": -2}, ("top_k", "-2")),
    "min_p": ({"min_p": 1.5}, ("min_p", "[0, 1]")),
    "presence_penalty": ({"presence_penalty": 3}, ("presence_penalty", "[-2, 2]")),
    "frequency_penalty": ({"frequency_penalty": -2.5}, ("frequency_penalty", "[-2, 2]")),
    "repetition_penalty": ({"repetition_penalty": 0}, ("repetition_penalty", "above 0")),
    "repetition_penalty inf": ({"repetition_penalty": math.inf}, ("repetition_penalty", "inf")),
    "max_tokens": ({"max_tokens": 0}, ("max_tokens", "1 or more")),
    "min_tokens": ({"min_tokens": 20}, ("min_tokens", "max_tokens")),
    "logprobs": ({"logprobs": -2}, ("logprobs", "-2")),
    "seed": ({"seed": 2**63}, ("seed", "64-bit")),
    "stop_token_ids": ({"stop_token_ids": ["a"]}, ("stop_token_ids", "'a'")),
    "allowed_token_ids": ({"allowed_token_ids": []}, ("allowed_token_ids", "at least one")),
    "logit_bias": ({"logit_bias": {"x": 1}}, ("logit_bias", "'x'")),
    "bad_words": ({"bad_words": [""]}, ("bad_words", "empty")),
    "many bad words": ({"bad_words": [str(i) for i in range(129)]}, ("bad_words", "128")),
    "logprob_token_ids": ({"logprob_token_ids": [1, 2], "logprobs": 3}, ("logprobs", "2")),
    "unknown field": ({"temprature": 1}, ("temprature", "did you mean 'temperature'")),
    "no structure": ({"structured_outputs": {}}, ("structured_outputs", "exactly one of")),
}


@pytest.mark.parametrize("case", PARAMS)
def test_bad_sampling_params_are_refused(case: str) -> None:
    given, words = PARAMS[case]
    with assert_refused(InvalidRequestError, *words):
        SamplingParams(**given)


# ---- arguments of the LLM ----

ARGUMENTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown": ({"max_model_length": 10}, ("max_model_length", "did you mean 'max_model_len'")),
    "far from any": ({"zzz": 10}, ("'zzz'", "valid:", "max_model_len")),
    "wrong type": ({"block_size": "16"}, ("block_size", "int", "'16'")),
    "bool for int": ({"max_num_seqs": True}, ("max_num_seqs", "True")),
    "dtype": ({"dtype": "float8"}, ("dtype", "float8")),
    "share": ({"gpu_memory_utilization": 1.5}, ("gpu_memory_utilization", "(0, 1]")),
    "length": ({"max_model_len": "4q"}, ("max_model_len", "4q")),
    "too long": ({"max_model_len": 10**6}, ("max_model_len", "1000000", "256")),
    "budget": ({"max_num_seqs": 64, "max_num_batched_tokens": 8}, ("max_num_batched_tokens", "max_num_seqs")),
    "chunks": ({"enable_chunked_prefill": False, "max_num_batched_tokens": 255}, ("max_model_len", "chunked")),
    "several devices": ({"tensor_parallel_size": 2}, ("tensor_parallel_size", "not supported yet")),
    "backend": ({"attention_backend": "CPU_ATTENTION"}, ("CPU_ATTENTION", "CPU_ATTN")),
    "backend of another device": ({"attention_backend": "FLASH_ATTN"}, ("FLASH_ATTN", "NVIDIA")),
    "quantization": ({"quantization": "awq"}, ("awq", "int8")),
    "load format": ({"load_format": "gguf"}, ("gguf", "auto")),
    "override": ({"override_generation_config": {"top_q": 1}}, ("top_q", "top_k")),
    "override out of range": ({"override_generation_config": {"top_p": 7}}, ("top_p", "(0, 1]")),
    "generation config": ({"generation_config": "/no/such/folder"}, ("/no/such/folder", "generation_config.json")),
    "template": ({"chat_template": "/no/such/template.jinja"}, ("/no/such/template.jinja",)),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_bad_arguments_are_refused(case: str, make_llm: Callable[..., LLM]) -> None:
    given, words = ARGUMENTS[case]
    make_llm("llama").shutdown()  # so that making the folder and importing is not timed
    error = OctavoError if case == "template" else ConfigError
    with assert_refused(error, *words):
        make_llm("llama", **given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_cache_memory_bytes": 1}, ("kv_cache_memory_bytes", "0 blocks")),
        (
            {"num_gpu_blocks_override": 3},
            ("num_gpu_blocks_override", "3 blocks", "to 16", "max_model_len to at most 48"),
        ),
        ({"gpu_memory_utilization": 1e-9}, ("gpu_memory_utilization", "0 blocks", "raise")),
    ],
)
def test_too_little_memory_names_the_option_and_a_value(
    options: dict[str, Any], words: tuple[str, ...], make_llm: Callable[..., LLM]
) -> None:
    make_llm("llama").shutdown()
    with assert_refused(OutOfMemoryError, *words):
        make_llm("llama", **options)


def test_the_value_named_for_more_memory_is_enough(make_llm: Callable[..., LLM]) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        make_llm("llama", kv_cache_memory_bytes=1)
    enough = int(str(caught.value).split("raise kv_cache_memory_bytes to ")[1].split(",")[0].split(".")[0])
    make_llm("llama", kv_cache_memory_bytes=enough).shutdown()
    with pytest.raises(OutOfMemoryError):
        make_llm("llama", kv_cache_memory_bytes=enough - 1)


# ---- models ----


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Path:
    """A copy of a good model, to be damaged."""
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))


def load(path: Path | str, **options: Any) -> LLM:
    return LLM(str(path), skip_tokenizer_init=True, use_tqdm_on_load=False, **options)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shards(folder: Path) -> list[Path]:
    """The model again, in several files."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    tiny_models.save("llama", folder, max_shard_size="40KB")
    found = sorted(folder.glob("model-*.safetensors"))
    assert len(found) > 2
    return found


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with assert_refused(ModelNotFoundError, "config.json", str(folder)):
        load(folder)


def test_a_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with assert_refused(ModelError, "config.json"):
        load(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with assert_refused(WeightError, ".safetensors", str(folder)):
        load(folder)


def test_a_pickle_with_more_than_tensors_is_not_run(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    marker = folder / "was-run"
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"a": _Attack(str(marker))}, file, protocol=2)
    with assert_refused(WeightError, "pytorch_model.bin", "could run code"):
        load(folder)
    assert not marker.exists()


class _Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_a_missing_shard(folder: Path) -> None:
    missing = shards(folder)[1]
    missing.unlink()
    with assert_refused(WeightError, missing.name):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_shard(folder: Path, keep: int) -> None:
    shard = shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:keep])
    with assert_refused(WeightError, shard.name):
        load(folder)


def test_a_tensor_of_the_wrong_shape(folder: Path) -> None:
    edit_config(folder, intermediate_size=96)
    with assert_refused(WeightError, "mlp", "96", "80"):
        load(folder)


def test_tensors_that_are_missing_or_left_over(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=4)
    with assert_refused(WeightError, "model.layers.3"):
        load(folder)
    edit_config(folder, num_hidden_layers=2)
    with assert_refused(WeightError, "model.layers.2"):
        load(folder)


def test_an_unknown_architecture(folder: Path) -> None:
    edit_config(folder, architectures=["LamaForCausalLM"])
    with assert_refused(UnsupportedModelError, "LamaForCausalLM", "did you mean", "LlamaForCausalLM"):
        load(folder)


def test_a_model_that_needs_code_of_its_checkpoint(folder: Path) -> None:
    edit_config(folder, architectures=["MyForCausalLM"], auto_map={"AutoModelForCausalLM": "modeling_my.MyForCausalLM"})
    (folder / "modeling_my.py").write_text("raise SystemExit('this must not run')")
    with assert_refused(UnsupportedModelError, "MyForCausalLM", "runs no code of a checkpoint"):
        load(folder, trust_remote_code=True)


def test_a_config_value_that_the_code_does_not_know(folder: Path) -> None:
    edit_config(folder, hidden_act="mish")
    with assert_refused(ModelError, "hidden_act", "mish"):
        load(folder)


def test_a_quantized_checkpoint_that_is_not_supported(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "awq"})
    with assert_refused(ConfigError, "awq", "not supported yet"):
        load(folder)


@pytest.mark.parametrize("damage", ["truncated", "magic", "garbage"])
def test_a_corrupted_gguf(tmp_path: Path, default_gguf: Path, damage: str) -> None:
    with default_gguf.open("rb") as file:
        head = file.read(3_000_000)
    content = {"truncated": head, "magic": b"GGML" + head[4:], "garbage": head[:24] + bytes(1000)}[damage]
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with assert_refused(WeightError, "broken.gguf"):
        load(path)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with assert_refused(ModelNotFoundError, "nothing-here"):
        load(tmp_path / "nothing-here")
    with assert_refused(ModelNotFoundError, "none.gguf"):
        load("none.gguf")


def test_no_network_and_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with assert_refused(ModelNotFoundError, "facebook/opt-125m", "folder"):
        load("facebook/opt-125m", download_dir=str(tmp_path))


def test_a_name_that_is_no_model() -> None:
    with assert_refused(OctavoError, "smollm2-135m-instruct"):
        load("smollm2-135m-instrukt")
    with assert_refused(ConfigError, "model"):
        LLM(" ")


def test_engine_args_are_checked_like_the_llms(tiny_folder: Callable[[str], Path]) -> None:
    args = EngineArgs.from_kwargs(model=str(tiny_folder("llama")), skip_tokenizer_init=True, use_tqdm_on_load=False)
    with LLM.from_engine_args(args) as llm:
        with pytest.raises(InvalidRequestError, match="skip_tokenizer_init"):
            llm.generate("text", GREEDY, use_tqdm=False)
        with pytest.raises(ConfigError, match="skip_tokenizer_init"):
            llm.get_tokenizer()
        assert len(llm.generate([3, 4], GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == 4
