"""The tokens of one HTTP request, counted as its outputs come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.engine.inputs import Prompt
from octavo.server.generation import PromptOutput
from octavo.server.protocol.usage import usage_dict


class TokenCount:
    """`with_details` tells how many prompt tokens came from the prefix cache; the prompt counts once for all n."""

    def __init__(self, prompts: Sequence[Prompt], *, with_details: bool) -> None:
        self._num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._with_details = with_details
        self._num_cached: dict[int, int] = {}  # by prompt
        self.num_completion_tokens = 0
        self.num_reasoning_tokens: int | None = None  # None: reasoning is not told apart

    def note_cached(self, item: PromptOutput) -> None:
        self._num_cached[item.prompt_index] = item.output.num_cached_tokens or 0

    def usage(self) -> dict[str, Any]:
        """The `Usage` so far."""
        num_cached = sum(self._num_cached.values()) if self._with_details else None
        return usage_dict(self._num_prompt_tokens, self.num_completion_tokens, num_cached, self.num_reasoning_tokens)
