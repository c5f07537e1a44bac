"""GGUF files of tiny transformers models: names and numbers against the state dict, configs against config.json.

The files are made here as the public converter makes them, with the names of the `gguf` package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from octavo.errors import ModelError, UnsupportedModelError, WeightError
from octavo.loading.config_reader import read_checkpoint
from octavo.loading.gguf import GGUFFile
from octavo.loading.gguf_config import llama3_rope_scaling
from octavo.loading.gguf_weights import GGUFWeights
from octavo.quantization.gguf_tensor import GGUFTensor

NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, CONTEXT = 3, 4, 2, 16, 128
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": 96,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 2.0**-17,  # the same in float32
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "mistral": ("Mistral", {"sliding_window": 24, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": False}),
    "gemma3": ("Gemma3", {"sliding_window": 24, "query_pre_attn_scalar": HEAD_DIM}),
}
ARCHITECTURES = {"mistral": "llama"}


@cache
def reference(family: str) -> Any:
    name, values = FAMILIES[family]
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(**SIZES, **values)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def write_gguf(
    path: Path, family: str, *, change: Mapping[str, Any] | None = None, extra: Mapping[str, np.ndarray] | None = None
) -> None:
    """`change` sets metadata, None leaves a key out; `extra` are more tensors."""
    architecture = ARCHITECTURES.get(family, family)
    model = reference(family)
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    metadata = {
        "block_count": NUM_LAYERS,
        "context_length": CONTEXT,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": NUM_HEADS,
        "attention.head_count_kv": NUM_KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 1e6 if family == "gemma3" else 1e4,
        "attention.sliding_window": getattr(config, "sliding_window", None),
    }
    metadata = {f"{architecture}.{key}": value for key, value in metadata.items()}
    metadata |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 5}
    for key, value in {**metadata, **(change or {})}.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            add_tensor(writer, architecture, name, tensor.numpy())
    for name, numbers in (extra or {}).items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: gguf.GGUFWriter, architecture: str, name: str, numbers: np.ndarray) -> None:
    kind = next(kind for kind, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    stem, suffix = name.rsplit(".", 1)
    gguf_name = gguf.get_tensor_name_map(kind, NUM_LAYERS).get_name(stem)
    for part, heads in (("q_proj", NUM_HEADS), ("k_proj", NUM_KV_HEADS)):
        if architecture == "llama" and part in name:
            numbers = numbers.reshape(heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(numbers.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        numbers = numbers + 1
    if "proj.weight" in name:
        raw = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{gguf_name}.{suffix}", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    elif "embed" in name:
        writer.add_tensor(f"{gguf_name}.{suffix}", numbers.astype(np.float16))
    else:
        writer.add_tensor(f"{gguf_name}.{suffix}", numbers)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_numbers(family: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", family, extra={"rope_freqs.weight": np.ones(HEAD_DIM // 2, np.float32)})
    weights = GGUFWeights(tmp_path / "x.gguf")
    found = dict(weights)
    expected: dict[str, Tensor] = dict(reference(family).state_dict())
    if reference(family).config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert isinstance(tensor, GGUFTensor) == ("proj.weight" in name)
        plain = tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor.float()
        assert plain.shape == expected[name].shape
        torch.testing.assert_close(plain, expected[name], rtol=1e-3, atol=0.02 if "proj" in name else 2e-6)
    held = sum(tensor.nbytes for tensor in found.values())
    assert weights.total_bytes == held + 4 * HEAD_DIM // 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_is_that_of_the_folder(family: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", family)
    config = reference(family).config
    config.architectures = [f"{FAMILIES[family][0]}ForCausalLM"]
    config.save_pretrained(tmp_path / "folder")
    from_gguf = read_checkpoint(tmp_path / "x.gguf")
    from_folder = read_checkpoint(tmp_path / "folder")
    assert (from_gguf.format, from_folder.format) == ("gguf", "safetensors")
    keys = [*SIZES, "architectures", "rope_theta", "rope_scaling", "sliding_window", "layer_types"]
    keys += ["tie_word_embeddings", "hidden_act"]
    if family == "gemma3":
        keys = [*keys, "rope_local_base_freq", "query_pre_attn_scalar", "hidden_activation", "final_logit_softcapping"]
        keys.remove("hidden_act")
    for key in keys:
        assert from_gguf.hf_config[key] == from_folder.hf_config[key], key
    assert from_gguf.generation_config == {"bos_token_id": 1, "eos_token_id": [2, 5]}
    assert from_gguf.hf_config["dtype"] == "float16"


def test_unknown_tensors_keep_their_names(tmp_path: Path) -> None:
    names = ["strange.weight", "blk.0.attn_rot_embd.weight", "blk.0.post_ffw_norm.weight"]
    write_gguf(tmp_path / "x.gguf", "llama", extra=dict.fromkeys(names, np.ones(4, np.float32)))
    assert set(names) <= set(dict(GGUFWeights(tmp_path / "x.gguf")))


def test_biases_of_llama_are_put_back_in_order_too(tmp_path: Path) -> None:
    bias = np.arange(NUM_HEADS * HEAD_DIM, dtype=np.float32)
    mixed = bias.reshape(NUM_HEADS, 2, HEAD_DIM // 2).swapaxes(1, 2).flatten()
    write_gguf(tmp_path / "x.gguf", "llama", extra={"blk.0.attn_q.bias": mixed})
    found = dict(GGUFWeights(tmp_path / "x.gguf"))["model.layers.0.self_attn.q_proj.bias"]
    assert isinstance(found, Tensor)
    np.testing.assert_array_equal(found.numpy(), bias)
    assert read_checkpoint(tmp_path / "x.gguf").hf_config["attention_bias"] is True


def llama3_factors(theta: float, factor: float, low: float, high: float, original: float, head_dim: int) -> Tensor:
    """transformers' frequencies without and with the scaling, divided."""
    scaling = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low}
    scaling |= {"high_freq_factor": high, "original_max_position_embeddings": original}
    config = transformers.LlamaConfig(head_dim=head_dim, rope_parameters=scaling)
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return plain / scaled


@pytest.mark.parametrize(("factor", "head_dim"), [(8.0, 128), (32.0, 64)])
def test_llama3_scaling_is_found_in_its_factors(factor: float, head_dim: int) -> None:
    found = llama3_rope_scaling(llama3_factors(5e5, factor, 1.0, 4.0, 8192, head_dim), 5e5)
    assert found == {
        "rope_type": "llama3",
        "factor": pytest.approx(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(("low", "high", "original"), [(2.0, 4.0, 8192), (1.0, 8.0, 8192), (1.0, 4.0, 4096)])
def test_another_scaling_is_not_taken_for_it(low: float, high: float, original: float) -> None:
    with pytest.raises(ValueError, match="not those of a llama3 scaling"):
        llama3_rope_scaling(llama3_factors(5e5, 8.0, low, high, original, 128), 5e5)


def test_rope_freqs_of_a_file(tmp_path: Path) -> None:
    factors = llama3_factors(1e6, 8.0, 1.0, 4.0, 8192, HEAD_DIM).numpy()
    theta = {"llama.rope.freq_base": 1e6}
    write_gguf(tmp_path / "x.gguf", "llama", change=theta, extra={"rope_freqs.weight": factors})
    assert read_checkpoint(tmp_path / "x.gguf").hf_config["rope_scaling"]["factor"] == pytest.approx(8)
    assert "rope_freqs.weight" not in dict(GGUFWeights(tmp_path / "x.gguf"))
    for number, wrong in enumerate((np.arange(HEAD_DIM // 2, dtype=np.float32), np.ones(3, np.float32))):
        path = tmp_path / f"wrong{number}.gguf"
        write_gguf(path, "llama", extra={"rope_freqs.weight": wrong})
        with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight can't be read as a RoPE scaling"):
            read_checkpoint(path)


def test_linear_and_yarn_scaling(tmp_path: Path) -> None:
    linear = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    write_gguf(tmp_path / "linear.gguf", "gemma3", change=linear)
    scaling = read_checkpoint(tmp_path / "linear.gguf").hf_config["rope_scaling"]
    assert scaling == {"rope_type": "linear", "factor": 8.0}
    yarn: dict[str, Any] = {"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0}
    yarn |= {"qwen2.rope.scaling.original_context_length": 32, "qwen2.rope.scaling.attn_factor": 1.0}
    write_gguf(tmp_path / "yarn.gguf", "qwen2", change=yarn)
    scaling = read_checkpoint(tmp_path / "yarn.gguf").hf_config["rope_scaling"]
    assert scaling["original_max_position_embeddings"] == 32
    assert scaling["attention_factor"] == pytest.approx(1 + 0.1 * math.log(4))


def test_layers_with_a_window(tmp_path: Path) -> None:
    local, full = "sliding_attention", "full_attention"
    for number, (pattern, expected) in enumerate(
        [(2, [local, full, local]), ([True, True, False], [local, local, full])]
    ):
        path = tmp_path / f"{number}.gguf"
        write_gguf(path, "gemma3", change={"gemma3.attention.sliding_window_pattern": pattern})
        assert read_checkpoint(path).hf_config["layer_types"] == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"general.architecture": "rwkv6"}, UnsupportedModelError, "'rwkv6'; octavo reads GGUF files of gemma3, llama"),
        ({"split.count": 3}, UnsupportedModelError, "one of 3 parts of a model; merge them"),
        ({"llama.expert_count": 8}, UnsupportedModelError, "mixture of experts"),
        ({"llama.rope.dimension_count": 8}, UnsupportedModelError, "rope.dimension_count is 8, other than the head"),
        ({"llama.attention.value_length": 8}, UnsupportedModelError, "value_length is 8, other than the head size, 16"),
        ({"llama.rope.scaling.type": "longrope"}, UnsupportedModelError, "'longrope'; octavo reads none, linear and"),
        ({"llama.attention.head_count_kv": [1, 2, 2]}, UnsupportedModelError, "differs from layer to layer"),
        ({"llama.block_count": None}, WeightError, "llama.block_count must be a whole number .* but is missing"),
        ({"llama.block_count": 0}, WeightError, "llama.block_count must be .* but is 0"),
        ({"llama.embedding_length": "64"}, WeightError, "embedding_length must be a whole number above 0, but is '64'"),
        ({"llama.rope.freq_base": "x"}, WeightError, "rope.freq_base must be a number above 0, but is 'x'"),
    ],
)
def test_metadata_that_can_not_be_used(
    tmp_path: Path, change: dict[str, Any], error: type[ModelError], message: str
) -> None:
    write_gguf(tmp_path / "x.gguf", "llama", change=change)
    with pytest.raises(error, match=message):
        read_checkpoint(tmp_path / "x.gguf")


def test_a_file_that_is_no_language_model(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("something", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightError, match=r"no tensor token_embd\.weight"):
        read_checkpoint(tmp_path / "x.gguf")


def test_heads_that_do_not_divide_a_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "llama", change={"llama.attention.head_count": 7})
    with pytest.raises(WeightError, match=r"blk\.0\.attn_q\.weight.* does not go with 7 heads and 2 key-value heads"):
        list(GGUFWeights(tmp_path / "x.gguf"))


def test_the_default_model(default_gguf: Path) -> None:
    hf = read_checkpoint(default_gguf).hf_config
    assert hf["architectures"] == ["LlamaForCausalLM"]
    assert (hf["num_hidden_layers"], hf["hidden_size"], hf["head_dim"]) == (30, 576, 64)
    assert (hf["num_key_value_heads"], hf["vocab_size"], hf["rope_theta"]) == (3, 49152, 100000.0)
    assert hf["tie_word_embeddings"] is True
    names = {name for name, _ in GGUFWeights(default_gguf)}
    assert len(names) == len(GGUFFile(default_gguf).tensors) == 272
    assert all(name.startswith("model.") for name in names)
