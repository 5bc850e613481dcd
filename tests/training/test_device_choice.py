from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.bundle import ConfigParser

from bundle_runs import ROOT, read_configs, stage_configs
from scripts import InputError
from scripts.projection.precision import precise_device
from scripts.training.devices import choose_device
from scripts.training.distributed import device_ids

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Says how many devices of each kind PyTorch finds; what it would compute on them is not touched."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def has(**numbers: int) -> None:
        for kind in ("cuda", "mps", "xpu"):
            number = numbers.get(kind, 0)
            monkeypatch.setattr(getattr(torch, kind), "is_available", lambda number=number: number > 0)
            monkeypatch.setattr(getattr(torch, kind), "device_count", lambda number=number: number)

    return has


@pytest.mark.parametrize(
    ("found", "expected"),
    [({}, "cpu"), ({"mps": 1}, "mps"), ({"cuda": 1}, "cuda:0"), ({"cuda": 2, "mps": 1}, "cuda:0"), ({"xpu": 1}, "cpu")],
)
def test_cuda_comes_before_mps_and_mps_before_the_cpu(machine: Machine, found: dict[str, int], expected: str):
    machine(**found)
    assert choose_device() == torch.device(expected)


def test_each_process_of_torchrun_takes_the_gpu_of_its_rank(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine(cuda=4)
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device() == choose_device("cuda") == torch.device("cuda", rank)
        assert choose_device("cuda:1") == torch.device("cuda", 1)
        assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps", "xpu"])
def test_a_users_choice_comes_before_every_other(machine: Machine, name: str):
    machine(cuda=2, mps=1, xpu=1)
    assert choose_device(name).type == name.split(":")[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paint", "'paint' is no device of PyTorch, expected cpu, cuda"),
        ("", "'' is no device of PyTorch"),
        ("cuda:-1", "'cuda:-1' is no device of PyTorch"),
        ("cuda:2", "cuda:2 is to compute, but PyTorch finds 2 of the kind 'cuda' here"),
        ("mps", "mps is to compute, but PyTorch finds 0 of the kind 'mps' here"),
        ("meta", "meta is to compute, but PyTorch finds 0 of the kind 'meta' here"),
    ],
)
def test_a_device_that_is_not_there_is_refused_by_its_name(machine: Machine, name: str, message: str):
    machine(cuda=2)
    with pytest.raises(InputError, match=f"^device: {message}"):
        choose_device(name)


def test_more_processes_than_gpus_are_refused_with_what_to_do(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine(cuda=1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        InputError, match="cuda:1 is to compute, but PyTorch finds 1 .* at most one process for each GPU"
    ):
        choose_device()


def test_float64_is_computed_where_there_is_float64():
    assert precise_device(torch.device("mps")) == torch.device("cpu")
    for name in ("cpu", "cuda", "cuda:1"):
        assert precise_device(torch.device(name)) == torch.device(name)


def training(*further: str, **overrides: str) -> ConfigParser:
    return read_configs(stage_configs(1, *further), **overrides)


def inference(**overrides: str) -> ConfigParser:
    return read_configs(["bundle/configs/inference.json"], **overrides)


@pytest.mark.parametrize("read", [training, inference])
def test_the_configs_make_the_one_choice(machine: Machine, read: Callable[..., ConfigParser]):
    for found, expected in (({"cuda": 1, "mps": 1}, "cuda:0"), ({"mps": 1}, "mps"), ({}, "cpu")):
        machine(**found)
        assert read().get_parsed_content("device") == torch.device(expected)
        chosen = read(device="$scripts.devices.choose_device('cpu')")
        assert chosen.get_parsed_content("device") == torch.device("cpu")


@pytest.mark.parametrize(
    ("found", "device", "expected"),
    [
        ({"cuda": 1}, None, True),
        ({"cuda": 1}, "$scripts.devices.choose_device('cpu')", False),
        ({"cuda": 1}, "cpu", False),
        ({"mps": 1}, None, False),
        ({}, None, False),
    ],
)
def test_mixed_precision_follows_the_device_that_was_chosen(
    machine: Machine, found, device: str | None, expected: bool
):
    machine(**found)
    parser = training(**({} if device is None else {"device": device}))
    assert parser.get_parsed_content("amp") is expected


@pytest.mark.parametrize(("name", "expected"), [("cpu", None), ("mps", None), ("cuda:1", [torch.device("cuda", 1)])])
def test_a_module_is_on_the_gpu_of_its_process_alone(name: str, expected: list[torch.device] | None):
    assert device_ids(torch.device(name)) == expected
    parser = training(str(ROOT / "bundle" / "configs" / "multi_gpu_train.json"), device=f"$torch.device('{name}')")
    assert parser.get_parsed_content("network#device_ids") == expected
