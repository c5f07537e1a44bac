"""`octavo bench throughput` and `octavo bench latency`: the engine in this process, without a server.

Beside its times each gives the floor of the same work on this machine, which is probed just before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from octavo.bench.floor import Floor, Requests
from octavo.bench.results import summary_fields
from octavo.bench.statistics import Summary
from octavo.bench.workload import Workload
from octavo.cost import MachineRates
from octavo.errors import ConfigError
from octavo.sampling_params import SamplingParams

if TYPE_CHECKING:
    from octavo.llm import LLM


def open_llm(arguments: Mapping[str, Any]) -> LLM:
    from octavo.llm import LLM  # loads torch

    return LLM(**arguments)


def bench_throughput(llm: LLM, workload: Workload, num_prompts: int, output_len: int, use_tqdm: bool) -> dict[str, Any]:
    """All prompts at once, after one that is not counted. `duration` is in seconds, throughputs are per second.

    Prompts that begin alike are computed more often in the floor than by the engine: give a workload without prefixes.

    Raises:
        ConfigError: a number that is not above 0.
    """
    _check_positive(num_prompts=num_prompts, output_len=output_len)
    params = _params(output_len)
    prompts = workload.prompts()
    llm.generate(next(prompts), params, use_tqdm=False)
    batch = list(islice(prompts, num_prompts))
    requests = Requests(num_requests=num_prompts, input_len=workload.prompt_len, output_len=output_len)
    floor, probe = floor_of(llm, requests)
    started = time.perf_counter()
    outputs = llm.generate(batch, params, use_tqdm=use_tqdm)
    duration = time.perf_counter() - started
    num_prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    num_output_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "duration": duration,
        "num_requests": len(outputs),
        "total_input_tokens": num_prompt_tokens,
        "total_output_tokens": num_output_tokens,
        "request_throughput": len(outputs) / duration,
        "prompt_throughput": num_prompt_tokens / duration,
        "output_throughput": num_output_tokens / duration,
        "total_token_throughput": (num_prompt_tokens + num_output_tokens) / duration,
        **_floor_fields(floor, duration, requests, probe),
    }


def bench_latency(llm: LLM, workload: Workload, batch_size: int, output_len: int, num_iters: int) -> dict[str, Any]:
    """Seconds of one batch from its start to its last token, `num_iters` times, after one that is not counted.

    Each batch has prompts of its own: none is found in the prefix cache.

    Raises:
        ConfigError: a number that is not above 0.
    """
    _check_positive(batch_size=batch_size, output_len=output_len, num_iters=num_iters)
    params = _params(output_len)
    prompts = workload.prompts()
    requests = Requests(num_requests=batch_size, input_len=workload.prompt_len, output_len=output_len)
    floor, probe = floor_of(llm, requests)
    seconds = []
    for _ in range(1 + num_iters):
        batch = list(islice(prompts, batch_size))
        started = time.perf_counter()
        llm.generate(batch, params, use_tqdm=False)
        seconds.append(time.perf_counter() - started)
    latency = Summary.of(seconds[1:])
    return {
        **summary_fields("latency", "s", latency),
        "latencies": seconds[1:],
        **_floor_fields(floor, latency.median, requests, probe),
    }


def floor_of(llm: LLM, requests: Requests) -> tuple[float, MachineRates]:
    """The floor in seconds of what `llm` is asked, and what the machine did when it was probed for it, just now."""
    (cost,), (rates,) = llm.collective_rpc("cost"), llm.collective_rpc("probe")
    scheduler = llm.config.scheduler
    seconds = Floor(cost, rates).workload(
        requests, max_num_seqs=scheduler.max_num_seqs, max_num_batched_tokens=scheduler.max_num_batched_tokens
    )
    return seconds, rates


def _floor_fields(floor: float, measured: float, requests: Requests, probe: MachineRates) -> dict[str, Any]:
    """`floor` in seconds, its output tokens per second, the percentage of it that was reached, and the probe."""
    return {
        "floor": floor,
        "floor_output_throughput": requests.num_requests * requests.output_len / floor,
        "floor_reached_percent": 100 * floor / measured,
        "probe": asdict(probe),
    }


def _params(output_len: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} must be 1 or more, got {value}")
