"""Progressive reconstruction of a CT volume from a frontal and a lateral X-ray. Research use only, not for diagnosis."""

from __future__ import annotations

import warnings
from types import ModuleType

from .anatomy.augmentation import RandBodyOnlyd, RandNodulesd, RandTissued
from .anatomy.deformation import RandDeformd
from .data import evaluation_records, known_views
from .data.batch import PrepareBiplanarBatch, PrepareFilmsBatch
from .data.caching import cached
from .data.datalist import load_records
from .data.demo_dataset import chest_ct, write_dataset
from .data.transforms import CollectXraysd, LoadCTd, ResampleToCubed
from .errors import CheckpointError, DivergenceError, InputError, OutputError, PretrainedWeightsError
from .evaluation import baselines, corrupted_pairs, metrics, out_of_distribution, perturbations
from .evaluation.baselines import Baselines
from .evaluation.interval_calibration import CoverageReport, ErrorTableFit, FactorFit
from .evaluation.out_of_distribution import AssessFamiliarityd
from .evaluation.prediction_intervals import ErrorTable, EstimateUncertaintyd
from .evaluation.robustness import ConditionedRecords, PrepareConditionedBatch
from .evaluation.x2ct_protocol import X2CTReport
from .io.dicom_ct_writer import read_identification, write_ct_series
from .io.radiograph import Radiograph
from .io.radiograph_reader import read_radiograph
from .io.sidecar import beside_weights
from .losses.gradient import GradientMagnitudeLoss
from .losses.perceptual import TriPlanarVGGLoss
from .losses.reprojection import DRRReprojectionLoss
from .losses.ssim import SSIMLoss, structural_similarity
from .losses.stage_losses import MultiScaleLoss, Stage1Loss, Stage2Loss, Stage3Loss
from .networks.cascade import FinalVolumeModel, ProgressiveCascadeModel
from .networks.encoder import MultiScaleXrayEncoder
from .networks.inferer import FinalVolumeInferer
from .networks.stages import Stage1Base64, Stage2Refiner128, Stage3Refiner256
from .projection.attenuation import attenuation_to_hu, hu_to_attenuation, scaled_to_hu
from .projection.geometry import BiplanarGeometry
from .projection.imaging import ProjectCT
from .projection.projector import lift, project
from .projection.region import Region
from .radiographs.augmentation import RandCollimationd, RandGeometry, RandPhotonNoised, RandPresentationd
from .radiographs.transforms import GeometryOfFilmsd, LoadRadiographsd, PrepareXraysd
from .reporting.case_report import CaseFiles
from .reporting.evaluation_report import EvaluationReport
from .reporting.reconstruction import SaveReconstructiond, ToHUd
from .reporting.robustness_report import RobustnessReport
from .reporting.tensorboard import TensorBoardPictures
from .training import cores, devices, distributed, gradient_clipping, resume
from .training.checkpoints import BestCheckpointSaver, CascadeCheckpointLoader
from .training.devices import autocast_dtype
from .training.early_stopping import EarlyStop
from .training.gradient_clipping import GradientGuard
from .training.progress import EpochReport, LossReport
from .training.resume import Resume

__all__ = [
    "AssessFamiliarityd",
    "Baselines",
    "BestCheckpointSaver",
    "BiplanarGeometry",
    "CascadeCheckpointLoader",
    "CaseFiles",
    "CheckpointError",
    "CollectXraysd",
    "ConditionedRecords",
    "CoverageReport",
    "DRRReprojectionLoss",
    "DivergenceError",
    "EarlyStop",
    "EpochReport",
    "ErrorTable",
    "ErrorTableFit",
    "EstimateUncertaintyd",
    "EvaluationReport",
    "FactorFit",
    "FinalVolumeInferer",
    "FinalVolumeModel",
    "GeometryOfFilmsd",
    "GradientGuard",
    "GradientMagnitudeLoss",
    "InputError",
    "LoadCTd",
    "LoadRadiographsd",
    "LossReport",
    "MultiScaleLoss",
    "MultiScaleXrayEncoder",
    "OutputError",
    "PrepareBiplanarBatch",
    "PrepareConditionedBatch",
    "PrepareFilmsBatch",
    "PrepareXraysd",
    "PretrainedWeightsError",
    "ProgressiveCascadeModel",
    "ProjectCT",
    "Radiograph",
    "RandBodyOnlyd",
    "RandCollimationd",
    "RandDeformd",
    "RandGeometry",
    "RandNodulesd",
    "RandPhotonNoised",
    "RandPresentationd",
    "RandTissued",
    "Region",
    "ResampleToCubed",
    "Resume",
    "RobustnessReport",
    "SSIMLoss",
    "SaveReconstructiond",
    "Stage1Base64",
    "Stage1Loss",
    "Stage2Loss",
    "Stage2Refiner128",
    "Stage3Loss",
    "Stage3Refiner256",
    "TensorBoardPictures",
    "ToHUd",
    "TriPlanarVGGLoss",
    "X2CTReport",
    "attenuation_to_hu",
    "autocast_dtype",
    "beside_weights",
    "cached",
    "chest_ct",
    "hu_to_attenuation",
    "lift",
    "load_records",
    "project",
    "read_identification",
    "read_radiograph",
    "scaled_to_hu",
    "structural_similarity",
    "write_ct_series",
    "write_dataset",
]

FORMER_MODULES = {
    "cases": evaluation_records,
    "conditions": perturbations,
    "familiarity": out_of_distribution,
    "film_faults": corrupted_pairs,
    "safeguards": gradient_clipping,
    "views": known_views,
}
"""Names of version 0.3 that configs may have written, and their modules; gone in version 0.5."""


def __getattr__(name: str) -> ModuleType:
    if name not in FORMER_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = FORMER_MODULES[name]
    now = module.__name__.rpartition(".")[2]
    warnings.warn(f"scripts.{name} is now scripts.{now}; correct the configuration.", FutureWarning, stacklevel=2)
    return module
