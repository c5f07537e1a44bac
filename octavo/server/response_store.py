"""ResponseStore: finished responses, for as long as they may be asked for and gone on with. In memory, and bounded.

Each has the whole conversation up to it, so that a response that is gone takes no later one with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo.errors import NotFoundError, shown
from octavo.server.event_log import EventLog


@dataclass(slots=True, kw_only=True)
class StoredResponse:
    body: bytes  # the response as JSON
    conversation: bytes  # the chat messages with those of the response, without its instructions; JSON
    log: EventLog | None  # its events, if they can still be followed
    status: str
    in_background: bool
    num_bytes: int
    until: float  # on the store's clock

    @property
    def output(self) -> list[dict[str, Any]]:
        """The output items."""
        output: list[dict[str, Any]] = json.loads(self.body)["output"]
        return output

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = json.loads(self.conversation)
        return messages


class ResponseStore:
    """The last responses. The oldest makes room for a new one.

    Args:
        max_responses: how many there are at most; 0: none is kept.
        max_bytes: of all of them.
        ttl: seconds after which a response is gone.
    """

    def __init__(
        self, *, max_responses: int, max_bytes: int, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._kept: dict[str, StoredResponse] = {}  # oldest first
        self._owners: dict[str, str] = {}  # of output items, by their ids
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def keeps_any(self) -> bool:
        return self._max_responses > 0

    def keep(
        self,
        response_id: str,
        body: bytes,
        messages: list[dict[str, Any]],
        *,
        status: str,
        in_background: bool,
        log: EventLog | None = None,
    ) -> None:
        """Keep a response, unless it is larger than the whole store."""
        conversation = json.dumps(messages).encode()
        # The last event, which has the whole response, is still to come.
        num_bytes_of_log = 0 if log is None else log.num_bytes + len(body)
        kept = StoredResponse(
            body=body,
            conversation=conversation,
            log=log,
            status=status,
            in_background=in_background,
            num_bytes=len(body) + len(conversation) + num_bytes_of_log,
            until=self._clock() + self._ttl,
        )
        if kept.num_bytes > self._max_bytes or not self.keeps_any:
            return
        self._drop_expired()
        while len(self._kept) >= self._max_responses or self.num_bytes + kept.num_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[response_id] = kept
        self._owners.update((item["id"], response_id) for item in kept.output)
        self.num_bytes += kept.num_bytes

    def get(self, response_id: str, param: str) -> StoredResponse:
        """The response; `param` is the field that names it.

        Raises:
            NotFoundError: it is not here, or no longer.
        """
        self._drop_expired()
        kept = self._kept.get(response_id)
        if kept is None:
            raise NotFoundError(
                f"there is no response {shown(response_id)} here: it was not stored, or deleted, or is gone; "
                + self._rule(),
                param=param,
            )
        return kept

    def item(self, item_id: str, param: str) -> dict[str, Any]:
        """An output item of a response that is kept.

        Raises:
            NotFoundError: there is none with this id, or no longer.
        """
        self._drop_expired()
        owner = self._owners.get(item_id)
        if owner is None:
            raise NotFoundError(
                f"there is no item {shown(item_id)} in a response that is stored here; {self._rule()}", param=param
            )
        return next(item for item in self._kept[owner].output if item["id"] == item_id)

    def delete(self, response_id: str, param: str) -> None:
        """Raises:
        NotFoundError: it is not here, or no longer.
        """
        self.get(response_id, param)
        self._drop(response_id)

    def _rule(self) -> str:
        if not self.keeps_any:
            return "this server stores no responses"
        return (
            f"this server stores the last {self._max_responses}, {self._max_bytes} bytes in all, "
            f"for {self._ttl:g} seconds"
        )

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop(next(iter(self._kept)))

    def _drop(self, response_id: str) -> None:
        dropped = self._kept.pop(response_id)
        for item in dropped.output:
            del self._owners[item["id"]]
        self.num_bytes -= dropped.num_bytes
