"""Incremental detokenizing: the text that each new token adds to a sequence, at constant cost per token.

It knows bytes and characters; stop strings are found in its text by `stop_strings.py`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from octavo.tokenizer.base import Tokenizer
from octavo.tokenizer.token_bytes import strip_leading_spaces

_MAX_PENDING_BYTES = 3  # of an incomplete UTF-8 character


class IncrementalDetokenizer:
    """The text of one output as it grows.

    The output continues the prompt: a leading space stays, and a character that the prompt leaves open is completed.
    All that `push` and `flush` return, joined, is what `decode(prompt + output)` has more than `decode(prompt)`.

    Args:
        prompt_token_ids: what the output continues; only its last tokens are looked at.
        skip_special_tokens: special tokens add no text.
        spaces_between_special_tokens: accepted for vLLM's sake; none of the decoders that octavo knows writes spaces
            around special tokens, so there are none to leave out.
    """

    __slots__ = ("_decode", "_num_to_strip", "_skipped", "_token_bytes")

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._skipped = tokenizer.all_special_ids if skip_special_tokens else frozenset[int]()
        self._decode = codecs.getincrementaldecoder("utf-8")(self._token_bytes.errors).decode
        tail = self._last_bytes(reversed(prompt_token_ids))
        self._num_to_strip = 0 if tail else self._token_bytes.num_leading_spaces_stripped
        self._decode(tail)

    def _last_bytes(self, backwards: Iterable[int]) -> bytes:
        """At least the bytes of the prompt that may belong to an incomplete character; empty if it has no text."""
        tail = b""
        for token_id in backwards:
            if token_id not in self._skipped:
                tail = self._token_bytes[token_id] + tail
                if len(tail) >= _MAX_PENDING_BYTES:
                    break
        return tail

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if token_id in self._skipped:
            return ""
        text = self._decode(self._token_bytes[token_id])
        return self._strip(text) if self._num_to_strip and text else text

    def flush(self) -> str:
        """The end of the text: U+FFFD if a character is incomplete, else nothing."""
        return self._decode(b"", True)

    def _strip(self, text: str) -> str:
        stripped = strip_leading_spaces(text, self._num_to_strip)
        self._num_to_strip -= len(text) - len(stripped)
        if stripped:
            self._num_to_strip = 0
        return stripped
