"""How a measurement is shown: a table on the terminal, and a JSON file with its parameters."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from octavo.bench.statistics import Summary
from octavo.errors import ConfigError

WIDTH = 58  # characters of a table


def row(name: str, value: float, digits: int = 2) -> str:
    text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
    return f"{name:<{WIDTH - 14}}{text:>14}"


def heading(name: str) -> str:
    return f" {name} ".center(WIDTH, "-")


def summary_fields(name: str, unit: str, summary: Summary) -> dict[str, float]:
    """mean_NAME_UNIT and so on, the keys of a JSON result."""
    return {f"{kind}_{name}_{unit}": value for kind, value in asdict(summary).items()}


def check_result_file(path: Path | None) -> None:
    """Raises ConfigError where no file can be written: before the measurement, not after it."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise ConfigError(f"--result-file {str(path)!r} can't be written; give a file in a folder that exists")


def write_result(path: Path | None, benchmark: str, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write `{"benchmark", "parameters", "result"}`; a number that is not finite is written as null."""
    if path is not None:
        content = {"benchmark": benchmark, "parameters": parameters, "result": result}
        path.write_text(json.dumps(_finite(content), indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value
