"""Launching a Triton kernel: what the kernels must know of a GPU, and the options that a launch takes.

Knows no kernel, and is imported without Triton.

Programmatic dependent launch (CUDA C++ Programming Guide, section "Programmatic Dependent Launch and
Synchronization"): a kernel may start while the one before it in the stream still runs. Such a kernel calls `gdc_wait`
before it touches what an earlier one writes or reads; every kernel launched so calls it, also in programs that have
nothing to do, so that when one has completed, all before it have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

Grid = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GpuTraits:
    """What tile sizes and launches depend on."""

    family: str  # "hopper": warp-group products and 200 KB of shared memory; "ampere": other NVIDIA; "amd"
    num_processors: int  # streaming multiprocessors, compute units
    dependent_launch: bool


@lru_cache
def gpu_traits(device: torch.device) -> GpuTraits:
    """The traits of `device`. Tensors of a CPU reach a kernel in Triton's interpreter only: any traits serve there."""
    if device.type == "cpu":
        return GpuTraits("ampere", 4, False)
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return GpuTraits("amd", properties.multi_processor_count, False)
    # 9: Hopper, 10: Blackwell for data centres. Blackwell's other GPUs (12) have 100 KB of shared memory.
    family = "hopper" if properties.major in (9, 10) else "ampere"
    return GpuTraits(family, properties.multi_processor_count, properties.major >= 9)


def launch(kernel: Any, grid: Grid, *args: Any, num_warps: int, **constants: Any) -> None:
    """Runs `kernel` on `grid`; as a dependent launch if it is compiled with PDL=True."""
    options = {"launch_pdl": True} if constants.get("PDL") else {}
    kernel[grid](*args, num_warps=num_warps, **constants, **options)
