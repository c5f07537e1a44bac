"""What the HTTP side of a server costs: CPU time of its process per request and per streamed token.

python benchmarks/server_overhead.py            needs the default model's files, for its tokenizer

The engine is a fake in a process of its own that gives every request one token a step, and waits a little, so that each
token gets a chunk of its own (else a reader that lags behind gets several in one). The load comes from `octavo bench
serve`. Two runs with short and long answers tell the cost of a request from that of a token.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from octavo.config import DEFAULT_MODEL, EngineArgs
from octavo.engine.async_engine import AsyncEngine
from octavo.engine.build import open_model
from octavo.engine.messages import Open, Opened, Ready, encode
from octavo.engine.process import Channel, EngineLoop
from octavo.engine.remote import EngineProcess
from octavo.observability.stats import EngineStats
from octavo.request import FinishReason, Request, RequestUpdate
from octavo.server.app import create_app
from octavo.server.http_server import HTTPServer
from octavo.server.listener import listening
from octavo.server.settings import ServerSettings

NUM_REQUESTS, CONCURRENCY, INPUT_LEN = 512, 64, 128
SHORT, LONG = 2, 128
STEP_SECONDS = 0.008


class FakeEngine:
    """One token per request and step."""

    def __init__(self) -> None:
        self._running: dict[str, Request] = {}
        self.stats = EngineStats()

    @property
    def has_unfinished(self) -> bool:
        return bool(self._running)

    def add_request(self, request: Request) -> None:
        self._running[request.request_id] = request

    def finish_requests(self, request_ids: list[str], reason: FinishReason, stop_reason: object = None) -> None:
        for request_id in request_ids:
            self._running.pop(request_id, None)

    def step(self) -> list[RequestUpdate]:
        time.sleep(STEP_SECONDS)
        updates = []
        for request_id, request in list(self._running.items()):
            request.output_token_ids.append(1000 + len(request.output_token_ids) * 7)
            update = RequestUpdate(request_id=request_id, new_token_ids=request.output_token_ids[-1:])
            if len(request.output_token_ids) == request.max_tokens:
                update.finish_reason = FinishReason.LENGTH
                del self._running[request_id]
            updates.append(update)
        self.stats = EngineStats(num_running=len(self._running))
        return updates


def engine_process(directory: str) -> None:
    channel = Channel(directory)
    message = channel.receive(wait=True)
    assert isinstance(message, Open)
    channel.send(Opened(open_model(message.args)))
    channel.send(Ready())
    EngineLoop(channel, FakeEngine()).run()  # type: ignore[arg-type]
    channel.close()


def load(url: str, output_len: int) -> dict[str, float]:
    """Run the load; what it measured."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        flags = {
            "--url": url,
            "--num-prompts": NUM_REQUESTS,
            "--max-concurrency": CONCURRENCY,
            "--random-input-len": INPUT_LEN,
            "--random-output-len": output_len,
            "--result-file": file.name,
        }
        code = "import sys; from octavo.cli.main import main; main(sys.argv[1:])"
        words = [str(word) for pair in flags.items() for word in pair]
        command = [sys.executable, "-c", code, "bench", "serve", "--no-progress", "--ignore-eos", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result: dict[str, float] = json.loads(Path(file.name).read_text())["result"]
        return result


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure() -> None:
    directory = tempfile.mkdtemp(prefix="octavo-")
    child = subprocess.Popen([sys.executable, __file__, directory], stdin=subprocess.PIPE)
    process = EngineProcess(directory, child)
    process._outbox.send(encode(Open(EngineArgs())))
    engine = await AsyncEngine.start(process)
    app = create_app(engine, ServerSettings(served_model_names=(DEFAULT_MODEL,), log_requests=False))
    with listening("127.0.0.1", 0, None) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = HTTPServer(
            app,
            log_level="warning",
            shutdown_timeout=5,
            ssl_keyfile=None,
            ssl_certfile=None,
            ssl_ca_certs=None,
            ssl_cert_reqs=0,
        )
        serving = asyncio.create_task(server.run(listener))
        used = {}
        for output_len in (SHORT, SHORT, LONG):  # the first one warms up
            before = cpu_seconds()
            result = await asyncio.to_thread(load, url, output_len)
            used[output_len] = cpu_seconds() - before
            rate = result["output_throughput"]
            num_chunks = 1 + (result["mean_e2e_ms"] - result["mean_ttft_ms"]) / result["mean_itl_ms"]
            print(
                f"{NUM_REQUESTS} requests of {output_len} tokens in {num_chunks:.0f} chunks: "
                f"{used[output_len]:.2f} s of CPU, {rate:,.0f} tok/s"
            )
        per_token = (used[LONG] - used[SHORT]) / (NUM_REQUESTS * (LONG - SHORT))
        per_request = used[SHORT] / NUM_REQUESTS - SHORT * per_token
        print(f"per request {1e3 * per_request:.2f} ms, per streamed token {1e6 * per_token:.1f} us")
        server.stop()
        await serving
    await engine.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        threading.Thread(target=lambda: sys.stdin.read(), daemon=True).start()
        engine_process(sys.argv[1])
    else:
        import uvloop

        uvloop.run(measure())
