"""`octavo bench startup`: the seconds from the start of a process to its first token, in new processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from octavo.bench.results import summary_fields
from octavo.bench.statistics import Summary
from octavo.errors import ConfigError, EngineError

PHASES = ("import", "load", "first_token", "total")


def bench_startup(arguments: Mapping[str, Any], num_iters: int) -> dict[str, Any]:
    """Start `num_iters` processes one after another; `arguments` are those of the engine.

    Returns:
        Mean, median and p99 seconds of each phase: `import` (the interpreter and octavo with torch), `load` (the model
        and its cache), `first_token`, and their `total`.

    Raises:
        ConfigError: `num_iters` is not above 0.
        EngineError: a process fails.
    """
    if num_iters < 1:
        raise ConfigError(f"num_iters must be 1 or more, got {num_iters}")
    runs = [_start_once(arguments) for _ in range(num_iters)]
    found: dict[str, Any] = {}
    for phase in PHASES:
        found |= summary_fields(phase, "s", Summary.of([run[phase] for run in runs]))
    return {**found, "runs": runs}


def _start_once(arguments: Mapping[str, Any]) -> dict[str, float]:
    # CLOCK_MONOTONIC is the same in all processes: the child counts from before it was there.
    child = subprocess.run(
        [sys.executable, "-m", "octavo.bench.startup_child", json.dumps(arguments), repr(time.monotonic())],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"the process that was started ended with code {child.returncode}: {reason}")
    moments: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return moments
