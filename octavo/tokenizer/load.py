"""From a model's files to its Tokenizer: `tokenizer.json`, `vocab.json` with `merges.txt`, `tokenizer.model`, or GGUF.

It knows the files of a Hugging Face folder. Files are local here; fetching them is not its matter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from octavo.errors import ModelError, ModelNotFoundError, UnsupportedModelError, shown
from octavo.tokenizer.base import Tokenizer
from octavo.tokenizer.gguf_vocab import tokenizer_from_gguf
from octavo.tokenizer.pre_tokenizers import get_pre_tokenization
from octavo.tokenizer.sentencepiece_model import read_sentencepiece_bpe
from octavo.tokenizer.special_tokens import add_missing, frame_text

__all__ = ["Tokenizer", "load_tokenizer"]

_PRE_TOKENIZERS = {"GPT2Tokenizer": "gpt-2", "CodeGenTokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}


def load_tokenizer(path: str, *, metadata: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a model on this machine.

    Args:
        path: a folder, or a GGUF file.
        metadata: the metadata of the GGUF file that `path` names; None for a folder.

    Raises:
        ModelNotFoundError: there is no tokenizer at `path`.
        UnsupportedModelError: a tokenizer of a kind that octavo does not know.
        ModelError: a file of the tokenizer is damaged; the message names it.
    """
    if metadata is not None:
        return tokenizer_from_gguf(metadata)
    folder = Path(path)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{path} is no folder with a tokenizer; give a model's folder, hub id or GGUF file")
    config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    try:
        return _load_folder(folder, config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a value of another type than it should have
        raise _damaged(folder / "tokenizer_config.json", f"{type(error).__name__}: {error}") from error


def _load_folder(folder: Path, config: dict[str, Any]) -> Tokenizer:
    template = _chat_template(folder, config)
    kind = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    has_vocab = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if (folder / "tokenizer.json").is_file():
        backend = _read_tokenizer_json(folder / "tokenizer.json")
        return _with_special_tokens(backend, config, template)
    if has_vocab and kind in _PRE_TOKENIZERS:
        backend = _read_vocab_and_merges(folder, config, _PRE_TOKENIZERS[kind])
        return _with_special_tokens(backend, config, template, frame=True)
    if (folder / "tokenizer.model").is_file():
        metadata = _read_sentencepiece(folder / "tokenizer.model")
        if metadata is not None:
            own = tokenizer_from_gguf(metadata)
            return _with_special_tokens(
                own.backend, {"add_bos_token": True, **own.special_tokens_map, **config}, template, frame=True
            )
    elif not has_vocab:
        raise ModelNotFoundError(
            f"{folder} has no tokenizer: none of tokenizer.json, vocab.json with merges.txt, and tokenizer.model is "
            "there; give a folder that has one with `tokenizer`, or skip_tokenizer_init=True"
        )
    return _convert_with_transformers(folder, template)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds {shown(value)} instead of an object")
    return value


def _damaged(path: Path, reason: object) -> ModelError:
    return ModelError(f"{path} can't be used: {reason}; fetch the file again, or name another tokenizer")


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise _damaged(path, error) from error


def _read_sentencepiece(path: Path) -> dict[str, Any] | None:
    try:
        return read_sentencepiece_bpe(path)
    except (KeyError, OSError, ValueError, struct.error) as error:
        raise _damaged(path, error) from error


def _read_vocab_and_merges(folder: Path, config: Mapping[str, Any], pre_name: str) -> tokenizers.Tokenizer:
    """Byte-level BPE in the files of GPT-2."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # as above
        raise _damaged(folder, f"vocab.json and merges.txt make no tokenizer ({error})") from error
    pre = get_pre_tokenization(pre_name)
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    with_space = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.pre_tokenizer = with_space if config.get("add_prefix_space") else pre.build()
    backend.decoder = decoders.ByteLevel()
    by_id = sorted(_read_json(folder / "added_tokens.json").items(), key=lambda item: int(item[1]))
    backend.add_tokens([AddedToken(token, normalized=False) for token, _ in by_id])
    return backend


def _content(token: Any) -> str | None:
    """The text of a token of a config, which is a string or a dict of AddedToken's fields."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) and value else None


def _with_special_tokens(
    backend: tokenizers.Tokenizer,
    config: Mapping[str, Any],
    template: str | dict[str, str] | None,
    *,
    frame: bool = False,
) -> Tokenizer:
    """Add the tokens that only the config knows of.

    `frame`: put bos and eos around texts as `add_bos_token` and `add_eos_token` say. A tokenizer.json says that itself,
    and goes before the config, as in transformers.
    """
    present = backend.get_added_tokens_decoder()
    for token_id, fields in sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0])):
        if int(token_id) not in present:
            backend.add_tokens([AddedToken(**{key: value for key, value in fields.items() if key != "__type"})])
    named = {
        name: content
        for name, token in config.items()
        if name.endswith("_token") and (content := _content(token)) is not None
    }
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or ()
    values = more.values() if isinstance(more, dict) else more
    listed = [content for token in values if (content := _content(token)) is not None]
    add_missing(backend, [*named.values(), *listed])
    if frame:
        bos = named.get("bos_token") if config.get("add_bos_token") else None
        eos = named.get("eos_token") if config.get("add_eos_token") else None
        frame_text(backend, bos, eos)
    return Tokenizer(backend, special_tokens=named, chat_template=template)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The templates in files of their own, else those of the config: one, or a list of named ones."""
    files = {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    if not files:
        own: str | list[dict[str, str]] | None = config.get("chat_template")
        return {item["name"]: item["template"] for item in own} if isinstance(own, list) else own
    try:
        templates = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"a chat template can't be read ({error})") from error
    return templates["default"] if templates.keys() == {"default"} else templates


def _convert_with_transformers(folder: Path, template: str | dict[str, str] | None) -> Tokenizer:
    """A tokenizer in files that only transformers reads, such as a SentencePiece unigram model."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UnsupportedModelError(
            f"{folder} has its tokenizer in files that need transformers to convert them; "
            "run `pip install octavo[transformers]`, or add a tokenizer.json"
        ) from None
    try:
        converted = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        backend = converted.backend_tokenizer
        named = {name: str(token) for name, token in converted.special_tokens_map.items() if isinstance(token, str)}
    except Exception as error:  # foreign code on a foreign file
        raise _damaged(folder, f"transformers makes no fast tokenizer of it ({error})") from error
    return Tokenizer(backend, special_tokens=named, chat_template=template)
