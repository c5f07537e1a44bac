"""Configurations in canonical form: as transformers 5 writes them, as older versions did, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from octavo.config import Checkpoint
from octavo.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from octavo.loading.config_reader import read_checkpoint

LOCAL, FULL = "sliding_attention", "full_attention"
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}
CANONICAL = [*SIZES, "architectures", "dtype", "rope_theta", "rope_scaling", "head_dim", "num_key_value_heads"]
CANONICAL += ["sliding_window", "layer_types", "tie_word_embeddings", "rms_norm_eps", "max_position_embeddings"]


def read(folder: Path, values: Any, **overrides: Any) -> Any:
    """hf_config of a folder whose config.json holds `values`."""
    (folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return read_checkpoint(folder, hf_overrides=overrides or None).hf_config


def config(family: str, **values: Any) -> dict[str, Any]:
    return {"architectures": [f"{family}ForCausalLM"], **SIZES, **values}


def written_by_transformers(folder: Path, family: str, **values: Any) -> Any:
    name = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    made = getattr(transformers, name)(**{**SIZES, **values}, architectures=[f"{family}ForCausalLM"], dtype="bfloat16")
    made.save_pretrained(folder)
    return read_checkpoint(folder).hf_config


@pytest.mark.parametrize(
    ("family", "values", "old"),
    [
        ("Llama", {}, {}),
        ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True, "head_dim": 32}, {}),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        ("Mistral", {"sliding_window": 10, "num_key_value_heads": 2}, {}),
        ("Mistral", {"sliding_window": None, "num_key_value_heads": 4}, {}),
        ("Qwen2", {"num_key_value_heads": 2}, {"sliding_window": 32, "use_sliding_window": False}),
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2, "num_key_value_heads": 2},
            {},
        ),
        ("Qwen3", {"num_key_value_heads": 2, "head_dim": 32}, {"sliding_window": None, "use_sliding_window": False}),
        (
            "Gemma3",
            {
                "num_hidden_layers": 8,
                "num_key_value_heads": 2,
                "head_dim": 32,
                "sliding_window": 20,
                "rope_parameters": {
                    LOCAL: {"rope_type": "default", "rope_theta": 20000.0},
                    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e6},
                },
            },
            {
                "rope_theta": 3e6,
                "rope_local_base_freq": 20000.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window_pattern": 6,
            },
        ),
    ],
)
def test_both_spellings_say_the_same(family: str, values: dict[str, Any], old: dict[str, Any], tmp_path: Path) -> None:
    new = written_by_transformers(tmp_path, family, **values)
    plain = {key: value for key, value in values.items() if key != "rope_parameters"}
    older = read(tmp_path, config(family, torch_dtype="bfloat16", **{**plain, **old}))
    keys = CANONICAL + ["rope_local_base_freq", "query_pre_attn_scalar", "hidden_activation"] * (family == "Gemma3")
    assert {key: new[key] for key in keys} == {key: older[key] for key in keys}
    assert new["dtype"] == "bfloat16"


def test_what_older_files_leave_out(tmp_path: Path) -> None:
    llama = read(tmp_path, config("Llama"))
    assert {key: llama[key] for key in CANONICAL if key not in SIZES} == {
        "architectures": ["LlamaForCausalLM"],
        "dtype": None,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "sliding_window": None,
        "layer_types": [FULL] * 3,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
    }


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma3"])
def test_defaults_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    name = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    expected = getattr(transformers, name)(**SIZES, num_key_value_heads=4)
    found = read(tmp_path, config(family, num_key_value_heads=4))
    keys = ["max_position_embeddings", "rms_norm_eps", "head_dim", "sliding_window", "layer_types"]
    keys += ["tie_word_embeddings", "query_pre_attn_scalar", "hidden_activation", "attention_bias"]
    for key in keys:
        if getattr(expected, key, None) is not None:
            assert found[key] == getattr(expected, key), key


def test_windows(tmp_path: Path) -> None:
    assert read(tmp_path, config("Mistral", sliding_window=8))["layer_types"] == [LOCAL] * 3
    assert read(tmp_path, config("Mistral", sliding_window=None))["layer_types"] == [FULL] * 3
    qwen = config("Qwen2", sliding_window=8, use_sliding_window=True, max_window_layers=1)
    assert read(tmp_path, qwen)["layer_types"] == [FULL, LOCAL, LOCAL]
    unused = read(tmp_path, {**qwen, "max_window_layers": 3})
    assert (unused["layer_types"], unused["sliding_window"]) == ([FULL] * 3, None)
    gemma = read(tmp_path, config("Gemma3", sliding_window_pattern=2))
    assert gemma["layer_types"] == [LOCAL, FULL, LOCAL]
    assert gemma["rope_local_base_freq"] == 10000.0


@pytest.mark.parametrize("version", ["old", "new"])
def test_llama3_scaling(version: str, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    old = {"rope_scaling": scaling, "rope_theta": 5e5}
    values = old if version == "old" else {"rope_parameters": {**scaling, "rope_theta": 5e5}}
    found = read(tmp_path, config("Llama", **values))
    assert (found["rope_scaling"], found["rope_theta"]) == (scaling, 5e5)


def test_plain_rope_is_no_scaling(tmp_path: Path) -> None:
    assert read(tmp_path, config("Llama", rope_scaling={"type": "default"}))["rope_scaling"] is None
    found = read(tmp_path, config("Llama", rope_parameters={"rope_type": "default", "rope_theta": 5.0}))
    assert (found["rope_scaling"], found["rope_theta"]) == (None, 5.0)


def test_other_architectures_stay_as_they_are(tmp_path: Path) -> None:
    opt = {"architectures": ["OPTForCausalLM"], "vocab_size": 9, "ffn_dim": 3, "do_layer_norm_before": False}
    assert read(tmp_path, {**opt, "torch_dtype": "float16"}) == {**opt, "dtype": "float16"}


def test_overrides_are_laid_over_the_file(tmp_path: Path) -> None:
    written_by_transformers(tmp_path, "Gemma3", num_hidden_layers=8)
    file = json.loads((tmp_path / "config.json").read_text())
    found = read(tmp_path, file, num_hidden_layers=2, rope_theta=7.0, torch_dtype="float16", sliding_window=5)
    assert (found["num_hidden_layers"], found["layer_types"]) == (2, [LOCAL, LOCAL])
    assert (found["rope_theta"], found["dtype"], found["sliding_window"]) == (7.0, "float16", 5)
    scaling = {"type": "linear", "factor": 2.0}
    assert read(tmp_path, config("Llama"), rope_scaling=scaling)["rope_scaling"]["rope_type"] == "linear"
    assert read(tmp_path, SIZES, architectures=["LlamaForCausalLM"])["architectures"] == ["LlamaForCausalLM"]


def test_checkpoint_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config("Llama")))
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5, "eos_token_id": [1, 2]}')
    found = read_checkpoint(tmp_path)
    assert isinstance(found, Checkpoint)
    assert (found.path, found.format) == (str(tmp_path), "safetensors")
    assert found.generation_config == {"temperature": 0.5, "eos_token_id": [1, 2]}


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json in .*a model's folder holds config\.json"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelNotFoundError, match=r"it holds \['model\.gguf'\]: give the path of that file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", r"config\.json is no valid JSON"),
        ("\x00", r"config\.json is no valid JSON"),
        ("[" * 100000, r"config\.json is no valid JSON"),
        ("[]", r"must hold a JSON object, but holds \[\]"),
        (SIZES, "must name the architecture"),
        ({**SIZES, "architectures": []}, "must name the architecture"),
        ({**SIZES, "architectures": "LlamaForCausalLM"}, "must name the architecture"),
        (
            {"architectures": ["LlamaForCausalLM"], "hidden_size": 3},
            "lacks num_hidden_layers, num_attention_heads, inter",
        ),
        ({"architectures": ["OPTForCausalLM"]}, "lacks vocab_size"),
        (
            config("Llama", hidden_size="64"),
            "hidden_size in the config of .* must be a whole number of 1 or more, but is '64'",
        ),
        (config("Llama", num_hidden_layers=0), "num_hidden_layers .* but is 0"),
        (config("Llama", num_attention_heads=True), "num_attention_heads .* but is True"),
        (config("Llama", num_attention_heads=100), "head_dim .* but is 0"),
        (config("Llama", rope_scaling=3), "rope_scaling of the config must be null or an object, but is 3"),
        (config("Llama", rope_parameters=[1]), "rope_parameters of the config must be null or an object"),
        (config("Llama", layer_types=3), "layer_types in the config of .* must be a list, but is 3"),
        (config("Gemma3", sliding_window_pattern=0), "sliding_window_pattern .* but is 0"),
        (
            config("Qwen2", use_sliding_window=True, max_window_layers="x"),
            "max_window_layers .* of 0 or more, but is 'x'",
        ),
    ],
)
def test_a_config_that_can_not_be_used(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read(tmp_path, values)
    assert str(tmp_path) in str(caught.value)


def test_a_damaged_generation_config(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("nonsense")
    with pytest.raises(ModelError, match=r"generation_config\.json is no valid JSON"):
        read(tmp_path, config("Llama"))


def test_kinds_of_models_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="several modalities"):
        read(tmp_path, {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": SIZES})
    local = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UnsupportedModelError, match="scale the layers with a sliding window"):
        read(tmp_path, config("Gemma3", rope_parameters={LOCAL: local, FULL: {"rope_theta": 1e6}}))
