"""The bytes that each token stands for, read from the decoder of a `tokenizers.Tokenizer`.

Text is the UTF-8 decoding of the bytes of its tokens, one after the other. With that, a sequence can be decoded token
by token at constant cost, and `Tokenizer.decode` and `IncrementalDetokenizer` agree by construction. This module knows
the kinds of decoders; it knows nothing of requests.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from octavo.errors import InvalidRequestError, UnsupportedModelError, shown

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_EACH_BYTE = "octavo.each_byte"
_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(_EACH_BYTE, _replace_each_byte)


def byte_alphabet() -> dict[str, int]:
    """Character -> byte, in the printable alphabet of byte-level BPE (GPT-2, `encoder.py`).

    Bytes that print in Latin-1 stand for themselves; the others, in order, for the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHAR = byte_alphabet()


def _from_byte_level(piece: str) -> bytes:
    try:
        return bytes([_BYTE_OF_CHAR[char] for char in piece])
    except KeyError:  # an added token, written as it is
        return piece.encode()


@dataclass(slots=True)
class _Rules:
    """What the steps of a decoder do to a piece, gathered."""

    replace: list[tuple[str, str]] = field(default_factory=list)
    byte_level: bool = False
    byte_fallback: bool = False
    prefix: str = ""
    num_leading_spaces_stripped: int = 0

    def add(self, step: dict[str, Any] | None) -> None:
        match step:
            case None:
                self.prefix, self.num_leading_spaces_stripped = " ", 1
            case {"type": "Sequence", "decoders": steps}:
                for inner in steps:
                    self.add(inner)
            case {"type": "ByteLevel"}:
                self.byte_level = True
            case {"type": "ByteFallback"}:
                self.byte_fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Replace", "pattern": {"String": old}, "content": new}:
                self.replace.append((old, new))
            case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                self.num_leading_spaces_stripped = start
            case {"type": "Metaspace", "replacement": old, "prepend_scheme": scheme}:
                self.replace.append((old, " "))
                self.num_leading_spaces_stripped = int(scheme != "never")
            case _:
                raise UnsupportedModelError(
                    f"the tokenizer decodes with {shown(step)}; octavo knows ByteLevel, ByteFallback, Fuse, Metaspace, "
                    "Replace and Strip (of leading spaces) decoders; use a model with one of these"
                )

    def piece_to_bytes(self) -> Callable[[str], bytes]:
        if self.byte_level:
            return _from_byte_level

        def from_piece(piece: str) -> bytes:
            if self.byte_fallback and (byte := _BYTE_PIECE.fullmatch(piece)):
                return bytes.fromhex(byte[1])
            for old, new in self.replace:
                piece = piece.replace(old, new)
            return (self.prefix + piece).encode()

        return from_piece


class TokenBytes(dict[int, bytes]):
    """Token id -> its bytes, filled as tokens are asked for; an id that no token has stands for nothing.

    `errors` is how bytes that are not UTF-8 decode: byte-level vocabularies write one U+FFFD for each maximal broken
    part of a character (Unicode 15, section 3.9), those with byte fallback one for each byte, as SentencePiece does.
    `num_leading_spaces_stripped` spaces are not part of a text that begins with them.

    Raises:
        UnsupportedModelError: the decoder is of a kind that octavo does not know.
        InvalidRequestError: on look-up, for what can't be a token id.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        super().__init__()
        rules = _Rules()
        rules.add(None if backend.decoder is None else json.loads(backend.decoder.__getstate__()))
        self._id_to_token = backend.id_to_token
        self._piece_to_bytes = rules.piece_to_bytes()
        self.errors = _EACH_BYTE if rules.byte_fallback else "replace"
        self.num_leading_spaces_stripped = rules.num_leading_spaces_stripped

    def __missing__(self, token_id: int) -> bytes:
        try:
            piece = self._id_to_token(token_id)
        except (OverflowError, TypeError):
            raise InvalidRequestError(f"token ids are integers of 0 or more, got {shown(token_id)}") from None
        if piece is None:
            return b""
        value = self[token_id] = self._piece_to_bytes(piece)
        return value


def strip_leading_spaces(text: str, count: int) -> str:
    """`text` without its first `count` spaces, or as many as it begins with."""
    num_spaces = len(text) - len(text.lstrip(" "))
    return text[min(count, num_spaces) :]
