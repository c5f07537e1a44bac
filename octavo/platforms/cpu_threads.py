"""How many threads compute on a CPU: what was asked for, or what this process may use without waiting for itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from octavo import envs
from octavo.errors import ConfigError
from octavo.log import get_logger
from octavo.platforms.cgroup import cpu_quota

logger = get_logger(__name__)

_CPUS = Path("/sys/devices/system/cpu")


def num_threads(asked: int | None) -> int:
    """`asked`; else OMP_NUM_THREADS; else the cores of the affinity mask, within the quota of the control groups.

    More threads than CPUs are never right: all members of the team wait for the one that has no CPU.

    Raises:
        ConfigError: `asked` is below 1 or above the number of CPUs that this process may run on.
    """
    cpus = os.sched_getaffinity(0)
    if asked is not None:
        if not 1 <= asked <= len(cpus):
            raise ConfigError(
                f"num_threads is {asked}, but this process may run on {len(cpus)} CPUs (its affinity mask: taskset, "
                f"cpuset); give 1 to {len(cpus)}, or leave it out for the best that is allowed"
            )
        return asked
    from_environment = envs.omp_num_threads()
    if from_environment is not None:
        if from_environment > len(cpus):
            logger.warning(
                "OMP_NUM_THREADS is %d, but this process may run on %d CPUs: that many threads are used",
                from_environment,
                len(cpus),
            )
        return min(from_environment, len(cpus))
    return max(1, int(min(num_cores(cpus), cpu_quota())))


def num_cores(cpus: Iterable[int], folder: Path = _CPUS) -> int:
    """The cores that `cpus` belong to: two threads of one core share its arithmetic. `folder` describes the CPUs."""
    return len({_siblings(folder / f"cpu{cpu}" / "topology" / "thread_siblings_list", cpu) for cpu in cpus})


def _siblings(file: Path, cpu: int) -> str:
    """The CPUs of the same core, `cpu` included; itself alone where the system does not say."""
    try:
        return file.read_text().strip()
    except OSError:
        return str(cpu)
