"""Progressive reconstruction of a CT volume from a frontal and a lateral X-ray. Research use only, not for diagnosis."""

from . import (
    baselines,
    cases,
    conditions,
    cores,
    devices,
    distributed,
    familiarity,
    film_faults,
    metrics,
    resume,
    safeguards,
    views,
)
from .attenuation import attenuation_to_hu, hu_to_attenuation, scaled_to_hu
from .baselines import Baselines
from .batch import FinalVolumeInferer, PrepareBiplanarBatch, PrepareFilmsBatch, ProjectCT
from .caching import cached
from .calibration import CoverageReport, ErrorTableFit, FactorFit
from .cascade import FinalVolumeModel, ProgressiveCascadeModel
from .case_files import CaseFiles
from .checkpoints import BestCheckpointSaver, CascadeCheckpointLoader
from .companion_files import beside_weights
from .ct_augmentation import RandBodyOnlyd, RandNodulesd, RandTissued
from .deformation import RandDeformd
from .demo_data import chest_ct, write_dataset
from .dicom_export import read_identification, write_ct_series
from .encoder import MultiScaleXrayEncoder
from .errors import CheckpointError, DivergenceError, InputError, OutputError, PretrainedWeightsError
from .evaluation import EvaluationReport
from .familiarity import AssessFamiliarityd
from .geometry import BiplanarGeometry
from .losses import (
    DRRReprojectionLoss,
    GradientMagnitudeLoss,
    MultiScaleLoss,
    SSIMLoss,
    Stage1Loss,
    Stage2Loss,
    Stage3Loss,
    TriPlanarVGGLoss,
)
from .precision import autocast_dtype
from .progress import EpochReport, LossReport
from .projector import lift, project
from .radiograph import Radiograph
from .radiograph_reader import read_radiograph
from .radiograph_transforms import GeometryOfFilmsd, LoadRadiographsd, PrepareXraysd
from .records import load_records
from .region import Region
from .postprocess import SaveReconstructiond, ToHUd
from .resume import Resume
from .robustness import ConditionedRecords, PrepareConditionedBatch, RobustnessReport
from .safeguards import EarlyStop, GradientGuard
from .ssim import structural_similarity
from .stages import Stage1Base64, Stage2Refiner128, Stage3Refiner256
from .tensorboard import TensorBoardPictures
from .transforms import CollectXraysd, LoadCTd, ResampleToCubed
from .uncertainty import ErrorTable, EstimateUncertaintyd
from .x2ct_protocol import X2CTReport
from .xray_augmentation import RandCollimationd, RandGeometry, RandPhotonNoised, RandPresentationd

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
