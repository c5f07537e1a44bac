"""Which platform this process runs on."""

from __future__ import annotations

from octavo.platforms.base import Platform
from octavo.platforms.cpu import CpuPlatform


def current_platform() -> Platform:
    """The platform of the best device that octavo has kernels for: at present always the CPU."""
    return CpuPlatform()
