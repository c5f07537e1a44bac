"""Log probabilities in the forms of the API: of chat, of text completions, and of prompts.

Minus infinity, which JSON lacks, is written as -9999. It knows outputs and the tokenizer; it knows no requests.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from octavo.outputs import Logprob, PositionLogprobs
from octavo.tokenizer.base import Tokenizer

LOWEST = -9999.0


class TokenTexts:
    """Tokens as the answer shows them: by their text, or as "token_id:7", which is never ambiguous."""

    def __init__(self, tokenizer: Tokenizer | None, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def text(self, token_id: int, decoded: str | None) -> str:
        return f"token_id:{token_id}" if self._as_ids or decoded is None else decoded

    def bytes(self, token_id: int) -> bytes | None:
        """What the token stands for: a part of a character has bytes of its own, though it is no text."""
        return None if self._tokenizer is None else self._tokenizer.token_bytes[token_id]

    def is_special(self, token_id: int) -> bool:
        return self._tokenizer is not None and token_id in self._tokenizer.all_special_ids


def chat_logprobs(
    token_ids: Sequence[int], logprobs: PositionLogprobs, num_top: int | None, texts: TokenTexts
) -> dict[str, Any]:
    """A `ChatLogprobs`: each token with the `num_top` most likely ones at its place. None: those that were named."""
    content = []
    for token_id, entries in zip(token_ids, logprobs, strict=True):
        assert entries is not None
        chosen = _chat_entry(token_id, entries[token_id], texts)
        chosen["top_logprobs"] = [_chat_entry(i, entry, texts) for i, entry in _top(entries, num_top)]
        content.append(chosen)
    return {"content": content}


def _top(entries: dict[int, Logprob], num_top: int | None) -> Iterable[tuple[int, Logprob]]:
    """The most likely ones in order; the chosen token, which comes first in `entries`, only if it is one of them."""
    if num_top == 0:
        return ()
    if num_top is None:
        return entries.items()
    ranked = [(token_id, entry) for token_id, entry in entries.items() if entry.rank is not None]
    ranked.sort(key=lambda pair: pair[1].rank or 0)
    return ranked if num_top == -1 else ranked[:num_top]


def _chat_entry(token_id: int, entry: Logprob, texts: TokenTexts) -> dict[str, Any]:
    data = texts.bytes(token_id)
    return {
        "token": texts.text(token_id, entry.decoded_token),
        "logprob": max(entry.logprob, LOWEST),
        "bytes": None if data is None else list(data),
    }


class CompletionLogprobsWriter:
    """`CompletionLogprobs` of one choice, piece by piece: it knows how far the text has come.

    Offsets count characters of the answer's text; tokens that are parts of one character share its offset.
    """

    def __init__(self, texts: TokenTexts, *, skip_special_tokens: bool) -> None:
        self._texts = texts
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def prompt(self, token_ids: Sequence[int], logprobs: PositionLogprobs, text: str) -> dict[str, Any]:
        """The piece of an echoed prompt, whose first token has no log probability."""
        return self._piece(token_ids, logprobs, text)

    def output(self, token_ids: Sequence[int], logprobs: PositionLogprobs) -> dict[str, Any]:
        """The piece of generated tokens."""
        return self._piece(token_ids, logprobs, None)

    def _piece(self, token_ids: Sequence[int], logprobs: PositionLogprobs, text: str | None) -> dict[str, Any]:
        piece: dict[str, Any] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for token_id, entries in zip(token_ids, logprobs, strict=True):
            piece["text_offset"].append(self._offset)
            self._advance(token_id, text)
            if entries is None:
                data = self._texts.bytes(token_id)
                decoded = None if data is None else data.decode("utf-8", "replace")
                piece["tokens"].append(self._texts.text(token_id, decoded))
                piece["token_logprobs"].append(None)
                piece["top_logprobs"].append(None)
                continue
            chosen = entries[token_id]
            piece["tokens"].append(self._texts.text(token_id, chosen.decoded_token))
            piece["token_logprobs"].append(max(chosen.logprob, LOWEST))
            top: dict[str, float] = {}
            for other_id, entry in entries.items():
                # Parts of characters look alike: the first one, which is the chosen or the likelier, stands.
                top.setdefault(self._texts.text(other_id, entry.decoded_token), max(entry.logprob, LOWEST))
            piece["top_logprobs"].append(top)
        return piece

    def _advance(self, token_id: int, text: str | None) -> None:
        data = self._texts.bytes(token_id) or b""
        if self._texts.is_special(token_id):
            # In a prompt it may have been written out, or have been put in front by the tokenizer.
            shown = not self._skip_special_tokens if text is None else text.startswith(data.decode(), self._offset)
            if not shown:
                return
        self._offset += len(self._decoder.decode(data))


def joined(first: dict[str, Any] | None, then: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two pieces of `CompletionLogprobs` as one."""
    if first is None or then is None:
        return first or then
    return {name: values + then[name] for name, values in first.items()}


def prompt_logprobs(positions: PositionLogprobs | None) -> list[dict[int, dict[str, Any]] | None] | None:
    """By position and token id, in vLLM's form."""
    if positions is None:
        return None
    return [
        None
        if entries is None
        else {
            token_id: {
                "logprob": max(entry.logprob, LOWEST),
                "rank": entry.rank,
                "decoded_token": entry.decoded_token,
            }
            for token_id, entry in entries.items()
        }
        for entries in positions
    ]
