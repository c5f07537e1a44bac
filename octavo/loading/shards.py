"""Which files of a folder hold the weights: one file, or shards that an index lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from octavo.errors import WeightError


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The names that a format gives to its files."""

    single: str
    index: str
    pattern: str  # files that hold weights when there is neither of the two
    skip: str | None = None  # of those, the ones that do not

    def present(self, folder: Path) -> bool:
        """Whether the folder has any of them."""
        return (folder / self.single).is_file() or (folder / self.index).is_file() or any(self.others(folder))

    def others(self, folder: Path) -> list[Path]:
        """Files of the pattern."""
        skipped = set(folder.glob(self.skip)) if self.skip else set()
        return sorted(set(folder.glob(self.pattern)) - skipped)


def find_shards(folder: Path, files: WeightFiles) -> dict[Path, frozenset[str]]:
    """The files to read, each with the tensors that the index promises of it.

    Raises:
        WeightError: there are none, or the index is damaged or names a file that is missing.
    """
    if (folder / files.single).is_file():
        return {folder / files.single: frozenset()}
    if (folder / files.index).is_file():
        return _shards_of_index(folder / files.index)
    others = files.others(folder)
    if others:
        return dict.fromkeys(others, frozenset())
    raise WeightError(f"there are no weights in {folder}: looked for {files.single}, {files.index} and {files.pattern}")


def _shards_of_index(index: Path) -> dict[Path, frozenset[str]]:
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        by_shard: dict[str, list[str]] = {}
        for name, shard in places.items():
            by_shard.setdefault(shard, []).append(name)
        shards = {shard: index.parent / shard for shard in by_shard if Path(shard).name == shard}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(f"{index} is damaged: no JSON object with a weight_map; fetch the model again") from error
    if outside := sorted(by_shard.keys() - shards.keys()):
        raise WeightError(f"{index} names {listed(outside)}, which are not in its folder; fetch the model again")
    if missing := sorted(shard for shard, path in shards.items() if not path.is_file()):
        raise WeightError(f"{index} names {listed(missing)}, but there is no such file; fetch the model again")
    return {path: frozenset(by_shard[shard]) for shard, path in shards.items()}


def listed(names: list[str]) -> str:
    """Up to five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
