"""StatsLog: now and then, one line for the log that says how much an engine does. It knows no logger and no clock."""

from __future__ import annotations

from octavo.observability.stats import EngineStats


class StatsLog:
    """A line at most every `interval` seconds while there is, or was since the last line, work."""

    def __init__(self, interval: float = 10.0) -> None:
        self._interval = interval
        self._since: float | None = None  # when the interval under way began; None: no work since the last line
        self._before = EngineStats()
        self._latest = EngineStats()

    def update(self, stats: EngineStats, now: float) -> str | None:
        """The line that is due, if one is.

        An engine that has nothing to do tells nothing. So the line about a short piece of work may come with what
        follows it; its rates are those of the interval in which the work was done.

        Args:
            stats: the engine's numbers of this moment, whose counters run since its start.
            now: monotonic seconds.
        """
        line = None
        if self._since is not None and not _is_busy(self._latest) and now - self._since >= self._interval:
            line = _line(self._before, self._latest, self._interval)
            self._since = None
        if self._since is None and (_is_busy(stats) or _num_tokens(stats) > _num_tokens(self._latest)):
            self._since, self._before = now, self._latest
        self._latest = stats
        if self._since is not None and now - self._since >= self._interval:
            line = _line(self._before, stats, now - self._since)
            self._since, self._before = (now if _is_busy(stats) else None), stats
        return line


def _is_busy(stats: EngineStats) -> bool:
    return stats.num_running + stats.num_waiting > 0


def _num_tokens(stats: EngineStats) -> int:
    return stats.prompt_tokens + stats.generation_tokens


def _line(before: EngineStats, after: EngineStats, seconds: float) -> str:
    looked_up = after.prefix_cache_queries - before.prefix_cache_queries
    found = after.prefix_cache_hits - before.prefix_cache_hits
    hit_rate = f"{100 * found / looked_up:.1f} %" if looked_up else "-"
    return (
        f"prompt {(after.prompt_tokens - before.prompt_tokens) / seconds:.1f} tok/s, "
        f"generation {(after.generation_tokens - before.generation_tokens) / seconds:.1f} tok/s, "
        f"running {after.num_running}, waiting {after.num_waiting}, "
        f"KV cache {100 * after.kv_cache_usage:.1f} %, prefix cache hits {hit_rate}"
    )
