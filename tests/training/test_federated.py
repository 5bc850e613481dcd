"""Federated learning by MONAI's client: two hospitals train on their own CTs and share weights alone."""

from __future__ import annotations

import json
import shutil
from math import isfinite
from pathlib import Path

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject


def client(name: str, bundle: Path, dataset: Path, training: list[str], folder: Path) -> MonaiAlgo:
    """A hospital that has these CTs for training, and the dataset's for validation and test."""
    shutil.copytree(dataset, folder / name)
    datalist = folder / name / "datalist.json"
    datalist.write_text(json.dumps({**json.loads(datalist.read_text()), "training": [{"ct": ct} for ct in training]}))
    places = {key: str(folder / name) for key in ("dataset_dir", "ckpt_dir", "output_dir")}
    algo = MonaiAlgo(
        bundle_root=bundle.name,
        train_kwargs=places,
        eval_kwargs={**places, "stage": 1, "mean_volume_draws": 1},
    )
    algo.initialize({ExtraItems.CLIENT_NAME: name, ExtraItems.APP_ROOT: str(bundle.parent)})
    return algo


@pytest.mark.filterwarnings("ignore:executing the bundle config")
def test_two_sites_train_and_evaluate_one_round_without_sharing_data(tiny_bundle: Path, dataset: Path, tmp_path: Path):
    cts = {"north": ["phantom_0.nii.gz"], "south": ["phantom_1.nii.gz"]}
    sites = {name: client(name, tiny_bundle, dataset, training, tmp_path) for name, training in cts.items()}
    start = torch.load(tiny_bundle / "models" / "model.pt", weights_only=True)
    changes = []
    for site in sites.values():
        site.train(ExchangeObject(weights=start))
        sent = site.get_weights()
        assert sent.weight_type is WeightType.WEIGHT_DIFF
        assert sent.weights.keys() == start.keys()
        changes.append(sent.weights)
    moved = [{name for name, change in site.items() if change.any()} for site in changes]
    assert moved[0] == moved[1] and moved[0]
    assert all(name.startswith(("encoder.levels.0.", "stages.0.")) for name in moved[0])
    assert any(not torch.equal(changes[0][name], changes[1][name]) for name in moved[0])
    average = {name: weight + (changes[0][name] + changes[1][name]) / 2 for name, weight in start.items()}
    scores = []
    for name, site in sites.items():
        scores.append(site.evaluate(ExchangeObject(weights=average)).metrics["psnr_db"])
        assert all(torch.equal(weight, average[key]) for key, weight in site.evaluator.network.state_dict().items())
        report = json.loads((tmp_path / name / "metrics.json").read_text())
        assert {row["method"] for row in report["cases"]} == {"stage 1", "mean volume", "nearest training patient"}
        site.finalize()
    assert scores[0] == scores[1] and isfinite(scores[0])
