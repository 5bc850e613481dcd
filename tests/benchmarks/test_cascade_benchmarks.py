"""The benchmarks of the cascade, at sizes that take seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from phantoms import phantom
from scripts import MuonWithAdamW
from scripts.io.image_writer import cube_affine, write_ct

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cascade  # noqa: E402
import learning  # noqa: E402
from baselines import BASELINES, LiftedNetwork  # noqa: E402
from cascade import Case, measure  # noqa: E402
from patients import DeformedPatients, left_out, records_in  # noqa: E402
from planning import plan  # noqa: E402
from step import shares  # noqa: E402


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_planned_convolution_has_its_arithmetic_and_its_memory():
    convolution = nn.Conv3d(4, 8, 3, padding=1, bias=False).requires_grad_(False)
    volume = torch.rand(1, 4, 64, 64, 64)
    planned = plan([convolution], lambda copy: lambda: copy(volume))
    assert planned.flops == 2 * 64**3 * 27 * 4 * 8
    assert planned.peak_bytes == pytest.approx(4 * (8 * 64**3 + 27 * 4 * 8), rel=0.01)


def test_a_planned_step_counts_gradients_and_the_optimizers_state():
    def step_of(layer: nn.Module):
        optimizer = torch.optim.AdamW(layer.parameters())

        def step() -> None:
            layer(torch.rand(1, 1024)).sum().backward()
            optimizer.step()

        return step

    assert plan([nn.Linear(1024, 1024)], step_of).peak_bytes > 4 * 4 * 1024**2


def test_attention_counts_both_of_its_products_and_five_in_the_backward_pass():
    query = nn.Parameter(torch.rand(2, 3, 16, 8))
    attend = nn.ParameterList([query])

    def forward(copy: nn.ParameterList):
        return lambda: scaled_dot_product_attention(copy[0], copy[0], copy[0])

    def both(copy: nn.ParameterList):
        return lambda: forward(copy)().sum().backward()

    product = 2 * 2 * 3 * 16 * 16 * 8
    assert plan([attend], forward).flops == 2 * product
    assert plan([attend], both).flops == 7 * product


def test_planning_leaves_the_modules_and_the_next_step_as_they_were():
    layer = nn.Linear(4, 4)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    plan([layer], lambda copy: lambda: copy(torch.ones(1, 4)).sum().backward())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.tensor(3.5).item() == 3.5 and layer.weight.grad is None


def test_the_plan_of_a_training_step_grows_with_the_batch():
    one, two = (measure(Case("planned", "cascade", 1, "bfloat16", batch, quick=True), 1) for batch in (1, 2))
    assert two["flops"] == pytest.approx(2 * one["flops"], rel=0.05)
    assert one["planned"] < two["planned"] < 2 * one["planned"]


def test_a_crop_takes_less_of_everything():
    whole, crop = (measure(Case("planned", "cascade", 2, "float32", crop=crop, quick=True), 1) for crop in (None, 16))
    assert crop["flops"] < whole["flops"] and crop["planned"] < whole["planned"]


def test_the_plan_of_the_last_stage_holds_the_network_of_its_loss():
    vgg16_parameters = 14_714_688
    planned = measure(Case("planned", "cascade", 3, "bfloat16", crop=32, quick=True), 1)
    assert planned["planned"] > 4 * vgg16_parameters and "seconds" not in planned


@pytest.mark.slow
def test_the_cascades_benchmark_prints_a_positive_row_for_every_case(capsys):
    options = "--quick --markdown --stages 1 --dtypes float32 --networks cascade --parts training --repeats 1"
    cascade.main(options.split())
    head, _, peak, step = map(cells, capsys.readouterr().out.splitlines())
    row = dict(zip(head, step))
    assert peak[:2] == ["peak", "matrix product"]
    assert (row["what"], row["network"], row["size"], row["batch"]) == ("training", "cascade", "16", "1")
    assert all(float(row[name]) > 0 for name in ("seconds", "GFLOP", "memory GiB", "imports GiB", "planned GB"))


@pytest.mark.parametrize("name", ["unet", "attention_unet"])
def test_a_baseline_turns_xrays_into_a_volume(name: str, geometry):
    network = LiftedNetwork(BASELINES[name](16), geometry, 16)
    (volume,) = network(torch.rand(2, 2, 128, 128))
    assert volume.shape == (2, 1, 16, 16, 16)


def test_every_patient_is_left_out_once_with_all_scans(tmp_path: Path):
    for name in ("a_s1", "a_s2", "b", "c_south"):
        (tmp_path / f"{name}.nii.gz").touch()
    records = records_in(tmp_path)
    assert [record["group"] for record in records] == ["a", "a", "b", "c_south"]
    folds = left_out(records, 2)
    assert sorted(patient for fold in folds for patient in fold) == ["a", "b", "c_south"]
    with pytest.raises(ValueError, match="expected 2 to 3"):
        left_out(records, 4)


def test_deformations_depend_on_the_step_alone(tmp_path: Path):
    records = [{"ct": torch.rand(1, 8, 8, 8), "name": str(number)} for number in range(3)]

    def noisy(record: dict) -> dict:
        return record | {"ct": record["ct"] + torch.rand(1, 8, 8, 8)}

    def sequence(folder: str) -> DeformedPatients:
        return DeformedPatients(records, noisy, 6, tmp_path / folder)

    torch.manual_seed(7)
    drawn = torch.rand(2)
    torch.manual_seed(7)
    assert torch.rand(1) == drawn[0] and sequence("other")[0] and torch.rand(1) == drawn[1]

    forwards, shuffled = sequence("forwards"), sequence("shuffled")
    samples = {step: forwards[step] for step in range(6)}
    for step in (4, 0, 5, 1):
        assert samples[step]["name"] == shuffled[step]["name"]
        assert torch.equal(samples[step]["ct"], shuffled[step]["ct"])
    assert {samples[step]["name"] for step in range(3)} == {"0", "1", "2"}
    assert not any(torch.equal(samples[0]["ct"], samples[step]["ct"]) for step in range(1, 6))
    again = sequence("forwards")
    again.records.clear()
    assert all(torch.equal(again[step]["ct"], samples[step % 6]["ct"]) for step in (3, 7, 12))


def test_learning_scores_unseen_and_seen_patients_and_keeps_what_is_done(tmp_path: Path, capsys):
    for number, name in enumerate(("a_s1", "a_s2", "b")):
        write_ct(str(tmp_path / f"{name}.nii.gz"), phantom(24, 0.05 * number), cube_affine(24, 360.0))
    options = ["--dataset_dir", str(tmp_path), "--output", str(tmp_path)]
    options += "--tiny --folds 2 --markdown --minutes 0.005 --methods mean nearest stage1 unet".split()
    learning.main(options)
    first = capsys.readouterr().out.splitlines()
    rows = [dict(zip(cells(first[-6]), cells(row))) for row in first[-4:]]
    assert [row["method"] for row in rows] == ["mean", "nearest", "stage1", "unet"]
    assert all(row["runs"] == "2" and float(row["unseen PSNR dB"].split()[0]) > 5 for row in rows)
    assert all(float(row["steps"]) > 0 and float(row["s/step"]) > 0 for row in rows[2:])
    result = json.loads((tmp_path / "fold0_stage1_seed0.json").read_text())
    assert list(result["unseen"]) == ["a"] and len(result["unseen"]["a"]) == 2
    assert list(result["seen"]) == ["b"] and len(result["seen"]["b"]) == 2
    learning.main(options)
    assert capsys.readouterr().out.splitlines() == first[-6:]


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        ("stage1", MuonWithAdamW),
        ("unet", MuonWithAdamW),
        ("unet_adamw", torch.optim.AdamW),
        ("former", torch.optim.AdamW),
        ("former_and_muon", MuonWithAdamW),
    ],
)
def test_learning_trains_every_parameter_of_a_method_by_its_optimizer(
    tmp_path: Path, method: str, optimizer: type[torch.optim.Optimizer]
):
    options = learning._options(["--dataset_dir", str(tmp_path), "--tiny", "--learning_rate", "0.02"])
    config = learning.configuration(options, method)
    network = learning.build(method, config)
    made = learning.configured_optimizer(network, config)
    assert type(made) is optimizer and {group["lr"] for group in made.param_groups} == {0.02}
    held = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


def test_learning_takes_no_result_of_another_optimizer_for_done(tmp_path: Path):
    options = learning._options(["--dataset_dir", str(tmp_path), "--tiny"])
    before = {name: value for name, value in learning._settings("former", options).items() if name != "optimizer"}
    path = tmp_path / "of_version_0.3.json"
    path.write_text(json.dumps(before))
    assert learning._is_done(path, "former", options) and learning._is_done(path, "mean", options)
    with pytest.raises(SystemExit, match="was made with {'optimizer': 'torch.optim.AdamW'}"):
        learning._is_done(path, "stage1", options)


def test_learning_on_a_split_scores_each_section_that_was_not_trained_on(tmp_path: Path, capsys):
    sections = {"training": "a", "validation": "b", "test": "c"}
    for number, name in enumerate(sections.values()):
        write_ct(str(tmp_path / f"{name}.nii.gz"), phantom(24, 0.05 * number), cube_affine(24, 360.0))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({section: [{"ct": f"{name}.nii.gz"}] for section, name in sections.items()}))
    options = ["--dataset_dir", str(tmp_path), "--output", str(tmp_path), "--split", str(split)]
    learning.main([*options, *"--tiny --markdown --methods nearest".split()])
    head, _, row = capsys.readouterr().out.splitlines()[-3:]
    result = json.loads((tmp_path / "fold0_nearest_seed0.json").read_text())
    assert {group: list(result[group]) for group in ("validation", "test", "seen")} == {
        "validation": ["b"], "test": ["c"], "seen": ["a"]
    }  # fmt: skip
    assert dict(zip(cells(head), cells(row)))["test PSNR dB"] == f"{result['test']['c'][0]['psnr_db']:.4g}"

    options += ["--seeds", "0", "1"]
    learning.main([*options, *"--tiny --markdown --methods former stage1 --against former --minutes 0.002".split()])
    rows = [cells(row) for row in capsys.readouterr().out.splitlines()]
    by_seed = {
        (method, seed): json.loads((tmp_path / f"fold0_{method}_seed{seed}.json").read_text())
        for method in ("former", "stage1")
        for seed in (0, 1)
    }
    gains = [
        by_seed["stage1", seed]["test"]["c"][0]["psnr_db"] - by_seed["former", seed]["test"]["c"][0]["psnr_db"]
        for seed in (0, 1)
    ]
    assert ["stage1", "test", "PSNR dB", f"{fmean(gains):.4g}", f"c {fmean(gains):+.3g}"] in rows
    assert by_seed["stage1", 0]["test"] != by_seed["stage1", 1]["test"]
    assert {row[1] for row in rows if row[0] == "stage1"} >= {"test AP LL", "test PA RL", "test AP RL"}

    split.write_text(json.dumps({"training": [{"ct": "a.nii.gz"}], "test": [{"ct": "c.nii.gz"}]}))
    with pytest.raises(ValueError, match=r"in one of them alone: \['b.nii.gz'\]"):
        learning.main([*options, "--tiny"])


def test_the_shares_of_a_step_add_up_and_find_its_convolution():
    convolution, volume = nn.Conv3d(16, 16, 3), torch.rand(1, 16, 24, 24, 24)
    found = shares(lambda: convolution(volume).sum().backward())
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=found.__getitem__) == "convolution"
