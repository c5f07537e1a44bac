"""How many threads compute: the flag, the environment, the affinity mask, the cores, the quota."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from octavo.config import EngineArgs
from octavo.errors import ConfigError
from octavo.platforms import cpu_threads
from octavo.platforms.cpu import CpuPlatform
from octavo.platforms.cpu_threads import num_cores, num_threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """8 CPUs, each a core, no quota, nothing in the environment."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cpu_threads, "num_cores", lambda cpus: len(cpus))
    monkeypatch.setattr(cpu_threads, "cpu_quota", lambda: float("inf"))
    return monkeypatch


def test_all_cores_of_the_affinity_mask(machine: pytest.MonkeyPatch) -> None:
    assert num_threads(None) == 8
    machine.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert num_threads(None) == 2


@pytest.mark.parametrize(("quota", "expected"), [(2.0, 2), (2.9, 2), (0.4, 1), (100.0, 8)])
def test_whole_cpus_of_the_quota(quota: float, expected: int, machine: pytest.MonkeyPatch) -> None:
    machine.setattr(cpu_threads, "cpu_quota", lambda: quota)
    assert num_threads(None) == expected


def test_the_environment_goes_before_cores_and_quota(
    machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.setattr(cpu_threads, "cpu_quota", lambda: 1.0)
    machine.setattr(cpu_threads, "num_cores", lambda cpus: 4)
    machine.setenv("OMP_NUM_THREADS", "6")
    assert num_threads(None) == 6
    assert not caplog.records
    machine.setenv("OMP_NUM_THREADS", "64")
    with caplog.at_level(logging.WARNING, "octavo"):
        assert num_threads(None) == 8
    assert "OMP_NUM_THREADS is 64, but this process may run on 8 CPUs" in caplog.text


def test_what_is_asked_for_goes_before_the_environment(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("OMP_NUM_THREADS", "2")
    assert [num_threads(asked) for asked in (1, 5, 8)] == [1, 5, 8]


@pytest.mark.parametrize("asked", [0, -1, 9])
def test_more_threads_than_cpus_are_refused(asked: int, machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"num_threads is {asked}, but this process may run on 8 CPUs .*1 to 8"):
        num_threads(asked)


def test_the_argument_is_refused_before_a_model_is_looked_for(machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="num_threads must be 1 or more, got 0"):
        EngineArgs.from_kwargs(num_threads=0)
    with pytest.raises(ConfigError, match="num_threads is 9"):
        CpuPlatform(9)


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for cpu, siblings in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2-3", 3: "2-3"}.items():
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    assert num_cores({0, 1, 2, 3, 4, 5}, tmp_path) == 3
    assert num_cores({0, 4}, tmp_path) == 1
    assert num_cores({0, 1}, tmp_path) == 2
    assert num_cores({6, 7, 8}, tmp_path) == 3  # of which nothing is known
