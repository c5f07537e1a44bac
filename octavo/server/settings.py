"""ServerSettings: what the HTTP side is told when it starts. The engine's own configuration is in `octavo.config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    served_model_names: tuple[str, ...]  # names that a request may use; answers carry the first
    api_keys: tuple[str, ...] = ()  # any of them opens the server; none: it is open
    chat_template_content_format: str = "auto"  # auto, string or openai
    response_role: str = "assistant"  # of the messages that the model writes
    default_chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # a request's own go before them
    tool_call_parser: str = "auto"  # a name of `octavo.parsers.registry`, none, or auto: what the chat template shows
    reasoning_parser: str = "auto"  # likewise
    exclude_tools_when_tool_choice_none: bool = False  # the template does not see them then
    reasoning_content: bool = False  # answers carry the reasoning under this name as well, for older clients
    strict_fields: bool = False  # an unknown field of a request is an error, not a warning
    max_body_bytes: int = 32 * 1024 * 1024
    root_path: str = ""  # the prefix under which a proxy shows the server
    allowed_origins: tuple[str, ...] = ()  # whose pages may call the server; "*": all
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    middleware: tuple[str, ...] = ()  # import paths; each wraps those before it
    log_requests: bool = True  # one line per request
    metrics_need_key: bool = True  # /metrics asks for a key where there is one
    return_tokens_as_token_ids: bool = False  # logprobs name tokens as "token_id:17"
    enable_prompt_tokens_details: bool = False  # usage says how many tokens the prefix cache had
    enable_force_include_usage: bool = False  # every stream ends with its usage
    response_store_max_responses: int = 1000  # 0: none is stored
    response_store_max_bytes: int = 256 * 1024 * 1024
    response_store_ttl: float = 86400  # seconds
    disable_docs: bool = False  # no /docs, /redoc and /openapi.json
