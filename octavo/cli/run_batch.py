"""`octavo run-batch`: a file of requests to a file of results, by a running server or by an engine of its own."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import httpx
from tqdm import tqdm

from octavo.cli.endpoint_flags import add_endpoint_flags, endpoint_of, reject_engine_flags
from octavo.cli.flags import add_engine_flags, engine_arguments
from octavo.client.answers import list_models
from octavo.client.batch import BatchCounts, run_batch
from octavo.client.batch_file import ResultsFile, check_files, read_requests
from octavo.client.endpoint import Endpoint
from octavo.config import EngineArgs
from octavo.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--input-file", required=True, type=Path, metavar="FILE", help="requests in OpenAI's batch format"
    )
    parser.add_argument(
        "-o",
        "--output-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="results, appended as they come; what an earlier run has done is not done again",
    )
    parser.add_argument("--max-concurrency", type=int, default=256, metavar="N", help="requests under way at once")
    add_endpoint_flags(parser, None, "a running server (without it, the engine starts here)")
    add_engine_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    check_files(parsed.input_file, parsed.output_file)
    if parsed.max_concurrency < 1:
        raise ConfigError(f"--max-concurrency must be 1 or more, got {parsed.max_concurrency}")
    started = time.perf_counter()
    with ResultsFile(parsed.output_file) as results:
        if parsed.url is not None:
            reject_engine_flags(parsed)
            endpoint = endpoint_of(parsed)
            list_models(endpoint)  # a wrong address or key shows before the first line is spent on it
            counts = asyncio.run(_with_server(endpoint, parsed, results))
        else:
            args = EngineArgs.from_kwargs(**engine_arguments(parsed))
            counts = asyncio.run(_with_own_engine(args, parsed, results))
    skipped = f", {counts.skipped} done before" if counts.skipped else ""
    print(
        f"{counts.succeeded} succeeded, {counts.failed} failed{skipped}; {time.perf_counter() - started:.1f} s; "
        f"results in {parsed.output_file}"
    )
    return 1 if counts.failed else 0


async def _with_server(endpoint: Endpoint, parsed: argparse.Namespace, results: ResultsFile) -> BatchCounts:
    async with endpoint.async_client(parsed.max_concurrency) as client:
        return await _run(client, parsed, results)


async def _with_own_engine(args: EngineArgs, parsed: argparse.Namespace, results: ResultsFile) -> BatchCounts:
    from octavo.server.run import running_app  # the server's packages: only where there is no other server
    from octavo.server.settings import ServerSettings

    settings = ServerSettings(served_model_names=(args.model,), log_requests=False)
    async with running_app(args, settings) as app:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
            return await _run(client, parsed, results)


async def _run(client: httpx.AsyncClient, parsed: argparse.Namespace, results: ResultsFile) -> BatchCounts:
    with tqdm(desc="requests", unit="", disable=not sys.stderr.isatty()) as bar:
        return await run_batch(client, read_requests(parsed.input_file), results, parsed.max_concurrency, bar.update)
