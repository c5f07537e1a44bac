"""Quotas of CPU time, read from folders that are like those of the kernel."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from octavo.platforms.cgroup import cpu_quota


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def quota(tmp_path: Path, groups: str, files: dict[str, str]) -> float:
    (tmp_path / "groups").write_text(groups)
    return cpu_quota(tree(tmp_path / "cgroup", files), tmp_path / "groups")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu.max": "250000 100000"}, 2.5),
        ({}, math.inf),
        ({"a/b/cpu.max": "300000 100000"}, 3),
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "150000 100000"}, 1.5),  # a group has no more than those above
        ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "max 100000", "cpu.max": "800000 100000"}, 3),
        ({"a/other/cpu.max": "100000 100000", "a/b/below/cpu.max": "100000 100000"}, math.inf),  # not of this process
    ],
)
def test_version_2(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/a/b\n", files) == expected


def test_the_root_of_a_container_is_its_own_group(tmp_path: Path) -> None:
    # The path is the host's, which the container does not see.
    assert quota(tmp_path, "0::/docker/0123\n", {"cpu.max": "200000 100000"}) == 2
    assert quota(tmp_path, "0::/../../docker/0123\n", {"cpu.max": "200000 100000"}) == 2


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
@pytest.mark.parametrize(("microseconds", "expected"), [("-1", math.inf), ("50000", 0.5), ("400000", 4)])
def test_version_1(controllers: str, microseconds: str, expected: float, tmp_path: Path) -> None:
    files = {
        f"{controllers}/jobs/cpu.cfs_quota_us": microseconds,
        f"{controllers}/jobs/cpu.cfs_period_us": "100000",
        f"{controllers}/cpu.cfs_quota_us": "-1",
        f"{controllers}/cpu.cfs_period_us": "100000",
        "cpuset/jobs/cpu.cfs_quota_us": "1",
        "cpuset/jobs/cpu.cfs_period_us": "100000",
    }
    groups = f"9:name=systemd:/jobs\n5:cpuset:/jobs\n2:{controllers}:/jobs\n1:memory:/else\n0::/\n"
    assert quota(tmp_path, groups, files) == expected


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000", "cpu.max": "200000 100000"}
    assert quota(tmp_path, "1:cpu:/\n0::/\n", files) == 2


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") == math.inf
