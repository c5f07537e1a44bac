"""The flags of `octavo serve`: what they become, the config file, what is refused, and the help."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from octavo.cli import serve
from octavo.cli.flags import ENGINE_FLAGS, add_engine_flags, engine_arguments
from octavo.cli.main import Parser, main
from octavo.config import DEFAULT_MODEL, EngineArgs
from octavo.errors import ConfigError
from octavo.server import run as server_run
from octavo.server.run import Network
from octavo.server.settings import ServerSettings


class Started:
    """What `octavo serve` hands to the server."""

    def __init__(self) -> None:
        self.engine_args: EngineArgs
        self.settings: ServerSettings
        self.network: Network
        self.limits: dict[str, Any]

    def __call__(self, engine_args: EngineArgs, settings: ServerSettings, network: Network, **limits: Any) -> int:
        self.engine_args, self.settings, self.network, self.limits = engine_args, settings, network, limits
        return 0


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr(server_run, "serve", started)
    for name in ("OCTAVO_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return started


def run(*lines: str) -> None:
    """As a shell would split the lines."""
    parser = Parser()
    serve.add_arguments(parser)
    assert serve.run(parser.parse_args(shlex.split(" ".join(lines)))) == 0


def refused(*lines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        run(*lines)
    return str(caught.value)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_nothing_given_is_the_defaults(started: Started) -> None:
    run()
    assert started.engine_args == EngineArgs(disable_log_stats=False)
    assert started.settings == ServerSettings(served_model_names=(DEFAULT_MODEL,))
    assert started.network == Network()
    assert (started.network.host, started.network.port) == (None, 8000)
    assert started.limits == {"shutdown_timeout": 30.0, "max_num_queued_reqs": None, "health_timeout": 60.0}


def test_flags_of_the_network_and_of_the_api(started: Started, tmp_path: Path) -> None:
    run(
        "some/model --host 127.0.0.1 --port 0 --root-path /llm/ --uvicorn-log-level debug",
        "--api-key one two --api-key=-three --served-model-name a b --max-num-queued-reqs 7",
        """--allowed-origins '["https://a.example", "https://b.example"]' --allowed-methods GET POST""",
        "--allow-credentials --middleware pack.first --middleware pack.Second --shutdown-timeout 2.5",
        "--strict-fields --max-body-bytes 1000 --no-metrics-key --disable-log-requests --health-timeout 5",
        "--chat-template-content-format openai --response-role bot --disable-docs",
        "--return-tokens-as-token-ids --enable-prompt-tokens-details --enable-force-include-usage",
        "--response-store-max-responses 0 --response-store-max-bytes 9 --response-store-ttl 2.5",
    )
    assert started.engine_args.model == "some/model"
    assert started.network == Network(host="127.0.0.1", port=0, log_level="debug")
    assert started.limits == {"shutdown_timeout": 2.5, "max_num_queued_reqs": 7, "health_timeout": 5.0}
    assert started.settings == ServerSettings(
        served_model_names=("a", "b"),
        api_keys=("one", "two", "-three"),
        root_path="/llm",
        allowed_origins=("https://a.example", "https://b.example"),
        allowed_methods=("GET", "POST"),
        allow_credentials=True,
        middleware=("pack.first", "pack.Second"),
        strict_fields=True,
        max_body_bytes=1000,
        metrics_need_key=False,
        log_requests=False,
        chat_template_content_format="openai",
        response_role="bot",
        disable_docs=True,
        return_tokens_as_token_ids=True,
        enable_prompt_tokens_details=True,
        enable_force_include_usage=True,
        response_store_max_responses=0,
        response_store_max_bytes=9,
        response_store_ttl=2.5,
    )
    run("--uds", str(tmp_path / "o.sock"))
    assert started.network == Network(uds=str(tmp_path / "o.sock"))


def test_every_flag_sets_something(started: Started) -> None:
    """A flag whose name no part of the server knows would be dropped in silence."""
    parser = Parser()
    serve.add_arguments(parser)
    flags = {action.dest for action in parser._actions} - {"help", "config", "model_tag"}
    known = {field.name for kind in (EngineArgs, ServerSettings, Network) for field in fields(kind)}
    renamed = {"api_key", "served_model_name", "no_metrics_key", "disable_log_requests", "uvicorn_log_level"}
    imported = {"tool_parser_plugin", "reasoning_parser_plugin"}
    accepted = {"enable_auto_tool_choice"}
    limits = {"max_num_queued_reqs", "shutdown_timeout", "health_timeout"}
    assert flags - known == renamed | imported | accepted | limits
    assert known - flags == {"api_keys", "served_model_names", "metrics_need_key", "log_requests", "log_level"}


def test_flags_of_the_engine(started: Started) -> None:
    run(
        "--model m --seed 3 --no-enable-prefix-caching --max-num-seqs 4 --gpu-memory-utilization 0.5",
        """--hf-overrides '{"a": 1}' --no-async-scheduling --disable-log-stats --dtype float32""",
    )
    assert started.engine_args == EngineArgs(
        model="m",
        seed=3,
        enable_prefix_caching=False,
        max_num_seqs=4,
        gpu_memory_utilization=0.5,
        hf_overrides={"a": 1},
        async_scheduling=False,
        disable_log_stats=True,
        dtype="float32",
    )


@pytest.mark.parametrize(
    ("text", "value"), [("4096", 4096), ("4k", 4000), ("4K", 4096), ("auto", "auto"), ("-1", "auto")]
)
def test_max_model_len(started: Started, text: str, value: object) -> None:
    run("--max-model-len", text)
    assert started.engine_args.max_model_len == value


@pytest.mark.parametrize(
    ("environment", "line", "keys"),
    [
        ({"OCTAVO_API_KEY": "mine", "VLLM_API_KEY": ""}, "", ("mine",)),
        ({"VLLM_API_KEY": "theirs"}, "", ("theirs",)),
        ({"OCTAVO_API_KEY": "mine", "VLLM_API_KEY": "theirs"}, "", ("mine", "theirs")),
        ({"OCTAVO_API_KEY": "mine"}, "--api-key given", ("given",)),
    ],
)
def test_keys_of_the_environment(
    started: Started, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], line: str, keys: tuple[str, ...]
) -> None:
    for name, key in environment.items():
        monkeypatch.setenv(name, key)
    run(line)
    assert started.settings.api_keys == keys


def test_a_server_that_is_open_to_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(serve.logger, "warning", lambda text, *values: lines.append(text % values))
    run("--host", "127.0.0.1")
    run("--uds", "o.sock")
    run("--api-key", "k")
    assert lines == []
    run("--port", "8123")
    assert lines == ["no API key is set: whoever reaches port 8123 can use this server"]


def test_the_config_file(started: Started, config: Any) -> None:
    path = config(
        "model: file/model\nport: 9000\nmax_model_len: 8K\nserved-model-name: [x, y]\nenable-prefix-caching: false\n"
        "strict_fields: true\ndisable-docs: false\nhf-overrides:\n  rope: {factor: 2}\nallowed-origins: https://a.example\n"
        "middleware: [pack.first, pack.second]\ntokenizer: null\nseed: 5\napi-key: ['-dashed', two]\n"
    )
    run("--config", path)
    assert started.engine_args == EngineArgs(
        model="file/model",
        max_model_len=8192,
        enable_prefix_caching=False,
        hf_overrides={"rope": {"factor": 2}},
        seed=5,
        disable_log_stats=False,
    )
    assert started.network.port == 9000
    assert started.settings == ServerSettings(
        served_model_names=("x", "y"),
        strict_fields=True,
        allowed_origins=("https://a.example",),
        middleware=("pack.first", "pack.second"),
        api_keys=("-dashed", "two"),
    )


def test_a_given_flag_wins_over_the_file_also_where_it_is_the_default(started: Started, config: Any) -> None:
    path = config("model: file/model\nport: 9000\nenable_prefix_caching: false\nseed: 5\nserved-model-name: x\n")
    flags = ["--port", "8000", "--enable-prefix-caching", "--seed", "0", "--served-model-name", "z"]
    run(DEFAULT_MODEL, "--config", path, *flags)
    assert started.engine_args == EngineArgs(disable_log_stats=False)
    assert started.network.port == 8000
    assert started.settings.served_model_names == ("z",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-modl-len: 4096", "'max-model-len'"),
        ("config: other.yaml", "unknown key 'config'"),
        ("- port", "`flag: value` lines"),
        ("port: [1, 2]", "'port' takes one value"),
        ("port: eighty", "argument --port: invalid int value: 'eighty'"),
        ("port: true", "'port' is no switch"),
        ("strict-fields: 'yes'", "'strict-fields' must be true or false, got 'yes'"),
        ("max_num_seqs: 1\nmax-num-seqs: 2", "there twice"),
        ("a: b: c", "no valid YAML"),
        ("x: !!python/object/apply:os.system ['true']", "no valid YAML"),
    ],
)
def test_a_wrong_config_file_is_named(config: Any, text: str, said: str) -> None:
    path = config(text)
    message = refused("--config", path)
    assert said in message
    assert path in message


def test_a_config_file_that_is_not_there() -> None:
    assert refused("--config", "nothing.yaml") == (
        "--config nothing.yaml can't be read: No such file or directory; give a YAML file"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--port 65536", "--port must be from 0 to 65535, got 65536"),
        ("--port -1", "--port must be from 0 to 65535, got -1"),
        ("--uds o.sock --port 8000", "--uds stands in place of --port"),
        ("--uds o.sock --host localhost", "--uds stands in place of --host"),
        ("--uds=", "--uds is empty"),
        ("--api-key=", "--api-key"),
        ("--api-key=schlüssel", "printable ASCII"),
        ("--shutdown-timeout -1", "--shutdown-timeout must be seconds, 0 or more, got -1.0"),
        ("--shutdown-timeout nan", "--shutdown-timeout must be seconds"),
        ("--health-timeout 0", "--health-timeout must be seconds, more than 0"),
        ("--max-num-queued-reqs 0", "--max-num-queued-reqs must be 1 or more, got 0"),
        ("--max-body-bytes 0", "--max-body-bytes must be 1 or more, got 0"),
        ("--response-store-max-responses -1", "--response-store-max-responses must be 0 or more, got -1"),
        ("--response-store-max-bytes 0", "--response-store-max-bytes must be 1 or more, got 0"),
        ("--response-store-ttl 0", "--response-store-ttl must be seconds, more than 0, got 0.0"),
        ("--root-path llm", "--root-path must begin with a slash"),
        ("--served-model-name=", "--served-model-name must be texts that are not empty"),
        ("--allowed-origins '[\"a\"'", "--allowed-origins is no valid JSON list"),
        ("--allowed-origins [1]", "--allowed-origins must be texts"),
        ("--allowed-origins '*' --allow-credentials", "--allow-credentials needs --allowed-origins"),
        ("--middleware nonsense", "--middleware must be an import path"),
        ("a/model --model another", "two models were given: 'a/model' and --model 'another'"),
        ("--ssl-keyfile key.pem", "--ssl-keyfile needs --ssl-certfile"),
        ("--ssl-cert-reqs 2", "--ssl-cert-reqs needs --ssl-certfile"),
        ("--ssl-certfile nothing.pem", "--ssl-certfile nothing.pem can't be read: No such file or directory"),
        ("--ssl-certfile nothing.pem --ssl-cert-reqs 1", "--ssl-cert-reqs needs --ssl-ca-certs"),
        (f"--ssl-certfile {__file__}", "must be PEM"),
        ("--max-num-seqs 0", "max_num_seqs must be 1 or more, got 0"),
        ("--dtype float61", "unknown dtype 'float61'"),
    ],
)
def test_wrong_values_are_refused_by_name(args: str, said: str) -> None:
    assert said in refused(args)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, its key.pem, the same with a passphrase as locked.pem, and another.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -subj /CN=here",
        "ec -in key.pem -out locked.pem -aes256 -passout pass:secret",
        "ecparam -name prime256v1 -genkey -noout -out another.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


def test_certificates(started: Started, certificate: Path) -> None:
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    run(f"--ssl-certfile {cert} --ssl-keyfile {key} --ssl-ca-certs {cert} --ssl-cert-reqs 2")
    expected = Network(ssl_certfile=str(cert), ssl_keyfile=str(key), ssl_ca_certs=str(cert), ssl_cert_reqs=2)
    assert started.network == expected
    for other in ("another.pem", "locked.pem", "cert.pem"):
        assert "belong together" in refused(f"--ssl-certfile {cert} --ssl-keyfile {certificate / other}")
    assert "--ssl-keyfile" in refused(f"--ssl-certfile {cert} --ssl-keyfile {certificate / 'nothing.pem'}")
    assert "--ssl-ca-certs can't be used" in refused(
        f"--ssl-certfile {cert} --ssl-keyfile {key} --ssl-ca-certs {certificate / 'another.pem'}"
    )


def test_the_message_about_a_key_does_not_show_it() -> None:
    assert "geheim" not in refused("--api-key 'geheimnisvoller schlüssel'")


def test_every_argument_of_the_engine_has_a_help_line() -> None:
    assert list(ENGINE_FLAGS) == [field.name for field in fields(EngineArgs)]
    for field in fields(EngineArgs):
        flag = ENGINE_FLAGS[field.name]
        assert flag.help
        assert bool(flag.unset) == (field.default is None), field.name


def test_engine_arguments_are_those_that_were_given() -> None:
    parser = Parser()
    add_engine_flags(parser)
    assert engine_arguments(parser.parse_args([])) == {}
    given = engine_arguments(parser.parse_args(["--dtype", "auto", "-m", "x", "--no-async-scheduling"]))
    assert given == {"model": "x", "dtype": "auto", "async_scheduling": False}
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", "1"])  # a request's, where there are requests


def test_a_misspelt_flag_is_answered_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    for args, hint in (
        (["serve", "--prt", "80"], "--port"),
        (["bench", "serve", "--num-promts", "3"], "--num-prompts"),
    ):
        with pytest.raises(SystemExit) as left:
            main(args)
        assert left.value.code == 2
        assert f"did you mean {hint}?" in capsys.readouterr().err


def test_the_help_is_grouped_and_loads_nothing_heavy() -> None:
    heavy = {"torch", "fastapi", "pydantic", "yaml", "uvicorn", "zmq", "prometheus_client", "tokenizers", "numpy"}
    code = (
        "import sys, atexit\nfrom octavo.cli.main import main\n"
        f"atexit.register(lambda: print('loaded', sorted({heavy} & set(sys.modules))))\nmain(['serve', '--help'])"
    )
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    assert "loaded []" in result.stdout
    for group in ("Network:", "TLS:", "Access:", "CORS:", "API:", "Model:", "Cache:", "Scheduler:"):
        assert f"\n{group}\n" in result.stdout
    assert "(default: 8000)" in result.stdout
    assert seconds < 2  # 0.13 on a quiet machine


def test_formats_of_calls_and_reasoning(started: Started, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from octavo.parsers.registry import TOOL_PARSERS\n"
        "from octavo.parsers.tool.tagged_json import HermesToolParser\n"
        "TOOL_PARSERS.register('own')(HermesToolParser)\n"
    )
    run("--tool-parser-plugin", str(tmp_path / "own.py"), "--tool-call-parser own --reasoning-parser none")
    assert (started.settings.tool_call_parser, started.settings.reasoning_parser) == ("own", "none")
    run(
        "--enable-auto-tool-choice --reasoning-content",
        """--default-chat-template-kwargs '{"enable_thinking": false}'""",
    )
    assert started.settings.tool_call_parser == "auto"
    assert started.settings.reasoning_content
    assert started.settings.default_chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--tool-call-parser hermis", "did you mean 'hermes'.*known: deepseek_v3"),
        ("--reasoning-parser nothing", "known: deepseek_r1"),
        ("--tool-parser-plugin missing.py", "is no file"),
        ("--default-chat-template-kwargs '{'", "no valid JSON"),
        ("--default-chat-template-kwargs '[1]'", "mapping"),
        ("""--default-chat-template-kwargs '{"tools": 1}'""", "may not set 'tools'"),
    ],
)
def test_formats_that_are_refused(started: Started, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(line)
