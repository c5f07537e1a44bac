"""Metrics: a snapshot of an engine's counters and gauges, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.engine.client import EngineClient


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


def snapshot(engine: EngineClient) -> list[Metric]:
    stats = engine.stats
    return [
        Gauge("vllm:num_requests_running", engine.num_running),
        Gauge("vllm:num_requests_waiting", engine.num_waiting),
        Gauge("vllm:kv_cache_usage_perc", engine.kv_cache_usage),
        Counter("vllm:prefix_cache_queries", stats.prefix_cache_queries),
        Counter("vllm:prefix_cache_hits", stats.prefix_cache_hits),
        Counter("vllm:num_preemptions", stats.num_preemptions),
        Counter("vllm:prompt_tokens", stats.prompt_tokens),
        Counter("vllm:generation_tokens", stats.generation_tokens),
        Counter("vllm:request_success", stats.num_finished),
    ]
