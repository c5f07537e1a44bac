"""POST /tokenize and /detokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from octavo.errors import InvalidRequestError, shown
from octavo.server.fields import ignored_fields
from octavo.server.prompts import chat_token_ids, near_or_far
from octavo.server.protocol.tokenize import DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from octavo.server.state import check_model, engine_of, settings_of
from octavo.tokenizer.load import Tokenizer

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """The token ids of a prompt, or of messages as the model's template writes them. Any length goes."""
    headers = ignored_fields(request, body)
    check_model(request, body.model)
    body.check()
    tokenizer = _tokenizer(request)

    prompt, special = body.prompt, body.add_special_tokens is not False
    if prompt is None:
        ids = await chat_token_ids(engine_of(request), settings_of(request), body.as_chat())
    else:
        ids = await near_or_far(len(prompt), lambda: tokenizer.encode(prompt, add_special_tokens=special))
    answer = {
        "count": len(ids),
        "max_model_len": engine_of(request).model_config.max_model_len,
        "tokens": ids,
        "token_strs": tokenizer.convert_ids_to_tokens(ids) if body.return_token_strs else None,
    }
    return JSONResponse(answer, headers=headers)


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids, special tokens included."""
    headers = ignored_fields(request, body)
    check_model(request, body.model)
    tokenizer, size = _tokenizer(request), engine_of(request).model_config.vocab_size
    for index, token_id in enumerate(body.tokens):
        if not 0 <= token_id < size:
            raise InvalidRequestError(
                f"tokens.{index} must be a token id from 0 to {size - 1}, got {shown(token_id)}",
                param=f"tokens.{index}",
            )
    text = await near_or_far(len(body.tokens), lambda: tokenizer.decode(body.tokens))
    return JSONResponse({"prompt": text}, headers=headers)


def _tokenizer(request: Request) -> Tokenizer:
    tokenizer = engine_of(request).tokenizer
    if tokenizer is None:
        raise InvalidRequestError("the server runs without a tokenizer; it takes and gives token ids only")
    return tokenizer
