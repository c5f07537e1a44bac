"""Tokenizers in folders against transformers: tokenizer.json, GPT-2's two files, SentencePiece; damaged ones."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizer.texts import varied_texts
from transformers import AutoTokenizer

from octavo.errors import InvalidRequestError, ModelError, ModelNotFoundError, UnsupportedModelError
from octavo.tokenizer.load import Tokenizer, load_tokenizer

VOCAB = ["<s>", "<pad>", "</s>", "<unk>"]


def write(folder: Path, **files: Any) -> Path:
    """Files by name, with __ for a dot: text as it is, other values as JSON."""
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def opt(tmp_path: Path, metadata: dict[str, Any]) -> Path:
    """A folder as OPT ships it, with the default model's merges."""
    tokens = [*VOCAB, *metadata["tokenizer.ggml.tokens"][17:]]
    merges = "#version: 0.2\n" + "\n".join(metadata["tokenizer.ggml.merges"]) + "\n"
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "__type": "AddedToken"}
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "add_prefix_space": False,
        "bos_token": {**token, "content": "</s>"},
        "eos_token": {**token, "content": "</s>"},
        "unk_token": {**token, "content": "</s>"},
        "pad_token": "<pad>",
    }
    vocab = {t: i for i, t in enumerate(tokens)}
    return write(tmp_path, vocab__json=vocab, merges__txt=merges, tokenizer_config__json=config)


def test_vocab_and_merges_as_opt(opt: Path) -> None:
    ours, theirs = load_tokenizer(str(opt)), AutoTokenizer.from_pretrained(opt)
    assert ours.encode("Hello")[0] == 2
    assert (ours.bos_token_id, ours.eos_token, ours.pad_token_id) == (2, "</s>", 1)
    for text in varied_texts(200, seed=4, extra=["</s>", "<pad>"]):
        ids = ours.encode(text)
        assert ids == theirs.encode(text), repr(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("bos", [None, False, True])
@pytest.mark.parametrize("eos", [None, True])
@pytest.mark.parametrize("post_processor", [True, False])
def test_tokenizer_json_as_transformers(
    tmp_path: Path, tokenizer: Tokenizer, bos: bool | None, eos: bool | None, post_processor: bool
) -> None:
    definition = json.loads(tokenizer.backend.to_str())
    if post_processor:
        special = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}
        single = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
        definition["post_processor"] = template
    else:
        definition["post_processor"] = None
    definition["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "additional_special_tokens": ["<new one>"],
        "added_tokens_decoder": {"49153": {"content": "<plain>", "special": False, "normalized": False}},
    }
    config |= {name: value for name, value in (("add_bos_token", bos), ("add_eos_token", eos)) if value is not None}
    write(tmp_path, tokenizer__json=definition, tokenizer_config__json=config)
    ours, theirs = load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Hello world", "", "<new one>x<plain><|im_end|>"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert len(ours) == len(theirs)
    assert ours.all_special_ids == set(theirs.all_special_ids) | set(range(17))


def train(**options: Any) -> bytes:
    model = io.BytesIO()
    lines = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=330, byte_fallback=True, minloglevel=2, **options
    )
    return model.getvalue()


LLAMA = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("bos", [None, False])
def test_sentencepiece_bpe_model(tmp_path: Path, prefix: bool, bos: bool | None) -> None:
    model = train(**LLAMA, add_dummy_prefix=prefix, pad_id=3, user_defined_symbols=["<tool>"])
    (tmp_path / "tokenizer.model").write_bytes(model)
    if bos is not None:
        write(tmp_path, tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "add_bos_token": bos})
    ours = load_tokenizer(str(tmp_path))
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert len(ours) == reference.get_piece_size()
    assert (ours.unk_token_id, ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (0, 1, 2, 3)
    for text in ("the quick fox", "a 你 🙂", "  liquor\n", *["x<tool>"] * (not prefix)):
        ids = ours.encode(text)
        assert ids == [1] * (bos is None) + reference.encode(text)
        assert ours.decode(ids, skip_special_tokens=True) == text


def test_other_kinds_go_through_transformers(opt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    write(opt, tokenizer_config__json=config)
    ours, theirs = load_tokenizer(str(opt)), AutoTokenizer.from_pretrained(opt)
    ids = ours.encode("Hello world")
    assert ids == theirs.encode("Hello world")
    assert (ids[0], ids[-1], ours.eos_token_id) == (0, 2, 2)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedModelError, match=r"pip install octavo\[transformers\]"):
        load_tokenizer(str(opt))


def test_a_unigram_model_goes_through_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for options in ({**LLAMA, "model_type": "unigram", "hard_vocab_limit": False}, {"model_type": "bpe"}):
        (tmp_path / "tokenizer.model").write_bytes(train(**options))
        with pytest.raises(UnsupportedModelError, match="transformers"):
            load_tokenizer(str(tmp_path))


def test_chat_templates_of_a_folder(opt: Path) -> None:
    config = json.loads((opt / "tokenizer_config.json").read_text())
    write(opt, tokenizer_config__json={**config, "chat_template": "{{ 1 }}"})
    assert load_tokenizer(str(opt)).chat_template == "{{ 1 }}"
    named = [{"name": "default", "template": "{{ 2 }}"}, {"name": "tool_use", "template": "{{ 3 }}"}]
    write(opt, tokenizer_config__json={**config, "chat_template": named})
    assert load_tokenizer(str(opt)).chat_template == {"default": "{{ 2 }}", "tool_use": "{{ 3 }}"}
    write(opt, tokenizer_config__json={**config, "chat_template": "{{ 1 }}"}, chat_template__jinja="{{ 4 }}")
    assert load_tokenizer(str(opt)).chat_template == "{{ 4 }}"
    (opt / "additional_chat_templates").mkdir()
    write(opt / "additional_chat_templates", tool_use__jinja="{{ 5 }}")
    named_in_files = load_tokenizer(str(opt)).chat_template
    assert named_in_files == {"default": "{{ 4 }}", "tool_use": "{{ 5 }}"}
    assert named_in_files == AutoTokenizer.from_pretrained(opt).chat_template


def test_missing_and_damaged_files(tmp_path: Path, opt: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelNotFoundError, match="/no/such is no folder"):
        load_tokenizer("/no/such")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelNotFoundError, match=r"empty has no tokenizer: none of tokenizer\.json"):
        load_tokenizer(str(empty))
    for text in ("{", "[]", '{"chat_template": [1]}', '{"added_tokens_decoder": {"x": 1}}'):
        with pytest.raises(ModelError, match=r"tokenizer_config\.json can't be used"):
            load_tokenizer(str(write(opt, tokenizer_config__json=text)))
    write(opt, tokenizer_config__json={})
    for damaged in (train(**LLAMA)[:-5000], b"", b"no model"):
        (empty / "tokenizer.model").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"tokenizer\.model can't be used"):
            load_tokenizer(str(empty))
    with pytest.raises(ModelError, match=r"vocab\.json and merges\.txt make no tokenizer"):
        load_tokenizer(str(write(opt, merges__txt="a b c\nd\n")))
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be used.*fetch the file again"):
        load_tokenizer(str(write(opt, tokenizer__json=tokenizer.backend.to_str()[:5000])))


def test_text_that_is_none(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="character 1 is the lone surrogate"):
        tokenizer.encode("a\ud83d")
    with pytest.raises(InvalidRequestError, match="must be a string, got 5"):
        tokenizer.encode_batch(["a", 5])
