"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.server.chat_answer import ChatAnswer, ChatChunks, role_and_echo
from octavo.server.fields import ignored_fields
from octavo.server.generation import generate, response_id
from octavo.server.json_answer import answer_once
from octavo.server.logprobs import TokenTexts
from octavo.server.prompts import check_room
from octavo.server.protocol.chat import ChatCompletionRequest, ChatCompletionResponse
from octavo.server.protocol.usage import stream_usage
from octavo.server.state import check_model, engine_of, settings_of
from octavo.server.streaming import stream
from octavo.server.token_count import TokenCount
from octavo.server.turn import Turn, prepared

router = APIRouter()

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": ChatCompletionResponse, "content": {"text/event-stream": {}}},
}


@router.post("/v1/chat/completions", response_model=None, responses=_RESPONSES)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """The next message of a conversation, whole or as a stream of chunks."""
    engine, settings = engine_of(request), settings_of(request)
    headers = ignored_fields(request, body)
    model = check_model(request, body.model)
    at_end, everywhere = stream_usage(
        bool(body.stream), body.stream_options, bool(body.stream) and settings.enable_force_include_usage
    )
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    turn = await prepared(request, body, asked)
    check_room(engine, [turn.prompt], asked, body.max_tokens_field)

    answer = _answer(request, body, model, turn)
    outputs = turn.plan.outputs(generate(engine, answer.id, [turn.prompt], turn.params, body.priority or 0))
    if body.stream:
        chunks = ChatChunks(answer, turn.params.n, usage_at_end=at_end, usage_everywhere=everywhere)
        return await stream(request, outputs, chunks, headers)
    return await answer_once(request, outputs, lambda items: answer.whole(items[0]), headers)


def _answer(request: Request, body: ChatCompletionRequest, model: str, turn: Turn) -> ChatAnswer:
    engine, settings = engine_of(request), settings_of(request)
    prompt, params, plan = turn
    role, echo = role_and_echo(body, settings.response_role)
    as_ids = bool(body.return_tokens_as_token_ids) or settings.return_tokens_as_token_ids
    return ChatAnswer(
        id=response_id("chatcmpl", request, body.request_id),
        model=model,
        role=role,
        echo=echo,
        num_top=None if params.logprob_token_ids is not None else params.logprobs,
        texts=TokenTexts(engine.tokenizer, as_ids=as_ids),
        with_token_ids=bool(body.return_token_ids),
        count=TokenCount([prompt], with_details=settings.enable_prompt_tokens_details),
        readers=[plan.reader() for _ in range(params.n)],
        names_reasoning=("reasoning", "reasoning_content") if settings.reasoning_content else ("reasoning",),
    )
