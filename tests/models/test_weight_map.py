"""Names of checkpoints -> places in the model."""

from __future__ import annotations

from octavo.layers.base import Slot
from octavo.models.base import WeightMap
from octavo.models.llama import LlamaForCausalLM
from octavo.models.opt import OPTForCausalLM


def test_names_that_nothing_changes() -> None:
    assert LlamaForCausalLM.weight_map.resolve("model.norm.weight") == ("model.norm", Slot("weight", 0))
    assert LlamaForCausalLM.weight_map.resolve("weight") == ("", Slot("weight", 0))


def test_stacked() -> None:
    resolve = LlamaForCausalLM.weight_map.resolve
    assert resolve("model.layers.3.self_attn.v_proj.bias") == (
        "model.layers.3.self_attn.qkv_proj",
        Slot("bias", 2),
    )
    assert resolve("model.layers.0.mlp.up_proj.weight") == ("model.layers.0.mlp.gate_up_proj", Slot("weight", 1))


def test_patterns_match_the_whole_name() -> None:
    resolve = LlamaForCausalLM.weight_map.resolve
    assert resolve("model.layers.12.self_attn.rotary_emb.inv_freq") is None
    assert resolve("x.model.layers.12.self_attn.rotary_emb.inv_freq") is not None
    assert resolve("model.layers.12.self_attn.rotary_emb.inv_freqs") is not None


def test_rename() -> None:
    assert OPTForCausalLM.weight_map.resolve("decoder.layers.1.self_attn.k_proj.weight") == (
        "model.decoder.layers.1.self_attn.qkv_proj",
        Slot("weight", 1),
    )
    first_wins = WeightMap(rename={r"a\.(\w+)": r"b.\1", r"b\.(\w+)": r"c.\1"})
    assert first_wins.resolve("a.weight") == ("b", Slot("weight", 0))
