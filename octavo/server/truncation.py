"""Conversations that are too long for the context, cut at their beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.server.prompts import chat_token_ids
from octavo.server.protocol.chat import ChatCompletionRequest

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine
    from octavo.server.settings import ServerSettings


async def without_oldest_turns(
    engine: AsyncEngine, settings: ServerSettings, chat: ChatCompletionRequest, most: int
) -> ChatCompletionRequest:
    """`chat` without its oldest turns, as few as leave a prompt of `most` tokens; without all but the last, if none do.

    A turn begins with a message of the user. Instructions at the beginning stay.
    """
    messages = chat.messages
    num_kept = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    starts = [num_kept] + [i for i, message in enumerate(messages) if message["role"] == "user" and i > num_kept]

    def cut(start: int) -> ChatCompletionRequest:
        return chat.model_copy(update={"messages": messages[:num_kept] + messages[start:]})

    first, last = 0, len(starts) - 1  # of those that may be the first one that fits
    while first < last:
        # The whole is tried first: most conversations fit.
        middle = first if first == 0 and last == len(starts) - 1 else (first + last) // 2
        if len(await chat_token_ids(engine, settings, cut(starts[middle]))) <= most:
            last = middle
        else:
            first = middle + 1
    return cut(starts[last])
