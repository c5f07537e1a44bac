"""SamplingParams: what a request says about how its tokens are chosen, and the check of every field.

Names, defaults and bounds are vLLM's. What needs a tokenizer or the model's vocabulary (stop strings as tokens,
bad words, ids below the vocabulary size) is checked in `engine/inputs.py`; this module knows neither.
"""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from octavo import envs
from octavo.errors import InvalidRequestError, shown, unknown_name
from octavo.structured_params import ReasoningMarkers, StructuredOutputsParams

__all__ = ["ReasoningMarkers", "RequestOutputKind", "SamplingParams", "StructuredOutputsParams"]

GREEDY_BELOW = 1e-5  # a temperature below this is greedy
MIN_TEMPERATURE = 0.01  # positive temperatures are raised to this: smaller ones overflow the softmax
MAX_BAD_WORDS = 128
MAX_LOGPROB_TOKEN_IDS = 128


class RequestOutputKind(enum.IntEnum):
    """What each output of a running request holds."""

    CUMULATIVE = 0  # all text and tokens so far
    DELTA = 1  # what is new since the last output
    FINAL_ONLY = 2  # one output, at the end


def _fail(name: str, value: Any, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name} must be {allowed}, got {shown(value)}", param=name)


def _number(name: str, value: Any, allowed: str, ok: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not ok(value):
        raise _fail(name, value, allowed)
    return float(value)


def _integer(name: str, value: Any, allowed: str, ok: Callable[[int], bool]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not ok(value):
        raise _fail(name, value, allowed)
    return value


def _ids(name: str, value: Any) -> list[int]:
    allowed = "a list of token ids (integers of 0 or more)"
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence | set | frozenset):
        raise _fail(name, value, allowed)
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise _fail(name, value, allowed)
    return list(dict.fromkeys(value))


def _strings(name: str, value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise _fail(name, value, "a string or a list of strings")
    if not all(items):
        raise _fail(name, value, "without empty strings")
    return list(dict.fromkeys(items))


@dataclass(kw_only=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen. All fields are checked on construction.

    Raises:
        InvalidRequestError: (a ValueError) naming the field, its value and the range, or an unknown field.
    """

    n: int = 1  # completions per prompt, 1 to 16384
    presence_penalty: float = 0.0  # [-2, 2], on generated tokens
    frequency_penalty: float = 0.0  # [-2, 2], on generated tokens, times their count
    repetition_penalty: float = 1.0  # > 0, on prompt and generated tokens
    temperature: float = 1.0  # [0, 2]; 0 is greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 or -1: all
    min_p: float = 0.0  # [0, 1], relative to the most likely token
    seed: int | None = None  # -1 is None; the tokens depend on it alone, not on the batch
    stop: str | list[str] = field(default_factory=list)  # the text ends before the first of these
    stop_token_ids: list[int] = field(default_factory=list)  # the tokens end with the first of these
    bad_words: list[str] = field(default_factory=list)  # never generated
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None: up to the end of the context
    min_tokens: int = 0  # no end-of-sequence or stop token before this many
    logprobs: int | None = None  # top-k log probabilities per token; -1: the whole vocabulary; True: 1
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    logprob_token_ids: list[int] | None = None  # log probabilities of these ids at every generated position
    prompt_logprob_token_ids: list[list[int]] | None = None  # row i: ids to score at prompt position start + i
    prompt_logprob_start: int = 0
    flat_logprobs: bool = False  # logprobs as FlatLogprobs, cheap for long outputs
    logit_bias: dict[int, float] | None = None  # added to the logits; clamped to [-100, 100]
    allowed_token_ids: list[int] | None = None  # all others are masked
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    stream_interval: int | None = None  # tokens per streamed output; the first and the last come at once
    extra_args: dict[str, Any] | None = None  # for plugins
    skip_reading_prefix_cache: bool | None = None  # None: skip when prompt log probabilities are asked for
    structured_outputs: StructuredOutputsParams | None = None  # the form that the output must have
    thinking_token_budget: int | None = None  # most tokens of reasoning, then it is ended; -1 is None
    reasoning_markers: ReasoningMarkers | None = None  # set by whoever knows the model's format, not by users

    if not TYPE_CHECKING:

        @staticmethod
        def _reject_unknown(given: Mapping[str, Any]) -> None:
            valid = [f.name for f in fields(SamplingParams)]
            for name in given:
                if name not in valid:
                    raise InvalidRequestError(unknown_name("sampling parameter", name, valid), param=name)

    def __post_init__(self) -> None:
        most = envs.max_n_sequences()
        self.n = _integer("n", self.n, f"an integer from 1 to {most}", lambda v: 1 <= v <= most)
        for name in ("presence_penalty", "frequency_penalty"):
            setattr(self, name, _number(name, getattr(self, name), "in [-2, 2]", lambda v: -2 <= v <= 2))
        self.repetition_penalty = _number(
            "repetition_penalty", self.repetition_penalty, "a finite number above 0", lambda v: v > 0
        )
        self.temperature = _number("temperature", self.temperature, "in [0, 2]", lambda v: 0 <= v <= 2)
        self.top_p = _number("top_p", self.top_p, "in (0, 1]", lambda v: 0 < v <= 1)
        self.top_k = _integer("top_k", self.top_k, "0 or -1 (all), or an integer of 1 or more", lambda v: v >= -1)
        self.top_k = max(self.top_k, 0)
        self.min_p = _number("min_p", self.min_p, "in [0, 1]", lambda v: 0 <= v <= 1)
        self._check_greedy()
        self._check_lengths()
        self._check_token_fields()
        self._check_logprobs()
        self._check_output_fields()
        self._check_structure()

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def clone(self) -> SamplingParams:
        """A deep copy. Most fields can't be changed in place, and are shared; so is the dict of a schema."""
        twin = copy.copy(self)
        for name in ("stop", "stop_token_ids", "bad_words", "logprob_token_ids", "logit_bias", "allowed_token_ids"):
            setattr(twin, name, copy.copy(getattr(self, name)))
        for name in ("prompt_logprob_token_ids", "extra_args", "reasoning_markers"):
            setattr(twin, name, copy.deepcopy(getattr(self, name)))
        return twin

    def _check_greedy(self) -> None:
        if self.greedy:
            self.temperature, self.top_p, self.top_k, self.min_p = 0.0, 1.0, 0, 0.0
            if self.n > 1:
                raise _fail("n", self.n, "1 when temperature is 0 (greedy completions are all alike)")
        else:
            self.temperature = max(self.temperature, MIN_TEMPERATURE)
        if self.seed is not None:
            self.seed = _integer("seed", self.seed, "a 64-bit integer or None", lambda v: -(2**63) <= v < 2**63)
            self.seed = None if self.seed == -1 else self.seed

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, "None or an integer of 1 or more", lambda v: v >= 1)
        most = math.inf if self.max_tokens is None else self.max_tokens
        _integer("min_tokens", self.min_tokens, "an integer from 0 to max_tokens", lambda v: 0 <= v <= most)

    def _check_token_fields(self) -> None:
        self.stop = _strings("stop", [] if self.stop is None else self.stop)
        self.bad_words = _strings("bad_words", [] if self.bad_words is None else self.bad_words)
        if len(self.bad_words) > MAX_BAD_WORDS:
            raise _fail("bad_words", self.bad_words, f"at most {MAX_BAD_WORDS} words")
        self.stop_token_ids = _ids("stop_token_ids", [] if self.stop_token_ids is None else self.stop_token_ids)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise _fail("allowed_token_ids", [], "None or a list of at least one token id")
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, Mapping):
                raise _fail("logit_bias", self.logit_bias, "a mapping from token id to number")
            bias: dict[int, float] = {}
            for key, value in self.logit_bias.items():
                try:
                    token_id = int(key)
                except (TypeError, ValueError):
                    raise _fail("logit_bias", key, "keyed by token ids") from None
                if token_id < 0:
                    raise _fail("logit_bias", key, "keyed by token ids of 0 or more")
                bias[token_id] = min(100.0, max(-100.0, _number("logit_bias", value, "finite", lambda v: True)))
            self.logit_bias = bias

    def _check_logprobs(self) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is True or value is False:
                setattr(self, name, 1 if value else None)
            elif value is not None:
                _integer(name, value, "None, -1 (the whole vocabulary) or an integer of 0 or more", lambda v: v >= -1)
        if self.logprob_token_ids is not None:
            ids = self.logprob_token_ids = _ids("logprob_token_ids", self.logprob_token_ids)
            if not 1 <= len(ids) <= MAX_LOGPROB_TOKEN_IDS:
                raise _fail("logprob_token_ids", ids, f"a list of 1 to {MAX_LOGPROB_TOKEN_IDS} token ids")
            if self.logprobs is not None and self.logprobs != len(ids):
                raise _fail("logprobs", self.logprobs, f"None or {len(ids)}, the length of logprob_token_ids")
        _integer("prompt_logprob_start", self.prompt_logprob_start, "an integer of 0 or more", lambda v: v >= 0)
        if self.prompt_logprob_token_ids is not None:
            rows = self.prompt_logprob_token_ids
            if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
                raise _fail("prompt_logprob_token_ids", rows, "a list of rows of token ids (-1 pads a row)")
            for row in rows:
                if not isinstance(row, Sequence) or isinstance(row, str) or len(row) > MAX_LOGPROB_TOKEN_IDS:
                    raise _fail("prompt_logprob_token_ids", row, f"rows of at most {MAX_LOGPROB_TOKEN_IDS} token ids")
                for item in row:
                    _integer("prompt_logprob_token_ids", item, "token ids, or -1 as padding", lambda v: v >= -1)

    def _check_output_fields(self) -> None:
        for name in (
            "include_stop_str_in_output",
            "ignore_eos",
            "flat_logprobs",
            "detokenize",
            "skip_special_tokens",
            "spaces_between_special_tokens",
        ):
            if not isinstance(getattr(self, name), bool):
                raise _fail(name, getattr(self, name), "True or False")
        if self.stop and not self.detokenize:
            raise _fail("stop", self.stop, "empty when detokenize is False (stop strings are found in the text)")
        if self.stream_interval is not None:
            _integer("stream_interval", self.stream_interval, "None or an integer of 1 or more", lambda v: v >= 1)
        try:
            self.output_kind = RequestOutputKind(self.output_kind)
        except ValueError:
            raise _fail("output_kind", self.output_kind, "CUMULATIVE, DELTA or FINAL_ONLY") from None
        if self.extra_args is not None and not isinstance(self.extra_args, Mapping):
            raise _fail("extra_args", self.extra_args, "None or a mapping")
        if self.skip_reading_prefix_cache not in (None, True, False):
            raise _fail("skip_reading_prefix_cache", self.skip_reading_prefix_cache, "None, True or False")

    def _check_structure(self) -> None:
        if isinstance(self.structured_outputs, Mapping):
            self.structured_outputs = StructuredOutputsParams(**self.structured_outputs)
        if not isinstance(self.structured_outputs, StructuredOutputsParams | None):
            raise _fail("structured_outputs", self.structured_outputs, "StructuredOutputsParams or None")
        if self.thinking_token_budget is not None:
            allowed = "None, -1 (no bound) or an integer of 0 or more"
            _integer("thinking_token_budget", self.thinking_token_budget, allowed, lambda v: v >= -1)
            if self.thinking_token_budget == -1:
                self.thinking_token_budget = None
        if not isinstance(self.reasoning_markers, ReasoningMarkers | None):
            raise _fail("reasoning_markers", self.reasoning_markers, "ReasoningMarkers or None")


if not TYPE_CHECKING:
    # A dataclass answers an unknown field with a TypeError that knows no nearest name.
    _generated_init = SamplingParams.__init__

    def _checked_init(self: SamplingParams, **given: Any) -> None:
        """See the class."""
        SamplingParams._reject_unknown(given)
        _generated_init(self, **given)

    SamplingParams.__init__ = _checked_init
