"""The configuration: EngineArgs as a user writes them, EngineConfig as every component reads it.

`EngineArgs.from_kwargs` checks names and types. `resolve` is the one place where "auto" and None become values; it
needs what the checkpoint says (Checkpoint) and what the device can do (DeviceTraits), both plain data, and returns an
EngineConfig of frozen slices. A component receives its slice, never the whole. This module knows no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from octavo.errors import ConfigError, shown, unknown_name
from octavo.log import get_logger

logger = get_logger(__name__)

DEFAULT_MODEL = "smollm2-135m-instruct"
DTYPES = {
    "half": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}
# The KV cache's dtypes by the names that users give; "auto" is the dtype of the run.
KV_CACHE_DTYPES = {
    "bfloat16": "bfloat16",
    "half": "float16",
    "float16": "float16",
    "float": "float32",
    "float32": "float32",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "int8": "int8",
    "int8_per_token_head": "int8",
}
LOAD_FORMATS = ("auto", "safetensors", "gguf", "dummy")
QUANTIZATIONS = ("none", "gguf", "fp8", "int8")
SCHEDULING_POLICIES = ("fcfs", "priority")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArgs:
    """The arguments of `LLM` and `octavo serve`, with vLLM's names. None and "auto" are settled by `resolve`."""

    model: str = DEFAULT_MODEL
    tokenizer: str | None = None  # None: the model's own
    tokenizer_revision: str | None = None
    skip_tokenizer_init: bool = False  # token ids in, token ids out
    trust_remote_code: bool = False  # never honoured: octavo runs no code of a checkpoint
    dtype: str = "auto"
    quantization: str | None = None  # None: what the checkpoint says; else one of QUANTIZATIONS
    revision: str | None = None  # branch, tag or commit on the hub
    seed: int = 0  # seeds the requests that bring no seed
    max_model_len: int | str | None = None  # tokens; 8k is 8,000 and 8K is 8,192
    max_logprobs: int = 20  # the highest `logprobs` of a request; -1: the whole vocabulary
    hf_token: str | None = None
    hf_overrides: Mapping[str, Any] | None = None  # laid over the checkpoint's config.json
    generation_config: str = "auto"  # auto, vllm, none, or a folder that holds generation_config.json
    override_generation_config: Mapping[str, Any] | None = None
    chat_template: str | None = None  # a path or the template itself
    load_format: str = "auto"
    download_dir: str | None = None
    use_tqdm_on_load: bool = True
    attention_backend: str | None = None
    gpu_memory_utilization: float | None = None  # share of the device's memory for weights, activations and KV cache
    kv_cache_memory_bytes: int | None = None  # exact size of the KV cache
    kv_cache_dtype: str = "auto"  # auto: the dtype of the run; else one of KV_CACHE_DTYPES
    num_gpu_blocks_override: int | None = None  # exact number of KV-cache blocks
    block_size: int | None = None  # tokens per KV-cache block
    enable_prefix_caching: bool = True
    max_num_seqs: int | None = None  # requests that run at once
    max_num_batched_tokens: int | None = None  # tokens per step
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0  # at most this many prompt tokens of one request per step; 0: no limit
    scheduling_policy: str = "fcfs"
    async_scheduling: bool | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    enforce_eager: bool = False
    num_threads: int | None = None  # that compute on a CPU; None: OMP_NUM_THREADS, else what the process may use
    disable_log_stats: bool = True

    @classmethod
    def from_kwargs(cls, **given: Any) -> EngineArgs:
        """EngineArgs from keyword arguments, each checked by name and type.

        Raises:
            ConfigError: an unknown name (with the nearest one), or a value of a wrong type or range.
        """
        known = {f.name: f for f in fields(cls)}
        for name, value in given.items():
            if name not in known:
                raise ConfigError(unknown_name("argument", name, known))
            _check_type(name, value, str(known[name].type))
        args = cls(**given)
        args._check_values()
        return args

    def _check_values(self) -> None:
        _choice("dtype", self.dtype, ("auto", *DTYPES))
        _choice("load_format", self.load_format, LOAD_FORMATS)
        _choice("kv_cache_dtype", self.kv_cache_dtype, ("auto", *KV_CACHE_DTYPES))
        if self.quantization is not None:
            _choice("quantization", self.quantization, QUANTIZATIONS)
        _choice("scheduling_policy", self.scheduling_policy, SCHEDULING_POLICIES)
        if self.gpu_memory_utilization is not None and not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}")
        for name, least in (
            ("kv_cache_memory_bytes", 1),
            ("num_gpu_blocks_override", 1),
            ("block_size", 1),
            ("max_num_seqs", 1),
            ("max_num_batched_tokens", 1),
            ("long_prefill_token_threshold", 0),
            ("tensor_parallel_size", 1),
            ("pipeline_parallel_size", 1),
            ("max_logprobs", -1),
            ("num_threads", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}")
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: more than one device is not supported yet, use 1")
        if not self.model.strip():
            raise ConfigError("model is empty; give a hub id, a folder, a .gguf file or the name of a packaged model")
        if self.trust_remote_code:
            logger.warning("trust_remote_code has no effect: octavo never runs code of a checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is known of a model before its weights are read. Made by `loading/config_reader.py`."""

    path: str  # a folder, or a .gguf file
    format: str  # "safetensors" or "gguf"
    hf_config: Mapping[str, Any]  # config.json in its canonical form (see config_reader), also for GGUF
    generation_config: Mapping[str, Any]  # generation_config.json, or what the GGUF metadata say; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits:
    """What `resolve` must know of the device. Each platform has one."""

    name: str
    dtypes: tuple[str, ...]  # with a fast path, the preferred one first; the others run but slowly
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    async_scheduling: bool
    memory_on_touch: bool = False  # what was allocated takes memory when it is first written


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    model: str  # as the user named it
    checkpoint: Checkpoint
    architecture: str
    dtype: str  # float32, bfloat16 or float16
    quantization: str | None
    max_model_len: int
    vocab_size: int
    seed: int
    max_logprobs: int
    eos_token_ids: tuple[int, ...]

    @property
    def hf_config(self) -> Mapping[str, Any]:
        return self.checkpoint.hf_config


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    load_format: str  # safetensors, gguf or dummy
    use_tqdm_on_load: bool
    seed: int  # of dummy weights


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    backend: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    dtype: str  # float32, bfloat16, float16, float8_e4m3fn or int8
    block_size: int
    gpu_memory_utilization: float
    kv_cache_memory_bytes: int | None
    num_gpu_blocks_override: int | None
    enable_prefix_caching: bool
    sparing: bool = False  # nobody named its size: old content makes room before more memory is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    enable_chunked_prefill: bool
    long_prefill_token_threshold: int
    policy: str
    async_scheduling: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroupSpec:
    """Layers whose keys and values share block tables: they see the same tokens of a request."""

    layer_ids: tuple[int, ...]
    sliding_window: int | None = None  # tokens that a query sees, itself included; None: all

    def blocks_per_request(self, block_size: int, num_tokens: int, num_new_tokens: int) -> int:
        """The most blocks that a request of `num_tokens` tokens holds at once, `num_new_tokens` of them in one step."""
        whole = -(-num_tokens // block_size)
        if self.sliding_window is None:
            return whole
        held = self.sliding_window - 1 + min(num_new_tokens, num_tokens)
        return min(whole, -(-held // block_size) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheLayout:
    """What the executor offers the scheduler: blocks of one pool, handed out to groups of layers."""

    num_blocks: int
    block_size: int
    groups: tuple[KVGroupSpec, ...]
    soft_limit: int | None = None  # blocks in use before cached content makes room; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The whole, settled. Components are given one slice each."""

    model: ModelConfig
    load: LoadConfig
    attention: AttentionConfig
    cache: CacheConfig
    scheduler: SchedulerConfig
    enforce_eager: bool = False
    num_threads: int | None = None  # that compute on a CPU


def resolve(args: EngineArgs, checkpoint: Checkpoint, device: DeviceTraits) -> EngineConfig:
    """Every "auto" and None of `args` as a value.

    Raises:
        ConfigError: values that can't go together with the checkpoint or the device.
    """
    hf = checkpoint.hf_config
    max_model_len = _max_model_len(args.max_model_len, hf)
    max_num_seqs = args.max_num_seqs or device.max_num_seqs
    max_num_batched_tokens = args.max_num_batched_tokens or max(
        device.max_num_batched_tokens, max_num_seqs, 0 if args.enable_chunked_prefill else max_model_len
    )
    if max_num_batched_tokens < max_num_seqs:
        if args.max_num_seqs is not None:
            raise ConfigError(
                f"max_num_batched_tokens ({max_num_batched_tokens}) must be at least max_num_seqs ({max_num_seqs}): "
                "each running request takes one token of a step; raise the first or lower the second"
            )
        max_num_seqs = max_num_batched_tokens
    if not args.enable_chunked_prefill and max_num_batched_tokens < max_model_len:
        raise ConfigError(
            f"max_num_batched_tokens ({max_num_batched_tokens}) must be at least max_model_len ({max_model_len}) when "
            "enable_chunked_prefill is False; raise the first, lower the second, or leave chunked prefill on"
        )
    dtype = _dtype(args.dtype, hf, device)
    return EngineConfig(
        model=ModelConfig(
            model=args.model,
            checkpoint=checkpoint,
            architecture=hf["architectures"][0],
            dtype=dtype,
            quantization=_quantization(args.quantization, checkpoint),
            max_model_len=max_model_len,
            vocab_size=int(hf["vocab_size"]),
            seed=args.seed,
            max_logprobs=args.max_logprobs,
            eos_token_ids=_eos_token_ids(checkpoint),
        ),
        load=LoadConfig(
            load_format=_load_format(args.load_format, checkpoint),
            use_tqdm_on_load=args.use_tqdm_on_load,
            seed=args.seed,
        ),
        attention=AttentionConfig(backend=args.attention_backend),
        cache=CacheConfig(
            dtype=KV_CACHE_DTYPES.get(args.kv_cache_dtype, dtype),
            block_size=args.block_size or device.block_size,
            gpu_memory_utilization=args.gpu_memory_utilization or device.gpu_memory_utilization,
            kv_cache_memory_bytes=args.kv_cache_memory_bytes,
            num_gpu_blocks_override=args.num_gpu_blocks_override,
            enable_prefix_caching=args.enable_prefix_caching,
            sparing=device.memory_on_touch
            and args.kv_cache_memory_bytes is None
            and args.num_gpu_blocks_override is None,
        ),
        scheduler=SchedulerConfig(
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_chunked_prefill=args.enable_chunked_prefill,
            long_prefill_token_threshold=args.long_prefill_token_threshold,
            policy=args.scheduling_policy,
            async_scheduling=device.async_scheduling if args.async_scheduling is None else args.async_scheduling,
        ),
        enforce_eager=args.enforce_eager,
        num_threads=args.num_threads,
    )


def parse_length(value: int | str) -> int:
    """A number of tokens: 4096, "4096", "4k" (4,000), "4K" (4,096), "25.6k", "1m", "1M".

    Raises:
        ConfigError: not such a number, or below 1.
    """
    if isinstance(value, int):
        number = value
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)([kKmM]?)\s*", value)
        if match is None:
            raise ConfigError(f"max_model_len must be a number of tokens such as 4096, 4k or 4K, got {value!r}")
        number = int(float(match[1]) * {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}[match[2]])
    if number < 1:
        raise ConfigError(f"max_model_len must be 1 or more, got {value!r}")
    return number


def _max_model_len(given: int | str | None, hf: Mapping[str, Any]) -> int:
    longest = int(hf.get("max_position_embeddings") or 2048)
    rope: Mapping[str, Any] = hf.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind == "yarn":
        longest = int(rope.get("original_max_position_embeddings", longest) * rope.get("factor", 1.0))
    elif kind in ("linear", "dynamic"):
        longest = int(longest * rope.get("factor", 1.0))
    if given is None or given == "auto" or given == -1:
        return longest
    number = parse_length(given)
    if number > longest:
        raise ConfigError(
            f"max_model_len is {number}, but the model was made for {longest} tokens "
            "(max_position_embeddings and rope scaling of its config); give at most that"
        )
    return number


def _dtype(given: str, hf: Mapping[str, Any], device: DeviceTraits) -> str:
    if given != "auto":
        dtype = DTYPES[given]
        if dtype not in device.dtypes:
            logger.warning("dtype %s has no fast path on %s; %s has", dtype, device.name, device.dtypes[0])
        return dtype
    stored = DTYPES.get(str(hf.get("dtype")), device.dtypes[0])
    # float32 checkpoints are served in half precision, as elsewhere in the field; ask for float32 to keep it.
    return stored if stored in device.dtypes and stored != "float32" else device.dtypes[0]


def _quantization(given: str | None, checkpoint: Checkpoint) -> str | None:
    stored = "gguf" if checkpoint.format == "gguf" else None
    described = checkpoint.hf_config.get("quantization_config")
    if described:
        method = described.get("quant_method", "unknown") if isinstance(described, Mapping) else described
        raise ConfigError(f"the checkpoint is quantized with {shown(method)}, which is not supported yet; use gguf")
    if given is None:
        return stored
    if given == "gguf" and stored != "gguf":
        raise ConfigError("quantization 'gguf' was asked for, but the checkpoint is no GGUF file; leave it out")
    return None if given == "none" else given


def _load_format(given: str, checkpoint: Checkpoint) -> str:
    if given in ("auto", checkpoint.format):
        return checkpoint.format
    if given == "dummy":
        return given
    raise ConfigError(f"load_format is {given!r}, but {checkpoint.path} is {checkpoint.format}; use auto")


def _eos_token_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """End-of-sequence ids of the config and of the generation config, in that order, without repeats."""
    found: list[int] = []
    for source in (checkpoint.hf_config, checkpoint.generation_config):
        ids = source.get("eos_token_id")
        found += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys(int(i) for i in found))


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "None": (type(None),),
    "Mapping[str, Any]": (Mapping,),
}


def _check_type(name: str, value: Any, declared: str) -> None:
    allowed = [part.strip() for part in declared.split("|")]
    types = tuple(t for part in allowed for t in _TYPES[part])
    if (isinstance(value, bool) and bool not in types) or not isinstance(value, types):
        raise ConfigError(f"{name} must be {' or '.join(allowed)}, got {shown(value)} ({type(value).__name__})")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(unknown_name(name, value, allowed))
