"""Flags that several subcommands share: the engine's arguments and the sampling parameters, and what each means.

A flag that was not given is not in the parsed namespace: what was given is known, also where it equals the default.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, NamedTuple

from octavo.config import DTYPES, KV_CACHE_DTYPES, LOAD_FORMATS, SCHEDULING_POLICIES, EngineArgs, parse_length
from octavo.errors import ConfigError, InvalidRequestError
from octavo.sampling_params import SamplingParams


class EngineFlag(NamedTuple):
    group: str
    help: str
    unset: str = ""  # what a default of None means


ENGINE_FLAGS = {
    "model": EngineFlag("Model", "a hub id, a folder, a .gguf file, or the name of a packaged model"),
    "tokenizer": EngineFlag("Model", "a hub id or a folder", "the model's own"),
    "tokenizer_revision": EngineFlag("Model", "branch, tag or commit of the tokenizer on the hub", "its newest"),
    "skip_tokenizer_init": EngineFlag("Model", "load no tokenizer: prompts are token ids, and so are answers"),
    "trust_remote_code": EngineFlag("Model", "has no effect: octavo never runs code of a checkpoint"),
    "dtype": EngineFlag("Model", f"of weights and activations: auto, {', '.join(DTYPES)}"),
    "quantization": EngineFlag(
        "Model",
        "how weights are multiplied: as GGUF blocks (gguf), rounded to 8 bits (fp8, int8), as numbers (none)",
        "what the checkpoint says",
    ),
    "revision": EngineFlag("Model", "branch, tag or commit of the model on the hub", "its newest"),
    "seed": EngineFlag("Model", "seeds the requests that bring no seed"),
    "max_model_len": EngineFlag(
        "Model",
        "tokens of a prompt and its answer at most: 4096, 4k (4,000), 4K (4,096) or auto",
        "the model's longest",
    ),
    "max_logprobs": EngineFlag("Model", "the most logprobs per token that a request may ask for; -1: the vocabulary"),
    "hf_token": EngineFlag("Model", "token for the hub; others see it in the list of processes", "HF_TOKEN, if set"),
    "hf_overrides": EngineFlag("Model", "laid over the checkpoint's config.json", "nothing"),
    "generation_config": EngineFlag(
        "Model",
        "where the sampling defaults come from: auto (the model), vllm (none of the model's), none, or a folder",
    ),
    "override_generation_config": EngineFlag("Model", "sampling defaults laid over the model's", "nothing"),
    "chat_template": EngineFlag(
        "Model", "a file that holds a Jinja template, or the template itself", "the model's own"
    ),
    "load_format": EngineFlag("Loading", f"of the weights: {', '.join(LOAD_FORMATS)} (dummy: random weights)"),
    "download_dir": EngineFlag("Loading", "where the hub's files are kept", "the hub's own cache"),
    "use_tqdm_on_load": EngineFlag("Loading", "show a progress bar"),
    "attention_backend": EngineFlag(
        "Attention", "by name, such as FLASHINFER: docs/attention.md lists them", "the best that serves the model"
    ),
    "gpu_memory_utilization": EngineFlag(
        "Cache", "share of the device's memory for weights, activations and KV cache, above 0 up to 1", "the device's"
    ),
    "kv_cache_memory_bytes": EngineFlag("Cache", "exact size of the KV cache", "what the share leaves"),
    "kv_cache_dtype": EngineFlag(
        "Cache",
        f"auto (the dtype of the run), {', '.join(KV_CACHE_DTYPES)}; int8 (with a scale for each token and head; on a "
        "CPU) and fp8 (without one; on an NVIDIA GPU) take half the memory of bfloat16",
    ),
    "num_gpu_blocks_override": EngineFlag("Cache", "exact number of KV-cache blocks", "what fits"),
    "block_size": EngineFlag("Cache", "tokens per KV-cache block", "the device's"),
    "enable_prefix_caching": EngineFlag("Cache", "reuse keys and values of prompts that begin alike"),
    "max_num_seqs": EngineFlag("Scheduler", "requests that run at once", "the device's"),
    "max_num_batched_tokens": EngineFlag("Scheduler", "tokens per step", "the device's"),
    "enable_chunked_prefill": EngineFlag("Scheduler", "compute long prompts in several steps"),
    "long_prefill_token_threshold": EngineFlag(
        "Scheduler", "prompt tokens of one request per step at most; 0: no limit"
    ),
    "scheduling_policy": EngineFlag(
        "Scheduler", f"{' or '.join(SCHEDULING_POLICIES)}: first come first served, or by the requests' priority"
    ),
    "async_scheduling": EngineFlag("Scheduler", "schedule a step while the one before it runs", "the device's"),
    "tensor_parallel_size": EngineFlag("Parallel", "devices that share each layer; only 1 is supported yet"),
    "pipeline_parallel_size": EngineFlag("Parallel", "devices that share the layers out; only 1 is supported yet"),
    "enforce_eager": EngineFlag("Execution", "run every step eagerly, never from a recorded graph"),
    "num_threads": EngineFlag(
        "Execution",
        "threads that compute on a CPU, at most the CPUs that the process may run on",
        "OMP_NUM_THREADS, else the cores that the process may use",
    ),
    "disable_log_stats": EngineFlag("Logging", "log no line on throughput, queue and KV cache"),
}

_SAMPLING = {
    "max_tokens": (int, "tokens to generate at most"),
    "temperature": (float, "0 is greedy"),
    "top_p": (float, "sample from the most likely tokens that have this share"),
    "top_k": (int, "sample from this many most likely tokens"),
    "min_p": (float, "sample from tokens at least this likely, relative to the most likely one"),
    "repetition_penalty": (float, "above 1 discourages tokens that were there"),
    "seed": (int, "the same seed gives the same tokens"),
}


def _engine_fields(with_seed: bool) -> list[Field[Any]]:
    return [field for field in fields(EngineArgs) if with_seed or field.name != "seed"]


def add_engine_flags(
    parser: argparse.ArgumentParser, *, with_seed: bool = False, defaults: Mapping[str, Any] | None = None
) -> None:
    """One flag per field of EngineArgs, in groups; `-m` is the model.

    Args:
        with_seed: also --seed; in commands that make requests of their own, that is the request's.
        defaults: those that the command has in place of EngineArgs', for the help.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in _engine_fields(with_seed):
        flag = ENGINE_FLAGS[field.name]
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        default = {**(defaults or {})}.get(field.name, field.default)
        names = ["--" + field.name.replace("_", "-")]
        groups[flag.group].add_argument(
            *(["-m", *names] if field.name == "model" else names),
            dest=field.name,
            default=argparse.SUPPRESS,
            help=help_text(flag.help, flag.unset if default is None else default),
            **_value_options(field),
        )


def engine_arguments(parsed: argparse.Namespace, *, with_seed: bool = False) -> dict[str, Any]:
    """The keyword arguments of `LLM` that were given."""
    given = vars(parsed)
    return {field.name: given[field.name] for field in _engine_fields(with_seed) if field.name in given}


def help_text(text: str, default: object) -> str:
    """A help line with its default, as argparse wants it."""
    shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
    return f"{text} (default: {shown})".replace("%", "%%")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Sampling (default: what the model suggests)")
    for name, (kind, text) in _SAMPLING.items():
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, type=kind, metavar=kind.__name__.upper(), default=argparse.SUPPRESS, help=text)


def sampling_params(parsed: argparse.Namespace, defaults: SamplingParams, max_tokens: int | None) -> SamplingParams:
    """The model's defaults with what was given laid over; `max_tokens` where neither says."""
    given = {name: value for name, value in vars(parsed).items() if name in _SAMPLING}
    base = {name: getattr(defaults, name) for name in _SAMPLING}
    if base["max_tokens"] == SamplingParams().max_tokens:
        base["max_tokens"] = max_tokens
    try:
        return SamplingParams(**(base | given))
    except InvalidRequestError as error:
        flag = "--" + (error.param or "").replace("_", "-")
        raise InvalidRequestError(f"{flag}: {error}", param=error.param) from None


def json_object(text: str) -> Mapping[str, Any]:
    """The type of a flag that takes a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object such as '{{\"top_k\": 20}}', got {text!r}")
    return value


def _value_options(field: Field[Any]) -> dict[str, Any]:
    """What argparse must know of a field's values."""
    kind = str(field.type)
    if field.name == "max_model_len":
        return {"type": _length, "metavar": "TOKENS"}
    if kind.startswith("bool"):
        return {"action": argparse.BooleanOptionalAction}
    if kind.startswith("Mapping"):
        return {"type": json_object, "metavar": "JSON"}
    number = int if kind.startswith("int") else float if kind.startswith("float") else str
    return {"type": number, "metavar": number.__name__.upper()}


def _length(text: str) -> int | str:
    try:
        return "auto" if text in ("auto", "-1") else parse_length(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{error}") from None
