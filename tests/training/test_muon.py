from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
import torch
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from bundle_runs import read_configs, stage_configs
from scripts import CheckpointError, MuonWithAdamW
from scripts.training.muon import UPDATE_RMS, is_matrix, orthogonalised
from scripts.training.resume import differences
from small_training import left, stopped, training

SHAPES = [(16, 16), (24, 40), (40, 24)]


def with_singular_values(rows: int, columns: int, values: torch.Tensor) -> torch.Tensor:
    left_vectors = torch.linalg.qr(torch.randn(rows, len(values))).Q
    right_vectors = torch.linalg.qr(torch.randn(columns, len(values))).Q
    return left_vectors @ torch.diag(values) @ right_vectors.T


def stepped(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    """Steps by random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def mixed_parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(12, 20), (20,), (16, 4, 3, 3, 3), (4, 4, 4, 32), (2, 30)]
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_orthogonalised_matrix_keeps_its_singular_vectors_and_loses_its_singular_values(shape: tuple[int, int]):
    """Over a condition of 100, which a gradient's momentum easily has."""
    torch.manual_seed(0)
    matrix = with_singular_values(*shape, torch.logspace(0, -2, min(shape)))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalised(matrix) @ vh.T
    values = found.diagonal()
    assert values.min() > 0.68 and values.max() < 1.21
    torch.testing.assert_close(found, torch.diag(values), atol=1e-3, rtol=0)


def test_a_matrix_of_any_scale_and_its_transpose_are_orthogonalised_alike_and_zeros_stay():
    matrix = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    for other in (orthogonalised(1e-12 * matrix), orthogonalised(1e6 * matrix), orthogonalised(matrix.T).T):
        torch.testing.assert_close(other, orthogonalised(matrix), atol=1e-5, rtol=0)
    assert torch.equal(orthogonalised(torch.zeros(8, 9)), torch.zeros(8, 9))


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (16, 4, 3, 3, 3)])
def test_an_update_has_the_size_of_adamws_whatever_the_shape(shape: tuple[int, ...]):
    """A root mean square lies between the least and the largest singular value."""
    weight = nn.Parameter(torch.zeros(shape))
    stepped([weight], MuonWithAdamW([weight], lr=0.01, weight_decay=0.0), steps=1)
    assert 0.68 < weight.square().mean().sqrt() / (0.01 * UPDATE_RMS) < 1.21


def test_a_kernel_is_updated_alike_in_each_memory_format_and_keeps_it():
    torch.manual_seed(0)
    contiguous = nn.Parameter(torch.randn(16, 8, 3, 3, 3))
    last = nn.Parameter(contiguous.detach().clone().to(memory_format=torch.channels_last_3d))
    for weight in (contiguous, last):
        stepped([weight], MuonWithAdamW([weight], lr=0.1, weight_decay=0.1), steps=3)
    assert torch.equal(contiguous, last)
    assert last.is_contiguous(memory_format=torch.channels_last_3d)


def test_what_is_no_matrix_is_trained_by_adamw_to_the_bit():
    ours, its = mixed_parameters(), mixed_parameters()
    stepped(ours, MuonWithAdamW(ours, lr=0.01, weight_decay=0.1), steps=4)
    stepped(its, torch.optim.AdamW(its, lr=0.01, weight_decay=0.1), steps=4)
    assert [torch.equal(mine, other) for mine, other in zip(ours, its)] == [False, True, False, True, True]


def test_in_the_cascade_layers_are_matrices_and_learned_positions_are_not():
    network = read_configs(stage_configs(1), device="cpu").get_parsed_content("network_def")
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    others = {name for name, parameter in trained.items() if parameter.ndim > 1 and not is_matrix(parameter)}
    assert {"stages.0.context.vit.token_position", "stages.0.context.vit.view_embedding"} <= others
    weights = sum(parameter.numel() for name, parameter in trained.items() if is_matrix(parameter))
    positions = trained["stages.0.context.vit.token_position"].numel()
    assert weights > 0.98 * (sum(parameter.numel() for parameter in trained.values()) - positions)


def test_a_restored_optimizer_goes_on_to_the_bit():
    alone, stopped_one = mixed_parameters(), mixed_parameters()
    uninterrupted = MuonWithAdamW(alone, lr=0.01, weight_decay=0.1)
    before = MuonWithAdamW(stopped_one, lr=0.01, weight_decay=0.1)
    for optimizer, parameters in ((uninterrupted, alone), (before, stopped_one)):
        stepped(parameters, optimizer, steps=3)
    file = BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = MuonWithAdamW(stopped_one, lr=0.5, weight_decay=0.0)
    after.load_state_dict(torch.load(file, weights_only=True))
    for optimizer, parameters in ((uninterrupted, alone), (after, stopped_one)):
        stepped(parameters, optimizer, steps=3, seed=1)
    assert all(map(torch.equal, alone, stopped_one))


def test_a_schedule_sets_the_rate_of_both_groups():
    parameters = mixed_parameters()
    optimizer = MuonWithAdamW(parameters, lr=0.1, weight_decay=0.0)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=4, warmup_multiplier=0.5)
    rates = []
    for _ in range(4):
        rates += [group["lr"] for group in optimizer.param_groups]
        stepped(parameters, optimizer, steps=1)
        schedule.step()
    assert rates == pytest.approx([0.05, 0.05, 0.075, 0.075, 0.1, 0.1, 0.05, 0.05])


def regression_loss(optimizer_class: type[torch.optim.Optimizer], steps: int = 120) -> float:
    """The best loss of some learning rates on a linear regression from inputs of a condition of 1000."""
    torch.manual_seed(0)
    inputs = with_singular_values(256, 32, torch.logspace(0, -3, 32)) * 16
    targets = inputs @ torch.randn(32, 32)
    losses = []
    for rate in (0.1, 0.3, 1.0, 3.0):
        weight = nn.Parameter(torch.zeros(32, 32))
        optimizer = optimizer_class([weight], lr=rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (inputs @ weight.T - targets).square().mean()
            loss.backward()
            optimizer.step()
            schedule.step()
        losses.append(loss.item())
    return min(losses)


def test_a_badly_conditioned_regression_is_solved_better_than_by_adamw_at_its_best_rate():
    assert regression_loss(MuonWithAdamW) < 0.2 * regression_loss(torch.optim.AdamW)


@pytest.mark.parametrize("step", [1, 7, 14])
def test_a_stopped_training_ends_with_the_bytes_of_one_left_alone(tmp_path: Path, step: int):
    """With its moving average."""
    chosen = {"optimizer": MuonWithAdamW, "ema": 0.3}
    training(tmp_path / "alone", **chosen).run()
    stopped(tmp_path / "stopped", step, **chosen)
    training(tmp_path / "stopped", **chosen).run()
    assert left(tmp_path / "stopped") == left(tmp_path / "alone")


def test_a_training_by_the_other_optimizer_is_refused_by_its_name(tmp_path: Path):
    stopped(tmp_path, 10)
    before = left(tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings: optimizer\.class was AdamW, is MuonWithAdamW; .*"):
        training(tmp_path, optimizer=MuonWithAdamW).run()
    assert left(tmp_path) == before


@pytest.mark.parametrize("now", ["AdamW", "SGD"])
def test_a_training_of_before_optimizers_had_names_goes_on(now: str):
    """Of version 0.3, by whatever optimizer its configuration had."""
    assert differences({"optimizer.lr": 0.1}, {"optimizer.class": now, "optimizer.lr": 0.1}) == ""


def test_a_training_of_before_by_adamw_is_refused_by_the_name_of_then():
    now = {"optimizer.class": "MuonWithAdamW", "optimizer.lr": 0.1}
    assert differences({"optimizer.lr": 0.1}, now) == "optimizer.class was AdamW, is MuonWithAdamW"
