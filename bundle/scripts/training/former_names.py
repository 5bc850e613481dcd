"""Public names of version 0.3, which configs and checkpoints of trainings hold, and those that took their place."""

from __future__ import annotations

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
