"""The CPU time that control groups allow this process: of every version, at every level above it.

Files that are not there set no limit: a container sees only a part of the tree, often its own group as the root.
"""

from __future__ import annotations

import math
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OF_THIS_PROCESS = Path("/proc/self/cgroup")


def cpu_quota(root: Path = _ROOT, of_this_process: Path = _OF_THIS_PROCESS) -> float:
    """CPUs' worth of time, the least of all levels; infinite without a limit.

    Args:
        root: where control groups are mounted: version 2 itself, or the controllers of version 1 by name.
        of_this_process: lines of number:controllers:path; version 2 is number 0 and names no controller.
    """
    quota = math.inf
    for line in _read(of_this_process).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for group in _levels(root, path):
                quota = min(quota, _ratio(*(_read(group / "cpu.max").split() or ("max", "max"))))
        elif "cpu" in controllers.split(","):
            for mount in {root / "cpu", root / controllers}:  # a link and what it stands for, or one of them
                for group in _levels(mount, path):
                    quota = min(quota, _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")))
    return quota


def _levels(mount: Path, path: str) -> list[Path]:
    """The group's folder and those above it, up to the mount."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]


def _ratio(quota: str, period: str) -> float:
    """Microseconds of CPU time in a period; "max" and -1 are no limit."""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
