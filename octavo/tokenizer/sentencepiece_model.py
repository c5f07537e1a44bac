"""SentencePiece model files, read into the keys that GGUF files have for the same vocabulary.

Format: sentencepiece_model.proto, in protobuf's wire format (protobuf.dev, "Encoding"). Of the models only BPE without
text normalization is read, which is what Llama, Mistral and Gemma have; `load.py` turns to transformers for others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_PIECE, _SCORE, _TYPE = 1, 2, 3  # fields of SentencePiece
_MODEL_TYPE, _BPE = 3, 2  # a field of TrainerSpec and its value
_SPECIAL_IDS = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}  # of TrainerSpec; defaults
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 2, 3, 4  # fields of NormalizerSpec
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read_sentencepiece_bpe(path: Path) -> dict[str, Any] | None:
    """The vocabulary as `tokenizer.ggml.*` keys; None if the model is of another kind.

    Raises:
        ValueError: the file is damaged, or no SentencePiece model.
    """
    pieces: list[dict[int, Any]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(path.read_bytes()):
        if number == _PIECES:
            pieces.append(dict(_fields(value)))
        elif number == _TRAINER:
            trainer = dict(_fields(value))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    if trainer.get(_MODEL_TYPE) != _BPE or normalizer.get(_CHARSMAP) or normalizer.get(_REMOVE_EXTRA_WHITESPACES, 1):
        return None
    values: dict[str, Any] = {
        "model": "llama",
        "tokens": [piece[_PIECE].decode() for piece in pieces],
        "scores": [struct.unpack("<f", piece[_SCORE])[0] if _SCORE in piece else 0.0 for piece in pieces],
        "token_type": [piece.get(_TYPE, 1) for piece in pieces],  # the numbers are those of GGUF
        "add_space_prefix": bool(normalizer.get(_ADD_DUMMY_PREFIX, 1)),
    }
    for name, (number, default) in _SPECIAL_IDS.items():
        token_id = trainer.get(number, default)
        if 0 <= token_id < len(pieces):  # -1, in two's complement, is "none"
            values[f"{name}_token_id"] = token_id
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: varints as int, others as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"byte {position} begins no field of a SentencePiece model")
        if position + size > len(data):
            raise ValueError(f"it is cut off within the {size} bytes from byte {position}")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError("it is cut off within a number")
