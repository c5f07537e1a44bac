"""Tokenizers from the metadata of a GGUF file (keys `tokenizer.ggml.*`, ggml's docs/gguf.md).

It takes the metadata as a mapping; reading the file is not its matter. Two models of vocabulary are known: "gpt2",
byte-level BPE with merges and a named pre-tokenizer; and "llama", SentencePiece BPE, whose merges follow from scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from octavo.errors import ModelError, UnsupportedModelError, shown, unknown_name
from octavo.tokenizer.base import Tokenizer
from octavo.tokenizer.pre_tokenizers import get_pre_tokenization
from octavo.tokenizer.special_tokens import frame_text

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
_NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token", "mask": "mask_token"}
_SPECIAL = ("bos", "eos", "eot", "eom", "unknown", "padding")

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_ADDED = (_UNKNOWN, _CONTROL, _USER_DEFINED)


@dataclass(slots=True)
class _Vocabulary:
    """The tokens of a file. `get` is a look-up of `tokenizer.ggml.<name>` with a default.

    `finds_normalized`: user-defined tokens are found in the text as it is after normalization.
    """

    get: Callable[..., Any]
    tokens: list[str]
    types: Sequence[int]
    finds_normalized: bool = False

    def token(self, name: str) -> str | None:
        """The token whose id is `tokenizer.ggml.<name>_token_id`."""
        token_id: int | None = self.get(f"{name}_token_id", None)
        if token_id is None:
            return None
        if not 0 <= token_id < len(self.tokens):
            raise ModelError(
                f"the GGUF file is damaged: tokenizer.ggml.{name}_token_id is {token_id}, but there are "
                f"{len(self.tokens)} tokens; fetch the file again"
            )
        return self.tokens[token_id]

    def ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the metadata of a GGUF file describes.

    Raises:
        UnsupportedModelError: a model of vocabulary or a pre-tokenizer that octavo does not know.
        ModelError: the metadata has no tokenizer, or a damaged one.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise ModelError("the GGUF file has no tokenizer (tokenizer.ggml.model); give a folder with `tokenizer`")
    if kind not in _BUILDERS:
        raise UnsupportedModelError(
            f"{unknown_name('vocabulary (tokenizer.ggml.model)', str(kind), _BUILDERS)}; "
            "give a tokenizer folder with `tokenizer`"
        )
    vocabulary = _read_vocabulary(metadata)
    backend, adds_bos = _BUILDERS[kind](vocabulary)
    backend.add_tokens(_added_tokens(vocabulary))
    bos, eos = vocabulary.token("bos"), vocabulary.token("eos")
    adds_bos = vocabulary.get("add_bos_token", adds_bos)
    adds_eos = vocabulary.get("add_eos_token", False)
    frame_text(backend, bos if adds_bos else None, eos if adds_eos else None)
    named = {name: vocabulary.token(key) for key, name in _NAMED.items()}
    return Tokenizer(
        backend,
        special_tokens={name: token for name, token in named.items() if token is not None},
        chat_template=_chat_template(metadata),
    )


def _read_vocabulary(metadata: Mapping[str, Any]) -> _Vocabulary:
    def get(name: str, *default: Any) -> Any:
        value = metadata.get(f"tokenizer.ggml.{name}", *default)
        if value is None and not default:
            raise ModelError(f"the GGUF file is damaged: it has no tokenizer.ggml.{name}; fetch the file again")
        return value

    tokens = get("tokens")
    types = get("token_type", [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(
            f"the GGUF file is damaged: it has {len(tokens)} tokens, but {len(types)} types of tokens; "
            "fetch the file again"
        )
    return _Vocabulary(get, list(tokens), types)


def _added_tokens(vocabulary: _Vocabulary) -> list[AddedToken]:
    """Tokens that are found in a text before it is cut into words."""
    kinds = {token: kind for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in _ADDED}
    named = (vocabulary.token(name) for name in _SPECIAL)
    kinds.update({token: _CONTROL for token in named if token is not None})
    return [
        AddedToken(token, special=False, normalized=vocabulary.finds_normalized)
        if kind == _USER_DEFINED
        else AddedToken(token, special=True, normalized=False)
        for token, kind in kinds.items()
    ]


def _chat_template(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    default = metadata.get("tokenizer.chat_template")
    named = {name: metadata[f"tokenizer.chat_template.{name}"] for name in metadata.get("tokenizer.chat_templates", ())}
    if not named:
        return default
    return named if default is None else {"default": default, **named}


def _bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    except Exception as error:  # the library raises bare Exceptions
        raise ModelError(f"the GGUF file is damaged: its tokenizer can't be built ({error}); fetch it again") from error


def _byte_level_bpe(vocabulary: _Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    """A "gpt2" vocabulary, and whether it adds bos where the file does not say."""
    pre = get_pre_tokenization(vocabulary.get("pre", "default"))
    merges = []
    for merge in vocabulary.get("merges"):
        left, _, right = merge.partition(" ")
        if not right:
            raise ModelError(f"the GGUF file is damaged: {shown(merge)} is no merge; fetch the file again")
        merges.append((left, right))
    backend = _bpe(vocabulary.ids(), merges, ignore_merges=pre.ignore_merges)
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre.build()
    backend.decoder = decoders.ByteLevel()
    return backend, pre.add_bos


def _sentencepiece_bpe(vocabulary: _Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    """A "llama" vocabulary, and whether it adds bos where the file does not say."""
    has_prefix = vocabulary.get("add_space_prefix", True)
    if not has_prefix:  # as sentencepiece finds them; with a prefix, each of them would have it
        vocabulary.finds_normalized = True
        vocabulary.tokens = [
            token.replace(" ", _SPACE) if kind == _USER_DEFINED else token
            for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        ]
    backend = _bpe(
        vocabulary.ids(),
        _merges_by_score(vocabulary),
        unk_token=vocabulary.token("unknown"),
        fuse_unk=True,
        byte_fallback=_BYTE in vocabulary.types,
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    space = normalizers.Replace(" ", _SPACE)
    if has_prefix:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), space])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = space
    backend.decoder = decoders.Sequence(steps)
    return backend, True


def _merges_by_score(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the highest score of the result first.

    SentencePiece joins the two neighbours whose joined text is the piece with the highest score, whichever these
    neighbours are (sentencepiece, bpe_model.cc); user-defined and control pieces never join.
    """
    scores: Sequence[float] = vocabulary.get("scores")
    if len(scores) != len(vocabulary.tokens):
        raise ModelError(
            f"the GGUF file is damaged: it has {len(vocabulary.tokens)} tokens, but {len(scores)} scores; "
            "fetch the file again"
        )
    score_of = {
        piece: score
        for piece, score, kind in zip(vocabulary.tokens, scores, vocabulary.types, strict=True)
        if kind in (_NORMAL, _UNUSED)
    }
    pieces = frozenset(score_of)
    return [  # the right part first: it is a piece less often
        (left, right)
        for piece in sorted(score_of, key=score_of.__getitem__, reverse=True)
        for middle in range(1, len(piece))
        if (right := piece[middle:]) in pieces and (left := piece[:middle]) in pieces
    ]


_BUILDERS = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}
