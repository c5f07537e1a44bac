"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from octavo.server.fields import ignored_fields
from octavo.server.generation import generate
from octavo.server.json_answer import answer_once
from octavo.server.message_answer import MessageAnswer, MessageEvents
from octavo.server.message_input import conversation
from octavo.server.prompts import chat_token_ids
from octavo.server.protocol.as_chat import named
from octavo.server.protocol.messages import (
    CountTokensRequest,
    Message,
    MessageError,
    MessagesRequest,
    MessageTokensCount,
)
from octavo.server.response_output import new_id
from octavo.server.state import check_model, engine_of, formats_of, settings_of
from octavo.server.streaming import stream
from octavo.server.token_count import TokenCount
from octavo.server.turn import prepared

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": MessageError, "description": "The request is wrong; the message says how"},
    "5XX": {"model": MessageError, "description": "The server can't serve it, or not now"},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {200: {"model": Message, "content": {"text/event-stream": {}}}}

router = APIRouter(tags=["messages"], responses=_ERRORS)


@router.post("/v1/messages", response_model=None, responses=_RESPONSES)
async def create_message(body: MessagesRequest, request: Request) -> Response:
    """The next message of a conversation, whole or as a stream of events."""
    engine = engine_of(request)
    headers = ignored_fields(request, body)
    model = check_model(request, body.model)
    body.check()
    with named(body.names()):
        chat = body.as_chat(conversation(body.system, body.messages))
        if formats_of(request).reasoning is None:
            chat.thinking_token_budget = None  # where no thinking can be told, none goes beyond it
        prompt, params, plan = await prepared(request, chat, None)
    # Clients ask for as many tokens as they can take; the context may have fewer.
    left = engine.model_config.max_model_len - len(prompt.token_ids)
    params.max_tokens = min(body.max_tokens, left)
    if params.reasoning_markers is None:
        params.thinking_token_budget = None  # likewise, where the prompt has ended it

    answer = MessageAnswer(
        id=new_id("msg"),
        model=model,
        num_tokens_left=left if left < body.max_tokens else None,
        reader=plan.reader(),
        count=TokenCount([prompt], with_details=True),
    )
    outputs = plan.outputs(generate(engine, answer.id, [prompt], params, body.priority or 0))
    with named(body.names()):
        if body.stream:
            return await stream(request, outputs, MessageEvents(answer), headers)
        return await answer_once(request, outputs, answer.whole, headers)


@router.post("/v1/messages/count_tokens", response_model=MessageTokensCount)
async def count_tokens(body: CountTokensRequest, request: Request) -> Response:
    """How many tokens the same fields are as the prompt of a message. Any length goes."""
    headers = ignored_fields(request, body)
    check_model(request, body.model)
    with named(body.names()):
        chat = body.as_chat(conversation(body.system, body.messages))
        ids = await chat_token_ids(engine_of(request), settings_of(request), chat)
    return JSONResponse({"input_tokens": len(ids)}, headers=headers)
