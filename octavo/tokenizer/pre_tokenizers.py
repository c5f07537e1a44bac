"""How text is cut into words before byte-level BPE, by the name that GGUF files give it (`tokenizer.ggml.pre`).

The patterns are those of the models' own tokenizer files; where a model has none, those of llama.cpp (llama-vocab.cpp).
Merges never cross the words.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from octavo.errors import UnsupportedModelError, unknown_name

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_TIKTOKEN = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_LLAMA3 = _TIKTOKEN % r"\p{N}{1,3}"
_QWEN2 = _TIKTOKEN % r"\p{N}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + r"+%s|[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + r"*%s|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_TEKKEN = _CASED % ("", "", r"\p{N}")
_GPT4O = _CASED % (_CONTRACTION + "?", _CONTRACTION + "?", r"\p{N}{1,3}")
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """How a vocabulary cuts text: `patterns` are applied one after the other, each to what the ones before it left.

    `nfc`: text is normalized to NFC first. `ignore_merges`: a word that is a token is taken whole. `add_bos`: a
    beginning-of-sequence token is added where the file does not say.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_BY_NAMES = {
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "roberta-bpe"): PreTokenization((_GPT2,)),
    ("default",): PreTokenization((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ("falcon",): PreTokenization((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): PreTokenization(
        (r"\p{N}", _GPT2)
    ),
    ("llama-bpe", "llama3", "llama-v3", "falcon3"): PreTokenization((_LLAMA3,), ignore_merges=True, add_bos=True),
    ("dbrx", "smaug-bpe", "chatglm-bpe"): PreTokenization((_LLAMA3,)),
    ("qwen2", "megrez", "deepseek-r1-qwen"): PreTokenization((_QWEN2,), nfc=True),
    ("stablelm2",): PreTokenization((_QWEN2,)),
    ("tekken",): PreTokenization((_TEKKEN,), ignore_merges=True, add_bos=True),
    ("gpt-4o", "llama4"): PreTokenization((_GPT4O,)),
    ("deepseek-v3",): PreTokenization((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u30ff]+", _DEEPSEEK3)),
}
PRE_TOKENIZERS = {name: value for names, value in _BY_NAMES.items() for name in names}


def get_pre_tokenization(name: str) -> PreTokenization:
    """The pre-tokenization of that name.

    Raises:
        UnsupportedModelError: octavo does not know it; the message lists those it knows.
    """
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModelError(
            f"{unknown_name('pre-tokenizer (tokenizer.ggml.pre)', name, PRE_TOKENIZERS)} "
            f"(octavo knows {', '.join(sorted(PRE_TOKENIZERS))}); give a tokenizer folder with `tokenizer`"
        )
    return PRE_TOKENIZERS[name]
