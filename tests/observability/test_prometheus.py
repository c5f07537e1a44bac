"""ServerMetrics: every number as Prometheus' own parser reads it, and the metrics page."""

from __future__ import annotations

import re
import timeit
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.observability.prometheus import ServerMetrics
from octavo.observability.stats import EngineStats

VLLM_NAMES = {
    "gauge": ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
    "counter": (
        "prefix_cache_queries",
        "prefix_cache_hits",
        "num_preemptions",
        "prompt_tokens",
        "generation_tokens",
        "request_success",
    ),
    "histogram": (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
    ),
}
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def families(metrics: ServerMetrics) -> dict[str, str]:
    """Name to type, without the times of creation."""
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    found = text_string_to_metric_families(text.decode())
    return {family.name: family.type for family in found if not family.name.endswith("_created")}


def value(metrics: ServerMetrics, sample: str, **labels: str) -> float:
    """Of the one sample of this name that has these labels."""
    values = [
        found.value
        for family in text_string_to_metric_families(metrics.render()[0].decode())
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    ]
    assert len(values) == 1, (sample, labels, values)
    return float(values[0])


def test_the_names_are_vllms() -> None:
    expected = {f"vllm:{name}": kind for kind, names in VLLM_NAMES.items() for name in names}
    expected |= {"http_requests": "counter", "http_request_duration_seconds": "histogram"}
    assert families(ServerMetrics("m")) == expected


def test_every_metric_of_vllm_carries_the_model_and_the_engine() -> None:
    text = ServerMetrics('a "quoted" name').render()[0].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["model_name"] == 'a "quoted" name'
            assert sample.labels["engine"] == "0"


def test_the_engines_counters_grow_by_what_is_new() -> None:
    metrics = ServerMetrics("m")
    metrics.update_engine(EngineStats(num_running=3, num_waiting=2, kv_cache_usage=0.25, prompt_tokens=10))
    metrics.update_engine(
        EngineStats(
            num_running=1,
            kv_cache_usage=0.5,
            prompt_tokens=10,
            generation_tokens=7,
            prefix_cache_queries=12,
            prefix_cache_hits=8,
            num_preemptions=1,
        )
    )
    expected = {
        "num_requests_running": 1,
        "num_requests_waiting": 0,
        "kv_cache_usage_perc": 0.5,
        "prompt_tokens_total": 10,
        "generation_tokens_total": 7,
        "prefix_cache_queries_total": 12,
        "prefix_cache_hits_total": 8,
        "num_preemptions_total": 1,
    }
    assert {name: value(metrics, f"vllm:{name}") for name in expected} == expected


def test_a_finished_request_is_counted_in_every_histogram() -> None:
    metrics = ServerMetrics("m")
    metrics.first_token(0.3)
    metrics.token_interval(0.02)
    for _ in range(3):
        metrics.token_interval(0.04)
    metrics.finished(
        "length", e2e=2.0, queue=0.1, prefill=0.2, decode=1.6, num_prompt_tokens=30, num_generation_tokens=5
    )
    sums = {
        "time_to_first_token_seconds": 0.3,
        "inter_token_latency_seconds": 0.14,
        "request_time_per_output_token_seconds": 0.4,  # 1.6 s, 4 intervals
        "e2e_request_latency_seconds": 2.0,
        "request_queue_time_seconds": 0.1,
        "request_prefill_time_seconds": 0.2,
        "request_decode_time_seconds": 1.6,
        "request_prompt_tokens": 30,
        "request_generation_tokens": 5,
    }
    assert {name: pytest.approx(value(metrics, f"vllm:{name}_sum")) for name in sums} == sums
    assert value(metrics, "vllm:inter_token_latency_seconds_count") == 4
    assert value(metrics, "vllm:request_success_total", finished_reason="length") == 1
    assert value(metrics, "vllm:request_success_total", finished_reason="stop") == 0


def test_a_part_that_a_request_did_not_reach_is_not_counted() -> None:
    metrics = ServerMetrics("m")
    metrics.finished(
        "abort", e2e=1.0, queue=None, prefill=None, decode=None, num_prompt_tokens=3, num_generation_tokens=0
    )
    for part in ("queue", "prefill", "decode"):
        assert value(metrics, f"vllm:request_{part}_time_seconds_count") == 0
    metrics.finished("stop", e2e=1.0, queue=0.0, prefill=1.0, decode=0.0, num_prompt_tokens=3, num_generation_tokens=1)
    assert value(metrics, "vllm:request_decode_time_seconds_count") == 1
    assert value(metrics, "vllm:request_time_per_output_token_seconds_count") == 0
    assert value(metrics, "vllm:e2e_request_latency_seconds_count") == 2


def test_http_requests_by_method_handler_and_status() -> None:
    metrics = ServerMetrics("m")
    for status in (200, 200, 404):
        metrics.http("GET", "/v1/models/{id}", status, 0.25)
    metrics.http("POST", "/v1/completions", 200, 2.0)
    where = {"method": "GET", "handler": "/v1/models/{id}"}
    assert value(metrics, "http_requests_total", **where, status="200") == 2
    assert value(metrics, "http_requests_total", **where, status="404") == 1
    assert value(metrics, "http_request_duration_seconds_count", **where) == 3
    assert value(metrics, "http_request_duration_seconds_sum", handler="/v1/completions") == 2.0


def test_two_servers_of_one_process_do_not_share_numbers() -> None:
    first, second = ServerMetrics("m"), ServerMetrics("m")
    first.first_token(1.0)
    assert value(second, "vllm:time_to_first_token_seconds_count") == 0


def test_a_streamed_token_costs_little() -> None:
    metrics = ServerMetrics("m")
    seconds = min(timeit.repeat(lambda: metrics.token_interval(0.04), number=1000, repeat=9)) / 1000
    assert seconds < 20e-6  # about 2 on a quiet machine; a look-up by labels or a rendering would show


def test_the_page_lists_every_metric_and_its_type() -> None:
    rows = re.findall(r"^\| `([a-z0-9_:]+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    listed = {name.removesuffix("_total") if kind == "counter" else name: kind for name, kind in rows}
    assert all(name.endswith("_total") for name, kind in rows if kind == "counter")
    assert listed == families(ServerMetrics("m"))
