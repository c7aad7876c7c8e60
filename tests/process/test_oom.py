"""Where the kernel counts its out-of-memory kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_faultguard.process.oom import Kills
from pytest_faultguard.process.oom import files_in
from pytest_faultguard.process.oom import read_count

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = "low 0\nhigh 12\nmax 7\noom 4\noom_kill 2\noom_group_kill 1\n"
VMSTAT = "pgmajfault 211\noom_kill 5\nnuma_hint_faults 0\n"

V1_MOUNTS = (
    "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
    "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
)
V1_GROUPS = "4:memory:/user.slice\n1:cpu,cpuacct:/\n0::/\n"
V2_MOUNTS = "25 24 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#: A container's own part of the tree, at a place with a blank in its name.
PART_MOUNTS = "25 24 0:22 /docker/abc /mnt/c\\040g rw - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(("text", "count"), [(V1, 3), (V2, 2), (VMSTAT, 5), ("oom_kill_disable 0\n", None), ("", None)])
def test_the_count_is_that_of_kills(text: str, count: int | None) -> None:
    """Not that of groups, nor of times that memory was short."""
    assert read_count(text.encode()) == count


@pytest.mark.parametrize(
    ("mounts", "groups", "files"),
    [
        (
            V1_MOUNTS,
            V1_GROUPS,
            ["/sys/fs/cgroup/memory/user.slice/memory.oom_control", "/sys/fs/cgroup/unified/memory.events"],
        ),
        (V2_MOUNTS, "0::/a.slice/b.scope\n", ["/sys/fs/cgroup/a.slice/b.scope/memory.events"]),
        (V2_MOUNTS, "0::/\n", ["/sys/fs/cgroup/memory.events"]),
        (PART_MOUNTS, "0::/docker/abc/x\n", ["/mnt/c g/x/memory.events"]),
        (PART_MOUNTS, "0::/docker/other\n", []),
        ("", "", []),
    ],
)
def test_the_file_is_that_of_the_own_cgroup(mounts: str, groups: str, files: list[str]) -> None:
    """Of both versions, and below what is mounted."""
    assert list(files_in(mounts, groups)) == files


def test_there_is_a_counter_on_this_machine() -> None:
    """Of the cgroup, or of the whole machine."""
    kills = Kills()

    assert Path(kills.file).exists()
    assert kills.count() is not None
