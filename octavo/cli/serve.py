"""`octavo serve`: an OpenAI-compatible server. It knows the flags, checks them, and hands them to the server."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo import envs
from octavo.cli.config_file import FileParser
from octavo.cli.flags import add_engine_flags, engine_arguments, help_text
from octavo.config import DEFAULT_MODEL, EngineArgs
from octavo.errors import ConfigError, InvalidRequestError, shown
from octavo.log import get_logger
from octavo.parsers.registry import REASONING_PARSERS, TOOL_PARSERS, load_plugin
from octavo.server.settings import ServerSettings

if TYPE_CHECKING:
    from octavo.server.run import Network

logger = get_logger(__name__)

SHUTDOWN_TIMEOUT = 30.0  # seconds
HEALTH_TIMEOUT = 60.0  # seconds
_ENGINE_DEFAULTS: dict[str, Any] = {"disable_log_stats": False}  # a server logs what it does; `LLM` does not
_CONTENT_FORMATS = ("auto", "string", "openai")
_LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "octavo serve [MODEL] [--flag VALUE ...]"
    parser.add_argument(
        "model_tag",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help=help_text("a hub id, a folder, a .gguf file, or the name of a packaged model", DEFAULT_MODEL),
    )
    parser.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help="flags from a YAML file; those given win"
    )
    _add_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    """Serve until a signal comes (0) or the engine is lost (1).

    Raises:
        ConfigError: a flag, a key of --config or an argument of the engine is wrong.
        ModelError, EngineError: the engine can't start.
    """
    given = _merge(parsed)
    engine_given = engine_arguments(argparse.Namespace(**given), with_seed=True)
    engine_args = EngineArgs.from_kwargs(**(_ENGINE_DEFAULTS | engine_given))
    settings = _settings(given, engine_args.model)
    limits = _limits(given)
    network = _network(given)  # loads the server: after all else is known to be good
    if not settings.api_keys and network.uds is None and network.host not in _LOOPBACK:
        logger.warning("no API key is set: whoever reaches port %d can use this server", network.port)
    from octavo.server.run import serve

    return serve(engine_args, settings, network, **limits)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """All that may also stand in a file."""
    _add_network_flags(parser)
    _add_access_flags(parser)
    _add_api_flags(parser)
    _add_response_store_flags(parser)
    _add_parser_flags(parser)
    _add_service_flags(parser)
    add_engine_flags(parser, with_seed=True, defaults=_ENGINE_DEFAULTS)


def _adder(parser: argparse.ArgumentParser, title: str) -> Callable[..., None]:
    """Adds flags to a new group. `default` is what the help says; a flag that was not given is not in the namespace."""
    group = parser.add_argument_group(title)
    defaults = {field.name: field.default for field in fields(ServerSettings)}

    def add(flag: str, text: str, default: object = None, **options: Any) -> None:
        if default is None:
            stored = defaults[flag.removeprefix("--").replace("-", "_")]
            default = (" ".join(stored) or "none") if isinstance(stored, tuple) else stored
            default = '""' if default == "" else default
        group.add_argument(flag, default=argparse.SUPPRESS, help=help_text(text, default), **options)

    return add


_SEVERAL: dict[str, Any] = {"action": "extend", "nargs": "+"}
_SWITCH: dict[str, Any] = {"action": "store_true"}


def _add_network_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser, "Network")
    add("--host", "a name or an address of this machine", "all interfaces")
    add("--port", "0: any free one", 8000, type=int)
    add("--uds", "a Unix-domain socket in place of host and port", "none", metavar="PATH")
    add("--root-path", "the prefix under which a proxy shows this server", metavar="PREFIX")
    add("--uvicorn-log-level", "of the HTTP library", "warning", choices=_LOG_LEVELS)
    tls = _adder(parser, "TLS")
    tls("--ssl-certfile", "the server's certificate, PEM; switches to HTTPS", "none", metavar="FILE")
    tls("--ssl-keyfile", "its private key, without a passphrase", "that of the certificate's file", metavar="FILE")
    tls("--ssl-ca-certs", "certificates that sign those of clients", "none", metavar="FILE")
    tls(
        "--ssl-cert-reqs",
        "certificates of clients: 0 none, 1 checked where there is one, 2 required",
        0,
        type=int,
        choices=(0, 1, 2),
    )


def _add_access_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser, "Access")
    add(
        "--api-key",
        "keys, each of which opens the server; others see them in the list of processes, but not the environment",
        "OCTAVO_API_KEY and VLLM_API_KEY, if set",
        metavar="KEY",
        **_SEVERAL,
    )
    add("--no-metrics-key", "/metrics asks for no key", False, **_SWITCH)
    add("--max-body-bytes", "the largest body of a request", type=int, metavar="BYTES")
    add("--disable-docs", "no /docs, /redoc and /openapi.json", **_SWITCH)
    add("--middleware", "import path of an ASGI middleware or a function; repeatable", metavar="PATH", action="append")
    cors = _adder(parser, "CORS")
    several = "*: all; several values, or a JSON list"
    cors("--allowed-origins", f"sites whose pages may call this server from a browser; {several}", **_SEVERAL)
    cors("--allowed-methods", f"methods that they may use; {several}", **_SEVERAL)
    cors("--allowed-headers", f"headers that they may send; {several}", **_SEVERAL)
    cors("--allow-credentials", "their calls may carry cookies", **_SWITCH)


def _add_api_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser, "API")
    add(
        "--served-model-name",
        "names that requests may use; answers and metrics carry the first",
        "the model",
        metavar="NAME",
        **_SEVERAL,
    )
    add(
        "--chat-template-content-format",
        "how the chat template takes messages: as strings, as OpenAI's parts, or as it looks",
        choices=_CONTENT_FORMATS,
    )
    add("--response-role", "of the messages that the model writes", metavar="ROLE")
    add(
        "--default-chat-template-kwargs",
        "variables for the chat template, a JSON object; a request's chat_template_kwargs go before them",
        "{}",
        metavar="JSON",
    )
    add("--strict-fields", "an unknown field of a request is an error, not a warning", **_SWITCH)
    add("--return-tokens-as-token-ids", "logprobs name tokens as token_id:17", **_SWITCH)
    add("--enable-prompt-tokens-details", "usage says how many tokens the prefix cache had", **_SWITCH)
    add("--enable-force-include-usage", "every stream ends with its usage", **_SWITCH)


def _add_response_store_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser, "Stored responses")
    add(
        "--response-store-max-responses",
        "of /v1/responses that are kept in memory, the oldest makes room; 0: none",
        type=int,
        metavar="N",
    )
    add("--response-store-max-bytes", "that they may take, with their conversations", type=int, metavar="BYTES")
    add("--response-store-ttl", "after which a response is gone", type=float, metavar="SECONDS")


def _add_parser_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser, "Tool calls and reasoning")
    formats: dict[str, Any] = {"metavar": "NAME"}
    which = "{}, module:Class, none, or auto: what the chat template shows"
    tool_names, reasoning_names = ", ".join(TOOL_PARSERS.names), ", ".join(REASONING_PARSERS.names)
    add("--tool-call-parser", f"format of the model's tool calls: {which.format(tool_names)}", **formats)
    add("--reasoning-parser", f"format of the model's reasoning: {which.format(reasoning_names)}", **formats)
    add("--enable-auto-tool-choice", "accepted and not needed: tool_choice auto works with any parser", True, **_SWITCH)
    plugin = "a Python file or module that registers {} parsers"
    add("--tool-parser-plugin", plugin.format("tool call"), "none", metavar="PATH")
    add("--reasoning-parser-plugin", plugin.format("reasoning"), "none", metavar="PATH")
    add("--exclude-tools-when-tool-choice-none", "the prompt does not tell of tools that may not be called", **_SWITCH)
    add("--reasoning-content", "answers carry the reasoning as reasoning_content too, for older clients", **_SWITCH)


def _add_service_flags(parser: argparse.ArgumentParser) -> None:
    add = _adder(parser, "Service")
    add(
        "--max-num-queued-reqs",
        "requests that wait at most; more are answered with 503",
        "no limit",
        type=int,
        metavar="N",
    )
    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    add("--shutdown-timeout", "for requests under way after SIGTERM", f"{SHUTDOWN_TIMEOUT:g}", **seconds)
    add(
        "--health-timeout",
        "/health says 503 when the engine has work and makes no progress for so long",
        f"{HEALTH_TIMEOUT:g}",
        **seconds,
    )
    add("--disable-log-requests", "log no line per request", False, **_SWITCH)


def _merge(parsed: argparse.Namespace) -> dict[str, Any]:
    """What the command line gives, laid over what the file gives, by name."""
    given = dict(vars(parsed))
    positional = given.pop("model_tag", None)
    if positional is not None and given.setdefault("model", positional) != positional:
        raise ConfigError(f"two models were given: {positional!r} and --model {given['model']!r}; leave one out")
    path = given.pop("config", None)
    if path is None:
        return given
    parser = FileParser(path)
    _add_flags(parser)
    return vars(parser.parse_file()) | given


def _settings(given: Mapping[str, Any], model: str) -> ServerSettings:
    names = {field.name for field in fields(ServerSettings)}
    values = {name: value for name, value in given.items() if name in names}
    for name in ("allowed_origins", "allowed_methods", "allowed_headers"):
        if name in values:
            values[name] = _texts(name, _listed(name, values[name]))
    if "root_path" in values:
        values["root_path"] = _root_path(values["root_path"])
    if "max_body_bytes" in values:
        _check("max_body_bytes", values["max_body_bytes"] >= 1, values, "1 or more")
    for name, least in (("response_store_max_responses", 0), ("response_store_max_bytes", 1)):
        if name in values:
            _check(name, values[name] >= least, values, f"{least} or more")
    if "response_store_ttl" in values:
        _check("response_store_ttl", 0 < values["response_store_ttl"] < math.inf, values, "seconds, more than 0")
    values["middleware"] = tuple(values.get("middleware", ()))
    for path in values["middleware"]:
        if not all(part.isidentifier() for part in path.split(".")) or "." not in path:
            raise ConfigError(f"--middleware must be an import path such as package.module.Name, got {path!r}")
    if "default_chat_template_kwargs" in values:
        values["default_chat_template_kwargs"] = _template_kwargs(values["default_chat_template_kwargs"])
    _check_parsers(given)
    settings = ServerSettings(
        served_model_names=_texts("served_model_name", given.get("served_model_name", [model])),
        api_keys=_api_keys(given),
        log_requests=not given.get("disable_log_requests", False),
        metrics_need_key=not given.get("no_metrics_key", False),
        **values,
    )
    if settings.allow_credentials and "*" in settings.allowed_origins:
        raise ConfigError("--allow-credentials needs --allowed-origins that name the sites: * would let every site in")
    return settings


def _check_parsers(given: Mapping[str, Any]) -> None:
    """Import plugins, and refuse names that no parser has, before anything is started."""
    for flag in ("tool_parser_plugin", "reasoning_parser_plugin"):
        if flag in given:
            load_plugin(given[flag])
    for registry, name in (
        (TOOL_PARSERS, given.get("tool_call_parser")),
        (REASONING_PARSERS, given.get("reasoning_parser")),
    ):
        if name not in (None, "auto", "none"):
            registry.get(name)


def _template_kwargs(given: Any) -> dict[str, Any]:
    """The variables of --default-chat-template-kwargs; a file may give them as a mapping."""
    try:
        values = json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise ConfigError(f"--default-chat-template-kwargs is no valid JSON: {error}; got {shown(given)}") from None
    from octavo.tokenizer.chat_template import check_template_kwargs

    try:
        return check_template_kwargs(values)
    except InvalidRequestError as error:
        raise ConfigError(f"--default-chat-template-kwargs: {error}") from None


def _api_keys(given: Mapping[str, Any]) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(given.get("api_key", envs.api_keys())))
    for key in keys:
        # What a header can't carry would never match. The message does not show the key.
        if not key or not (key.isascii() and key.isprintable()) or key != key.strip():
            raise ConfigError(
                "--api-key (or OCTAVO_API_KEY, VLLM_API_KEY) must be printable ASCII without spaces around it, and not "
                "empty; leave it out for a server that is open to all"
            )
    return keys


def _texts(name: str, values: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise ConfigError(f"{_flag(name)} must be texts that are not empty, got {shown(list(values))}")
    return tuple(dict.fromkeys(values))


def _listed(name: str, values: Sequence[str]) -> list[Any]:
    """The values of a flag, of which each may be a JSON list."""
    found: list[Any] = []
    for value in values:
        try:
            found += json.loads(value) if value.lstrip().startswith("[") else [value]
        except ValueError as error:
            raise ConfigError(f"{_flag(name)} is no valid JSON list: {error}; got {shown(value)}") from None
    return found


def _root_path(given: str) -> str:
    path = given.rstrip("/")
    if path and not path.startswith("/"):
        raise ConfigError(f"--root-path must begin with a slash, as in /llm, got {given!r}")
    return path


def _limits(given: Mapping[str, Any]) -> dict[str, Any]:
    limits = {
        "shutdown_timeout": given.get("shutdown_timeout", SHUTDOWN_TIMEOUT),
        "max_num_queued_reqs": given.get("max_num_queued_reqs"),
        "health_timeout": given.get("health_timeout", HEALTH_TIMEOUT),
    }
    _check("shutdown_timeout", 0 <= limits["shutdown_timeout"] < math.inf, limits, "seconds, 0 or more")
    _check("health_timeout", 0 < limits["health_timeout"] < math.inf, limits, "seconds, more than 0")
    queued = limits["max_num_queued_reqs"]
    _check("max_num_queued_reqs", queued is None or queued >= 1, limits, "1 or more")
    return limits


def _network(given: Mapping[str, Any]) -> Network:
    if "uds" in given:
        for name in ("host", "port"):
            if name in given:
                raise ConfigError(f"--uds stands in place of --{name}, and both were given; leave one out")
        if not given["uds"]:
            raise ConfigError("--uds is empty; give the path of a socket")
    _check("port", 0 <= given.get("port", 0) <= 65535, given, "from 0 to 65535")
    _check_certificates(given)
    from octavo.server.run import Network

    names = {field.name for field in fields(Network)}
    values = {name: value for name, value in given.items() if name in names}
    if "uvicorn_log_level" in given:
        values["log_level"] = given["uvicorn_log_level"]
    if values.get("host") == "":
        values["host"] = None
    return Network(**values)


def _check_certificates(given: Mapping[str, Any]) -> None:
    files = {name: given[name] for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs") if name in given}
    if "ssl_certfile" not in files:
        for name in (*files, "ssl_cert_reqs"):
            if name in given:
                raise ConfigError(f"{_flag(name)} needs --ssl-certfile, which was not given")
        return
    if given.get("ssl_cert_reqs", 0) > 0 and "ssl_ca_certs" not in files:
        raise ConfigError("--ssl-cert-reqs needs --ssl-ca-certs, to check the certificates of clients with")
    for name, path in files.items():
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{_flag(name)} {path} can't be read: {error.strerror}") from None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files["ssl_certfile"], files.get("ssl_keyfile"), password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"--ssl-certfile and --ssl-keyfile can't be used: {error}; they must be PEM, belong together, and the key "
            "must have no passphrase"
        ) from None
    if "ssl_ca_certs" in files:
        try:
            context.load_verify_locations(files["ssl_ca_certs"])
        except ssl.SSLError as error:
            raise ConfigError(f"--ssl-ca-certs can't be used: {error}; it must be PEM") from None


def _check(name: str, ok: bool, values: Mapping[str, Any], allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{_flag(name)} must be {allowed}, got {values[name]}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
