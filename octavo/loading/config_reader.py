"""From a folder or a GGUF file to a Checkpoint: the configuration in its canonical form.

Versions of transformers write the same things under different names, and leave out what is the default. Canonical is:

* `dtype` (older: torch_dtype), a name or None.
* `rope_theta`, a number, and `rope_scaling`, None or a dict with `rope_type`. Older files write "type" in it;
  transformers 5 writes both as `rope_parameters`, for Gemma 3 one per kind of layer.
* for the architectures of `_DEFAULTS` also: `num_key_value_heads`, `head_dim`, `sliding_window` (None where it is not
  in use), `layer_types` and `tie_word_embeddings` are always there, and what is absent has transformers' default.
* for Gemma 3: `rope_local_base_freq`, the base of the layers with a sliding window.

Whether octavo has code for the architecture is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.config import Checkpoint
from octavo.errors import ModelError, ModelNotFoundError, UnsupportedModelError, shown
from octavo.loading import gguf_config
from octavo.loading.gguf import GGUFFile

_COMMON = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_QWEN = {"max_position_embeddings": 32768, "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**_COMMON, "max_position_embeddings": 2048},
    "MistralForCausalLM": {**_COMMON, "max_position_embeddings": 131072, "sliding_window": 4096},
    "Qwen2ForCausalLM": {**_COMMON, **_QWEN},
    "Qwen3ForCausalLM": {**_COMMON, **_QWEN, "head_dim": 128},
    "Gemma3ForCausalLM": {
        **_COMMON,
        "max_position_embeddings": 131072,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
}
"""What transformers takes for granted, for the architectures with rotary embeddings that octavo runs."""

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def read_checkpoint(path: Path, *, hf_overrides: Mapping[str, Any] | None = None) -> Checkpoint:
    """What the model at `path`, a folder or a `.gguf` file, says about itself.

    `hf_overrides` is laid over the configuration, key by key, before the canonical form is made.

    Raises:
        ModelNotFoundError: no config.json in the folder, or no file at the path.
        UnsupportedModelError: a kind of model or of file that octavo does not read.
        ModelError: the configuration is damaged, or lacks what a model can't do without.
    """
    generation: Mapping[str, Any]
    if path.is_dir():
        config, generation = _read_folder(path)
    else:
        file = GGUFFile(path)
        config, generation = gguf_config.hf_config(file), gguf_config.generation_config(file)
    overrides = _respelled(dict(hf_overrides or {}), path)
    config = _respelled(config, path)
    num_layers, layer_types = overrides.get("num_hidden_layers"), config.get("layer_types")
    if isinstance(num_layers, int) and isinstance(layer_types, list):
        config["layer_types"] = layer_types[:num_layers]
    return Checkpoint(
        path=str(path),
        format="safetensors" if path.is_dir() else "gguf",
        hf_config=_canonical({**config, **overrides}, path),
        generation_config=generation,
    )


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not (folder / "config.json").is_file():
        gguf_files = sorted(file.name for file in folder.glob("*.gguf"))
        hint = (
            f"it holds {shown(gguf_files)}: give the path of that file"
            if gguf_files
            else "a model's folder holds config.json, tokenizer.json and *.safetensors"
        )
        raise ModelNotFoundError(f"there is no config.json in {folder}; {hint}")
    config = _read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    return config, _read_json(generation) if generation.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no valid JSON: {error}; fetch or convert the model again") from error
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, but holds {shown(value)}")
    return value


def _respelled(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config with the canonical names for dtype and RoPE, of what it says at all."""
    config = dict(config)
    if "torch_dtype" in config:
        config.setdefault("dtype", config.pop("torch_dtype"))
    if isinstance(config.get("dtype"), str):
        config["dtype"] = config["dtype"].removeprefix("torch.")
    parameters = config.pop("rope_parameters", None)
    if parameters is not None:
        config |= _rope_of_parameters(_rope_table(parameters, "rope_parameters", path), path)
    elif config.get("rope_scaling") is not None:
        config["rope_scaling"] = _scaling(_rope_table(config["rope_scaling"], "rope_scaling", path))
    return config


def _rope_of_parameters(parameters: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """rope_theta and rope_scaling (and rope_local_base_freq) from transformers 5's rope_parameters."""
    spelled: dict[str, Any] = {}
    if "full_attention" in parameters or "sliding_attention" in parameters:
        local = _rope_table(parameters.get("sliding_attention") or {}, "rope_parameters", path)
        if _scaling(local) is not None:
            raise UnsupportedModelError(
                f"{path}: rope_parameters scale the layers with a sliding window ({shown(local)}); octavo does not"
            )
        if "rope_theta" in local:
            spelled["rope_local_base_freq"] = local["rope_theta"]
        parameters = _rope_table(parameters.get("full_attention") or {}, "rope_parameters", path)
    if "rope_theta" in parameters:
        spelled["rope_theta"] = parameters["rope_theta"]
    if "partial_rotary_factor" in parameters:
        spelled["partial_rotary_factor"] = parameters["partial_rotary_factor"]
    spelled["rope_scaling"] = _scaling(parameters)
    return spelled


def _rope_table(value: Any, key: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ModelError(f"{path}: {key} of the config must be null or an object, but is {shown(value)}")
    return value


def _scaling(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """The scaling that a rope_scaling or rope_parameters object describes, None for the plain embedding."""
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return None
    others = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    return {"rope_type": kind, **{key: value for key, value in table.items() if key not in others}}


def _canonical(config: dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(config.get("text_config"), Mapping):
        raise UnsupportedModelError(
            f"{path} is a model of several modalities (its config has a text_config); octavo runs text models"
        )
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelError(
            f'the config of {path} must name the architecture, such as "architectures": ["LlamaForCausalLM"], but '
            f"has {shown(architectures)}; add it, also possible with hf_overrides"
        )
    defaults = _DEFAULTS.get(architectures[0])
    _check_sizes(config, _SIZES if defaults is not None else ("vocab_size",), path)
    config.setdefault("dtype", None)
    if defaults is None:
        return config
    given = {key: value for key, value in config.items() if value is not None or key not in defaults}
    for nullable in ("sliding_window", "rope_scaling"):
        if nullable in config:
            given[nullable] = config[nullable]
    config = {**defaults, **given}
    config["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    _check_sizes(config, ("num_key_value_heads", "head_dim", "max_position_embeddings"), path)
    _set_layer_types(config, path)
    return config


def _set_layer_types(config: dict[str, Any], path: Path) -> None:
    """Which layers have the sliding window; `sliding_window` becomes None when none has it."""
    window = config.get("sliding_window")
    num_layers, architecture = config["num_hidden_layers"], config["architectures"][0]
    if architecture.startswith("Qwen") and not config["use_sliding_window"]:
        window = None
    if config.get("layer_types") is None:
        if window is None or architecture == "LlamaForCausalLM":
            sliding = [False] * num_layers
        elif architecture == "Gemma3ForCausalLM":
            _check_sizes(config, ("sliding_window_pattern",), path)
            sliding = [(layer_id + 1) % config["sliding_window_pattern"] != 0 for layer_id in range(num_layers)]
        elif architecture == "MistralForCausalLM":
            sliding = [True] * num_layers
        else:
            _check_sizes(config, ("max_window_layers",), path, least=0)
            sliding = [layer_id >= config["max_window_layers"] for layer_id in range(num_layers)]
        config["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in sliding]
    if not isinstance(config["layer_types"], list):
        raise ModelError(f"layer_types in the config of {path} must be a list, but is {shown(config['layer_types'])}")
    config["sliding_window"] = window if "sliding_attention" in config["layer_types"] else None


def _check_sizes(config: Mapping[str, Any], keys: tuple[str, ...], path: Path, least: int = 1) -> None:
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise ModelError(f"the config of {path} lacks {', '.join(missing)}; fetch the model again, or use hf_overrides")
    for key in keys:
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(
                f"{key} in the config of {path} must be a whole number of {least} or more, but is {shown(value)}"
            )
