"""RequestTimes: from the updates of each step to the histograms of latencies. It knows sequences by id, and no text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from octavo.observability.prometheus import ServerMetrics
from octavo.request import FinishReason, RequestUpdate


@dataclass(slots=True)
class _Account:
    """Monotonic seconds of one sequence; 0 where it has not happened yet."""

    added: float
    num_prompt_tokens: int
    scheduled: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    num_tokens: int = 0


class RequestTimes:
    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self._accounts: dict[str, _Account] = {}

    def add(self, sequence_ids: Sequence[str], *, num_prompt_tokens: int) -> None:
        """These sequences of one prompt are handed to the engine now."""
        now = time.monotonic()
        for sequence_id in sequence_ids:
            self._accounts[sequence_id] = _Account(now, num_prompt_tokens)

    def discard(self, sequence_ids: Sequence[str]) -> None:
        """These sequences were given up; those that have finished are passed over."""
        now = time.monotonic()
        for sequence_id in sequence_ids:
            self.finish(sequence_id, FinishReason.ABORT, now)

    def update(self, updates: Sequence[RequestUpdate], now: float) -> None:
        """A step has brought `updates`, all at the time `now`."""
        for update in updates:
            account = self._accounts.get(update.request_id)
            if account is None:
                continue
            if update.new_token_ids:
                self._note_tokens(account, update, now)
            if update.finish_reason is not None:
                self.finish(update.request_id, update.finish_reason, now)

    def _note_tokens(self, account: _Account, update: RequestUpdate, now: float) -> None:
        if account.num_tokens == 0:
            account.scheduled, account.first_token = update.scheduled_ts, now
            self._metrics.first_token(now - account.added)
        else:
            self._metrics.token_interval(now - account.last_token)
        account.last_token = now
        account.num_tokens += len(update.new_token_ids)

    def finish(self, sequence_id: str, reason: FinishReason, now: float) -> None:
        """The sequence has ended; one that had ended before is passed over."""
        account = self._accounts.pop(sequence_id, None)
        if account is None:
            return
        started = account.num_tokens > 0
        self._metrics.finished(
            str(reason),
            e2e=now - account.added,
            queue=account.scheduled - account.added if started else None,
            prefill=account.first_token - account.scheduled if started else None,
            decode=account.last_token - account.first_token if started else None,
            num_prompt_tokens=account.num_prompt_tokens,
            num_generation_tokens=account.num_tokens,
        )
