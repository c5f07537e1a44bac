"""HFConfig: typed reading of a Hugging Face configuration. What a model does not know is an error, never a guess."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from octavo.errors import ModelError, shown
from octavo.layers.rotary import RopeConfig


class HFConfig:
    """A configuration in canonical form (see `loading/config_reader.py`). Every method raises ModelError."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def integer(self, key: str) -> int:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(key, "a whole number above 0")
        return value

    def number(self, key: str) -> float:
        value = self.optional_number(key)
        if value is None:
            raise self._wrong(key, "a number")
        return value

    def optional_number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def choice(self, key: str, known: Collection[str]) -> str:
        value = self.values.get(key)
        if value not in known:
            raise self._wrong(key, " or ".join(sorted(known)))
        return str(value)

    def require(self, key: str, expected: Any) -> None:
        """`key` is absent or has the one value that the model code is written for."""
        value = self.values.get(key)
        if value is not None and value != expected:
            raise self._wrong(key, f"{expected!r}, the only value that is supported")

    def head_counts(self) -> tuple[int, int]:
        """num_attention_heads and num_key_value_heads."""
        num_heads, num_kv_heads = self.integer("num_attention_heads"), self.integer("num_key_value_heads")
        if num_heads % num_kv_heads:
            raise self._wrong("num_key_value_heads", f"a divisor of num_attention_heads, {num_heads}")
        return num_heads, num_kv_heads

    def windows(self) -> tuple[int | None, ...]:
        """For each layer its sliding window, None for full attention."""
        num_layers, types = self.integer("num_hidden_layers"), self.values.get("layer_types")
        if not isinstance(types, list | tuple) or len(types) != num_layers:
            raise self._wrong("layer_types", f"a list of num_hidden_layers ({num_layers}) names")
        if unknown := set(types) - {"full_attention", "sliding_attention"}:
            raise ModelError(
                f"layer_types of the config has {shown(sorted(map(str, unknown)))}; full_attention and "
                "sliding_attention are supported"
            )
        window = self.integer("sliding_window") if "sliding_attention" in types else None
        return tuple(window if kind == "sliding_attention" else None for kind in types)

    def rope(self, theta_key: str = "rope_theta", *, scaled: bool = True) -> RopeConfig:
        """The rotary embedding with base `theta_key`, and with `rope_scaling` if `scaled`."""
        scaling = self.values.get("rope_scaling") or {}
        if not isinstance(scaling, Mapping):
            raise self._wrong("rope_scaling", "null or a table with rope_type")
        self.require("partial_rotary_factor", 1.0)
        head_dim = self.integer("head_dim")
        if head_dim % 2:
            raise self._wrong("head_dim", "even: rotary embeddings turn pairs")
        return RopeConfig(
            head_dim=head_dim,
            theta=self.number(theta_key),
            max_position_embeddings=self.integer("max_position_embeddings"),
            scaling=dict(scaling) if scaled else {},
        )

    def _wrong(self, key: str, wanted: str) -> ModelError:
        given = shown(self.values[key]) if key in self.values else "nothing"
        return ModelError(f"{key} of the model's config must be {wanted}; the config has {given}")
