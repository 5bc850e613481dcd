from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from bundle_runs import read_configs, stage_configs
from scripts.training import cores
from scripts.training.cores import available_cores, loader_workers, share_of_cores

on_linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinities are Linux's")
V1 = "sys/fs/cgroup/cpu/job"


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root in which Linux tells of itself, empty."""
    monkeypatch.setattr(cores, "SYSTEM", tmp_path)
    return tmp_path


def write(folder: Path, siblings: dict[int, str] | None = None, group: str = "", **files: str) -> None:
    """Tells of CPUs and control groups in the files and forms of Linux (man 5 sysfs, man 7 cgroups)."""
    for cpu, text in (siblings or {}).items():
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = f"{text}\n"
    for name, text in {"proc/self/cgroup": group, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def test_without_a_word_of_the_system_every_cpu_of_the_affinity_is_a_core(eight_cpus, system: Path):
    assert available_cores() == 8


def test_the_hardware_threads_of_a_core_count_once(eight_cpus, system: Path):
    write(system, {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)})
    assert available_cores() == 4


def test_a_core_counts_where_one_of_its_hardware_threads_may_be_used(eight_cpus, monkeypatch, system: Path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4})
    write(system, {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)})
    assert available_cores() == 2


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ("0::/", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 8),
        ("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "200000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "500000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n"}, 4),
        (
            "5:memory:/job\n4:cpu,cpuacct:/job\n",
            {f"{V1}/cpu.cfs_quota_us": "600000\n", f"{V1}/cpu.cfs_period_us": "200000\n"},
            3,
        ),
        (
            "4:cpu,cpuacct:/job\n",
            {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_the_quota_of_a_control_group_and_of_those_around_it_limits_the_cores(
    eight_cpus, system: Path, group: str, files: dict[str, str], expected: int
):
    write(system, group=group, **files)
    assert available_cores() == expected


@on_linux
def test_a_process_that_is_held_to_one_cpu_has_one_core_and_no_worker():
    """A real one; torchrun and Slurm hold their tasks in this way."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()

    def held() -> None:
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        theirs.send([available_cores(), loader_workers(4)])

    process = fork.Process(target=held)
    process.start()
    process.join(60)
    assert process.exitcode == 0 and ours.recv() == [1, 0]


@pytest.mark.parametrize(
    ("processes", "wanted", "expected"), [(1, 4, 4), (1, 16, 8), (1, 0, 0), (2, 16, 4), (8, 4, 0), (16, 4, 0)]
)
def test_workers_are_no_more_than_the_cores_of_their_process(eight_cpus, monkeypatch, processes, wanted, expected):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers(wanted) == expected


def test_cores_are_shared_out_whole(eight_cpus):
    assert [share_of_cores(processes) for processes in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(("cpus", "expected"), [(1, 0), (2, 2), (3, 3), (64, 4)])
def test_the_configs_of_training_take_no_more_workers_than_there_are_cores(monkeypatch, cpus: int, expected: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cpus)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for stage in (1, 2, 3):
        assert read_configs(stage_configs(stage)).get_parsed_content("num_workers") == expected
