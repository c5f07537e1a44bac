"""The floor: the least time that a machine needs for a workload, by what it reads and by what it multiplies.

A step takes at least as long as its bytes take to be read, and as its operations take to be computed; the floor is the
larger of both (Williams et al. 2009, "Roofline", CACM 52(4)), summed over the steps of a plain schedule: prompts first,
then a token for each request in every step, as many requests at once as the engine runs. Pure arithmetic: it knows
neither engine nor machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from octavo.cost import MachineRates, ModelCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """`num_requests` prompts of `input_len` tokens, none beginning like another, each answered by `output_len`."""

    num_requests: int
    input_len: int
    output_len: int


@dataclass(frozen=True, slots=True)
class Floor:
    """The bounds of a model on a machine. All times are in seconds."""

    cost: ModelCost
    rates: MachineRates

    def workload(self, requests: Requests, *, max_num_seqs: int, max_num_batched_tokens: int) -> float:
        """From the first prompt to the last token, `max_num_seqs` requests after `max_num_seqs` requests."""
        full, rest = divmod(requests.num_requests, max_num_seqs)
        return sum(
            times * self._wave(num_requests, requests, max_num_batched_tokens)
            for times, num_requests in ((full, max_num_seqs), (1, rest))
            if times and num_requests
        )

    def _wave(self, num_requests: int, requests: Requests, max_num_batched_tokens: int) -> float:
        first = self.prefill(num_requests, requests.input_len, max_num_batched_tokens)
        contexts = range(requests.input_len + 1, requests.input_len + requests.output_len)
        return first + sum(self.decode_step(num_requests, context) for context in contexts)

    def prefill(self, num_requests: int, input_len: int, max_num_batched_tokens: int) -> float:
        """Of whole prompts, the first token of each answer included; keys and values are written, not read."""
        cost = self.cost
        num_tokens = num_requests * input_len
        num_steps = -(-num_tokens // max_num_batched_tokens)
        kv_bytes = sum(layers.kv_bytes for layers in cost.attention)
        num_bytes = num_steps * cost.layer_bytes + min(num_steps, num_requests) * cost.head_bytes
        num_bytes += num_tokens * (cost.embedding_bytes + kv_bytes)
        attention = sum(tokens_seen(input_len, layers.sliding_window) * layers.operations for layers in cost.attention)
        return self._seconds(num_bytes, self._operations(num_tokens, num_requests, num_requests * attention))

    def decode_step(self, batch_size: int, context_len: int) -> float:
        """Of one token for each request, whose context has `context_len` tokens with it."""
        cost = self.cost
        num_bytes = cost.layer_bytes + cost.head_bytes + batch_size * cost.embedding_bytes
        attention = 0
        for layers in cost.attention:
            seen = min(context_len, layers.sliding_window or context_len)
            num_bytes += batch_size * seen * layers.kv_bytes
            attention += batch_size * seen * layers.operations
        return self._seconds(num_bytes, self._operations(batch_size, batch_size, attention))

    def _operations(self, num_tokens: int, num_sampled: int, attention: int) -> Counter[str]:
        total = Counter({self.cost.attention_arithmetic: attention})
        for operations, times in ((self.cost.layer_operations, num_tokens), (self.cost.head_operations, num_sampled)):
            total.update({arithmetic: number * times for arithmetic, number in operations.items()})
        return total

    def _seconds(self, num_bytes: int, operations: Mapping[str, int]) -> float:
        computing = sum(number / self.rates.rate(arithmetic) for arithmetic, number in operations.items())
        return max(num_bytes / self.rates.read_bytes, computing)


def tokens_seen(num_tokens: int, sliding_window: int | None) -> int:
    """How many tokens the tokens of a prompt see together: each itself and those before it, within the window."""
    window = min(num_tokens, sliding_window or num_tokens)
    return window * (window + 1) // 2 + (num_tokens - window) * window
