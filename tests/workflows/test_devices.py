"""
Every workflow with its tensors on a GPU. By itself on a GPU made of tensors without values, see :mod:`fake_gpu` for
what that cannot show; on a real one with the environment variable BUNDLE_TEST_DEVICE, such as
`BUNDLE_TEST_DEVICE=cuda`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from bundle_runs import ROOT, read_configs, stage_configs
from fake_gpu import fake_gpu
from scripts import BiplanarGeometry, Region, sidecar_path
from scripts.evaluation.out_of_distribution import detector_of
from scripts.io.sidecar import write_sidecar
from scripts.projection import axis_aligned, ray_tracing

DEVICE = os.environ.get("BUNDLE_TEST_DEVICE", "cuda")
IS_REAL = "BUNDLE_TEST_DEVICE" in os.environ
SIZE, PIXELS = 256, 512
WITHOUT_FILES = ("Resume", "EpochReport", "TensorBoardStatsHandler", "TensorBoardPictures", "BestCheckpointSaver")
"""Handlers of a training that write values, which a tensor without values has not."""
FEW_LAYERS = {"network_def#num_layers": [1, 1, 1]}
"""For what does not depend on how often a layer is repeated: without values every operation takes the same time."""
EVERY_TRANSFORM = ("augment", "mirror", "augment_xrays", "augment_calibrated")


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    with nullcontext() if IS_REAL else fake_gpu():
        yield torch.device(DEVICE)


@pytest.fixture
def gpu_without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """As Apple's: tables in float64 are computed on the CPU."""
    if IS_REAL:
        pytest.skip("is a question to fake tensors")
    for module in (axis_aligned, ray_tracing):
        monkeypatch.setattr(module, "precise_device", lambda device: torch.device("cpu"))
    with fake_gpu(has_float64=False):
        yield torch.device(DEVICE)


def record(**fields: Any) -> dict[str, Any]:
    """A loaded record of full size."""
    geometry = {"views": ["PA", "LL"], "source_to_isocentre_mm": 1600.0, "source_to_detector_mm": 1800.0}
    names = dict.fromkeys(("name", "group", "patient"), "a")
    ct, xrays = torch.zeros(1, SIZE, SIZE, SIZE), torch.rand(2, PIXELS, PIXELS)
    return {"ct": ct, "xrays": xrays, "has_radiographs": False, "geometry": geometry, **names, **fields}


def training(stage: int, *overlays: str, **overrides: Any) -> ConfigParser:
    """
    The default configuration of a stage on two records, one with radiographs of other views, and a third to validate.
    """
    configs = [*stage_configs(stage), *(f"bundle/configs/{name}.json" for name in overlays)]
    parser = read_configs(configs, device=f"$torch.device('{DEVICE}')", vgg_weights="untrained", **overrides)
    others = {"views": ["AP", "RL"], "source_to_isocentre_mm": 1500.0, "source_to_detector_mm": 1700.0}
    parser["train#dataset"] = {"_target_": "Dataset", "data": [record(), record(has_radiographs=True, geometry=others)]}
    parser["validate#dataset"] = {"_target_": "Dataset", "data": [record()]}
    parser["num_workers"], parser["epochs"], parser["train#dataloader#batch_size"] = 0, 1, 2
    for handlers in ("train#handlers", "validate#handlers"):
        kept = [each for each in parser[handlers] if each["_target_"].split(".")[-1] not in WITHOUT_FILES]
        parser[handlers] = [each for each in kept if "CheckpointLoader" not in each["_target_"]]
    return parser


def train(parser: ConfigParser) -> None:
    parser.get_parsed_content("network")  # before the optimizer: a fake device makes new parameters
    trainer = parser.get_parsed_content("train#trainer")
    before = [parameter.clone() for parameter in trainer.optimizer.param_groups[0]["params"]]
    trainer.run()
    assert trainer.state.iteration == 1 and parser.get_parsed_content("validate#evaluator").state.iteration == 1
    assert {parameter.device.type for parameter in before} == {torch.device(DEVICE).type}


@pytest.mark.parametrize("stage", [1, 2 if IS_REAL else pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_stage_trains_and_validates_by_its_default_configuration(stage: int, gpu):
    train(training(stage))


@pytest.mark.parametrize("stage", [1, 3])
def test_a_stage_trains_where_the_gpu_has_no_float64(stage: int, gpu_without_float64):
    """Without the radiographs' percentiles, which PyTorch reckons in float64 where it believes that a device has it."""
    train(training(stage, augment_xrays=None, **FEW_LAYERS))


def test_a_crop_is_trained_with_every_term_of_the_loss(gpu):
    parser = training(3, crop=64, **FEW_LAYERS)
    train(parser)
    assert set(parser.get_parsed_content("loss").terms) == {"loss", "l1", "ssim", "vgg", "drr", "gradient"}


@pytest.mark.parametrize("name", EVERY_TRANSFORM)
def test_every_random_transform_of_a_batch_stays_on_the_device(name: str, gpu):
    parser = training(1, "weights/all", "weights/stage1")
    transforms = parser.get_parsed_content(name)
    for transform in getattr(transforms, "transforms", [transforms]):
        transform.prob = 1.0
        fields = {
            "ct": torch.full((1, 64, 64, 64), -1000.0).to(DEVICE),
            "xrays": torch.rand(2, 64, 64).to(DEVICE),
            "exposed": torch.ones(2, 64, 64, dtype=torch.bool).to(DEVICE),
        }
        result = transform(fields)
        assert {value.device.type for value in result.values()} == {torch.device(DEVICE).type}, transform


@pytest.mark.parametrize("function", ["_Project", "_Lift"])
def test_the_projectors_own_backward_passes_stay_on_the_device(function: str, gpu):
    """Autograd calls them on a real device, and not on a fake one."""
    geometry, region = BiplanarGeometry(detector_pixels=32), Region.whole(16)
    projections, volumes = torch.rand(2, 2, 3, 32, 32).to(DEVICE), torch.rand(2, 16, 16, 16).to(DEVICE)
    if function == "_Project":
        weights = axis_aligned._weights(geometry, region, 32, volumes, interpolate_voxels=True)
        gradient = axis_aligned._Project.backward(
            SimpleNamespace(weights=weights, shape=volumes.shape), projections[:, :, 0]
        )
        assert gradient[0].shape == volumes.shape
    else:
        weights = axis_aligned._weights(geometry, region, 32, projections, interpolate_voxels=False)
        lifted = torch.rand(2, 2, 3, 16, 16, 16).to(DEVICE)
        gradient = axis_aligned._Lift.backward(SimpleNamespace(weights=weights), lifted)
        assert gradient[0].shape == projections.shape
    assert gradient[0].device.type == torch.device(DEVICE).type


@pytest.fixture
def evaluation(dataset: Path, overlay: Path, tiny_bundle: Path, tmp_path: Path):
    """Runs an evaluation of the phantoms with a config more, on the device."""

    def run(*further: str, **overrides: Any) -> Path:
        names = ["train", "evaluate", *further]
        parser = read_configs([*(f"bundle/configs/{name}.json" for name in names), str(overlay)])
        places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path)}
        weights = str(tiny_bundle / "models" / "model.pt")
        parser.update({**places, "weights": weights, "device": f"$torch.device('{DEVICE}')", **overrides})
        parser.get_parsed_content("network")
        parser.get_parsed_content("run")
        return tmp_path

    return run


def test_an_evaluation_with_radiographs_baselines_figures_and_pages(evaluation, gpu):
    folder = evaluation(test_records="$scripts.load_records(@datalist, 'test')[:2]")
    report = json.loads((folder / "metrics.json").read_text())
    assert {case["method"] for case in report["cases"]} >= {"stage 1", "stage 3", "mean volume", "upsampled stage 2"}
    assert (folder / "cases" / "phantom_5" / "report.html").is_file()


def test_robustness(evaluation, gpu):
    kinds = json.loads((ROOT / "bundle" / "configs" / "robustness.json").read_text())["changes"]
    once = {"degrees": [2], "percent": [5], "photons": [1e4], "exponents": [0.7]}
    changes = [{**kind, **{key: value for key, value in once.items() if key in kind}} for kind in kinds]
    records = "$scripts.load_records(@datalist, 'test')[:1]"
    folder = evaluation("robustness", test_records=records, changes=changes, stop_after=1)
    found = {row["change"] for row in json.loads((folder / "robustness.json").read_text())["cases"]}
    assert {kind["change"] for kind in kinds if "change" in kind} <= found


@pytest.fixture
def weights(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Random ones with the sidecars that an assessment needs, made on the CPU."""
    path = Path(shutil.copy(tiny_bundle / "models" / "model.pt", tmp_path / "weights.pt"))
    torch.manual_seed(0)
    known = detector_of(torch.rand(60, 2, 64, 64), [str(pair // 20) for pair in range(60)], quantile=0.9)
    write_sidecar(sidecar_path(str(path), "familiarity"), str(path), known.as_content())
    return path


def test_uncertainty_is_fitted_calibrated_measured_and_used_in_inference_with_familiarity(
    weights: Path, dataset: Path, overlay: Path, tmp_path: Path, gpu
):
    places = {"output_dir": str(tmp_path), "weights": str(weights), "device": f"$torch.device('{DEVICE}')"}
    names = ("train", "uncertainty")
    configs = [*(f"bundle/configs/{name}.json" for name in names), str(overlay)]
    parser = read_configs(configs, dataset_dir=str(dataset), draws=1, **places)
    parser.get_parsed_content("network")
    parser.get_parsed_content("run")
    assert (tmp_path / "coverage_stage3_test.json").is_file()

    radiographs = {view: str(dataset / f"phantom_6_{view}.nii.gz") for view in ("frontal", "lateral")}
    asked = {"familiarity": True, "uncertainty": True, "dicom": True}
    inference = read_configs(["bundle/configs/inference.json", str(overlay)], **places, **radiographs, **asked)
    inference.get_parsed_content("network")
    inference.get_parsed_content("run")
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"ct.nii.gz", "ct_dicom", "uncertainty.nii.gz", "familiarity.json", "preview.png", "view.html"}


def test_familiarity_is_fitted_and_its_faults_measured(evaluation, weights: Path, dataset: Path, gpu):
    phantoms = {"training": (0, 1, 2), "validation": (3,)}
    records = {name: [{"ct": f"phantom_{n}.nii.gz"} for n in numbers] for name, numbers in phantoms.items()}
    datalist = weights.with_name("datalist.json")
    datalist.write_text(json.dumps(records))
    folder = evaluation("familiarity", datalist=str(datalist), weights=str(weights))
    assert (folder / "faults_validation.json").is_file()
