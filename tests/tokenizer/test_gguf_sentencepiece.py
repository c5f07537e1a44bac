"""SentencePiece vocabularies in GGUF's form against the sentencepiece package."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer.texts import varied_texts

from octavo.errors import ModelError
from octavo.tokenizer.load import Tokenizer, load_tokenizer

SPACES = ["  ", "   ", "    "]
USER_DEFINED = ["<b>", "</b>", "\n", "\n\n", *(spaces.replace(" ", "▁") for spaces in SPACES)]


def train(prefix: bool, user_defined: list[str]) -> sentencepiece.SentencePieceProcessor:
    rng = random.Random(0)
    syllables = [
        "ab",
        "aba",
        "ba",
        "bab",
        "re",
        "tion",
        "un",
        "ing",
        "ö",
        "ц",
        "ир",
        "日",
        "本",
        "語",
        "1",
        "2",
        "'",
        "aa",
    ]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(400)]
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(400)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        user_defined_symbols=user_defined,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def metadata_of(model: sentencepiece.SentencePieceProcessor, prefix: bool, user_defined: list[str]) -> dict[str, Any]:
    """As llama.cpp's converter writes it: user-defined pieces with real spaces and a score of -1000."""
    tokens, scores, types = [], [], []
    for token_id in range(model.get_piece_size()):
        piece, score, kind = model.id_to_piece(token_id), model.get_score(token_id), 1
        if piece in user_defined:
            piece, score, kind = piece.replace("▁", " "), -1000.0, 4
        elif model.is_unknown(token_id):
            kind = 2
        elif model.is_control(token_id):
            kind = 3
        elif model.is_byte(token_id):
            kind = 6
        tokens.append(piece)
        scores.append(score)
        types.append(kind)
    values = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": scores,
        "token_type": types,
        "add_space_prefix": prefix,
        "bos_token_id": model.bos_id(),
        "eos_token_id": model.eos_id(),
        "unknown_token_id": model.unk_id(),
    }
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


PREFIXED = train(True, [])
PLAIN = train(False, USER_DEFINED)
CASES = {
    "prefix": (PREFIXED, load_tokenizer("x.gguf", metadata=metadata_of(PREFIXED, True, []))),
    "user-defined": (PLAIN, load_tokenizer("x.gguf", metadata=metadata_of(PLAIN, False, USER_DEFINED))),
}


def check(case: str, text: str) -> None:
    model, tokenizer = CASES[case]
    expected = model.encode(text)
    assert tokenizer.encode(text, add_special_tokens=False) == expected, repr(text)
    assert tokenizer.encode(text) == [model.bos_id(), *expected]
    assert tokenizer.decode(expected) == model.decode(expected)


@pytest.mark.parametrize("case", CASES)
def test_a_thousand_texts_as_sentencepiece(case: str) -> None:
    # Sentencepiece finds no control tokens in a text.
    for text in varied_texts(1000, extra=["aba", "abab", "\n\n\n", "<b>ab</b>", "     "]):
        if "</s>" not in text:
            check(case, text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.text("ab 日本1\n", max_size=40))
def test_merges_in_the_order_of_scores(case: str, text: str) -> None:
    check(case, text)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_any_ids_decode_as_sentencepiece(case: str, data: st.DataObject) -> None:
    model, tokenizer = CASES[case]
    ids = [i for i in range(model.get_piece_size()) if not model.is_control(i) and not model.is_unknown(i)]
    ids.remove(model.piece_to_id("<0x20>"))  # at the start, transformers strips it and sentencepiece does not
    byte_ids = [i for i in ids if model.is_byte(i)]
    chosen = data.draw(st.lists(st.one_of(st.sampled_from(ids), st.sampled_from(byte_ids)), max_size=12))
    assert tokenizer.decode(chosen) == model.decode(chosen)


def test_control_tokens_are_found_in_text_and_skipped() -> None:
    model, tokenizer = CASES["prefix"]
    ids = tokenizer.encode("<s>ab</s>", add_special_tokens=False)
    assert ids == [model.bos_id(), *model.encode("ab"), model.eos_id()]
    assert tokenizer.decode(ids) == "<s> ab</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"
    assert tokenizer.all_special_ids == {model.unk_id(), model.bos_id(), model.eos_id()}


def test_missing_scores() -> None:
    broken = metadata_of(PLAIN, False, USER_DEFINED)
    broken["tokenizer.ggml.scores"] = broken["tokenizer.ggml.scores"][:5]
    with pytest.raises(ModelError, match="700 tokens, but 5 scores"):
        load_tokenizer("x.gguf", metadata=broken)


def test_named_chat_templates() -> None:
    values = metadata_of(PLAIN, False, USER_DEFINED)
    values |= {"tokenizer.chat_template": "{{ 1 }}", "tokenizer.chat_templates": ["tool_use"]}
    values["tokenizer.chat_template.tool_use"] = "{{ 2 }}"
    tokenizer: Tokenizer = load_tokenizer("x.gguf", metadata=values)
    assert tokenizer.chat_template == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
