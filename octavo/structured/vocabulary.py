"""Vocabulary: what compiling a grammar needs to know of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens of a model, by id. A token of no bytes is never allowed by a grammar."""

    token_bytes: list[bytes]  # as many as the model has logits
    special_token_ids: list[int]
    eos_token_ids: tuple[int, ...]  # at least one
    encode: Callable[[str], Sequence[int]]  # text -> token ids, without special tokens put around it


def byte_vocabulary() -> Vocabulary:
    """A vocabulary of single bytes, for compiling without a model: token i is byte i, and 256 ends an output."""
    return Vocabulary(
        token_bytes=[*(bytes([i]) for i in range(256)), b"<eos>"],
        special_token_ids=[256],
        eos_token_ids=(256,),
        encode=lambda text: list(text.encode()),
    )
