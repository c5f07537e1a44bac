"""OpenedModel: all that is known of a model once its files are found, before its weights are read.

Whoever speaks with users needs this much: the settled configuration, the tokenizer, the defaults. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.generation_config import SamplingDefaults
from octavo.tokenizer.load import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    config: EngineConfig
    defaults: SamplingDefaults
    chat_template: str | None  # an explicit one, which goes before the tokenizer's
    tokenizer_path: str | None  # None: skip_tokenizer_init
    tokenizer_metadata: Mapping[str, Any] | None  # of a GGUF file, the part that makes its tokenizer

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, built anew.

        Raises:
            ModelError: it is missing, damaged, or of a kind that octavo does not know.
        """
        if self.tokenizer_path is None:
            return None
        return load_tokenizer(self.tokenizer_path, metadata=self.tokenizer_metadata)
