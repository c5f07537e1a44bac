"""The sampling defaults that come with a model: which fields of generation_config.json count, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.config import Checkpoint, EngineArgs
from octavo.errors import ConfigError, InvalidRequestError, shown, unknown_name
from octavo.log import get_logger
from octavo.sampling_params import SamplingParams

logger = get_logger(__name__)

# The fields that are taken over, with the values that change nothing.
NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
}
_MAX_NEW_TOKENS = "max_new_tokens"


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request gets for the fields that it leaves open."""

    fields: Mapping[str, Any]  # of SamplingParams; max_tokens when the model suggests one
    max_tokens_cap: int | None = None  # no request may have more: from a folder or an override

    def sampling_params(self) -> SamplingParams:
        return SamplingParams(**self.fields)


def sampling_defaults(args: EngineArgs, checkpoint: Checkpoint) -> SamplingDefaults:
    """The defaults by `generation_config` ("auto", "vllm" or "none", or a folder) and `override_generation_config`.

    Raises:
        ConfigError: no such folder, an unknown field of the override, or a value out of range.
    """
    source = args.generation_config
    override = dict(args.override_generation_config or {})
    for name in override:
        if name not in NEUTRAL and name != _MAX_NEW_TOKENS:
            raise ConfigError(unknown_name("field of override_generation_config", name, [*NEUTRAL, _MAX_NEW_TOKENS]))
    if source == "auto":
        base: Mapping[str, Any] = checkpoint.generation_config
    elif source in ("vllm", "none"):
        base = {}
    else:
        base = _read(Path(source))
    merged = {**base, **override}
    fields = {name: merged[name] for name in NEUTRAL if merged.get(name) is not None}
    max_new_tokens = merged.get(_MAX_NEW_TOKENS)
    if max_new_tokens is not None:
        fields["max_tokens"] = max_new_tokens
    try:
        SamplingParams(**fields)
    except InvalidRequestError as error:
        raise ConfigError(f"the generation config ({source}, with its override) is not valid: {error}") from None
    differing = {name: value for name, value in fields.items() if value != NEUTRAL.get(name)}
    if differing:
        shown_fields = ", ".join(f"{name}={value}" for name, value in differing.items())
        logger.info("sampling defaults from the model: %s (generation_config='vllm' turns them off)", shown_fields)
    capped = _MAX_NEW_TOKENS in override or source not in ("auto", "vllm", "none")
    return SamplingDefaults(fields, max_new_tokens if capped else None)


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / "generation_config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"generation_config is {shown(str(folder))}, but there is no {path}; "
            "use auto, vllm, none or a folder that holds generation_config.json"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, not an object")
    return content
