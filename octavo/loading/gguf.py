"""The GGUF file format: header, metadata and the places of the tensors.

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. This module knows nothing of models: names of tensors and
the meaning of metadata belong to `gguf_names.py` and `gguf_config.py`.

A file is not trusted: each count and offset is checked against the size of the file before it is used.
"""

from __future__ import annotations

import math
import mmap
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from octavo.errors import ModelNotFoundError, UnsupportedModelError, WeightError, shown
from octavo.kernels.gguf import BLOCK_FORMATS, FLOAT_FORMATS
from octavo.quantization.gguf_tensor import GGUFTensor

_MAGIC = b"GGUF"
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 64 * 1024
_DEFAULT_ALIGNMENT = 32

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {
    number: np.dtype(code)
    for number, code in {
        0: "<u1",
        1: "<i1",
        2: "<u2",
        3: "<i2",
        4: "<u4",
        5: "<i4",
        6: "<f4",
        _BOOL: "?",
        10: "<u8",
        11: "<i8",
        12: "<f8",
    }.items()
}

_TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]  # in torch's order: the last dimension is the one that lies together in memory
    type_name: str
    offset: int  # bytes from the start of the file
    nbytes: int


class GGUFFile:
    """An open GGUF file, memory-mapped for reading.

    `metadata` decodes a value when it is asked for: numbers as int, float or bool, text as str, arrays as lists.
    `tensors` maps names to TensorInfo, in the order of the file.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightError: the file is damaged, cut off or no GGUF file.
        UnsupportedModelError: a version, byte order or tensor type that octavo does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if file.read(4) != _MAGIC:
                    raise WeightError(f"{path} is no GGUF file: it does not begin with GGUF")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelNotFoundError(f"{path} can't be read: {error.strerror or error}") from error
        cursor = _Cursor(self._map, path, len(_MAGIC))
        version = cursor.u32("the version")
        if version & 0xFFFF == 0 and version:
            raise UnsupportedModelError(f"{path} is a big-endian GGUF file; octavo reads little-endian ones")
        if version not in (2, 3):
            raise UnsupportedModelError(f"{path} is GGUF of version {version}; octavo reads the versions 2 and 3")
        num_tensors = cursor.count("the number of tensors", item_bytes=24)
        num_keys = cursor.count("the number of metadata keys", item_bytes=13)
        self.metadata: Mapping[str, Any] = Metadata(cursor, num_keys)
        self.tensors = self._read_tensor_infos(cursor, num_tensors)

    def tensor(self, name: str) -> Tensor | GGUFTensor:
        """The tensor of that name, as a view of the mapped file: read it or copy it, never write to it."""
        info = self.tensors[name]
        raw = self._bytes[info.offset : info.offset + info.nbytes]
        if info.type_name in FLOAT_FORMATS:
            return raw.view(FLOAT_FORMATS[info.type_name]).view(info.shape)
        num_rows = math.prod(info.shape[:-1])
        return GGUFTensor(raw.view(num_rows, info.nbytes // num_rows), info.type_name, info.shape)

    def forget(self, end: int) -> None:
        """Gives back the memory that reading the file up to byte `end` took; what is read again comes from the file."""
        self._map.madvise(mmap.MADV_DONTNEED, 0, end)

    @cached_property
    def _bytes(self) -> Tensor:
        """The whole file as uint8 [bytes]; costs no memory of its own."""
        with warnings.catch_warnings():
            # torch has no read-only tensors and says so. A writable private map would count as used memory.
            warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")
            return torch.from_numpy(np.frombuffer(self._map, dtype=np.uint8))

    def _read_tensor_infos(self, cursor: _Cursor, num_tensors: int) -> dict[str, TensorInfo]:
        heads = []
        for _ in range(num_tensors):
            name = cursor.string("the name of a tensor", limit=_MAX_NAME_BYTES)
            num_dims = cursor.u32(f"the number of dimensions of {shown(name)}")
            if not 1 <= num_dims <= _MAX_DIMENSIONS:
                cursor.fail(f"tensor {shown(name)} has {num_dims} dimensions; 1 to {_MAX_DIMENSIONS} are allowed")
            dims = [cursor.u64(f"the shape of {shown(name)}") for _ in range(num_dims)]
            type_number = cursor.u32(f"the type of {shown(name)}")
            heads.append((name, tuple(reversed(dims)), type_number, cursor.u64(f"the offset of {shown(name)}")))
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8 or alignment > 1 << 20:
            cursor.fail(f"general.alignment is {shown(alignment)}, which is no multiple of 8")
        data_start = -(-cursor.position // alignment) * alignment
        infos: dict[str, TensorInfo] = {}
        for name, shape, type_number, offset in heads:
            if name in infos:
                cursor.fail(f"tensor {shown(name)} occurs twice")
            nbytes = self._tensor_bytes(cursor, name, shape, type_number)
            if offset % alignment or data_start + offset + nbytes > len(self._map):
                cursor.fail(
                    f"tensor {shown(name)} should lie at byte {data_start + offset} and take {nbytes} bytes, but the "
                    f"file has {len(self._map)} bytes (and is aligned to {alignment}); it may be cut off"
                )
            infos[name] = TensorInfo(name, shape, _TENSOR_TYPES[type_number], data_start + offset, nbytes)
        _check_overlap(cursor, infos)
        return infos

    def _tensor_bytes(self, cursor: _Cursor, name: str, shape: tuple[int, ...], type_number: int) -> int:
        type_name = _TENSOR_TYPES.get(type_number)
        if type_name is None:
            cursor.fail(f"tensor {shown(name)} has the unknown type {type_number}")
        if type_name not in BLOCK_FORMATS:
            raise UnsupportedModelError(
                f"{self.path}: tensor {shown(name)} is stored as {type_name}; octavo reads {', '.join(BLOCK_FORMATS)}"
            )
        columns, block_bytes = BLOCK_FORMATS[type_name]
        if shape[-1] % columns or 0 in shape:
            cursor.fail(f"tensor {shown(name)} has the shape {shape}, which {type_name} can't hold")
        return math.prod(shape) // columns * block_bytes


def _check_overlap(cursor: _Cursor, infos: Mapping[str, TensorInfo]) -> None:
    end, before = 0, ""
    for info in sorted(infos.values(), key=lambda info: info.offset):
        if info.offset < end:
            cursor.fail(f"the tensors {shown(before)} and {shown(info.name)} overlap")
        end, before = info.offset + info.nbytes, info.name


class Metadata(Mapping[str, Any]):
    """The metadata of a file. Finding the values is quick; they are decoded on first use and kept."""

    def __init__(self, cursor: _Cursor, num_keys: int) -> None:
        self._cursor = cursor
        self._places: dict[str, tuple[int, int]] = {}
        self._decoded: dict[str, Any] = {}
        for _ in range(num_keys):
            key = cursor.string("a metadata key", limit=_MAX_NAME_BYTES)
            if key in self._places:
                cursor.fail(f"the metadata key {shown(key)} occurs twice")
            kind = cursor.u32(f"the type of {shown(key)}")
            self._places[key] = (kind, cursor.position)
            cursor.skip_value(kind, key)

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            kind, position = self._places[key]
            self._decoded[key] = self._cursor.at(position).value(kind, key)
        return self._decoded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Cursor:
    """Reads the header of a file from front to back and refuses to leave the file."""

    def __init__(self, data: mmap.mmap, path: Path, position: int) -> None:
        self.data = data
        self.path = path
        self.position = position

    def at(self, position: int) -> _Cursor:
        return _Cursor(self.data, self.path, position)

    def fail(self, what: str) -> NoReturn:
        raise WeightError(f"{self.path} is damaged: {what}; fetch or convert the file again")

    def take(self, num_bytes: int, what: str) -> int:
        """Moves on and returns the position before."""
        start = self.position
        if num_bytes > len(self.data) - start:
            self.fail(f"it ends within {what}")
        self.position = start + num_bytes
        return start

    def u32(self, what: str) -> int:
        return int.from_bytes(self.data[self.take(4, what) : self.position], "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.data[self.take(8, what) : self.position], "little")

    def count(self, what: str, item_bytes: int) -> int:
        """A number of items of at least `item_bytes` bytes each, which must fit into the rest of the file."""
        number = self.u64(what)
        if number * item_bytes > len(self.data) - self.position:
            self.fail(f"{what} is {number}, more than fits into {len(self.data)} bytes")
        return number

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.u64(f"the length of {what}")
        if limit is not None and length > limit:
            self.fail(f"{what} is {length} bytes long")
        return self._decode(self.data[self.take(length, what) : self.position], what)

    def skip_value(self, kind: int, key: str) -> None:
        if kind == _STRING:
            self.take(self.u64(f"the length of {key}"), key)
        elif kind == _ARRAY:
            kind, number = self._array_head(key)
            if kind == _STRING:
                self._string_bounds(number, key)
            else:
                self.take(number * _NUMBERS[kind].itemsize, key)
        else:
            self.take(self._number_type(kind, key).itemsize, key)

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.string(key)
        if kind == _ARRAY:
            kind, number = self._array_head(key)
            if kind == _STRING:
                data = self.data
                return [self._decode(data[start:end], key) for start, end in self._string_bounds(number, key)]
            return self._numbers(kind, number, key).tolist()
        return self._numbers(kind, 1, key).item()

    def _numbers(self, kind: int, number: int, key: str) -> np.ndarray[Any, np.dtype[Any]]:
        dtype = self._number_type(kind, key)
        start = self.take(number * dtype.itemsize, key)
        numbers = np.frombuffer(self.data, np.uint8 if kind == _BOOL else dtype, number, start)
        return numbers != 0 if kind == _BOOL else numbers

    def _number_type(self, kind: int, key: str) -> np.dtype[Any]:
        if kind not in _NUMBERS:
            self.fail(f"the metadata key {shown(key)} has the unknown type {kind}")
        return _NUMBERS[kind]

    def _array_head(self, key: str) -> tuple[int, int]:
        kind = self.u32(f"the type of {key}")
        item_bytes = 8 if kind == _STRING else self._number_type(kind, key).itemsize
        return kind, self.count(f"the length of {key}", item_bytes)

    def _string_bounds(self, number: int, key: str) -> list[tuple[int, int]]:
        """Start and end of each string of an array. Vocabularies have 262,144 of them: this loop is the hot one."""
        data, position, size = self.data, self.position, len(self.data)
        unpack = struct.Struct("<Q").unpack_from
        bounds = []
        for _ in range(number):
            if position + 8 > size:
                self.fail(f"it ends within {key}")
            start = position + 8
            position = start + unpack(data, position)[0]
            bounds.append((start, position))
            if position > size:
                self.fail(f"it ends within {key}")
        self.position = position
        return bounds

    def _decode(self, text: bytes, what: str) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.fail(f"{what} holds text that is not UTF-8")
