"""Filling a model: each tensor to its place, each misfit named; GGUF tensors; dummy weights."""

from __future__ import annotations

from dataclasses import replace

import gguf
import pytest
import torch
from all_kernels import CPP_KERNELS
from models.paged_runner import PagedRunner
from models.transformers_reference import CPU, canonical, model_config, reference_logits, reference_model, weights_of
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig, OPTConfig, PreTrainedModel

from octavo.errors import ConfigError, UnsupportedModelError, WeightError
from octavo.loading.load import build_model, init_dummy, load_weights
from octavo.models.base import CausalLM
from octavo.quantization.base import Weight
from octavo.quantization.gguf_tensor import GGUFTensor

SMALL = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
TOKENS = torch.arange(3, 20)


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    return reference_model(LlamaConfig(**SMALL, attention_bias=True))


@pytest.fixture
def weights(reference: PreTrainedModel) -> dict[str, Weight]:
    return dict(weights_of(reference))


@pytest.fixture
def model(reference: PreTrainedModel) -> CausalLM:
    return build_model(model_config(canonical(reference.config)), CPU)


def logits(model: CausalLM) -> Tensor:
    backend = "CPU_ATTN" if CPP_KERNELS else "TORCH_ATTN"
    runner = PagedRunner(model, num_requests=1, max_len=len(TOKENS), block_size=16, backend=backend)
    return runner.step([(0, TOKENS)])[0]


def test_any_order(model: CausalLM, reference: PreTrainedModel, weights: dict[str, Weight]) -> None:
    load_weights(model, reversed(weights.items()))
    assert (logits(model) - reference_logits(reference, TOKENS)).abs().max() < 1e-4


def test_left_over_and_missing(model: CausalLM, weights: dict[str, Weight]) -> None:
    weights["model.layers.1.mlp.down_proj_b.weight"] = weights.pop("model.layers.1.mlp.down_proj.weight")
    weights["model.layers.2.input_layernorm.weight"] = torch.ones(32)
    del weights["model.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(WeightError) as error:
        load_weights(model, weights.items())
    message = str(error.value)
    assert "do not fit LlamaForCausalLM: 2 tensors of the checkpoint that the model has no place for" in message
    assert "model.layers.1.mlp.down_proj_b.weight, model.layers.2.input_layernorm.weight;" in message
    assert "2 parameters that the checkpoint does not fill: " in message
    assert "model.layers.0.self_attn.k_proj.bias, model.layers.1.mlp.down_proj.weight." in message


def test_wrong_shapes(model: CausalLM, weights: dict[str, Weight]) -> None:
    weights["model.norm.weight"] = torch.ones(31)
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.ones(16, 32)  # would fit the rows of another shard
    with pytest.raises(WeightError) as error:
        load_weights(model, weights.items())
    assert "2 tensors of a wrong shape: " in str(error.value)
    assert "model.norm.weight is [31] instead of [32]" in str(error.value)
    assert "q_proj.weight is [16, 32] instead of [32, 32]" in str(error.value)


def test_twice(model: CausalLM, weights: dict[str, Weight]) -> None:
    with pytest.raises(WeightError, match=r"1 tensors that come twice: model\.norm\.weight"):
        load_weights(model, [*weights.items(), ("model.norm.weight", torch.ones(32))])


def test_long_lists_are_cut(model: CausalLM) -> None:
    with pytest.raises(WeightError, match=r"29 parameters that the checkpoint does not fill: .* and 19 more\."):
        load_weights(model, [])


def test_inv_freq_of_old_checkpoints_is_skipped(model: CausalLM, weights: dict[str, Weight]) -> None:
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    load_weights(model, weights.items())


@pytest.mark.parametrize("carries_head", [False, True])
def test_tied_embeddings(carries_head: bool) -> None:
    reference = reference_model(LlamaConfig(**SMALL, tie_word_embeddings=True))
    weights = weights_of(reference)
    if carries_head:
        weights["lm_head.weight"] = torch.zeros(32, 32)
    model = build_model(model_config(canonical(reference.config)), CPU)
    load_weights(model, weights.items())
    assert (logits(model) - reference_logits(reference, TOKENS)).abs().max() < 1e-4


def test_checkpoint_saved_without_the_head() -> None:
    config = OPTConfig(vocab_size=32, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    reference = reference_model(config)
    weights = {name.removeprefix("model."): tensor for name, tensor in weights_of(reference).items()}
    model = build_model(model_config(canonical(config)), CPU)
    load_weights(model, weights.items())
    assert (logits(model) - reference_logits(reference, TOKENS)).abs().max() < 1e-4


def test_gguf_tensors(reference: PreTrainedModel, weights: dict[str, Weight]) -> None:
    """Quantized tensors of several types in one layer, plain ones beside them."""
    types = {"q_proj": "Q8_0", "k_proj": "Q4_0", "gate_proj": "Q5_1", "down_proj": "Q8_0", "embed_tokens": "Q4_1"}
    expanded = dict(reference.state_dict())
    for name, tensor in reference.state_dict().items():
        type_name = types.get(name.split(".")[-2])
        if type_name is not None and name.endswith(".weight"):
            kind = gguf.GGMLQuantizationType[type_name]
            raw = gguf.quants.quantize(tensor.numpy(), kind)
            weights[name] = GGUFTensor(torch.from_numpy(raw), type_name, tuple(tensor.shape))
            expanded[name] = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    model = build_model(model_config(canonical(reference.config), quantization="gguf"), CPU)
    load_weights(model, weights.items())
    same = reference_model(reference.config)
    same.load_state_dict(expanded)
    assert (logits(model) - reference_logits(same, TOKENS)).abs().max() < 1e-4


def test_dtype_of_the_run(reference: PreTrainedModel, weights: dict[str, Weight]) -> None:
    model = build_model(model_config(canonical(reference.config), dtype="bfloat16"), CPU)
    load_weights(model, weights.items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("quantization", [None, "gguf"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "opt"])
def test_dummy(architecture: str, quantization: str | None) -> None:
    """Finite, not all alike, and the same for the same seed."""
    config = {
        "llama": LlamaConfig(**SMALL, attention_bias=True, architectures=["LlamaForCausalLM"]),
        "gemma3": Gemma3TextConfig(**SMALL, head_dim=16, architectures=["Gemma3ForCausalLM"]),
        "opt": OPTConfig(
            vocab_size=32,
            hidden_size=32,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            architectures=["OPTForCausalLM"],
        ),
    }[architecture]
    found: list[Tensor] = []
    for seed in (0, 0, 1):
        model = build_model(model_config(canonical(config), quantization=quantization), CPU)
        init_dummy(model, seed)
        found.append(logits(model))
    assert found[0].isfinite().all()
    assert found[0].std() > 0
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_unknown_names(reference: PreTrainedModel) -> None:
    config = model_config(canonical(reference.config))
    with pytest.raises(ConfigError, match="unknown quantization 'ggml'"):
        build_model(replace(config, quantization="ggml"), CPU)
    with pytest.raises(UnsupportedModelError, match="unknown architecture 'GPT5'"):
        build_model(replace(config, architecture="GPT5"), CPU)
