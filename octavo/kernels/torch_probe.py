"""What a device can do at most, measured with plain torch: for devices and builds without a probe of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

_NUM_BYTES = 256 << 20  # larger than caches
_SIZE = 1024  # of the matrices
_SECONDS = 0.3  # of each measurement


def read_rate(device: torch.device) -> float:
    """Bytes per second that are read to sum them up."""
    numbers = torch.ones(_NUM_BYTES // 4, device=device)
    return _NUM_BYTES / _shortest(numbers.sum)


def multiply_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a product of two matrices of `dtype`."""
    a, b = (torch.ones(_SIZE, _SIZE, dtype=dtype, device=device) for _ in range(2))
    return 2 * _SIZE**3 / _shortest(lambda: a @ b)


def _shortest(run: Callable[[], Tensor]) -> float:
    """The shortest time in seconds of the runs after the first; what disturbs a run only makes it longer."""
    run()
    best = math.inf
    end = time.perf_counter() + _SECONDS
    while math.isinf(best) or time.perf_counter() < end:
        started = time.perf_counter()
        run().view(-1)[0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return best
