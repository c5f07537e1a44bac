"""From what a user hands over to Requests: prompts of every form become token ids, every field is checked.

Whatever the engine could stumble over is refused here: empty prompts, ids outside the vocabulary, prompts longer than
the context. It knows the tokenizer and the limits of the model; not the scheduler.
"""

from __future__ import annotations

import dataclasses
import random
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from octavo.config import ModelConfig, SchedulerConfig
from octavo.engine.generation_config import SamplingDefaults
from octavo.errors import ContextLengthError, InvalidRequestError, shown, unknown_name
from octavo.request import Request
from octavo.sampling_params import SamplingParams
from octavo.structured.compiler import GrammarCompiler
from octavo.tokenizer.load import Tokenizer

MAX_BAD_WORDS_TOKENS = 1024
MAX_CACHE_SALT = 128
_PROMPT_KEYS = ("prompt", "prompt_token_ids", "cache_salt")


@dataclass(slots=True, kw_only=True)
class Prompt:
    """A prompt in its one internal form."""

    text: str | None  # None when ids were given without text
    token_ids: list[int]
    cache_salt: str | None = None


class InputProcessor:
    def __init__(
        self,
        model: ModelConfig,
        scheduler: SchedulerConfig,
        tokenizer: Tokenizer | None,
        defaults: SamplingDefaults,
        compiler: GrammarCompiler | None = None,
    ) -> None:
        """`compiler` tries what requests say of the form of their output; without one somebody else did that before."""
        self._model = model
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._compiler = compiler
        self._rng = random.Random(model.seed)

    def prompt(self, given: Any, *, add_special_tokens: bool = True) -> Prompt:
        """`given` as a Prompt: a string, a list of token ids, or a dict with one of them and options.

        Raises:
            InvalidRequestError: not such a thing, empty, or token ids outside the vocabulary.
            ContextLengthError: no room is left for a single new token.
        """
        cache_salt = None
        text: str | None = None
        ids: Any = None
        if isinstance(given, str):
            text = given
        elif isinstance(given, Mapping):
            text, ids, cache_salt = self._unpack(given)
        elif isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
            ids = given
        else:
            raise InvalidRequestError(
                "a prompt must be a string, a list of token ids, or a dict with 'prompt' or 'prompt_token_ids', "
                f"got {shown(given)}",
                param="prompt",
            )
        ids = self._tokenize(text or "", add_special_tokens) if ids is None else self._check_ids(ids)
        self._check_length(ids)
        return Prompt(text=text, token_ids=ids, cache_salt=cache_salt)

    def requests(self, request_id: str, prompt: Prompt, params: SamplingParams, priority: int = 0) -> list[Request]:
        """The `params.n` requests of one prompt. With n of 1 the id is kept, else the index is put behind it.

        Raises:
            InvalidRequestError: a field that does not go with the model, naming the field.
        """
        if priority and self._scheduler.policy != "priority":
            raise InvalidRequestError(
                f"priority {priority} was given, but scheduling_policy is {self._scheduler.policy}; "
                "build the engine with scheduling_policy='priority' or leave priority out",
                param="priority",
            )
        params = params.clone()
        self._check_params(params)
        if params.structured_outputs is not None:
            params.structured_outputs = params.structured_outputs.as_text()
            if self._compiler is not None:
                self._compiler.compile(params.structured_outputs)
        bad_words = self._bad_words(params)
        max_tokens = self._max_tokens(params, len(prompt.token_ids))
        seed = params.seed if params.seed is not None else self._rng.getrandbits(63)
        now = time.time()
        return [
            Request(
                request_id=request_id if params.n == 1 else f"{request_id}_{index}",
                prompt_token_ids=prompt.token_ids,
                params=params if params.n == 1 else dataclasses.replace(params, n=1),
                arrival_time=now,
                priority=priority,
                cache_salt=prompt.cache_salt,
                eos_token_ids=() if params.ignore_eos else self._model.eos_token_ids,
                bad_words_token_ids=bad_words,
                max_tokens=max_tokens,
                seed=seed + index,
            )
            for index in range(params.n)
        ]

    def _unpack(self, given: Mapping[str, Any]) -> tuple[str | None, Any, str | None]:
        for key in given:
            if key not in _PROMPT_KEYS:
                raise InvalidRequestError(unknown_name("key of a prompt", str(key), _PROMPT_KEYS), param="prompt")
        text, ids, salt = (given.get(key) for key in _PROMPT_KEYS)
        if text is None and ids is None:
            raise InvalidRequestError("a prompt dict needs 'prompt' or 'prompt_token_ids'", param="prompt")
        if text is not None and not isinstance(text, str):
            raise InvalidRequestError(f"prompt must be a string, got {shown(text)}", param="prompt")
        if salt is not None and (not isinstance(salt, str) or not 0 < len(salt) <= MAX_CACHE_SALT):
            raise InvalidRequestError(
                f"cache_salt must be a string of 1 to {MAX_CACHE_SALT} characters, got {shown(salt)}",
                param="cache_salt",
            )
        return text, ids, salt

    def _tokenize(self, text: str, add_special_tokens: bool) -> list[int]:
        if self._tokenizer is None:
            raise InvalidRequestError(
                "the engine was built with skip_tokenizer_init, so prompts must be token ids "
                "({'prompt_token_ids': [...]})",
                param="prompt",
            )
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        if not text or not ids:
            raise InvalidRequestError("the prompt is empty; give at least one token", param="prompt")
        return ids

    def _check_ids(self, ids: Any) -> list[int]:
        if not isinstance(ids, Sequence) or isinstance(ids, str):
            raise InvalidRequestError(
                f"prompt_token_ids must be a list of integers, got {shown(ids)}", param="prompt_token_ids"
            )
        if not ids:
            raise InvalidRequestError("the prompt is empty; give at least one token", param="prompt_token_ids")
        try:  # an array takes integers of any kind and nothing else, without Python code for each
            plain = array("q", ids)
        except (TypeError, OverflowError):
            plain = array("q", [-1])
        numbers = np.frombuffer(plain, np.int64)
        least, most = numbers.min(), numbers.max()
        for index, token_id in enumerate(ids if least < 2 else ()):  # True and False pass for 1 and 0
            if isinstance(token_id, bool) or not isinstance(token_id, Integral):
                raise InvalidRequestError(
                    f"prompt_token_ids[{index}] must be an integer, got {shown(token_id)}", param="prompt_token_ids"
                )
        if least < 0 or most >= self._model.vocab_size:
            self._check_vocabulary("prompt_token_ids", ids)
        return plain.tolist()

    def _check_vocabulary(self, name: str, ids: Sequence[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self._model.vocab_size:
            bad = next(i for i in ids if not 0 <= i < self._model.vocab_size)
            raise InvalidRequestError(
                f"{name} holds {bad}, which is outside the vocabulary (0 to {self._model.vocab_size - 1})", param=name
            )

    def _check_length(self, ids: list[int]) -> None:
        limit = self._model.max_model_len
        if len(ids) >= limit:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens, but max_model_len is {limit} and at least one token must be left "
                "for the output; shorten the prompt or raise max_model_len",
                param="prompt",
            )

    def _check_params(self, params: SamplingParams) -> None:
        for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            self._check_vocabulary(name, getattr(params, name) or [])
        self._check_vocabulary("logit_bias", list(params.logit_bias or {}))
        for row in params.prompt_logprob_token_ids or []:
            self._check_vocabulary("prompt_logprob_token_ids", [i for i in row if i != -1])
        limit = self._model.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(params, name)
            wanted = self._model.vocab_size if value == -1 else value
            of_ids = name == "logprobs" and params.logprob_token_ids is not None
            if wanted is not None and not of_ids and limit != -1 and wanted > limit:
                raise InvalidRequestError(
                    f"{name} is {value}, but at most {limit} are allowed; ask for fewer or raise max_logprobs",
                    param=name,
                )
        if params.thinking_token_budget is not None and params.reasoning_markers is None:
            raise InvalidRequestError(
                "thinking_token_budget needs a model whose reasoning octavo can tell from its answer; leave it out",
                param="thinking_token_budget",
            )
        if self._tokenizer is None:
            for name in ("stop", "bad_words", "structured_outputs"):
                if getattr(params, name):
                    raise InvalidRequestError(
                        f"{name} needs a tokenizer, but the engine was built with skip_tokenizer_init", param=name
                    )

    def _bad_words(self, params: SamplingParams) -> list[list[int]]:
        """Each bad word as the token sequences that can spell it: at the start of a text and after a space."""
        sequences: list[list[int]] = []
        for word in params.bad_words:
            assert self._tokenizer is not None
            for spelling in dict.fromkeys((word, f" {word.lstrip()}")):
                ids = self._tokenizer.encode(spelling, add_special_tokens=False)
                if ids and ids not in sequences:
                    sequences.append(ids)
        total = sum(map(len, sequences))
        if total > MAX_BAD_WORDS_TOKENS:
            raise InvalidRequestError(
                f"bad_words have {total} tokens in all, at most {MAX_BAD_WORDS_TOKENS} are allowed", param="bad_words"
            )
        return sequences

    def _max_tokens(self, params: SamplingParams, num_prompt_tokens: int) -> int:
        limits = [self._model.max_model_len - num_prompt_tokens]
        if params.max_tokens is not None:
            limits.append(params.max_tokens)
        if self._defaults.max_tokens_cap is not None:
            limits.append(self._defaults.max_tokens_cap)
        return min(limits)
