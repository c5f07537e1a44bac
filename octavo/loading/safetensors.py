"""SafetensorsWeights: the tensors of a folder's safetensors files, one after the other.

This module knows nothing of models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


_READERS = 8  # threads, each with a tensor in hand


class SafetensorsWeights:
    """Iterates over (name, tensor), reading one tensor at a time; `total_bytes` is the size of the files.

    `pinned` is for a GPU: tensors come in memory that it copies from by itself, and are read by several threads, a few
    tensors ahead.

    Raises:
        WeightError: no weights in the folder, a shard that is missing; while iterating: a damaged file, a tensor that
            the index names and its shard does not hold, a tensor that comes twice.
    """

    def __init__(self, folder: Path, *, pinned: bool = False) -> None:
        self._pinned = pinned
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
                yield from self._ahead(path, names) if self._pinned else ((name, _read(path, name)) for name in names)
            except (SafetensorError, OSError) as error:
                raise WeightError(f"{path} is damaged or cut off: {error}; fetch the model again") from error

    def _ahead(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """The tensors in their order, while threads read those that come next."""
        under_way: deque[tuple[str, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(_READERS, "octavo-loading") as readers:
            try:
                for name in names:
                    under_way.append((name, readers.submit(_read_pinned, path, name)))
                    if len(under_way) == _READERS:
                        done, tensor = under_way.popleft()
                        yield done, tensor.result()
                while under_way:
                    done, tensor = under_way.popleft()
                    yield done, tensor.result()
            finally:
                for _, tensor in under_way:
                    tensor.cancel()


def _read(path: Path, name: str) -> Tensor:
    # Opened for each tensor: the file is mapped, and what was read of it counts until it is closed.
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _read_pinned(path: Path, name: str) -> Tensor:
    return _read(path, name).pin_memory()
