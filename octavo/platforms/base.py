"""Platform: what the rest of octavo may ask of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavo.config import DeviceTraits
from octavo.cost import MachineRates
from octavo.kernels import torch_probe


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the memory that the engine lives in."""

    total: int  # what this process may use at most
    available: int  # what is left of it now


class Platform(ABC):
    name: ClassVar[str]
    attention_backends: ClassVar[tuple[str, ...]]  # in the order of preference
    runs_ahead: ClassVar[bool]  # kernels may run after the call that launched them

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def kernels(self) -> Any:
        """The kernels that the layers call on this device: `octavo.layers.base.Kernels`."""

    @abstractmethod
    def traits(self) -> DeviceTraits: ...

    @abstractmethod
    def memory(self) -> Memory: ...

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A zeroed tensor for the KV cache."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def computing(self) -> AbstractContextManager[None]:
        """Entered around a step: what the device needs of the process while it computes, and only then."""
        return nullcontext()

    def compiling(self, start: Callable[[], None]) -> AbstractContextManager[None] | None:
        """Entered to compile kernels beside what the block does: those that `start` calls on tensors without memory.

        None: nothing is compiled here.
        """
        return None

    def probe(self, dtype: torch.dtype) -> MachineRates:
        """What the device does at most, measured now, in about a second; products are of `dtype`."""
        name = str(dtype).removeprefix("torch.")
        return MachineRates(
            read_bytes=torch_probe.read_rate(self.device),
            operations={name: torch_probe.multiply_rate(dtype, self.device)},
        )

    @abstractmethod
    def describe(self) -> str:
        """One line for the log and for bug reports."""

    def facts(self) -> dict[str, str]:
        """What a bug report should tell about the device, by name."""
        memory = self.memory()
        return {
            "platform": self.describe(),
            "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available",
            "attention backends": ", ".join(self.attention_backends),
            "other accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        }
