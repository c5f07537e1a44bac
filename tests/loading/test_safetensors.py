"""Safetensors folders: single files, shards, and every way in which they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from octavo.errors import WeightError
from octavo.loading.safetensors import SafetensorsWeights

A, B, C = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.bfloat16), torch.tensor([7])
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_sharded(folder: Path, weight_map: dict[str, str] | None = None) -> None:
    save_file({"a": A, "b": B}, folder / SHARDS[0])
    save_file({"c": C}, folder / SHARDS[1])
    index = {"weight_map": weight_map or {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read(folder: Path) -> dict[str, torch.Tensor]:
    pairs = list(SafetensorsWeights(folder))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_single_file_goes_before_all_others(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({"a": A + 1}, tmp_path / "model.safetensors")
    assert list(read(tmp_path)) == ["a"]
    assert torch.equal(read(tmp_path)["a"], A + 1)


def test_shards(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({"stray": A}, tmp_path / "other.safetensors")
    found = read(tmp_path)
    assert sorted(found) == ["a", "b", "c"]
    for name, tensor in (("a", A), ("b", B), ("c", C)):
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert SafetensorsWeights(tmp_path).total_bytes == sum((tmp_path / shard).stat().st_size for shard in SHARDS)


def test_files_without_an_index(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    save_file({"a": A}, tmp_path / "consolidated.safetensors")
    assert sorted(read(tmp_path)) == ["a", "b", "c"]
    save_file({"a": A}, tmp_path / "other.safetensors")
    with pytest.raises(WeightError, match=r"'a' is both in model-00001-of-00002\.safetensors and in .*other"):
        read(tmp_path)


def test_a_shard_is_missing(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(WeightError, match=f"names {SHARDS[1]}, but there is no such file"):
        read(tmp_path)


def test_a_shard_lacks_a_tensor_of_the_index(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1], "d": SHARDS[1]})
    with pytest.raises(WeightError, match=f"{SHARDS[1]} lacks d, which"):
        read(tmp_path)


def test_an_index_that_leaves_the_folder(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"a": "../elsewhere.safetensors"})
    with pytest.raises(WeightError, match=r"names \.\./elsewhere\.safetensors, which are not in its folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}']
)
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    write_sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightError, match=r"index\.json is damaged"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 20, 120, -1])
def test_a_file_that_is_cut_off(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": A, "b": B}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightError, match=r"model\.safetensors is damaged or cut off"):
        read(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"no weights in .*looked for model\.safetensors"):
        SafetensorsWeights(tmp_path)
