"""How many processor cores this process may use: the host's count is wrong inside a container."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """At least 1: the smaller of the scheduler's affinity and the cgroup's CPU quota (v2, else v1), rounded up."""
    cores = len(usable_cores())
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def usable_cores() -> list[int]:
    """Numbers of the cores that the scheduler may put this process on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of CPU time the cgroup grants, or None when it sets no limit."""
    try:
        if (unified := cgroup / "cpu.max").exists():
            limit, period = unified.read_text().split()
        else:
            limit, period = ((cgroup / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        quota = float(limit) / float(period)
    except (OSError, ValueError):  # no cgroup, or "max"
        return None
    return quota if quota > 0 else None  # v1 says -1 for no limit
