"""Tiny random models of transformers, and octavo's models with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.gemma3 import modeling_gemma3

from octavo.config import Checkpoint, ModelConfig
from octavo.loading.load import build_model, load_weights
from octavo.models.base import CausalLM

CPU = torch.device("cpu")


def canonical(config: PretrainedConfig) -> dict[str, Any]:
    """The configuration in the form that models rely on."""
    values: dict[str, Any] = config.to_dict()
    rope = values.pop("rope_parameters", None)
    if rope is not None:
        full = dict(rope.get("full_attention", rope))
        values["rope_theta"] = full.pop("rope_theta")
        values["rope_scaling"] = full if full["rope_type"] != "default" else None
        if "sliding_attention" in rope:
            values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        head_dim = values.get("head_dim") or config.hidden_size // config.num_attention_heads
        values["head_dim"] = head_dim
        if not values.get("layer_types"):
            kind = "sliding_attention" if values.get("sliding_window") else "full_attention"
            values["layer_types"] = [kind] * config.num_hidden_layers
    return values


def model_config(values: Mapping[str, Any], dtype: str = "float32", quantization: str | None = None) -> ModelConfig:
    checkpoint = Checkpoint(path="", format="safetensors", hf_config=values, generation_config={})
    return ModelConfig(
        model="tiny",
        checkpoint=checkpoint,
        architecture=values["architectures"][0],
        dtype=dtype,
        quantization=quantization,
        max_model_len=64,
        vocab_size=values["vocab_size"],
        seed=0,
        max_logprobs=20,
        eos_token_ids=(2,),
    )


def reference_model(config: PretrainedConfig) -> PreTrainedModel:
    """A transformers model with random weights everywhere, biases and norms included."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.15)
            if "norm" in name and name.endswith("weight") and "gemma" not in config.model_type:
                parameter.add_(1.0)
    config.architectures = [type(model).__name__]
    return model


def weights_of(reference: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of its checkpoint: those of tied weights once."""
    weights = dict(reference.state_dict())
    if reference.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def same_model(
    reference: PreTrainedModel, device: torch.device = CPU, dtype: str = "float32", kernels: Any = None
) -> CausalLM:
    model = build_model(model_config(canonical(reference.config), dtype), device)
    load_weights(model, weights_of(reference).items(), kernels)
    return model


def reference_logits(reference: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """token_ids [L] -> logits [L, vocab], all at once."""
    plain = modeling_gemma3.eager_attention_forward

    def capped(module: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(module, *args, softcap=module.attn_logit_softcapping, **kwargs)

    # transformers has the arithmetic of Gemma 3's soft cap, but its layer does not hand the configured value over.
    with patch.object(modeling_gemma3, "eager_attention_forward", capped), torch.inference_mode():
        logits: Tensor = reference(token_ids[None], use_cache=False).logits[0]
    return logits
