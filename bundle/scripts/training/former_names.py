"""Public names of version 0.3, which configs and checkpoints of trainings hold, and those that took their place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

FORMER_NAMES = {
    "AssessFamiliarityd": "DetectOutOfDistributiond",
    "CaseFiles": "CaseReport",
    "CollectXraysd": "StackXraysd",
    "ConditionedRecords": "PerturbedRecords",
    "EarlyStop": "EarlyStopping",
    "ErrorTable": "IntervalTable",
    "ErrorTableFit": "IntervalTableFit",
    "EstimateUncertaintyd": "PredictIntervalsd",
    "FactorFit": "IntervalScaleFit",
    "GeometryOfFilmsd": "GeometryFromRadiographsd",
    "GradientGuard": "GradientClipping",
    "PrepareConditionedBatch": "PreparePerturbedBatch",
    "PrepareFilmsBatch": "PrepareRadiographsBatch",
    "RandPhotonNoised": "RandPoissonNoised",
    "RandPresentationd": "RandScaleIntensityRangePercentilesd",
    "beside_weights": "sidecar_path",
    "cached": "cached_dataset",
    "chest_ct": "demo_ct",
    "write_dataset": "write_demo_dataset",
}
FORMER_MODULES = {
    "cases": "evaluation_records",
    "conditions": "perturbations",
    "familiarity": "out_of_distribution",
    "film_faults": "corrupted_pairs",
    "safeguards": "gradient_clipping",
    "views": "known_views",
}


def by_former_name(module: str, name: str, names: Mapping[str, str], found: Mapping[str, Any]) -> Any:
    """
    What a module's `__getattr__` returns for a name of version 0.3, which goes in version 0.5.

    Args:
        module: its name in configs.
        name: what is asked for.
        names: former names and present ones.
        found: the module's own names.

    Raises:
        AttributeError: when it is no former name.

    Warns:
        FutureWarning: when it is one.
    """
    if name not in names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    now = names[name]
    warnings.warn(f"{module}.{name} is now {module}.{now}; correct the configuration.", FutureWarning, stacklevel=3)
    return found[now]


FORMER_PARTS = ("geometry", "hu_window", "xray_scale", "project", "scale", "reprojection")
"""Attributes that held, until version 0.3, what an object now has of its `imaging`."""


def with_imaging_model(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Settings of a training, of version 0.3 or later, as they are compared with those of `now`: geometry, window and
    scale, which stood in each object apart, as one imaging model in each that has one now. The model is that of the
    batches, from which all others came.
    """
    holders = [name.removesuffix(".imaging.class") for name in now if name.endswith(".imaging.class")]
    if "prepare_batch.project.class" not in before or not holders:
        return before
    model = {
        "class": "ImagingModel",
        "hu_window.0": before["prepare_batch.scale.a_min"],
        "hu_window.1": before["prepare_batch.scale.a_max"],
        "xray_scale": before["prepare_batch.project.xray_scale"],
    }
    start = "prepare_batch.project."
    model |= {name[len(start) :]: value for name, value in before.items() if name.startswith(f"{start}geometry.")}
    former = tuple(f"{holder}.{part}." for holder in holders for part in FORMER_PARTS)
    kept = {name: value for name, value in before.items() if not f"{name}.".startswith(former)}
    return {**kept, **{f"{holder}.imaging.{name}": value for holder in holders for name, value in model.items()}}


ABSENT_UNTIL_NOW = {
    "network.mirror_averaging": False,
    "prepare_batch.view_dropout": 0.0,
    "prepare_batch.only": None,
}
"""Settings that version 0.3 did not have, and what it did."""


def with_geometry_error(before: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Settings of a training, of version 0.3, whose random geometries the network was not told of, under the
    name that these have now.
    """
    former, present = "prepare_batch.augment_geometry", "prepare_batch.geometry_error"
    if f"{former}.geometry.class" not in before:
        return before
    kept = {name: value for name, value in before.items() if not name.startswith(f"{former}.geometry.")}
    return {name.replace(former, present): value for name, value in kept.items()}


def with_optimizer_class(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    Settings of a training, of version 0.3, which had the optimizer's values but not its class: AdamW, by the
    configurations of then, where now it is one that those did not know; else the one of now.
    """
    name = "optimizer.class"
    if name not in now or name in before:
        return before
    return {name: "AdamW" if now[name] == "MuonWithAdamW" else now[name], **before}
