"""Tokenizer: text to token ids and back, with the names that Hugging Face's tokenizers have.

It knows a built `tokenizers.Tokenizer` and its chat template; where they come from is the matter of `load.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import tokenizers

from octavo.errors import InvalidRequestError, shown
from octavo.tokenizer.chat_template import check_template_kwargs, choose_template, render_chat
from octavo.tokenizer.token_bytes import TokenBytes, strip_leading_spaces


class Tokenizer:
    """A vocabulary with its special tokens and chat template.

    Args:
        backend: the tokenizer proper, with the post-processor that adds special tokens.
        special_tokens: named special tokens, such as {"bos_token": "<s>"}; each is a token of the backend.
        chat_template: a template, or templates by name, or None.

    Attributes:
        token_bytes: token id -> the bytes it stands for.
        all_special_ids: the ids that `skip_special_tokens` leaves out.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.chat_template = chat_template
        self.special_tokens_map = dict(special_tokens)
        self.token_bytes = TokenBytes(backend)
        added = backend.get_added_tokens_decoder()
        self.all_special_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    # ---- special tokens ----

    def _special_id(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.backend.token_to_id(token)

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens_map.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._special_id("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens_map.get("eos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self.special_tokens_map.get("pad_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._special_id("pad_token")

    @property
    def unk_token(self) -> str | None:
        return self.special_tokens_map.get("unk_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._special_id("unk_token")

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, by id."""
        return self.convert_ids_to_tokens(sorted(self.all_special_ids))

    # ---- vocabulary ----

    def __len__(self) -> int:
        """The number of tokens, added ones too."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """The number of tokens without those that were added to the model's vocabulary."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens too."""
        return self.backend.get_vocab(with_added_tokens=True)

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """The tokens as the vocabulary spells them; "" for an id that no token has."""
        if isinstance(ids, int):
            return self.backend.id_to_token(ids) or ""
        return [self.backend.id_to_token(token_id) or "" for token_id in ids]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int | None]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int | None] | None:
        """The ids of tokens; for one that is not there that of the unknown token, None if there is none."""
        if isinstance(tokens, str):
            found = self.backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    # ---- text <-> ids ----

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text. Special tokens that it spells out become special tokens.

        Raises:
            InvalidRequestError: `text` is no string, or no Unicode text (it has lone surrogates).
        """
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """The token ids of each text; raises as `encode`."""
        for text in texts:
            if not isinstance(text, str):
                raise InvalidRequestError(f"a text must be a string, got {shown(text)}", param="prompt")
            if not text.isascii():
                _check_unicode(text)
        if len(texts) == 1:
            return [self.backend.encode(texts[0], add_special_tokens=add_special_tokens).ids]
        return [row.ids for row in self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)]

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD. An id that no token has stands for nothing.

        Raises:
            InvalidRequestError: an id is no integer of 0 or more.
        """
        token_bytes = self.token_bytes
        skipped = self.all_special_ids if skip_special_tokens else frozenset[int]()
        wanted = [ids] if isinstance(ids, int) else ids
        data = b"".join([token_bytes[token_id] for token_id in wanted if token_id not in skipped])
        return strip_leading_spaces(data.decode("utf-8", token_bytes.errors), token_bytes.num_leading_spaces_stripped)

    # ---- chat ----

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        chat_template: str | None = None,
        *,
        chat_template_content_format: str = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> str | list[int] | list[str] | list[list[int]]:
        """A conversation as one prompt; a list of conversations as a list of prompts.

        Args:
            messages: `{"role": ..., "content": ...}` each, or a list of such lists.
            tools: functions in OpenAI's form, for templates that describe them.
            add_generation_prompt: open the assistant's turn.
            continue_final_message: leave the last message open, to go on with it.
            tokenize: give token ids instead of text. Templates write the special tokens: none is added.
            chat_template: a template, or the name of one of the tokenizer's; None: the tokenizer's own.
            chat_template_content_format: content as "string", or as list of parts ("openai"); "auto" asks the template.
            chat_template_kwargs, kwargs: more variables for the template; the former may come from outside.

        Raises:
            InvalidRequestError: there is no template, the messages are none, or the template refuses them.
        """
        variables = {**self.special_tokens_map, **check_template_kwargs(kwargs)}
        variables.update(check_template_kwargs(chat_template_kwargs or {}))
        several = isinstance(messages, list) and bool(messages) and isinstance(messages[0], list)
        conversations: list[Any] = list(messages) if several else [messages]
        template = choose_template(self.chat_template, chat_template, has_tools=tools is not None)
        texts = [
            render_chat(
                template,
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                content_format=chat_template_content_format,
                variables=variables,
            )
            for conversation in conversations
        ]
        prompts = self.encode_batch(texts, add_special_tokens=False) if tokenize else texts
        return prompts if several else prompts[0]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"a text must be Unicode, but character {error.start} is the lone surrogate "
            f"{shown(text[error.start])}; replace it",
            param="prompt",
        ) from None
