"""StatsLog: when a line comes, and what its rates are."""

from __future__ import annotations

from octavo.observability.stats import EngineStats
from octavo.observability.stats_log import StatsLog


def test_the_rates_are_those_of_the_interval() -> None:
    log = StatsLog(interval=10)
    assert log.update(EngineStats(num_running=2, prompt_tokens=100, prefix_cache_queries=100), 1000.0) is None
    assert log.update(EngineStats(num_running=2, prompt_tokens=100, generation_tokens=50), 1009.0) is None
    stats = EngineStats(
        num_running=2,
        num_waiting=5,
        kv_cache_usage=0.123,
        prompt_tokens=400,
        generation_tokens=1000,
        prefix_cache_queries=400,
        prefix_cache_hits=100,
    )
    assert log.update(stats, 1020.0) == (
        "prompt 20.0 tok/s, generation 50.0 tok/s, running 2, waiting 5, KV cache 12.3 %, prefix cache hits 25.0 %"
    )
    later = EngineStats(
        num_running=1,
        prompt_tokens=400,
        generation_tokens=1100,
        prefix_cache_queries=400,
        prefix_cache_hits=100,
    )
    assert log.update(later, 1029.9) is None
    line = log.update(later, 1030.0)
    assert line is not None
    assert line.startswith("prompt 0.0 tok/s, generation 10.0 tok/s, running 1, waiting 0")
    assert line.endswith("prefix cache hits -")  # nothing was looked up


def test_an_idle_engine_says_nothing() -> None:
    log = StatsLog(interval=10)
    assert [log.update(EngineStats(), float(now)) for now in range(0, 100, 5)] == [None] * 20


def test_after_the_work_there_is_one_line_and_no_more() -> None:
    log = StatsLog(interval=10)
    assert log.update(EngineStats(num_running=1, generation_tokens=1), 0.0) is None
    done = EngineStats(generation_tokens=40, num_finished=1)
    lines = [log.update(done, float(now)) for now in range(1, 60)]
    assert [(now, line) for now, line in enumerate(lines, 1) if line] == [
        (10, "prompt 0.0 tok/s, generation 4.0 tok/s, running 0, waiting 0, KV cache 0.0 %, prefix cache hits -")
    ]


def test_a_late_line_does_not_spread_the_work_over_the_time_without_any() -> None:
    log = StatsLog(interval=10)
    log.update(EngineStats(num_running=1, generation_tokens=1), 0.0)
    log.update(EngineStats(generation_tokens=40), 2.0)
    line = log.update(EngineStats(num_running=1, generation_tokens=41), 3600.0)
    assert line is not None
    assert "generation 4.0 tok/s" in line
    following = log.update(EngineStats(num_running=1, generation_tokens=140), 3610.0)
    assert following is not None
    assert "generation 10.0 tok/s" in following


def test_work_that_begins_and_ends_in_one_step_counts() -> None:
    log = StatsLog(interval=10)
    assert log.update(EngineStats(prompt_tokens=50, generation_tokens=1), 5.0) is None
    line = log.update(EngineStats(prompt_tokens=50, generation_tokens=1), 15.0)
    assert line is not None
    assert line.startswith("prompt 5.0 tok/s, generation 0.1 tok/s, running 0")
