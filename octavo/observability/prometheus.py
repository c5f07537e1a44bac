"""ServerMetrics: a server's numbers for Prometheus, under vLLM's names. The only module that knows its client library.

It knows no requests and no clock: whoever sees an event tells it how long it took. Seconds everywhere.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from octavo.observability.stats import EngineStats
from octavo.request import FinishReason

# name: meaning; the rest of a name stands behind "vllm:"
_GAUGES = {
    "num_requests_running": "Requests that have a place in the steps.",
    "num_requests_waiting": "Requests that wait for one.",
    "kv_cache_usage_perc": "Share of the KV cache's blocks in use, 0 to 1.",
}
_COUNTERS = {
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache.",
    "prefix_cache_hits": "Prompt tokens found in the prefix cache.",
    "num_preemptions": "Times that a running request had to give its blocks back and wait again.",
    "prompt_tokens": "Prompt tokens of requests that began, those found in the prefix cache included.",
    "generation_tokens": "Tokens generated.",
}

# Two kinds of durations: of one token, and of a whole request.
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30)
_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600, 1800)
_FIRST_TOKEN_SECONDS = (0.005, *_REQUEST_SECONDS[:-2])
_NUM_TOKENS = (*(digit * 10**power for power in range(6) for digit in (1, 2, 5)), 1_000_000)
_HTTP_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)

_HISTOGRAMS = {
    "time_to_first_token_seconds": ("From a request's arrival to its first token.", _FIRST_TOKEN_SECONDS),
    "inter_token_latency_seconds": ("From one token of a request to the next.", _TOKEN_SECONDS),
    "request_time_per_output_token_seconds": (
        "Of a finished request: the mean time from one token to the next.",
        _TOKEN_SECONDS,
    ),
    "e2e_request_latency_seconds": ("Of a finished request: from its arrival to its end.", _REQUEST_SECONDS),
    "request_queue_time_seconds": ("Of a finished request: from its arrival to its first step.", _REQUEST_SECONDS),
    "request_prefill_time_seconds": (
        "Of a finished request: from its first step to its first token.",
        _REQUEST_SECONDS,
    ),
    "request_decode_time_seconds": ("Of a finished request: from its first token to its last.", _REQUEST_SECONDS),
    "request_prompt_tokens": ("Of a finished request: tokens of its prompt.", _NUM_TOKENS),
    "request_generation_tokens": ("Of a finished request: tokens generated.", _NUM_TOKENS),
}


class ServerMetrics:
    """The metrics of one server, in a registry of their own.

    Args:
        model_name: the label `model_name` of all metrics that begin with `vllm:`.
    """

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self._totals = EngineStats()
        # Children are made once: a look-up by labels costs more than what is counted.
        self._gauges = {
            name: Gauge(f"vllm:{name}", text, [*self._labels], registry=self._registry).labels(**self._labels)
            for name, text in _GAUGES.items()
        }
        self._counters = {
            name: Counter(f"vllm:{name}", text, [*self._labels], registry=self._registry).labels(**self._labels)
            for name, text in _COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(
                f"vllm:{name}",
                text,
                [*self._labels],
                registry=self._registry,
                buckets=[float(bound) for bound in bounds],
            ).labels(**self._labels)
            for name, (text, bounds) in _HISTOGRAMS.items()
        }
        self._observe_interval = self._histograms["inter_token_latency_seconds"].observe
        success = Counter(
            "vllm:request_success",
            "Finished requests, by the reason of their end.",
            [*self._labels, "finished_reason"],
            registry=self._registry,
        )
        self._success = {
            str(reason): success.labels(**self._labels, finished_reason=str(reason)) for reason in FinishReason
        }
        self._http_requests = Counter(
            "http_requests", "Answered HTTP requests.", ["method", "handler", "status"], registry=self._registry
        )
        self._http_seconds = Histogram(
            "http_request_duration_seconds",
            "From an HTTP request's arrival to the end of its answer.",
            ["method", "handler"],
            registry=self._registry,
            buckets=[float(bound) for bound in _HTTP_SECONDS],
        )
        self._http: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def update_engine(self, stats: EngineStats) -> None:
        """Take in what the engine tells after a step: counters since its start."""
        self._gauges["num_requests_running"].set(stats.num_running)
        self._gauges["num_requests_waiting"].set(stats.num_waiting)
        self._gauges["kv_cache_usage_perc"].set(stats.kv_cache_usage)
        for name, counter in self._counters.items():
            grown = getattr(stats, name) - getattr(self._totals, name)
            if grown:
                counter.inc(grown)
        self._totals = stats

    def first_token(self, seconds: float) -> None:
        """A request got its first token, `seconds` after its arrival."""
        self._histograms["time_to_first_token_seconds"].observe(seconds)

    def token_interval(self, seconds: float) -> None:
        """A token came, `seconds` after the one before it in its request."""
        self._observe_interval(seconds)

    def finished(
        self,
        reason: str,
        *,
        e2e: float,
        queue: float | None,
        prefill: float | None,
        decode: float | None,
        num_prompt_tokens: int,
        num_generation_tokens: int,
    ) -> None:
        """A request has ended. Times are seconds, None for a part that it did not reach."""
        self._success[reason].inc()
        histograms = self._histograms
        histograms["e2e_request_latency_seconds"].observe(e2e)
        for part, seconds in (("queue", queue), ("prefill", prefill), ("decode", decode)):
            if seconds is not None:
                histograms[f"request_{part}_time_seconds"].observe(seconds)
        if decode is not None and num_generation_tokens > 1:
            histograms["request_time_per_output_token_seconds"].observe(decode / (num_generation_tokens - 1))
        histograms["request_prompt_tokens"].observe(num_prompt_tokens)
        histograms["request_generation_tokens"].observe(num_generation_tokens)

    def http(self, method: str, handler: str, status: int, seconds: float) -> None:
        """An HTTP request was answered. `handler` is the route's template, so that there are few of them."""
        key = (method, handler, status)
        children = self._http.get(key)
        if children is None:
            requests = self._http_requests.labels(method=method, handler=handler, status=str(status))
            children = self._http[key] = (requests, self._http_seconds.labels(method=method, handler=handler))
        children[0].inc()
        children[1].observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
