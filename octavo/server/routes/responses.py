"""/v1/responses: create, get, cancel, delete, and count the tokens of an input."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from octavo.errors import InvalidRequestError, shown
from octavo.server.event_log import EventLog, Followed
from octavo.server.fields import ignored_fields
from octavo.server.generation import generate
from octavo.server.json_answer import answer_once
from octavo.server.logprobs import TokenTexts
from octavo.server.prompts import chat_token_ids, check_room
from octavo.server.protocol.as_chat import named
from octavo.server.protocol.responses import (
    DeletedResponse,
    InputFields,
    InputTokensCount,
    InputTokensRequest,
    ResponseObject,
    ResponsesRequest,
)
from octavo.server.response_answer import ResponseAnswer, ResponseEvents
from octavo.server.response_input import instructed, said, said_and_answered
from octavo.server.response_output import new_id
from octavo.server.state import background_of, check_model, engine_of, responses_of, settings_of
from octavo.server.streaming import encode_json, stream
from octavo.server.token_count import TokenCount
from octavo.server.truncation import without_oldest_turns
from octavo.server.turn import prepared

router = APIRouter(tags=["responses"])

_RESPONSES: dict[int | str, dict[str, Any]] = {200: {"model": ResponseObject, "content": {"text/event-stream": {}}}}
_GOES_ON = ("completed", "incomplete")
_Messages = list[dict[str, Any]]


@router.post("/v1/responses", response_model=None, responses=_RESPONSES)
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """An answer to text or to a conversation in items: whole, as a stream of events, or in the background."""
    engine, settings = engine_of(request), settings_of(request)
    headers = ignored_fields(request, body)
    model = check_model(request, body.model)
    body.check()
    store = _stores(request, body)
    messages = said(body.input, _earlier(request, body), responses_of(request).item)
    with named(body.names()):
        chat = body.as_chat(instructed(body.instructions, messages))
        if body.truncation == "auto":
            most = engine.model_config.max_model_len - (body.max_output_tokens or 1)
            chat = await without_oldest_turns(engine, settings, chat, most)
        prompt, params, plan = await prepared(request, chat, body.max_output_tokens)
    check_room(engine, [prompt], body.max_output_tokens, "max_output_tokens")

    log = EventLog() if body.background and body.stream else None
    answer = ResponseAnswer(
        id=new_id("resp"),
        model=model,
        body=body,
        params=params,
        store=store,
        reader=plan.reader(),
        texts=TokenTexts(engine.tokenizer, as_ids=settings.return_tokens_as_token_ids),
        count=TokenCount([prompt], with_details=True),
        on_end=partial(_keep, request, messages, bool(body.background), log) if store else lambda answer: None,
    )
    outputs = plan.outputs(generate(engine, answer.id, [prompt], params, body.priority or 0))
    with named(body.names()):
        if body.background:
            engine.inputs.requests(answer.id, prompt, params, body.priority or 0)  # what is wrong is told at once
            background_of(request).start(answer, outputs, log)
            return _json(answer, headers) if log is None else await stream(request, log.follow(0), Followed(), headers)
        if body.stream:
            return await stream(request, outputs, ResponseEvents(answer), headers)
        return await answer_once(request, outputs, answer.whole, headers)


@router.post("/v1/responses/input_tokens", response_model=InputTokensCount)
async def count_input_tokens(body: InputTokensRequest, request: Request) -> Response:
    """How many tokens the same fields are as the prompt of a response. Any length goes."""
    headers = ignored_fields(request, body)
    check_model(request, body.model)
    body.check_input()
    messages = said(body.input, _earlier(request, body), responses_of(request).item)
    with named(body.names()):
        chat = body.as_chat(instructed(body.instructions, messages))
        ids = await chat_token_ids(engine_of(request), settings_of(request), chat)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(ids)}, headers=headers)


@router.get("/v1/responses/{response_id}", response_model=ResponseObject)
async def get_response(response_id: str, request: Request) -> Response:
    """A response that was stored, or is under way in the background; with stream=true the events of the latter.

    These begin after the one that starting_after names, and can still be had when the response has ended.
    """
    run = background_of(request).get(response_id)
    if request.query_params.get("stream") not in ("true", "1"):
        return _stored(request, response_id) if run is None else _json(run.answer)
    log = run.log if run is not None else responses_of(request).get(response_id, "response_id").log
    if log is None:
        raise InvalidRequestError(
            f"the response {response_id!r} was not made with background and stream, and has no events to follow; "
            "leave stream out",
            param="stream",
        )
    after = request.query_params.get("starting_after", "-1")
    if not re.fullmatch("-1|[0-9]{1,9}", after):
        raise InvalidRequestError(
            f"starting_after must be the number of an event, got {shown(after)}", param="starting_after"
        )
    return await stream(request, log.follow(int(after) + 1), Followed(), {})


@router.post("/v1/responses/{response_id}/cancel", response_model=ResponseObject)
async def cancel_response(response_id: str, request: Request) -> Response:
    """End a response in the background. One that has ended stays as it is."""
    answer = await background_of(request).cancel(response_id)
    if answer is not None:
        return _json(answer)
    if not responses_of(request).get(response_id, "response_id").in_background:
        raise InvalidRequestError(
            f"the response {response_id!r} was not made in the background, and only those can be cancelled; "
            "to end a stream, close its connection",
            param="response_id",
        )
    return _stored(request, response_id)


@router.delete("/v1/responses/{response_id}", response_model=DeletedResponse)
async def delete_response(response_id: str, request: Request) -> Response:
    """Forget a response. One that is under way in the background is ended first."""
    await background_of(request).cancel(response_id)
    responses_of(request).delete(response_id, "response_id")
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


def _stores(request: Request, body: ResponsesRequest) -> bool:
    """Whether the response is to be kept.

    Raises:
        RequestError: it has to be, and can't.
    """
    if responses_of(request).keeps_any:
        if body.background:
            background_of(request).check_room()
        return body.store is not False
    for name in ("background", "store"):
        if getattr(body, name):
            raise InvalidRequestError(
                f"this server stores no responses, which {name} needs; leave {name} out, and send the whole "
                "conversation as input",
                param=name,
            )
    return False


def _earlier(request: Request, body: InputFields) -> _Messages:
    """What was said up to the previous response.

    Raises:
        RequestError: there is no such response, or it did not come to an end.
    """
    if body.previous_response_id is None:
        return []
    where = "previous_response_id"
    if background_of(request).get(body.previous_response_id) is not None:
        raise InvalidRequestError("previous_response_id names a response that is still under way", param=where)
    previous = responses_of(request).get(body.previous_response_id, where)
    if previous.status not in _GOES_ON:
        raise InvalidRequestError(
            f"previous_response_id names a response that is {previous.status}; go on from one that is completed",
            param=where,
        )
    return previous.messages


def _keep(
    request: Request, messages: _Messages, in_background: bool, log: EventLog | None, answer: ResponseAnswer
) -> None:
    background_of(request).forget(answer.id)
    if in_background or answer.status in _GOES_ON:
        responses_of(request).keep(
            answer.id,
            encode_json(answer.response()),
            said_and_answered(messages, answer.output.items),
            status=answer.status,
            in_background=in_background,
            log=log,
        )


def _json(answer: ResponseAnswer, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_json(answer.response()), media_type="application/json", headers=headers)


def _stored(request: Request, response_id: str) -> Response:
    return Response(responses_of(request).get(response_id, "response_id").body, media_type="application/json")
