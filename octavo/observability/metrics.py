"""Metrics: a snapshot of an engine's counters and gauges, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.observability.stats import EngineStats


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Counter(Metric):
    """Only ever grows."""


@dataclass(frozen=True, slots=True)
class Gauge(Metric):
    """The value of this moment."""


def snapshot(stats: EngineStats) -> list[Metric]:
    return [
        Gauge("vllm:num_requests_running", stats.num_running),
        Gauge("vllm:num_requests_waiting", stats.num_waiting),
        Gauge("vllm:kv_cache_usage_perc", stats.kv_cache_usage),
        Counter("vllm:prefix_cache_queries", stats.prefix_cache_queries),
        Counter("vllm:prefix_cache_hits", stats.prefix_cache_hits),
        Counter("vllm:num_preemptions", stats.num_preemptions),
        Counter("vllm:prompt_tokens", stats.prompt_tokens),
        Counter("vllm:generation_tokens", stats.generation_tokens),
        Counter("vllm:request_success", stats.num_finished),
    ]
