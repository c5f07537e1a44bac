"""Flags that several subcommands share: the engine's arguments and the sampling parameters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from octavo.config import EngineArgs
from octavo.errors import InvalidRequestError
from octavo.sampling_params import SamplingParams

_SAMPLING = {
    "max_tokens": (int, "tokens to generate at most"),
    "temperature": (float, "0 is greedy"),
    "top_p": (float, "sample from the most likely tokens that have this share"),
    "top_k": (int, "sample from this many most likely tokens"),
    "min_p": (float, "sample from tokens at least this likely, relative to the most likely one"),
    "repetition_penalty": (float, "above 1 discourages tokens that were there"),
    "seed": (int, "the same seed gives the same tokens"),
}


def _engine_fields() -> list[Field[Any]]:
    """The arguments of the engine but its seed: on the command line the seed is that of the request."""
    return [field for field in fields(EngineArgs) if field.name != "seed"]


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per field of EngineArgs but its seed; `-m` is the model."""
    group = parser.add_argument_group("engine")
    for field in _engine_fields():
        flag = "--" + field.name.replace("_", "-")
        kind = str(field.type)
        options: dict[str, Any] = {"default": field.default, "dest": field.name}
        if kind.startswith("bool"):
            options["action"] = argparse.BooleanOptionalAction
        elif kind.startswith("Mapping"):
            options |= {"type": _json_object, "metavar": "JSON"}
        else:
            number = int if kind.startswith("int") and "str" not in kind else float if kind.startswith("float") else str
            options |= {"type": number, "metavar": number.__name__.upper()}
        names = ["-m", flag] if field.name == "model" else [flag]
        group.add_argument(*names, help=" ", **options)


def engine_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `LLM` that were given."""
    return {
        field.name: getattr(parsed, field.name)
        for field in _engine_fields()
        if getattr(parsed, field.name) != field.default
    }


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (default: what the model suggests)")
    for name, (kind, text) in _SAMPLING.items():
        group.add_argument(
            "--" + name.replace("_", "-"), type=kind, metavar=kind.__name__.upper(), default=None, help=text
        )


def sampling_params(parsed: argparse.Namespace, defaults: SamplingParams, max_tokens: int | None) -> SamplingParams:
    """The model's defaults with what was given laid over; `max_tokens` where neither says."""
    given = {name: getattr(parsed, name) for name in _SAMPLING if getattr(parsed, name) is not None}
    base = {name: getattr(defaults, name) for name in _SAMPLING}
    if base["max_tokens"] == SamplingParams().max_tokens:
        base["max_tokens"] = max_tokens
    try:
        return SamplingParams(**(base | given))
    except InvalidRequestError as error:
        flag = "--" + (error.param or "").replace("_", "-")
        raise InvalidRequestError(f"{flag}: {error}", param=error.param) from None


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object such as '{{\"top_k\": 20}}', got {text!r}")
    return value
