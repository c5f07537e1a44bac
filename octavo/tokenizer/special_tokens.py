"""Special tokens of a `tokenizers.Tokenizer`: which exist, and which are added before and after a text."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, processors


def add_missing(backend: tokenizers.Tokenizer, contents: Iterable[str]) -> None:
    """Make each of `contents` a special token, unless it is an added token already."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens(
        [AddedToken(content, special=True, normalized=False) for content in contents if content not in known]
    )


def frame_text(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Let `encode(add_special_tokens=True)` begin with `bos` and end with `eos`; None adds nothing."""
    tokens = [(token, backend.token_to_id(token)) for token in dict.fromkeys((bos, eos)) if token is not None]
    single = [*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])]
    pair = [*single, *([f"{bos}:1"] if bos else []), "$B:1", *([f"{eos}:1"] if eos else [])]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
