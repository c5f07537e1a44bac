"""From the metadata of a GGUF file to the config.json and generation_config.json that its model would have.

What the metadata leave out is what ggml's loader takes for granted for that architecture; such constants are named
here. Anything that changes the numbers and has no counterpart in octavo is refused. `config_reader.py` fills in what
follows from the rest.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor

from octavo.errors import UnsupportedModelError, WeightError, shown
from octavo.loading.gguf import GGUFFile
from octavo.loading.gguf_names import ARCHITECTURES

_HF_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_GEMMA3_27B_LAYERS = 62  # the one Gemma 3 that scales attention by hidden_size / num_attention_heads
_GEMMA3_PATTERN = 6  # each sixth layer of a Gemma 3 sees everything
_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def hf_config(file: GGUFFile) -> dict[str, Any]:
    """The config.json of the model in `file`.

    Raises:
        UnsupportedModelError: an architecture or a variant that octavo does not read.
        WeightError: metadata are missing or of a wrong type.
    """
    meta = _Fields(file)
    if "token_embd.weight" not in file.tensors:
        raise WeightError(f"{file.path} has no tensor token_embd.weight: it is cut off or holds no language model")
    num_heads = meta.integer("attention.head_count")
    hidden_size = meta.integer("embedding_length")
    head_dim = meta.integer("attention.key_length", hidden_size // num_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if meta.integer(key, head_dim) != head_dim:
            raise UnsupportedModelError(
                f"{file.path}: {meta.architecture}.{key} is {meta.integer(key)}, other than the head size, {head_dim}; "
                "octavo has no such attention"
            )
    rope_theta = meta.number("rope.freq_base", 10000.0)
    config: dict[str, Any] = {
        "architectures": [_HF_ARCHITECTURES[meta.architecture]],
        "hidden_size": hidden_size,
        "num_hidden_layers": meta.integer("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": meta.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "intermediate_size": meta.integer("feed_forward_length"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "max_position_embeddings": meta.integer("context_length"),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "rope_theta": rope_theta,
        "rope_scaling": _rope_scaling(file, meta, head_dim, rope_theta),
        "sliding_window": None,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": _DTYPES.get(file.tensors["token_embd.weight"].type_name),
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
    }
    if meta.architecture == "gemma3":
        config |= _gemma3(meta, config)
    elif meta.architecture == "llama" and meta.has("attention.sliding_window"):
        config |= {
            "architectures": ["MistralForCausalLM"],
            "sliding_window": meta.integer("attention.sliding_window"),
        }
    return config


def generation_config(file: GGUFFile) -> dict[str, Any]:
    """The generation_config.json of the model in `file`: the tokens that begin and end a text, a turn or a message."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    ends = [file.metadata[key] for key in keys if key in file.metadata]
    config: dict[str, Any] = {"eos_token_id": list(dict.fromkeys(ends))} if ends else {}
    if "tokenizer.ggml.bos_token_id" in file.metadata:
        config["bos_token_id"] = file.metadata["tokenizer.ggml.bos_token_id"]
    return config


def llama3_rope_scaling(factors: Tensor, rope_theta: float) -> dict[str, Any] | None:
    """The "llama3" RoPE scaling that divides RoPE's frequencies by `factors`, float32 [head_dim / 2].

    The converter stores these quotients in place of the scaling's parameters. The largest is the scaling factor; for
    the others the values of all Llama 3 models are tried.

    Returns:
        the `rope_scaling` of a config.json, or None when all factors are one.

    Raises:
        ValueError: no such scaling gives these factors.
    """
    if bool((factors == 1).all()):
        return None
    factor = float(factors.max())
    original = _LLAMA3_SCALING["original_max_position_embeddings"]
    low, high = _LLAMA3_SCALING["low_freq_factor"], _LLAMA3_SCALING["high_freq_factor"]
    exponents = torch.arange(len(factors), dtype=torch.float64) / len(factors)
    turns = original * rope_theta**-exponents / (2 * math.pi)  # of each frequency within the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    if not torch.allclose(1 / (kept + (1 - kept) / factor), factors.double(), rtol=1e-3):
        raise ValueError("the factors are not those of a llama3 scaling")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_SCALING}


def _rope_scaling(file: GGUFFile, meta: _Fields, head_dim: int, rope_theta: float) -> dict[str, Any] | None:
    if "rope_freqs.weight" in file.tensors:
        factors = file.tensor("rope_freqs.weight")
        try:
            if not isinstance(factors, Tensor) or factors.shape != (head_dim // 2,):
                raise ValueError("it is no vector of half the head size")
            return llama3_rope_scaling(factors, rope_theta)
        except ValueError as error:
            raise UnsupportedModelError(
                f"{file.path}: rope_freqs.weight can't be read as a RoPE scaling: {error}; use the model in the "
                "safetensors format, whose config.json says what the scaling is"
            ) from error
    kind = meta.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(
            f"{file.path}: {meta.architecture}.rope.scaling.type is {shown(kind)}; octavo reads none, linear and yarn"
        )
    factor = meta.number("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length"),
        "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if meta.has("rope.scaling.attn_factor"):  # on top of YaRN's own, where HF's attention_factor is in place of it
        warmth = 1.0 + 0.1 * math.log(factor)
        scaling["attention_factor"] = meta.number("rope.scaling.attn_factor") * warmth
    return scaling


def _gemma3(meta: _Fields, config: dict[str, Any]) -> dict[str, Any]:
    num_layers = config["num_hidden_layers"]
    whole = num_layers == _GEMMA3_27B_LAYERS
    pattern = meta.get("attention.sliding_window_pattern", _GEMMA3_PATTERN)
    if isinstance(pattern, int) and pattern > 0:
        pattern = [(layer_id + 1) % pattern != 0 for layer_id in range(num_layers)]
    if not isinstance(pattern, list) or len(pattern) != num_layers:
        meta.wrong("attention.sliding_window_pattern", f"a number above 0 or a list of {num_layers} flags")
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"]
        if whole
        else config["head_dim"],
        "rope_theta": meta.number("rope.freq_base", 1000000.0),
        "rope_local_base_freq": meta.number("rope.freq_base_swa", 10000.0),
        "sliding_window": meta.integer("attention.sliding_window"),
        "layer_types": ["sliding_attention" if sliding else "full_attention" for sliding in pattern],
        "final_logit_softcapping": meta.get("final_logit_softcapping", None),
    }


class _Fields:
    """The metadata of the file's architecture, checked as they are read."""

    def __init__(self, file: GGUFFile) -> None:
        self._path = file.path
        self._metadata = file.metadata
        self.architecture: str = file.metadata.get("general.architecture", "")
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{file.path} holds a model of the architecture {shown(self.architecture)}; octavo reads GGUF files of "
                f"{', '.join(ARCHITECTURES)}"
            )
        if file.metadata.get("split.count", 0) not in (0, 1):
            raise UnsupportedModelError(
                f"{file.path} is one of {shown(file.metadata['split.count'])} parts of a model; merge them into one "
                "file with llama-gguf-split --merge"
            )
        if self.get("expert_count", 0):
            raise UnsupportedModelError(f"{file.path} holds a mixture of experts, which octavo does not read from GGUF")

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._metadata

    def get(self, key: str, default: Any) -> Any:
        return self._metadata.get(f"{self.architecture}.{key}", default)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:  # one number for each layer
            value = value[0]
        if isinstance(value, list):
            raise UnsupportedModelError(
                f"{self._path}: {self.architecture}.{key} differs from layer to layer, which octavo does not read"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.wrong(key, "a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self.wrong(key, "a number above 0")
        return float(value)

    def wrong(self, key: str, wanted: str) -> NoReturn:
        given = shown(self.get(key, None)) if self.has(key) else "missing"
        raise WeightError(f"{self._path}: the metadata key {self.architecture}.{key} must be {wanted}, but is {given}")
