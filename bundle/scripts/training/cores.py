"""How many of the CPU's cores this process may use. Needs Python alone, since the launcher reads it by itself."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/")
"""Where Linux tells of its CPUs and of its control groups."""


def loader_workers(wanted: int) -> int:
    """
    Processes of a data loader: as many as are wanted, but no more than this process has cores, and none where it has
    one, since a worker would only take it from the training.
    """
    cores = share_of_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return min(wanted, cores) if cores > 1 else 0


def share_of_cores(processes: int) -> int:
    """The cores for each of several processes of this machine, at least 1."""
    return max(1, available_cores() // processes)


def available_cores() -> int:
    """
    Cores that this process may use, at least 1: those of its CPU affinity, each counted once where it has several
    hardware threads, and no more than the whole ones of its control group's quota, as Docker, Kubernetes and Slurm set
    it. Elsewhere than on Linux, all logical CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    cores = {_text(SYSTEM / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in cpus}
    return max(1, min([len(cores), *(int(quota) for quota in _quotas())]))


def _quotas() -> list[float]:
    """CPU time per time of the process's control group and of those that hold it, versions 1 and 2."""
    groups = [line.split(":", 2) for line in _text(SYSTEM / "proc/self/cgroup").splitlines()]
    found = []
    for _, controllers, name in groups:
        if "cpu" in controllers.split(",") or not controllers:
            mount = SYSTEM / "sys/fs/cgroup" / ("cpu" if controllers else "")
            place = mount / name.lstrip("/")
            found += [_quota(folder) for folder in (place, *place.parents) if folder.is_relative_to(mount)]
    return [quota for quota in found if quota is not None]


def _quota(folder: Path) -> float | None:
    values = _text(folder / "cpu.max").split()
    values = values or [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    is_limited = all(value.isdecimal() and int(value) for value in values)
    return int(values[0]) / int(values[1]) if is_limited else None


def _text(file: Path) -> str:
    """What a file holds, empty where there is none."""
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
