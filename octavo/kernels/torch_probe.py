"""What a device can do at most, measured with plain torch: for devices and builds without a probe of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

_NUM_BYTES = 256 << 20  # larger than caches
_SECONDS = 0.3  # of each measurement
_RUNS_ON_GPU = 8  # one after another before the host waits, which takes as long as a short run


def read_rate(device: torch.device) -> float:
    """Bytes per second that are read to sum them up."""
    numbers = torch.ones(_NUM_BYTES // 4, device=device)
    return _NUM_BYTES / _shortest(numbers.sum, device)


def multiply_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a product of two matrices of `dtype`, large enough for all of the device."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _shortest(lambda: a @ b, device)


def _shortest(run: Callable[[], Tensor], device: torch.device) -> float:
    """The shortest time in seconds of the runs after the first; what disturbs a run only makes it longer."""
    run()
    num_runs = 1 if device.type == "cpu" else _RUNS_ON_GPU
    best = math.inf
    end = time.perf_counter() + _SECONDS
    while math.isinf(best) or time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(num_runs):
            result = run()
        result.view(-1)[0].item()  # waits for the device
        best = min(best, (time.perf_counter() - started) / num_runs)
    return best
