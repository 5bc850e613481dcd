"""
Fixtures of the whole suite: the bundle on the path, a fixed seed, a small geometry, a small cascade, and a dataset of
phantoms on which the three stages are trained once by their `monai.bundle run` lines.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from monai.bundle import ConfigParser  # noqa: E402
from monai.transforms import Compose, Orientationd  # noqa: E402

from bundle_runs import OVERLAY, ROOT, bundle_run, network_of, next_line, pasted, stage_configs  # noqa: E402
from phantoms import write_phantoms  # noqa: E402
from scripts import (  # noqa: E402
    BiplanarGeometry,
    ImagingModel,
    LoadCTd,
    ProgressiveCascadeModel,
    ResampleToCubed,
    demo_ct,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-label", action="store_true", help="skip what needs MONAI Label's own environment")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def geometry() -> BiplanarGeometry:
    """The default acquisition geometry read out with 128 pixels: a cascade of 16, 32 and 64 voxels."""
    return BiplanarGeometry(detector_pixels=128)


@pytest.fixture(scope="session")
def chest_hu() -> torch.Tensor:
    """A real chest, `(1, 64, 64, 64)`, in a field of view of 360 mm."""
    load = Compose([LoadCTd("ct"), Orientationd("ct", "RAS", labels=None), ResampleToCubed("ct", 64, 360.0)])
    return load({"ct": demo_ct()})["ct"].as_tensor()


@pytest.fixture
def small_cascade(geometry: BiplanarGeometry) -> Callable[..., ProgressiveCascadeModel]:
    """Builds a 16/32/64 cascade of tiny widths from a fixed seed, of this kind; arguments override."""

    def build(kind: type[ProgressiveCascadeModel] = ProgressiveCascadeModel, **arguments) -> ProgressiveCascadeModel:
        torch.manual_seed(0)
        sizes = {
            "tokens": 4,
            "num_layers": (1, 1, 1),
            "num_heads": (2, 2, 2),
            "hidden_size": 16,
            "mlp_dim": 32,
            "feature_channels": (8, 8, 8),
            "encoder_channels": (8, 16),
            "context_size": 16,
            "context_channels": (8, 8, 8),
            "local_channels": (8, 8, 4),
            "detail_channels": 4,
            "consistency_steps": 2,
            "checkpointing": (False, False, True),
            "feature_dropout": 0.0,
        }
        imaging = ImagingModel(geometry, (-1024, 1024), 8.0)
        return kind(**{"imaging": imaging, **sizes, **arguments})

    return build


@pytest.fixture
def awaken() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Draws at random what is initialised with zeros, so that every branch takes part in the output."""

    def fill(module: torch.nn.Module) -> torch.nn.Module:
        for parameter in module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        return module

    return fill


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with the sizes of :data:`OVERLAY` in its own configs, and random weights that fit them."""
    folder = tmp_path_factory.mktemp("tiny") / "biplanar_xray_ct_reconstruction"
    of_other_weights = (
        "*.pt",
        "*.pth",
        "model_familiarity.json",
        "model_uncertainty.json",
        "model_projections.json",
        "model_measurements.json",
        "model_views.json",
    )
    shutil.copytree(ROOT / "bundle", folder, ignore=shutil.ignore_patterns("__pycache__", *of_other_weights))
    shapes = {"inputs#image": [128, 128], "outputs#pred": [64, 64, 64]}
    formats = {f"network_data_format#{name}#spatial_shape": shape for name, shape in shapes.items()}
    for name, values in {"train": OVERLAY, "inference": OVERLAY, "metadata": formats}.items():
        config = folder / "configs" / f"{name}.json"
        parser = ConfigParser(json.loads(config.read_text(encoding="utf-8")))
        parser.update({key: value for key, value in values.items() if key.split("#")[0] in parser})
        config.write_text(json.dumps(parser.get(), indent=4), encoding="utf-8")
    torch.manual_seed(0)
    weights = network_of(folder).state_dict()
    drawn = {name: weight + 0.05 * torch.randn_like(weight) for name, weight in weights.items()}
    torch.save(drawn, folder / "models" / "model.pt")
    return folder


@dataclass
class Trained:
    """What the three stages have left."""

    folder: Path
    """Holds the checkpoints and TensorBoard's files."""
    logs: list[str]
    """What each stage has printed."""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of phantoms, see :func:`phantoms.write_phantoms`."""
    folder = tmp_path_factory.mktemp("dataset")
    write_phantoms(folder)
    return folder


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of :data:`OVERLAY`."""
    path = tmp_path_factory.mktemp("configs") / "overlay.json"
    path.write_text(json.dumps(OVERLAY))
    return path


@pytest.fixture(scope="session")
def trained(dataset: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The three stages, trained by the first of pytest's processes that asks for them; the others wait."""
    one_of_several = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if one_of_several else base) / "trained"
    logs = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not logs.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            logs.write_text(json.dumps(train_all(dataset, overlay, folder)))
    return Trained(folder, json.loads(logs.read_text()))


def train_all(dataset: Path, overlay: Path, folder: Path) -> list[str]:
    """The first stage is trained by its line, the others by the lines that it and the second print as the next."""
    logs: list[str] = []
    places = {"dataset_dir": dataset, "ckpt_dir": folder, "output_dir": folder}
    for _ in range(3):
        run = pasted(next_line(logs[-1])) if logs else bundle_run("training", stage_configs(1, overlay), **places)
        assert run.returncode == 0, run.stdout[-3000:]
        logs.append(run.stdout)
    return logs
