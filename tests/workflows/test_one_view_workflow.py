"""One radiograph instead of a pair, from the training that allows it to inference and its refusal."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pydicom import dcmread

from browser import view_of
from bundle_runs import ROOT, bundle_run_here, network_of
from launch_fixtures import random_weights  # noqa: F401  fixture
from radiograph_files import LATERAL, write_line_integrals
from scripts import CheckpointError, InputError, KeepUncalibratedd, Reconstructor
from scripts.data.known_views import met_view_dropout, read_view_dropout, scored_alone, write_known_views
from scripts.io.sidecar import sha256_of


@pytest.fixture
def of_one_view(random_weights: Path) -> Path:  # noqa: F811
    """Weights that are on record as trained with view dropout, and have the sidecar files of other weights."""
    write_known_views(str(random_weights), [("PA", "LL")], 0.5)
    for name in ("familiarity", "measurements", "projections"):
        content = json.loads((ROOT / "bundle" / "models" / f"model_{name}.json").read_text(encoding="utf-8"))
        content["weights_sha256"] = sha256_of(str(random_weights))
        random_weights.with_name(f"model_{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return random_weights


def radiograph(dataset: Path, view: str) -> Path:
    return dataset / f"phantom_6_{view}.nii.gz"


def volume_of_network(tiny_bundle: Path, xray: Path, given: str) -> np.ndarray:
    """In HU, of the network that is given an X-ray alone, in the place of the other what is no number."""
    xrays = torch.full((1, 2, 128, 128), torch.nan)
    image = nibabel.load(xray).get_fdata(dtype=np.float32)[..., 0].T
    xrays[0, ("frontal", "lateral").index(given)] = torch.from_numpy(image / 8)
    network = network_of(tiny_bundle)
    network.load_state_dict(torch.load(tiny_bundle / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        return network(xrays, only=[given])[0, 0].clamp(0, 1).numpy() * 2048 - 1024


def test_infer_reconstructs_from_the_lateral_alone_and_all_that_it_writes_says_so(
    tiny_bundle: Path, of_one_view: Path, overlay: Path, dataset: Path, tmp_path: Path
):
    """What rests on pairs is left out."""
    configs, path = ["bundle/configs/inference.json", str(overlay)], radiograph(dataset, "lateral")
    asked = {"frontal": "$None", "lateral": path, "dicom": True, "familiarity": True, "calibration": True}
    with pytest.warns(UserWarning, match="field 'frontal': there is no such radiograph, expected both for out-of"):
        bundle_run_here("run", configs, weights=of_one_view, output_dir=tmp_path / "out", **asked)
    found = nibabel.load(tmp_path / "out" / "ct.nii.gz").get_fdata()
    assert np.abs(found - volume_of_network(tiny_bundle, path, "lateral")).max() <= 0.51
    names = {each.name for each in (tmp_path / "out").iterdir()}
    assert names == {"ct.nii.gz", "ct_dicom", "measurements.json", "preview.png", "run.json", "view.html"}
    run, measured = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("run", "measurements"))
    assert set(run["inputs"]) == {"lateral"}
    assert "of pairs" in measured["statement"] and not any("interval" in row for row in measured["measurements"])
    page = view_of(tmp_path / "out" / "view.html")
    assert [xray["name"] for xray in page["xrays"]] == ["Lateral X-ray, LL"] and "one X-ray" in page["title"]
    assert page["note"].startswith("One view: of the lateral X-ray alone.")
    slices = dcmread(tmp_path / "out" / "ct_dicom" / "slice_0001.dcm")
    assert "one X-ray" in slices.SeriesDescription and "a lateral chest X-ray alone" in slices.DerivationDescription


def test_the_reconstructor_takes_the_frontal_alone_after_a_pair(tiny_bundle: Path, of_one_view: Path, dataset: Path):
    reconstruct = Reconstructor(of_one_view, device="cpu")
    frontal, lateral = (radiograph(dataset, view) for view in ("frontal", "lateral"))
    both = reconstruct(frontal, lateral)
    with pytest.warns(UserWarning, match="field 'lateral': there is no such radiograph"):
        alone = reconstruct(frontal)
    expected = volume_of_network(tiny_bundle, frontal, "frontal")
    np.testing.assert_allclose(alone.volume[0].numpy(), expected, rtol=0, atol=0.01)
    assert both.out_of_distribution is not None and alone.out_of_distribution is None
    assert alone.note.startswith("One view") and not both.note.startswith("One view")
    assert alone.xrays[0].any() and not alone.xrays[1].any()


def test_a_table_of_pairs_may_have_one_radiograph_in_a_row(
    tiny_bundle: Path, of_one_view: Path, overlay: Path, dataset: Path, tmp_path: Path
):
    path = radiograph(dataset, "frontal")
    (tmp_path / "pairs.csv").write_text(f"frontal,lateral,id\n{path},,one\n")
    configs = ["bundle/configs/inference.json", "bundle/configs/pairs.json", str(overlay)]
    bundle_run_here("run", configs, weights=of_one_view, output_dir=tmp_path / "out", pairs=tmp_path / "pairs.csv")
    found = nibabel.load(tmp_path / "out" / "one" / "ct.nii.gz").get_fdata()
    assert np.abs(found - volume_of_network(tiny_bundle, path, "frontal")).max() <= 0.51
    assert set(json.loads((tmp_path / "out" / "one" / "run.json").read_text())["inputs"]) == {"frontal"}


def test_weights_of_pairs_refuse_one_radiograph_by_the_option_that_they_lack(random_weights, dataset: Path):  # noqa: F811
    reconstruct = Reconstructor(random_weights, device="cpu")
    with pytest.raises(InputError, match="field 'lateral': .* were not trained on one alone.* view_dropout"):
        reconstruct(radiograph(dataset, "frontal"))
    with pytest.raises(InputError, match="neither field 'frontal' nor field 'lateral'"):
        reconstruct()
    with pytest.raises(InputError, match="field 'lateral': there is no such radiograph, expected both"):
        KeepUncalibratedd(dict)({"frontal": torch.zeros(1, 8, 8)})
    with pytest.warns(UserWarning, match="were trained on pairs alone"):
        assert scored_alone("frontal", str(random_weights)) == "frontal"


def test_a_radiograph_that_says_that_it_is_the_other_is_refused(of_one_view: Path, tmp_path: Path):
    image = np.random.default_rng(0).random((16, 16), np.float32)
    path = tmp_path / "radiograph.dcm"
    write_line_integrals(path, image, **LATERAL)
    with pytest.raises(InputError, match="field 'frontal' is a lateral radiograph .*name it as 'lateral'"):
        Reconstructor(of_one_view, device="cpu")(path)


def test_weights_are_on_record_with_the_least_view_dropout_of_their_stages(tmp_path: Path):
    base, changed = str(tmp_path / "stage1_best.pth"), tmp_path / "stage1_best.pth"
    changed.write_bytes(b"weights")
    assert met_view_dropout(0.3, base) == 0 == read_view_dropout(base)
    write_known_views(base, [("PA", "LL")])
    without = (tmp_path / "stage1_best_views.json").read_bytes()
    assert met_view_dropout(0.3, base) == 0 and b"dropout" not in without
    write_known_views(base, [("PA", "LL")], 0.5)
    assert [met_view_dropout(p, base) for p in (0.0, 0.3, 0.8)] == [0.0, 0.3, 0.5] and met_view_dropout(0.3) == 0.3
    changed.write_bytes(b"others")
    with pytest.raises(CheckpointError, match="weights_sha256"):
        read_view_dropout(base)
