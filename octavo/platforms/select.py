"""Which platform this process runs on."""

from __future__ import annotations

import torch

from octavo import envs
from octavo.errors import ConfigError
from octavo.platforms.base import Platform
from octavo.platforms.cpu import CpuPlatform
from octavo.platforms.cuda import CudaPlatform
from octavo.platforms.rocm import RocmPlatform


def current_platform(num_threads: int | None = None) -> Platform:
    """The platform of the best device, or the one that OCTAVO_DEVICE names.

    Args:
        num_threads: of a CPU's kernels; None: as many as this process may use.

    Raises:
        ConfigError: OCTAVO_DEVICE names a device that is not there, or this process may not use that many threads.
    """
    asked = envs.device()
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise ConfigError("OCTAVO_DEVICE is cuda, but torch finds no GPU here; unset it, or set it to cpu")
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"OCTAVO_DEVICE must be auto, cpu or cuda, got {asked!r}")
    if not has_gpu or asked == "cpu":
        return CpuPlatform(num_threads)
    return CudaPlatform() if torch.version.hip is None else RocmPlatform()
