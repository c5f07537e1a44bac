"""Which platform this process runs on."""

from __future__ import annotations

from functools import cache

import torch

from octavo import envs
from octavo.errors import ConfigError
from octavo.platforms.base import Platform
from octavo.platforms.cpu import CpuPlatform
from octavo.platforms.cuda import CudaPlatform


@cache
def current_platform() -> Platform:
    """The platform of the best device, or the one that OCTAVO_DEVICE names.

    Raises:
        ConfigError: OCTAVO_DEVICE names a device that is not there.
    """
    asked = envs.device()
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise ConfigError("OCTAVO_DEVICE is cuda, but torch finds no GPU here; unset it, or set it to cpu")
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"OCTAVO_DEVICE must be auto, cpu or cuda, got {asked!r}")
    return CudaPlatform() if has_gpu and asked != "cpu" else CpuPlatform()
