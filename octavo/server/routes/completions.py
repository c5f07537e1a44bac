"""POST /v1/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.server.completion_answer import CompletionAnswer, CompletionChunks
from octavo.server.fields import ignored_fields
from octavo.server.generation import generate, response_id
from octavo.server.json_answer import answer_once
from octavo.server.logprobs import TokenTexts
from octavo.server.prompts import check_room, completion_prompts
from octavo.server.protocol.completion import CompletionRequest, CompletionResponse
from octavo.server.protocol.usage import stream_usage
from octavo.server.state import check_model, engine_of, settings_of
from octavo.server.streaming import stream
from octavo.server.token_count import TokenCount

router = APIRouter()

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": CompletionResponse, "content": {"text/event-stream": {}}},
}


@router.post("/v1/completions", response_model=None, responses=_RESPONSES)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """What follows one or more texts, whole or as a stream of chunks."""
    engine, settings = engine_of(request), settings_of(request)
    headers = ignored_fields(request, body)
    model = check_model(request, body.model)
    at_end, everywhere = stream_usage(
        bool(body.stream), body.stream_options, bool(body.stream) and settings.enable_force_include_usage
    )
    params = body.sampling_params(engine.defaults.fields)
    prompts = await completion_prompts(engine, body)
    check_room(engine, prompts, body.max_tokens, "max_tokens")

    answer = CompletionAnswer(
        id=response_id("cmpl", request, body.request_id),
        model=model,
        body=body,
        params=params,
        tokenizer=engine.tokenizer,
        prompts=prompts,
        texts=TokenTexts(
            engine.tokenizer,
            as_ids=bool(body.return_tokens_as_token_ids) or settings.return_tokens_as_token_ids,
        ),
        count=TokenCount(prompts, with_details=settings.enable_prompt_tokens_details),
    )
    outputs = generate(engine, answer.id, prompts, params, body.priority or 0)
    if body.stream:
        chunks = CompletionChunks(answer, usage_at_end=at_end, usage_everywhere=everywhere)
        return await stream(request, outputs, chunks, headers)
    return await answer_once(request, outputs, answer.whole, headers)
