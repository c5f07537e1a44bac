"""Pickled weights: torch's own files, one or several, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from octavo.errors import WeightError
from octavo.loading.pickled import PickledWeights

TENSORS = {"a.weight": torch.randn(3, 4), "b.weight": torch.arange(5.0), "c": torch.ones(2, dtype=torch.bfloat16)}


def assert_same(folder: Path) -> None:
    found = dict(PickledWeights(folder))
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("archive", [True, False])
def test_one_file_in_the_new_and_the_old_form(tmp_path: Path, archive: bool) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=archive)
    assert_same(tmp_path)


def test_shards_with_an_index(tmp_path: Path) -> None:
    places = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), start=1):
        file = f"pytorch_model-{number:05}-of-00003.bin"
        torch.save({name: tensor}, tmp_path / file)
        places[name] = file
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_same(tmp_path)
    torch.save({"z": TENSORS["c"]}, tmp_path / places["c"])
    with pytest.raises(WeightError, match="lacks c"):
        assert_same(tmp_path)
    (tmp_path / places["c"]).unlink()
    with pytest.raises(WeightError, match="no such file"):
        assert_same(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", "cut"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:700] if isinstance(content, str) else content)
    with pytest.raises(WeightError, match=r"pytorch_model\.bin is damaged"):
        assert_same(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {3: torch.ones(1)}])
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightError, match=r"pytorch_model\.bin holds"):
        assert_same(tmp_path)
