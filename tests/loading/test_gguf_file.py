"""The GGUF format: files that the `gguf` package wrote, and files that are damaged."""

from __future__ import annotations

import random
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from octavo.errors import ModelNotFoundError, UnsupportedModelError, WeightError
from octavo.loading.gguf import GGUFFile
from octavo.quantization.gguf_tensor import GGUFTensor

WORDS = [f"word {number} ü€😀" for number in range(500)]


def write_file(path: Path, alignment: int = 32) -> dict[str, np.ndarray]:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_uint8("u8", 200)
    writer.add_int64("i64", -(2**40))
    writer.add_float64("f64", 0.1)
    writer.add_float32("f32", 0.5)
    writer.add_bool("yes", True)
    writer.add_string("text", "ünï\n")
    writer.add_array("words", WORDS)
    writer.add_array("numbers", [3, -4, 5])
    writer.add_array("scores", [0.5, -1.5])
    writer.add_array("flags", [True, False])
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {
        "f32.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "f16.weight": rng.normal(size=(7,)).astype(np.float16),
        "three.weight": rng.normal(size=(2, 3, 4)).astype(np.float32),
    }
    for name, numbers in tensors.items():
        writer.add_tensor(name, numbers)
    tensors["q8.weight"] = rng.normal(size=(4, 64)).astype(np.float32)
    raw = gguf.quants.quantize(tensors["q8.weight"], gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8.weight", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    tensors["q8.weight"] = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.parametrize("alignment", [32, 8, 256])
def test_what_was_written_is_read(tmp_path: Path, alignment: int) -> None:
    tensors = write_file(tmp_path / "x.gguf", alignment)
    file = GGUFFile(tmp_path / "x.gguf")
    metadata = dict(file.metadata)
    assert metadata.pop("general.alignment") == alignment
    assert metadata == {
        "general.architecture": "llama",
        "u8": 200,
        "i64": -(2**40),
        "f64": 0.1,
        "f32": 0.5,
        "yes": True,
        "text": "ünï\n",
        "words": WORDS,
        "numbers": [3, -4, 5],
        "scores": [0.5, -1.5],
        "flags": [True, False],
    }
    assert metadata["yes"] is True
    assert metadata["flags"][0] is True
    assert set(file.tensors) == set(tensors)
    for name, numbers in tensors.items():
        tensor = file.tensor(name)
        assert tuple(tensor.shape) == numbers.shape
        plain = tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor
        np.testing.assert_array_equal(plain.numpy(), numbers)


def test_the_default_model_as_the_gguf_package_reads_it(default_gguf: Path) -> None:
    started = time.perf_counter()
    file = GGUFFile(default_gguf)
    vocabulary = file.metadata["tokenizer.ggml.tokens"]
    assert time.perf_counter() - started < 1.0
    reader = gguf.GGUFReader(default_gguf)
    assert vocabulary == reader.fields["tokenizer.ggml.tokens"].contents()
    assert set(file.metadata) == {name for name in reader.fields if not name.startswith("GGUF.")}
    for expected in reader.tensors:
        info = file.tensors[expected.name]
        assert info.type_name == expected.tensor_type.name
        assert info.shape == tuple(expected.shape.tolist()[::-1])
        assert (info.offset, info.nbytes) == (expected.data_offset, expected.n_bytes)


def test_reading_costs_no_memory_and_no_warning(default_gguf: Path) -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        shared = int(Path("/proc/self/statm").read_text().split()[2])
        return (pages - shared) * 4096  # pages of a mapped file count as shared

    before = resident()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = GGUFFile(default_gguf)
        held = [file.tensor(name) for name in file.tensors]
        total = sum(int(tensor.raw.sum()) for tensor in held if isinstance(tensor, GGUFTensor))
    assert total > 0
    assert resident() - before < 40e6


def header(*keys: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, num_keys: int | None = None) -> bytes:
    counts = struct.pack("<IQQ", version, len(tensors), len(keys) if num_keys is None else num_keys)
    return b"GGUF" + counts + b"".join(keys) + b"".join(tensors)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ALIGNMENT_7 = text("general.alignment") + struct.pack("<II", 4, 7)
KEY = text("key") + struct.pack("<IB", 0, 1)
GOOD = tensor("t", (4,), 0, 0)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "does not begin with GGUF"),
    "another format": (b"PK\x03\x04" + bytes(100), "does not begin with GGUF"),
    "cut in the version": (b"GGUF\x03", "ends within the version"),
    "too many keys": (header(num_keys=2**60) + bytes(100), "the number of metadata keys is 1152921504606846976"),
    "key twice": (header(KEY, KEY), "key 'key' occurs twice"),
    "unknown type of value": (header(text("key") + struct.pack("<I", 77)), "unknown type 77"),
    "array of arrays": (header(text("key") + struct.pack("<IIQ", 9, 9, 0)), "unknown type 9"),
    "endless array": (header(text("key") + struct.pack("<IIQ", 9, 4, 2**61)), "length of key is 2305843009213693952"),
    "endless strings": (header(text("key") + struct.pack("<IIQ", 9, 8, 2) + text("a") + bytes(7)), "ends within key"),
    "endless string": (header(text("key") + struct.pack("<IQ", 8, 2**63)), "ends within key"),
    "name that is no text": (header(struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 1)), "not UTF-8"),
    "alignment": (header(ALIGNMENT_7, tensors=(GOOD,)) + bytes(99), "alignment is 7"),
    "no dimensions": (header(tensors=(tensor("t", (), 0, 0),)), "has 0 dimensions"),
    "unknown type of tensor": (header(tensors=(tensor("t", (4,), 99, 0),)), "unknown type 99"),
    "rows of half a block": (header(tensors=(tensor("t", (48, 2), 2, 0),)), r"\(2, 48\), which Q4_0 can't hold"),
    "tensor of nothing": (header(tensors=(tensor("t", (4, 0), 0, 0),)), r"\(0, 4\), which F32 can't hold"),
    "tensor outside": (header(tensors=(tensor("t", (4,), 0, 64),)) + bytes(60), "may be cut off"),
    "huge tensor": (header(tensors=(tensor("t", (2**40, 2**40), 0, 0),)) + bytes(60), "may be cut off"),
    "crooked offset": (header(tensors=(tensor("t", (4,), 0, 4),)) + bytes(99), "aligned to 32"),
    "tensor twice": (header(tensors=(GOOD, GOOD)) + bytes(99), "'t' occurs twice"),
    "overlap": (header(tensors=(GOOD, tensor("u", (4,), 0, 0))) + bytes(99), "'t' and 'u' overlap"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightError, match=message) as caught:
        GGUFFile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(version=1), "of version 1; octavo reads the versions 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (header(tensors=(tensor("t", (32, 2), 20, 0),)) + bytes(99), "stored as IQ4_NL; octavo reads F32"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=message):
        GGUFFile(tmp_path / "x.gguf")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="No such file"):
        GGUFFile(tmp_path / "x.gguf")


def read_all(path: Path) -> Any:
    file = GGUFFile(path)
    return dict(file.metadata), [file.tensor(name) for name in file.tensors]


def test_any_damage_gives_an_error_of_ours_or_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_file(path)
    content = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for round_number in range(1500):
        damaged = bytearray(content)
        if round_number % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.randrange(4)):
            # The structure lies at both ends of the header: the words in its middle are less interesting.
            at = rng.choice([rng.randrange(400), rng.randrange(len(content) - 2500, len(content))])
            if at < len(damaged):
                damaged[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.unlink()
        path.write_bytes(damaged)
        try:
            read_all(path)
        except (WeightError, UnsupportedModelError):
            refused += 1
    assert 500 < refused < 1500


def test_every_cut_of_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_file(path)
    content = path.read_bytes()
    for length in [*range(300), *range(300, len(content), 97), len(content) - 64]:
        path.unlink()
        path.write_bytes(content[:length])
        with pytest.raises(WeightError):
            read_all(path)


def test_plain_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    write_file(tmp_path / "x.gguf")
    first, second = (GGUFFile(tmp_path / "x.gguf") for _ in range(2))
    one, two = first.tensor("f32.weight"), first.tensor("f32.weight")
    other = second.tensor("f32.weight")
    assert isinstance(one, torch.Tensor)
    assert isinstance(two, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert one.data_ptr() == two.data_ptr() != other.data_ptr()
