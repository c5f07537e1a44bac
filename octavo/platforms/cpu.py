"""The CPU platform: host memory within the limits of the control group, torch's threads, float32 and bfloat16."""

from __future__ import annotations

import mmap
import os
import platform
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import psutil
import torch
from torch import Tensor

from octavo.config import DeviceTraits
from octavo.kernels import torch_ops
from octavo.platforms.base import Memory, Platform

_CGROUP = Path("/sys/fs/cgroup")


class CpuPlatform(Platform):
    name: ClassVar[str] = "cpu"
    attention_backends: ClassVar[tuple[str, ...]] = ("CPU_ATTN", "TORCH_SDPA")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def kernels(self) -> ModuleType:
        return torch_ops

    def traits(self) -> DeviceTraits:
        return DeviceTraits(
            name=self.name,
            dtypes=("bfloat16", "float32"),  # float16 has no fast arithmetic on a CPU
            block_size=128,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
            # A CPU's memory is shared with everything else that runs on the machine.
            gpu_memory_utilization=0.25,
            async_scheduling=False,
        )

    def memory(self) -> Memory:
        machine = psutil.virtual_memory()
        total, available = machine.total, machine.available
        limit = _read_bytes(_CGROUP / "memory.max")
        if limit is not None and limit < total:
            used = _read_bytes(_CGROUP / "memory.current") or 0
            total, available = limit, min(available, limit - used)
        return Memory(total, max(available, 0))

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Anonymous pages: zero, aligned, and taken from the machine only when they are first written."""
        size = torch.Size(shape).numel()
        return torch.frombuffer(mmap.mmap(-1, size * dtype.itemsize), dtype=dtype).view(shape)

    def describe(self) -> str:
        cores = len(os.sched_getaffinity(0))
        capability = torch.backends.cpu.get_cpu_capability()
        return f"cpu ({platform.machine()}, {capability}, {cores} cores, {torch.get_num_threads()} threads)"


def _read_bytes(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
