"""How a real server lives and ends: signals, lost processes, addresses in use, limits. Its model is tiny."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import tiny_models
from real_server import RealServer, wait_for

pytestmark = pytest.mark.slow

POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def arguments(model: str) -> list[str]:
    return [model, "--served-model-name", "tiny", "--skip-tokenizer-init", "--dtype", "float32", "--block-size", "16"]


@pytest.fixture(scope="module")
def server(arguments: list[str]) -> Iterator[RealServer]:
    with RealServer(*arguments) as started:
        yield started.wait_until_ready()


def body(max_tokens: int = 8, **fields: Any) -> dict[str, Any]:
    prompt = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": max_tokens, "ignore_eos": True, "seed": 1}
    return {**prompt, "return_token_ids": True, **fields}


def complete(
    server: RealServer, max_tokens: int = 8, post: Callable[..., httpx.Response] = httpx.post, **fields: Any
) -> httpx.Response:
    return post(f"{server.url}/v1/completions", json=body(max_tokens, **fields), timeout=60)


def num_octavo_directories() -> int:
    return len(list(Path(tempfile.gettempdir()).glob("octavo-*")))


def idle(server: RealServer) -> bool:
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return all(server.metric(name) == 0 for name in names)


def test_the_http_process_has_no_torch(server: RealServer) -> None:
    mapped = {os.path.basename(entry.path) for entry in psutil.Process(server.process.pid).memory_maps()}
    assert "libtorch_cpu.so" not in mapped
    assert "libtorch_cpu.so" in {os.path.basename(entry.path) for entry in server.engine().memory_maps()}


def test_a_client_that_leaves_frees_its_blocks(server: RealServer) -> None:
    generated = server.metric("vllm:generation_tokens_total")
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body(100, stream=True), timeout=60) as stream:
        next(stream.iter_lines())
    wait_for(lambda: idle(server), 5)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=body(100, n=8), timeout=httpx.Timeout(10, read=0.01))
    wait_for(lambda: idle(server), 5)
    assert server.metric("vllm:generation_tokens_total") - generated < 900
    assert complete(server).status_code == 200


def test_an_idle_server_takes_no_cpu_time(server: RealServer) -> None:
    assert complete(server).status_code == 200
    wait_for(lambda: idle(server), 5)
    processes = psutil.Process(server.process.pid), server.engine()

    def cpu_seconds() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in processes))

    shares = []
    for _ in range(3):  # the least of three: something may be on its way still
        before = cpu_seconds()
        time.sleep(1.0)
        shares.append(cpu_seconds() - before)
    assert min(shares) < 0.015  # the clock has ticks of 10 ms


def test_a_reader_that_does_not_read_blocks_nobody(server: RealServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    payload = json.dumps(body(100, n=16, stream=True, logprobs=5)).encode()
    slow = []
    for _ in range(4):
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(payload) + payload)
        slow.append(connection)
    for _ in range(5):
        assert complete(server).status_code == 200
    for connection in slow:
        connection.close()
    wait_for(lambda: idle(server), 20)


@pytest.mark.parametrize("kind", ["headers", "target", "body", "depth", "garbage"])
def test_limits_of_what_is_read(server: RealServer, kind: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    big = 200 * 1024
    requests = {
        "headers": b"GET /health HTTP/1.1\r\nHost: x\r\n"
        + b"".join(b"X-%d: y\r\n" % i for i in range(big // 8))
        + b"\r\n",
        "target": b"GET /" + b"a" * big + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "body": POST + b"Content-Length: 999999999\r\n\r\n",
        "depth": POST + b"Content-Length: %d\r\n\r\n" % big + b"[" * big,
        "garbage": b"\x16\x03\x01 what is this\r\n\r\n",
    }
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be refused before all is sent
            connection.sendall(requests[kind])
        try:
            status = connection.recv(65536).split(b"\r\n")[0]
        except ConnectionResetError:
            status = b"HTTP/1.1 400 "
    assert status.split()[1] == {b"body": b"413"}.get(kind.encode(), b"400"), status
    assert complete(server).status_code == 200


def test_port_in_use(server: RealServer, arguments: list[str]) -> None:
    port = int(server.url.rpartition(":")[2])
    started = time.monotonic()
    with RealServer(*arguments, port=port) as second:
        assert second.wait() == 2
        assert time.monotonic() - started < 5
        (line,) = second.lines
        assert f"127.0.0.1:{port} is in use by another program" in line


def test_two_servers_on_one_host(server: RealServer, arguments: list[str]) -> None:
    with RealServer(*arguments) as second:
        second.wait_until_ready()
        assert second.url != server.url
        answers = [complete(each).json()["choices"][0]["token_ids"] for each in (server, second)]
        assert answers[0] == answers[1]


def test_unix_socket(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    before = num_octavo_directories()
    with RealServer(*arguments, "--uds", str(path), port=None) as server:
        server.wait_until_ready()
        assert server.url == f"unix://{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://octavo") as client:
            assert client.post("/v1/completions", json=body()).status_code == 200
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert not path.exists()
    assert num_octavo_directories() == before


def test_sigterm_lets_running_requests_finish(arguments: list[str]) -> None:
    before = num_octavo_directories()
    # One client, made beforehand: of eight that are made meanwhile the first would be done before the last one asks.
    with RealServer(*arguments) as server, ThreadPoolExecutor(8) as pool, httpx.Client() as client:
        server.wait_until_ready()
        engine = server.engine()
        answers = [pool.submit(complete, server, 200, client.post, n=8, stream=bool(i % 2)) for i in range(8)]
        wait_for(lambda: client.get(f"{server.url}/load").json()["server_load"] == 8)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        for index, answer in enumerate(answers):
            response = answer.result()
            assert response.status_code == 200
            if index % 2:
                assert response.text.endswith("data: [DONE]\n\n")
                assert response.text.count('"finish_reason":"length"') == 8
            else:
                assert [choice["finish_reason"] for choice in response.json()["choices"]] == ["length"] * 8
        with pytest.raises(httpx.ConnectError):
            complete(server)
        assert not engine.is_running()
        assert "Traceback" not in server.log
    assert num_octavo_directories() == before


def test_the_shutdown_timeout_ends_what_still_runs(arguments: list[str]) -> None:
    with RealServer(*arguments, "--shutdown-timeout", "0.2") as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        endless = pool.submit(complete, server, 100, n=500)
        wait_for(lambda: server.metric("vllm:num_requests_running") > 0)
        server.signal(signal.SIGTERM)
        started = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - started < 8
        endless.exception()


def test_sigterm_while_it_starts(arguments: list[str]) -> None:
    with RealServer(*arguments) as server:
        time.sleep(1)
        server.signal(signal.SIGTERM)
        assert server.wait() in (0, -signal.SIGTERM)  # the latter before it is there at all
        assert "Traceback" not in server.log


def test_kill_9_of_the_engine(arguments: list[str]) -> None:
    before = num_octavo_directories()
    with RealServer(*arguments) as server, ThreadPoolExecutor(8) as pool:
        server.wait_until_ready()
        answers = [pool.submit(complete, server, 100, n=100, stream=i >= 4) for i in range(8)]
        wait_for(lambda: server.metric("vllm:num_requests_running") > 0)
        server.engine().kill()
        assert server.wait(10) == 1
        for index, answer in enumerate(answers):
            response = answer.result()
            assert "has stopped" in response.text
            if index < 4:
                assert response.status_code == 503
                assert response.json()["error"]["message"]
        assert "SIGKILL" in server.lines[-1]
        assert "Traceback" not in server.log
    assert num_octavo_directories() == before


def test_kill_9_of_the_server_ends_the_engine(arguments: list[str]) -> None:
    before = num_octavo_directories()
    with RealServer(*arguments) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        engine = server.engine()
        lost = pool.submit(complete, server, 100, n=500)
        wait_for(lambda: server.metric("vllm:num_requests_running") > 0)
        server.signal(signal.SIGKILL)
        server.wait()
        wait_for(lambda: not engine.is_running(), 5)
        assert isinstance(lost.exception(), httpx.HTTPError)
    assert num_octavo_directories() == before


@pytest.mark.parametrize(
    ("extra", "status", "message"),
    [
        (["/no/such/folder/at/all"], 1, "there is nothing at"),
        (["--max-model-len", "99M"], 2, "max_model_len"),
        (["--kv-cache-memory-bytes", "10"], 1, "kv_cache_memory_bytes"),
        (["--uds", "/no/such/folder/x.sock"], 2, "/no/such/folder/x.sock"),
    ],
)
def test_what_stops_it_from_starting(arguments: list[str], extra: list[str], status: int, message: str) -> None:
    given = [*extra, *arguments[1:]] if not extra[0].startswith("--") else [*arguments, *extra]
    with RealServer(*given, port=None if "--uds" in extra else 0) as server:
        assert server.wait() == status, server.log
        assert message in server.lines[-1]
        assert "Traceback" not in server.log
