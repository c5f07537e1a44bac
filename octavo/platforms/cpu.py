"""The CPU platform: host memory within the limits of the control group, one team of threads, float32 and bfloat16."""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import psutil
import torch
from torch import Tensor

from octavo.config import DeviceTraits
from octavo.cost import MachineRates
from octavo.kernels import torch_ops
from octavo.kernels.cpu import CPUKernels
from octavo.log import get_logger
from octavo.platforms.base import Memory, Platform
from octavo.platforms.cpu_threads import num_threads

logger = get_logger(__name__)

Kernels = ModuleType | CPUKernels

_CGROUP = Path("/sys/fs/cgroup")


class CpuPlatform(Platform):
    name: ClassVar[str] = "cpu"
    attention_backends: ClassVar[tuple[str, ...]] = ("CPU_ATTN", "TORCH_ATTN", "TORCH_SDPA")
    runs_ahead: ClassVar[bool] = False

    def __init__(self, asked_threads: int | None = None) -> None:
        """`asked_threads`: how many threads compute; None: as many as this process may use.

        Raises:
            ConfigError: this process may not use that many.
        """
        self.num_threads = num_threads(asked_threads)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @cached_property
    def kernels(self) -> Kernels:
        """Those in C++ where they were built, else those in plain torch."""
        try:
            extension = import_module("octavo._cpu")
        except ImportError as error:
            logger.warning("the C++ kernels are not there (%s): plain torch takes their place, and is slower", error)
            return torch_ops
        return CPUKernels(extension, self.num_threads)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """torch has one thread beside the team of the C++ kernels, since two teams would wait for each other, else all.

        Afterwards it has what the rest of the process had set: the caller's own torch is not slowed down.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(1 if isinstance(self.kernels, CPUKernels) else self.num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def probe(self, dtype: torch.dtype) -> MachineRates:
        if not isinstance(self.kernels, CPUKernels):
            return super().probe(dtype)
        found = self.kernels.probe()
        rates = {"float32": found.float32, "bfloat16": found.bfloat16, "int8": found.int8}
        return MachineRates(
            read_bytes=found.read_bytes,
            operations={name: rate for name, rate in rates.items() if rate},
            barrier_seconds=found.barrier_seconds,
        )

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
            memory_on_touch=True,
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
        kernels = self.kernels
        how = kernels.describe() if isinstance(kernels, CPUKernels) else f"torch, {self.num_threads} threads"
        return f"cpu ({platform.machine()}, {cores} cores, {how})"


def _read_bytes(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
