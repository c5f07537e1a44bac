"""Byte-level vocabularies of GGUF files against transformers, and against BPE written out in plain Python."""

from __future__ import annotations

import itertools
import json
import unicodedata
from typing import Any

import pytest
import regex
from tokenizer.texts import SPECIAL, varied_texts
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

from octavo.errors import ModelError, UnsupportedModelError
from octavo.tokenizer.load import Tokenizer, load_tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"


@pytest.fixture(scope="module")
def reference(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer.json that SmolLM2 was published with, as transformers runs it."""
    tokens = metadata["tokenizer.ggml.tokens"]
    added = [i for i, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    definition = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in added],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
    return PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(definition)))


def test_a_thousand_texts_as_the_published_tokenizer(tokenizer: Tokenizer, reference: PreTrainedTokenizerFast) -> None:
    texts = varied_texts(1000, extra=SPECIAL)
    for text, batched in zip(texts, tokenizer.encode_batch(texts), strict=True):
        ids = tokenizer.encode(text)
        assert ids == batched == reference.encode(text), repr(text)
        assert tokenizer.decode(ids) == reference.decode(ids) == text
        skipping = reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, skip_special_tokens=True) == skipping


def test_numerals_that_are_no_decimal_digits_stand_alone(tokenizer: Tokenizer) -> None:
    for digit in "½²Ⅷ①5٣":
        alone = tokenizer.encode(digit)
        assert tokenizer.encode(f"{digit}{digit}") == alone * 2
        assert tokenizer.encode(f"x {digit}")[-len(alone) :] == alone


def plain_bpe(text: str, patterns: list[str], vocab: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Cut with each pattern in turn, then join the pair of the lowest rank until there is none."""
    words = [text]
    for pattern in patterns:
        cut = [regex.split(f"({pattern})", word) for word in words]
        words = [piece for pieces in cut for piece in pieces if piece]
    ids = []
    for word in words:
        symbols = [bytes_to_unicode()[byte] for byte in word.encode()]
        while len(symbols) > 1:
            rank, at = min((ranks.get(pair, 1 << 30), i) for i, pair in enumerate(itertools.pairwise(symbols)))
            if rank == 1 << 30:
                break
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        ids += [vocab[symbol] for symbol in symbols]
    return ids


@pytest.mark.parametrize(
    ("pre", "patterns"),
    [
        ("smollm", [r"\p{N}", GPT2]),
        ("gpt-2", [GPT2]),
        ("default", [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        ("falcon", [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    ],
)
def test_patterns_in_turn_as_plain_bpe(metadata: dict[str, Any], pre: str, patterns: list[str]) -> None:
    tokenizer = load_tokenizer("x.gguf", metadata={**metadata, "tokenizer.ggml.pre": pre})
    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = metadata["tokenizer.ggml.merges"]
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    for text in varied_texts(220, seed=1)[-120:]:
        assert tokenizer.encode(text) == plain_bpe(text, patterns, vocab, ranks), repr(text)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_pre_tokenizers_as_transformers(metadata: dict[str, Any], pre: str) -> None:
    ours = load_tokenizer("x.gguf", metadata={**metadata, "tokenizer.ggml.pre": pre})
    fields = {
        "tokenizer_type": "gpt2",
        "pre_tokenizer_type": pre,
        **{name: metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges")},
    }
    theirs, _ = convert_gguf_tokenizer("llama", fields)
    theirs.model.ignore_merges = pre in ("llama-bpe", "tekken")
    for text in varied_texts(200, seed=2, extra=SPECIAL):
        if pre == "qwen2":
            text = unicodedata.normalize("NFC", text)  # their conversion forgets it
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False) == expected, repr(text)


def test_qwen2_normalizes(metadata: dict[str, Any]) -> None:
    tokenizer = load_tokenizer("x.gguf", metadata={**metadata, "tokenizer.ggml.pre": "qwen2"})
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")


@pytest.mark.parametrize(
    ("changes", "bos", "eos"),
    [
        ({}, False, False),
        ({"add_bos_token": True}, True, False),
        ({"add_eos_token": True}, False, True),
        ({"add_bos_token": True, "add_eos_token": True}, True, True),
        ({"add_bos_token": None, "pre": "llama-bpe"}, True, False),
    ],
)
def test_bos_and_eos_as_the_file_says(metadata: dict[str, Any], changes: dict[str, Any], bos: bool, eos: bool) -> None:
    changed = {**metadata, **{f"tokenizer.ggml.{name}": value for name, value in changes.items()}}
    changed = {name: value for name, value in changed.items() if value is not None}
    tokenizer = load_tokenizer("x.gguf", metadata=changed)
    plain = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.encode("hello") == [1] * bos + plain + [2] * eos


def test_what_users_of_hugging_face_expect(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokenizer) == tokenizer.vocab_size == len(tokens)
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(tokens)}
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (2, 0)
    assert tokenizer.all_special_ids == frozenset(range(17))
    assert tokenizer.all_special_tokens == tokens[:17]
    assert tokenizer.convert_ids_to_tokens(19556) == tokens[19556]
    assert tokenizer.convert_ids_to_tokens([1, 19556]) == ["<|im_start|>", tokens[19556]]
    assert tokenizer.convert_tokens_to_ids(["<|im_end|>", "no such token"]) == [2, 0]
    assert tokenizer.decode(19556) == "Hello"
    assert tokenizer.decode([19556, 10**6]) == "Hello"


def test_damaged_and_unknown_vocabularies(metadata: dict[str, Any]) -> None:
    def load(**changes: Any) -> Tokenizer:
        changed = {**metadata, **{f"tokenizer.ggml.{name}": value for name, value in changes.items()}}
        return load_tokenizer("x.gguf", metadata=changed)

    with pytest.raises(UnsupportedModelError, match=r"'smolm'; did you mean 'smollm'.*knows.*qwen2"):
        load(pre="smolm")
    with pytest.raises(UnsupportedModelError, match=r"'bert'; valid: gpt2, llama"):
        load(model="bert")
    with pytest.raises(ModelError, match="no tokenizer"):
        load(model=None)
    with pytest.raises(ModelError, match=r"has no tokenizer.ggml.merges"):
        load(merges=None)
    with pytest.raises(ModelError, match="'nonsense' is no merge"):
        load(merges=["nonsense"])
    with pytest.raises(ModelError, match="can't be built"):
        load(merges=["no such"])
    with pytest.raises(ModelError, match="49152 tokens, but 1 types"):
        load(token_type=[1])
    with pytest.raises(ModelError, match="bos_token_id is 49152"):
        load(bos_token_id=49152)
