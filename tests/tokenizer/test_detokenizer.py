"""Incremental detokenizing against decoding all at once, and against the tokenizers library."""

from __future__ import annotations

import time
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer.texts import varied_texts
from tokenizers import AddedToken, decoders, models

from octavo.errors import InvalidRequestError, UnsupportedModelError
from octavo.tokenizer.base import Tokenizer
from octavo.tokenizer.detokenizer import IncrementalDetokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["<unk>", "<s>", "</s>", "<tool>", *BYTES, "▁", "▁▁", "▁Hello", "▁world", "ing", "你", "▁é", "🙂", "x"]
IDS = {piece: i for i, piece in enumerate(PIECES)}


def sentencepiece_like(strip: bool) -> Tokenizer:
    """A vocabulary with byte fallback; <tool> is an added token that is not special."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=IDS, merges=[], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    backend.add_tokens([AddedToken(piece, special=piece != "<tool>") for piece in PIECES[:4]])
    return Tokenizer(backend, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})


STRIPPING, KEEPING = sentencepiece_like(True), sentencepiece_like(False)


def incremental(tokenizer: Tokenizer, prompt: list[int], output: list[int], **options: Any) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt, **options)
    return [*map(detokenizer.push, output), detokenizer.flush()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) + 3), max_size=20), st.booleans(), st.sampled_from([STRIPPING, KEEPING]))
def test_all_pushes_make_the_decoded_text(output: list[int], skip: bool, tokenizer: Tokenizer) -> None:
    pieces = incremental(tokenizer, [], output, skip_special_tokens=skip)
    assert "".join(pieces) == tokenizer.decode(output, skip_special_tokens=skip)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 49151), max_size=30), st.lists(st.integers(0, 300), max_size=6), st.booleans())
def test_any_ids_of_the_default_model(tokenizer: Tokenizer, output: list[int], low: list[int], skip: bool) -> None:
    ids = output + low + output[:3]  # low ids are special tokens and single bytes, broken characters among them
    expected = tokenizer.backend.decode(ids, skip_special_tokens=skip)
    assert tokenizer.decode(ids, skip_special_tokens=skip) == expected
    assert "".join(incremental(tokenizer, [], ids, skip_special_tokens=skip)) == expected


def test_no_piece_of_a_text_holds_half_a_character(tokenizer: Tokenizer) -> None:
    for text in varied_texts(300, seed=3):
        ids = tokenizer.encode(text)
        pieces = incremental(tokenizer, [], ids, skip_special_tokens=False)
        assert "".join(pieces) == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("aé你🙂 "), max_size=12), st.integers(0, 40), st.sampled_from([STRIPPING, KEEPING]))
def test_output_continues_the_prompt_even_within_a_character(text: str, cut: int, tokenizer: Tokenizer) -> None:
    ids = [IDS["▁Hello"], *(IDS[f"<0x{byte:02X}>"] for byte in text.encode())]
    prompt, output = ids[: cut % len(ids) + 1], ids[cut % len(ids) + 1 :]
    whole_characters = tokenizer.decode(prompt).rstrip("\ufffd")
    assert whole_characters + "".join(incremental(tokenizer, prompt, output)) == tokenizer.decode(ids)


def test_the_leading_space_belongs_to_the_output_if_the_prompt_has_text() -> None:
    hello, world, bos = IDS["▁Hello"], IDS["▁world"], IDS["<s>"]
    assert incremental(STRIPPING, [bos, hello], [world]) == [" world", ""]
    assert incremental(STRIPPING, [bos], [hello, world]) == ["Hello", " world", ""]
    assert incremental(STRIPPING, [bos], [hello], skip_special_tokens=False) == [" Hello", ""]
    assert incremental(STRIPPING, [], [IDS["▁"], hello]) == ["", " Hello", ""]
    assert incremental(KEEPING, [], [hello]) == [" Hello", ""]


def test_special_tokens_in_the_middle() -> None:
    ids = [IDS["x"], IDS["<s>"], IDS["<tool>"], IDS["</s>"], IDS["▁world"]]
    assert "".join(incremental(KEEPING, [], ids)) == "x<tool> world"
    for spaces in (True, False):
        options = {"skip_special_tokens": False, "spaces_between_special_tokens": spaces}
        assert "".join(incremental(KEEPING, [], ids, **options)) == "x<s><tool></s> world"


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    emoji = [IDS[f"<0x{byte:02X}>"] for byte in "🙂".encode()]
    assert incremental(KEEPING, [], emoji) == ["", "", "", "🙂", ""]
    assert incremental(KEEPING, [], emoji[:3]) == ["", "", "", "\ufffd" * 3]
    assert incremental(KEEPING, [], [*emoji[:2], IDS["x"]]) == ["", "", "\ufffd\ufffdx", ""]


def test_the_cost_of_a_token_does_not_grow(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" the quick brown fox") * 5000
    detokenizer = IncrementalDetokenizer(tokenizer, ids)

    def seconds() -> float:
        start = time.perf_counter()
        for token_id in ids:
            detokenizer.push(token_id)
        return time.perf_counter() - start

    times = [seconds() for _ in range(5)]
    assert min(times[2:]) < 3 * min(times[:2])
    assert min(times) / len(ids) < 15e-6


DECODERS = [
    decoders.ByteLevel(),
    decoders.Metaspace("▁", "always", False),
    decoders.Metaspace("▁", "never", False),
    decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
    None,
]


@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
def test_other_decoders_as_the_tokenizers_library(decoder: decoders.Decoder | None) -> None:
    vocab = {piece: i for i, piece in enumerate(["▁a", "b", "▁", "▁▁c", "d▁e"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    if decoder is not None:
        backend.decoder = decoder
    ours = Tokenizer(backend, special_tokens={})
    for ids in ([0, 1, 2, 3, 4], [1, 0, 4], [2, 0], [2], []):
        assert ours.decode(ids) == backend.decode(ids) == "".join(incremental(ours, [], ids))


def test_a_decoder_that_is_not_known_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedModelError, match=r"WordPiece.*ByteLevel"):
        Tokenizer(backend, special_tokens={})


def test_what_is_no_token_id(tokenizer: Tokenizer) -> None:
    for bad in (-1, "1", 2**40):
        with pytest.raises(InvalidRequestError, match="token ids are integers of 0 or more"):
            tokenizer.decode([bad])
