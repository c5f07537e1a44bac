"""PickledWeights: the tensors of a folder's pytorch_model.bin files, for checkpoints that have no safetensors.

A pickle can run code when it is read. Here torch's restricted reader is used, which makes tensors and nothing else: a
file that holds more is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from octavo.errors import WeightError, shown
from octavo.loading.shards import WeightFiles, find_shards, listed

FILES = WeightFiles(single="pytorch_model.bin", index="pytorch_model.bin.index.json", pattern="pytorch_model-*.bin")


class PickledWeights:
    """Iterates over (name, tensor), mapping one file at a time; `total_bytes` is the size of the files.

    Raises:
        WeightError: a file is missing, damaged, or holds anything but a table of tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = find_shards(folder, FILES)
        self.total_bytes = sum(path.stat().st_size for path in self._shards)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for path, promised in self._shards.items():
            tensors = _read(path)
            if missing := sorted(promised.difference(tensors)):
                raise WeightError(
                    f"{path} lacks {listed(missing)}, which {FILES.index} places there; fetch the model again"
                )
            yield from tensors.items()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        # Files older than torch 1.6 are no archives and can't be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightError(
            f"{path} is damaged, or holds more than tensors, which octavo does not read as it could run code "
            f"({reason}); fetch it again, or convert the checkpoint to safetensors where you trust it"
        ) from error
    if not isinstance(content, dict):
        raise WeightError(f"{path} holds {type(content).__name__} instead of a table of tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WeightError(f"{path} holds {shown(name)}, which is no tensor with a name")
    return content
