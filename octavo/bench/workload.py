"""Prompts drawn at random, and the times at which requests arrive. The same seed gives the same ones."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from octavo.errors import ConfigError

VOCAB_SIZE = 1000  # every real vocabulary is larger
DATASETS = ("random", "prefix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the prompts are.

    `random`: `random_input_len` tokens each, all different. `prefix`: the same behind one of `num_prefixes` prefixes of
    `prefix_len` tokens, taken in turn.
    """

    dataset: str = "random"
    random_input_len: int = 128  # tokens
    prefix_len: int = 256  # tokens
    num_prefixes: int = 10
    vocab_size: int = VOCAB_SIZE  # token ids are drawn below it
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise ConfigError(f"dataset must be {' or '.join(DATASETS)}, got {self.dataset!r}")
        for name in ("random_input_len", "prefix_len", "num_prefixes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.vocab_size < 2:
            raise ConfigError(f"vocab_size must be 2 or more, got {self.vocab_size}")

    @property
    def prompt_len(self) -> int:
        """Tokens of every prompt."""
        return self.random_input_len + (self.prefix_len if self.dataset == "prefix" else 0)

    def prompts(self) -> Iterator[list[int]]:
        """Prompts as token ids, without end. Low ids are left out: special tokens are among them."""
        rng = random.Random(self.seed)
        low = min(256, self.vocab_size // 2)

        def draw(length: int) -> list[int]:
            return [rng.randrange(low, self.vocab_size) for _ in range(length)]

        prefixes = [draw(self.prefix_len) for _ in range(self.num_prefixes)] if self.dataset == "prefix" else [[]]
        while True:
            for prefix in prefixes:
                yield prefix + draw(self.random_input_len)


def arrivals(request_rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start at which requests are sent, without end: a Poisson process, all at once when infinite.

    Raises:
        ConfigError: the rate (requests per second) is not above 0.
    """
    if not request_rate > 0:
        raise ConfigError(f"request_rate must be above 0 (requests per second), or inf, got {request_rate}")
    return _arrivals(request_rate, random.Random(seed))


def _arrivals(request_rate: float, rng: random.Random) -> Iterator[float]:
    at = 0.0
    while True:
        yield at
        if math.isfinite(request_rate):
            at += rng.expovariate(request_rate)
