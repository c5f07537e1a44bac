"""`octavo bench serve | throughput | latency | startup`: measurements, as a table and as a JSON file."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop
from tqdm import tqdm

from octavo.bench.offline import bench_latency, bench_throughput, open_llm
from octavo.bench.results import check_result_file, row, write_result
from octavo.bench.serve import Load, bench_serve, parse_goodput
from octavo.bench.startup import PHASES, bench_startup
from octavo.bench.workload import DATASETS, VOCAB_SIZE, Workload
from octavo.cli.endpoint_flags import add_endpoint_flags, endpoint_of
from octavo.cli.flags import add_engine_flags, engine_arguments
from octavo.client.answers import choose_model
from octavo.client.endpoint import DEFAULT_URL
from octavo.config import DEFAULT_MODEL, EngineArgs
from octavo.cost import MachineRates

_NOT_PARAMETERS = ("benchmark", "result_file", "no_progress", "api_key", "hf_token")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (what, add, _) in _BENCHMARKS.items():
        command = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", formatter_class=parser.formatter_class
        )
        command.add_argument("--result-file", type=Path, default=None, metavar="FILE", help="JSON, written at the end")
        add(command)


def run(parsed: argparse.Namespace) -> int:
    check_result_file(parsed.result_file)
    _, _, measure = _BENCHMARKS[parsed.benchmark]
    result: dict[str, Any] = measure(parsed)
    given = {name: value for name, value in vars(parsed).items() if name not in _NOT_PARAMETERS and value is not None}
    if parsed.benchmark != "serve":
        given.setdefault("model", DEFAULT_MODEL)
    write_result(parsed.result_file, parsed.benchmark, given, result)
    return 1 if result.get("failed") else 0


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add_endpoint_flags(parser, DEFAULT_URL, "the server")
    parser.add_argument("-m", "--model", default=None, metavar="NAME", help="one of the server's models (its first)")
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument("--dataset", choices=DATASETS, default="random", help="prefix: prompts share prefixes")
    _add_count(prompts, "--num-prompts", 64, "requests")
    _add_count(prompts, "--random-input-len", 128, "tokens of a prompt, behind its prefix")
    _add_count(prompts, "--random-output-len", 128, "tokens of an answer")
    _add_count(prompts, "--prefix-len", 256, "tokens of a prefix")
    _add_count(prompts, "--num-prefixes", 10, "different prefixes")
    _add_count(prompts, "--vocab-size", VOCAB_SIZE, "token ids of prompts are below it")
    prompts.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="all answers have their full length",
    )
    _add_count(prompts, "--seed", 0, "of prompts and arrivals")
    arrival = parser.add_argument_group("arrival")
    arrival.add_argument(
        "--request-rate",
        type=float,
        default=math.inf,
        metavar="RATE",
        help="requests per second on average, a Poisson process; inf: all at once",
    )
    arrival.add_argument(
        "--max-concurrency", type=int, default=None, metavar="N", help="requests under way at once (no limit)"
    )
    parser.add_argument(
        "--goodput",
        nargs="+",
        default=[],
        metavar="METRIC:MS",
        help="count the requests within these limits, such as ttft:500 tpot:50 (metrics: ttft, tpot, e2e)",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def _serve(parsed: argparse.Namespace) -> dict[str, Any]:
    goodput = parse_goodput(parsed.goodput)
    workload = Workload(
        dataset=parsed.dataset,
        random_input_len=parsed.random_input_len,
        prefix_len=parsed.prefix_len,
        num_prefixes=parsed.num_prefixes,
        vocab_size=parsed.vocab_size,
        seed=parsed.seed,
    )
    load = Load(
        num_prompts=parsed.num_prompts,
        output_len=parsed.random_output_len,
        ignore_eos=parsed.ignore_eos,
        request_rate=parsed.request_rate,
        max_concurrency=parsed.max_concurrency,
        seed=parsed.seed,
    )
    endpoint = endpoint_of(parsed)
    model = choose_model(endpoint, parsed.model)
    with tqdm(total=load.num_prompts, desc="requests", unit="", disable=parsed.no_progress) as bar:
        result = uvloop.run(bench_serve(endpoint, model, workload, load, goodput, bar.update))
    print(result.table())
    for error in sorted({request.error or "" for request in result.failed})[:5]:
        print(f"failed: {error}", file=sys.stderr)
    return {"model": model, **result.fields()}


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    _add_count(parser, "--num-prompts", 32, "requests")
    _add_offline(parser)


def _throughput(parsed: argparse.Namespace) -> dict[str, Any]:
    workload = Workload(random_input_len=parsed.input_len)
    with open_llm(_engine_arguments(parsed)) as llm:
        found = bench_throughput(llm, workload, parsed.num_prompts, parsed.output_len, sys.stderr.isatty())
    print(row("Duration (s):", found["duration"]))
    print(row("Request throughput (req/s):", found["request_throughput"]))
    print(row("Prompt token throughput (tok/s):", found["prompt_throughput"]))
    print(row("Output token throughput (tok/s):", found["output_throughput"]))
    print(row("Total token throughput (tok/s):", found["total_token_throughput"]))
    _print_floor(found)
    return found


def _add_latency(parser: argparse.ArgumentParser) -> None:
    _add_count(parser, "--batch-size", 8, "prompts of a batch")
    _add_count(parser, "--num-iters", 5, "batches that are measured")
    _add_offline(parser)


def _latency(parsed: argparse.Namespace) -> dict[str, Any]:
    workload = Workload(random_input_len=parsed.input_len)
    with open_llm(_engine_arguments(parsed)) as llm:
        found = bench_latency(llm, workload, parsed.batch_size, parsed.output_len, parsed.num_iters)
    _print_seconds("Latency of a batch", found, "latency")
    _print_floor(found)
    return found


def _add_startup(parser: argparse.ArgumentParser) -> None:
    _add_count(parser, "--num-iters", 3, "processes that are started")
    add_engine_flags(parser)


def _startup(parsed: argparse.Namespace) -> dict[str, Any]:
    found = bench_startup(_engine_arguments(parsed), parsed.num_iters)
    for phase in PHASES:
        _print_seconds(phase.replace("_", " ").capitalize(), found, phase)
    return found


def _add_offline(parser: argparse.ArgumentParser) -> None:
    _add_count(parser, "--input-len", 128, "tokens of a prompt")
    _add_count(parser, "--output-len", 128, "tokens of an answer")
    add_engine_flags(parser)


def _add_count(parser: argparse._ActionsContainer, flag: str, default: int, text: str) -> None:
    parser.add_argument(flag, type=int, default=default, metavar="N", help=text)


def _engine_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """The engine's arguments that were given, checked before a model is looked for."""
    given = engine_arguments(parsed)
    EngineArgs.from_kwargs(**given)
    return given


def _print_seconds(title: str, found: Mapping[str, Any], name: str) -> None:
    numbers = ", ".join(f"{kind} {found[f'{kind}_{name}_s']:.3f}" for kind in ("mean", "median", "p99"))
    print(f"{title + ' (s):':<26}{numbers}")


def _print_floor(found: Mapping[str, Any]) -> None:
    print(row("Floor (s):", found["floor"], 3))
    print(row("Floor output token throughput (tok/s):", found["floor_output_throughput"]))
    print(row("Share of the floor reached (%):", found["floor_reached_percent"], 1))
    print("Probe: " + MachineRates(**found["probe"]).describe())


_BENCHMARKS = {
    "serve": ("put load on a running server and measure what its clients see", _add_serve, _serve),
    "throughput": ("measure tokens per second of the engine, without a server", _add_throughput, _throughput),
    "latency": ("measure the seconds of one batch, without a server", _add_latency, _latency),
    "startup": ("measure the seconds from the start of a process to its first token", _add_startup, _startup),
}
