"""SafetensorsWeights: the tensors of a folder's safetensors files, one after the other.

This module knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from octavo.errors import WeightError, shown
from octavo.loading.shards import WeightFiles, find_shards, listed

FILES = WeightFiles(
    single="model.safetensors",
    index="model.safetensors.index.json",
    pattern="*.safetensors",
    skip="consolidated*",  # a second copy in another layout, which some folders carry
)


class SafetensorsWeights:
    """Iterates over (name, tensor), reading one tensor at a time; `total_bytes` is the size of the files.

    Raises:
        WeightError: no weights in the folder, a shard that is missing; while iterating: a damaged file, a tensor that
            the index names and its shard does not hold, a tensor that comes twice.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = find_shards(folder, FILES)
        self.total_bytes = sum(path.stat().st_size for path in self._shards)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        home: dict[str, Path] = {}
        for path, promised in self._shards.items():
            try:
                with safe_open(path, framework="pt") as file:
                    names = list(file.keys())
                    if missing := sorted(promised.difference(names)):
                        raise WeightError(
                            f"{path} lacks {listed(missing)}, which {FILES.index} places there; fetch the model again"
                        )
                    for name in names:
                        if name in home:
                            raise WeightError(f"tensor {shown(name)} is both in {home[name].name} and in {path}")
                        home[name] = path
                for name in names:
                    # Opened anew for each: the file is mapped, and what was read of it counts until it is closed.
                    with safe_open(path, framework="pt") as file:
                        tensor = file.get_tensor(name)
                    yield name, tensor
                    del tensor
            except (SafetensorError, OSError) as error:
                raise WeightError(f"{path} is damaged or cut off: {error}; fetch the model again") from error
