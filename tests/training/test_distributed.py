from __future__ import annotations

import gc
import json
import socket
from collections.abc import Callable
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch

from bundle_runs import bundle_run, stage_configs
from scripts import InputError, ProgressiveCascadeModel
from scripts.training.distributed import end_process_group, gathered, one_for_each, start_process_group

MULTI_GPU = Path("bundle/configs/multi_gpu_train.json")


@pytest.fixture
def four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)


def test_fewer_records_than_processes_are_refused_by_both_numbers(four_processes):
    with pytest.raises(InputError, match=r"section 'validation' has 3 record\(s\) for 4 processes.*at most 3"):
        one_for_each([1, 2, 3], "validation")


def test_as_many_records_as_processes_are_enough(four_processes):
    assert one_for_each([1, 2, 3, 4], "validation") == [1, 2, 3, 4]


def test_items_come_back_in_the_order_in_which_they_were_dealt_out(four_processes, monkeypatch):
    def exchange(shares: list, own: list) -> None:
        shares[:] = [list(range(rank, 10, 4)) for rank in range(4)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
    assert gathered([0, 4, 8]) == list(range(10))


def test_alone_a_process_has_all():
    assert gathered([3, 1]) == [3, 1]
    assert one_for_each([1], "test") == [1]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux")
def test_no_thread_of_the_group_outlives_it(monkeypatch: pytest.MonkeyPatch):
    """Those of gloo and of its store would run on while Python ends; the network that was trained holds the group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 1}
    for name, value in alone.items():
        monkeypatch.setenv(name, str(value))
    start_process_group(torch.device("cpu"))
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    network(torch.ones(1, 2)).sum().backward()
    assert "gloo_tcp_loop" in threads()
    end_process_group(network)
    gc.collect()
    assert not {name for name in threads() if "gloo" in name or "store" in name}


def threads() -> set[str]:
    return {task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")}


def test_training_changes_no_buffer_that_processes_would_have_to_share(small_cascade: Callable, awaken: Callable):
    """All are positions and masks, so that `broadcast_buffers` would send at every step what each process has."""
    network: ProgressiveCascadeModel = awaken(small_cascade()).train()
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert sum(buffer.numel() for buffer in buffers.values()) > 0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in network.parameters()]
    for _ in range(2):
        sum(volume.square().mean() for volume in network(torch.rand(1, 2, 128, 128))).backward()
        optimizer.step()
    assert not all(map(torch.equal, before, network.parameters()))
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_two_processes_come_to_the_same_bytes_whether_or_not_they_send_buffers(
    dataset: Path, overlay: Path, tmp_path: Path
):
    written = []
    for sends in (True, False):
        config, folder = tmp_path / f"{sends}.json", tmp_path / str(sends)
        further = {"epochs": 1, "repeats": 1, **({"network#broadcast_buffers": True} if sends else {})}
        config.write_text(json.dumps({**json.loads(overlay.read_text()), **further}))
        configs = [*stage_configs(1), str(MULTI_GPU), str(config)]
        places = {"dataset_dir": dataset, "ckpt_dir": folder, "output_dir": folder}
        run = bundle_run("training", configs, processes=2, **places)
        assert run.returncode == 0, run.stdout[-3000:]
        written.append((folder / "stage1_best.pth").read_bytes())
    assert written[0] == written[1]
