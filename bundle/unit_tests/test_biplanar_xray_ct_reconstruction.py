"""
The workflows of the bundle in their order, on data that is made here, at small sizes: a few seconds on a CPU. For a
model zoo, which takes this file into its `ci/unit_tests` and has the bundle in `models`; or from the bundle's folder:

    python -m unittest discover unit_tests
"""

from __future__ import annotations

import json
import sys
import tempfile
import unittest
from pathlib import Path

import nibabel
import numpy as np
from monai.bundle import ConfigWorkflow

NAME = "biplanar_xray_ct_reconstruction"
IN_ZOO = Path("models") / NAME
BUNDLE = (IN_ZOO if IN_ZOO.is_dir() else Path(__file__).parents[1]).resolve()
SIDE, FIELD_MM = 24, 360.0
"""Voxels of the CT that is made, and its field of view."""
PIXELS, DETECTOR_MM = 64, 480.0
SMALL = {
    "epochs": 1,
    "repeats": 1,
    "num_workers": 0,
    "vgg": 0.0,
    "network_def#hidden_size": 16,
    "network_def#mlp_dim": 32,
    "network_def#num_heads": [2, 2, 2],
    "network_def#encoder_channels": [8, 16],
    "network_def#context_channels": [8, 8, 8],
    "network_def#feature_channels": [4, 4, 4],
    "network_def#local_channels": [4, 4, 4],
}
"""Beside `configs/tiny.json`: one step of each stage, without the VGG-16 that would be downloaded."""


def chest() -> np.ndarray:
    """A body with two lungs in HU, `(24, 24, 24)`."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    hu = np.full((SIDE, SIDE, SIDE), -1000.0)
    hu[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = 40.0
    hu[((np.abs(x) - 0.4) / 0.25) ** 2 + (y / 0.4) ** 2 + (z / 0.7) ** 2 < 1] = -800.0
    return hu


def radiograph(width: float) -> np.ndarray:
    """Line integrals of an elliptic body of water, `(64, 64)`, as wide as this fraction of the detector."""
    across = np.linspace(-1, 1, PIXELS)[:, None] / width
    return np.broadcast_to(5.0 * np.sqrt(np.clip(1 - across**2, 0, None)), (PIXELS, PIXELS)).copy()


def write_data(folder: Path) -> None:
    """Two CTs with their `datalist.json`, and a frontal and a lateral radiograph, in line integrals."""
    affine = np.diag([FIELD_MM / SIDE] * 3 + [1.0])
    affine[:3, 3] = -FIELD_MM / 2 + FIELD_MM / SIDE / 2
    for name in ("one", "two"):
        nibabel.save(nibabel.Nifti1Image(chest().astype(np.float32), affine), folder / f"{name}.nii.gz")
    sections = {"training": ["one"], "validation": ["two"], "test": ["two"]}
    datalist = {section: [{"ct": f"{name}.nii.gz"} for name in names] for section, names in sections.items()}
    (folder / "datalist.json").write_text(json.dumps(datalist), encoding="utf-8")
    pixel = np.diag([DETECTOR_MM / PIXELS] * 2 + [1.0, 1.0])
    for view, width in (("frontal", 0.7), ("lateral", 0.5)):
        image = radiograph(width).astype(np.float32)[:, :, None]
        file = nibabel.Nifti1Image(image, pixel)
        file.header.set_xyzt_units("mm")
        nibabel.save(file, folder / f"{view}.nii.gz")


def of_inference(small: dict) -> dict:
    """What of the small sizes the network and geometry of `inference.json` have, too."""
    return {name: value for name, value in small.items() if name.startswith(("geometry#", "network_def#"))}


class TestBiplanarXrayCtReconstruction(unittest.TestCase):
    """Each test needs what those before it have left; unittest runs them by their names."""

    @classmethod
    def setUpClass(cls) -> None:
        sys.path.insert(0, str(BUNDLE))
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        write_data(cls.folder)
        cls.small = {**json.loads((BUNDLE / "configs" / "tiny.json").read_text(encoding="utf-8")), **SMALL}

    @classmethod
    def tearDownClass(cls) -> None:
        cls.temporary.cleanup()

    def run_workflow(self, kind: str, names: list[str], **ids: object) -> None:
        """The workflow of these configs; every property that MONAI asks of one of this kind has to be there."""
        configs = BUNDLE / "configs"
        workflow = ConfigWorkflow(
            workflow_type=kind,
            config_file=[str(configs / f"{name}.json") for name in names],
            meta_file=str(configs / "metadata.json"),
            logging_file=str(configs / "logging.conf"),
            bundle_root=str(BUNDLE),
            **ids,
        )
        workflow.initialize()
        self.assertEqual(workflow.check_properties(), [])
        workflow.run()
        workflow.finalize()

    def places(self) -> dict:
        folder = str(self.folder)
        return {"dataset_dir": folder, "ckpt_dir": folder, "output_dir": folder}

    def test_1_train(self) -> None:
        for stage in (1, 2, 3):
            with self.subTest(stage=stage):
                names = ["train", *([f"stage{stage}"] if stage > 1 else [])]
                self.run_workflow("train", names, **self.small, **self.places())
                self.assertTrue((self.folder / f"stage{stage}_best.pth").is_file())

    def test_2_evaluate(self) -> None:
        ids = {**self.small, **self.places(), "mean_volume_draws": 1}
        self.run_workflow("evaluation", ["train", "evaluate"], **ids)
        summary = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))["summary"]
        self.assertTrue(summary)

    def test_3_infer(self) -> None:
        files = {view: str(self.folder / f"{view}.nii.gz") for view in ("frontal", "lateral")}
        ids = {"weights": str(self.folder / "stage3_best.pth"), "output_dir": str(self.folder)}
        self.run_workflow("inference", ["inference"], **of_inference(self.small), **files, **ids)
        volume = nibabel.load(self.folder / "ct.nii.gz")
        self.assertEqual(len(set(volume.shape)), 1)
        self.assertTrue(np.isfinite(volume.get_fdata()).all())


if __name__ == "__main__":
    unittest.main()
