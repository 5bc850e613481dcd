"""Progressive reconstruction of a CT from a frontal and a lateral X-ray. Research use only, not for diagnosis."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from .anatomy import shape_registration, shapes
from .anatomy.atlas import read_atlas
from .anatomy.augmentation import RandBodyOnlyd, RandNodulesd, RandTissued
from .anatomy.between import RandShapeBetween
from .anatomy.deformation import RandDeformd
from .anatomy.neighbours import Neighbours, neighbours_beside
from .anatomy.registration import Registration
from .anatomy.shapes import LoadShapesd
from .data import cubes, evaluation_records, evidence, known_views, met_records, pair_records
from .data.batch import PrepareBiplanarBatch, PrepareRadiographsBatch
from .data.caching import cached_dataset
from .data.datalist import load_records
from .data.demo_dataset import demo_ct, write_demo_dataset
from .data.evidence import EvidenceFiles, LoadEvidenced
from .data.pair_list import listed_pairs
from .data.transforms import LoadCTd, MaskMissingViewd, ResampleToCubed, StackXraysd
from .errors import CheckpointError, DivergenceError, InputError, OutputError, PretrainedWeightsError
from .evaluation import (
    baselines,
    corrupted_pairs,
    interval_calibration,
    lesions,
    measurement_intervals,
    metrics,
    out_of_distribution,
    perturbations,
    view_accuracy,
)
from .evaluation.anatomy_baselines import AnatomyBaselines
from .evaluation.baselines import Baselines
from .evaluation.interval_calibration import CoverageReport, IntervalScaleFit, IntervalTableFit
from .evaluation.lesions import PlantedRecords
from .evaluation.measured_volume import MeasureVolumed
from .evaluation.measurement_calibration import MeasurementIntervalFit
from .evaluation.measurement_report import MeasurementReport
from .evaluation.out_of_distribution import DetectOutOfDistributiond
from .evaluation.pair_assessment import KeepUncalibratedd
from .evaluation.pair_evaluation import PairEvaluation
from .evaluation.pair_predictions import PairReconstruction, PredictionFolder
from .evaluation.prediction_intervals import IntervalTable, PredictIntervalsd
from .evaluation.robustness import PerturbedRecords, PreparePerturbedBatch
from .evaluation.shards import EvaluationShards
from .evaluation.x2ct_protocol import X2CTReport
from .io import former_ids
from .io.dicom_ct_writer import read_identification, write_ct_series
from .io.radiograph import Radiograph
from .io.radiograph_reader import read_radiograph
from .io.run_manifest import RunManifest
from .io.sidecar import sidecar_path
from .losses.gradient import GradientMagnitudeLoss
from .losses.perceptual import TriPlanarVGGLoss
from .losses.reprojection import DRRReprojectionLoss
from .losses.ssim import SSIMLoss, structural_similarity
from .losses.stage_losses import MultiScaleLoss, Stage1Loss, Stage2Loss, Stage3Loss
from .networks.cascade import FinalVolumeModel, ProgressiveCascadeModel
from .networks.encoder import MultiScaleXrayEncoder
from .networks.inferer import AllVolumesInferer, FinalVolumeInferer
from .networks.stages import Stage1Base64, Stage2Refiner128, Stage3Refiner256
from .projection.attenuation import attenuation_to_hu, hu_to_attenuation
from .projection.geometry import BiplanarGeometry
from .projection.imaging import ImagingModel
from .projection.projector import lift, project
from .projection.region import Region
from .radiographs import pair_statistics
from .radiographs.augmentation import (
    RandCollimationd,
    RandGeometry,
    RandPoissonNoised,
    RandScaleIntensityRangePercentilesd,
)
from .radiographs.calibration_transform import CalibratePaird
from .radiographs.common_scale import CommonScale
from .radiographs.pair import given_radiographs
from .radiographs.transforms import GeometryFromRadiographsd, LoadRadiographsd, PrepareXraysd
from .radiographs.view_classifier import ViewProbabilities, classify
from .reporting import many_pairs, tensorboard
from .reporting.assessment import SaveAssessmentd
from .reporting.case_report import CaseReport
from .reporting.evaluation_report import EvaluationReport
from .reporting.lesion_report import LesionReport
from .reporting.many_pairs import PairDataset, PairRun, SavePaird
from .reporting.reconstruction import SaveReconstructiond, ToHUd, WarnOfCutBodyd
from .reporting.reconstructor import Reconstruction, Reconstructor
from .reporting.robustness_report import RobustnessReport
from .reporting.tensorboard import TensorBoardPictures
from .training import cores, devices, distributed, gradient_clipping, resume, view_classifier_training
from .training.checkpoints import BestCheckpointSaver, CascadeCheckpointLoader
from .training.devices import autocast_dtype
from .training.early_stopping import EarlyStopping
from .training.evidence_writer import EvidenceWriter
from .training.former_names import FORMER_MODULES, FORMER_NAMES, by_former_name
from .training.gradient_clipping import GradientClipping
from .training.loading import report_loaded
from .training.moving_average import ExponentialMovingAverage
from .training.muon import MuonWithAdamW
from .training.progress import EpochReport, LossReport
from .training.resume import Resume
from .training.starting_weights import start_from

__all__ = [
    "AllVolumesInferer",
    "AnatomyBaselines",
    "Baselines",
    "BestCheckpointSaver",
    "BiplanarGeometry",
    "CalibratePaird",
    "CascadeCheckpointLoader",
    "CaseReport",
    "CheckpointError",
    "CommonScale",
    "CoverageReport",
    "DRRReprojectionLoss",
    "DetectOutOfDistributiond",
    "DivergenceError",
    "EarlyStopping",
    "EpochReport",
    "EvaluationReport",
    "EvaluationShards",
    "EvidenceFiles",
    "EvidenceWriter",
    "ExponentialMovingAverage",
    "FinalVolumeInferer",
    "FinalVolumeModel",
    "GeometryFromRadiographsd",
    "GradientClipping",
    "GradientMagnitudeLoss",
    "ImagingModel",
    "InputError",
    "IntervalScaleFit",
    "IntervalTable",
    "IntervalTableFit",
    "KeepUncalibratedd",
    "LesionReport",
    "LoadCTd",
    "LoadEvidenced",
    "LoadRadiographsd",
    "LoadShapesd",
    "LossReport",
    "MaskMissingViewd",
    "MeasureVolumed",
    "MeasurementIntervalFit",
    "MeasurementReport",
    "MultiScaleLoss",
    "MultiScaleXrayEncoder",
    "MuonWithAdamW",
    "Neighbours",
    "OutputError",
    "PairDataset",
    "PairEvaluation",
    "PairReconstruction",
    "PairRun",
    "PerturbedRecords",
    "PlantedRecords",
    "PredictIntervalsd",
    "PredictionFolder",
    "PrepareBiplanarBatch",
    "PreparePerturbedBatch",
    "PrepareRadiographsBatch",
    "PrepareXraysd",
    "PretrainedWeightsError",
    "ProgressiveCascadeModel",
    "Radiograph",
    "RandBodyOnlyd",
    "RandCollimationd",
    "RandDeformd",
    "RandGeometry",
    "RandNodulesd",
    "RandPoissonNoised",
    "RandScaleIntensityRangePercentilesd",
    "RandShapeBetween",
    "RandTissued",
    "Reconstruction",
    "Reconstructor",
    "Region",
    "Registration",
    "ResampleToCubed",
    "Resume",
    "RobustnessReport",
    "RunManifest",
    "SSIMLoss",
    "SaveAssessmentd",
    "SavePaird",
    "SaveReconstructiond",
    "StackXraysd",
    "Stage1Base64",
    "Stage1Loss",
    "Stage2Loss",
    "Stage2Refiner128",
    "Stage3Loss",
    "Stage3Refiner256",
    "TensorBoardPictures",
    "ToHUd",
    "TriPlanarVGGLoss",
    "WarnOfCutBodyd",
    "ViewProbabilities",
    "X2CTReport",
    "attenuation_to_hu",
    "autocast_dtype",
    "baselines",
    "cached_dataset",
    "classify",
    "cores",
    "corrupted_pairs",
    "cubes",
    "demo_ct",
    "devices",
    "distributed",
    "evaluation_records",
    "evidence",
    "former_ids",
    "given_radiographs",
    "gradient_clipping",
    "hu_to_attenuation",
    "interval_calibration",
    "lesions",
    "known_views",
    "lift",
    "listed_pairs",
    "load_records",
    "many_pairs",
    "measurement_intervals",
    "met_records",
    "metrics",
    "neighbours_beside",
    "out_of_distribution",
    "pair_records",
    "pair_statistics",
    "perturbations",
    "project",
    "read_atlas",
    "read_identification",
    "read_radiograph",
    "resume",
    "shape_registration",
    "shapes",
    "sidecar_path",
    "start_from",
    "structural_similarity",
    "tensorboard",
    "view_accuracy",
    "view_classifier_training",
    "write_ct_series",
    "write_demo_dataset",
]


def __getattr__(name: str) -> Any:
    """The names of version 0.3, which go in version 0.5."""
    return by_former_name(__name__, name, {**FORMER_NAMES, **FORMER_MODULES}, globals())


# What MONAI and PyTorch say whatever the bundle does: that a decoder of DICOM on GPUs is not there, and that MONAI's
# `build_sincos_position_embedding` calls `meshgrid` as it will not be called one day.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "NvImgCodecPydicomReader: nvImageCodec decoder", module=r"monai\.data\.image_reader")
warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", module=r"torch\.functional")
report_loaded()
