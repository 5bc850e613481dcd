"""
A MONAI Label app that serves the bundle next to it: CTs from pairs of chest X-rays. Research use only, not for
diagnosis.

`python launch.py label --studies DIR` starts it; see bundle/docs/serving.md.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from lib.answers import without_folders  # noqa: E402
from lib.reconstruction import ReconstructionTask  # noqa: E402
from lib.studies import StudyDatastore  # noqa: E402
from lib.training import TrainingTask  # noqa: E402
from lib.uploads import check_size  # noqa: E402
from lib.workflows import BUNDLE  # noqa: E402
from monailabel.config import settings  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402

from scripts.data.folder_scan import find_radiograph_pairs
from scripts.errors import BundleError, CheckpointError, InputError, OutputError, PretrainedWeightsError, root_cause
from scripts.io.limits import MAX_RADIOGRAPH_PIXELS, check_radiograph_file

MODEL = "biplanar_xray_ct_reconstruction"
STATUS = {InputError: 400, CheckpointError: 503, PretrainedWeightsError: 503, OutputError: 507}
"""What the server answers to the bundle's errors; to the others of them 500."""

logger = logging.getLogger(__name__)


class BiplanarApp(MONAILabelApp):
    """
    Args:
        app_dir: this folder.
        studies: folder of the studies.
        conf: `weights`, the file to serve, by default the bundle's `models/model.pt`; `overlay`, a config of the
            operator's own that changes ids of trainings; `device`, where a request does not name one.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.weights = Path(conf.get("weights") or BUNDLE / "models" / "model.pt").absolute()
        self.overlay = Path(conf["overlay"]).absolute() if conf.get("overlay") else None
        self.device = conf.get("device", "")
        settings.MONAI_LABEL_SESSIONS = False
        metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
        super().__init__(app_dir, studies, conf, metadata["name"], metadata["description"], metadata["version"])
        if not self.weights.is_file():
            logger.warning(f"{self.weights}: no such weights; nothing can be reconstructed before they are there.")

    def init_datastore(self) -> StudyDatastore:
        return StudyDatastore(Path(self.studies))

    def init_infers(self) -> dict[str, ReconstructionTask]:
        return {MODEL: ReconstructionTask(self.weights, self.device)}

    def init_trainers(self) -> dict[str, TrainingTask]:
        return {MODEL: TrainingTask(self.weights, self.overlay, self.device)}

    def infer(self, request: dict[str, Any], datastore: StudyDatastore | None = None) -> dict[str, Any]:
        """
        Reconstructs the study `image`: a listed one, or any frontal radiograph with `lateral` naming the other.

        Args:
            request: both as names from the studies on, or as a `Path` of an upload, which no JSON can hold; `folder`,
                where results go; optionally `device`.
            datastore: not used.
        """
        with self._errors_answered():
            frontal, lateral = self._radiographs(request["image"], request.get("lateral"))
            for field, radiograph in (("frontal", frontal), ("lateral", lateral)):
                where = f"{radiograph.name}: field '{field}'"
                check_radiograph_file(str(radiograph), where)
                check_size(radiograph, where, MAX_RADIOGRAPH_PIXELS)
            return super().infer({**request, "model": MODEL, "image": str(frontal), "lateral": str(lateral)})

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._errors_answered():
            return super().train(request)

    def without_folders(self, text: str) -> str:
        """A message as clients get it."""
        return without_folders(text, (self.datastore().folder, self.weights.parent, BUNDLE.parent, sys.prefix))

    def _radiographs(self, image: str | Path, lateral: str | Path | None) -> tuple[Path, Path]:
        frontal = self._path("image", image)
        if lateral:
            return frontal, self._path("lateral", lateral)
        if frontal.is_dir():
            pairs = find_radiograph_pairs(frontal)
            if len(pairs) == 1:
                return frontal / pairs[0].frontal, frontal / pairs[0].lateral
        elif partner := self.datastore().lateral_of(frontal):
            return frontal, partner
        raise InputError(
            f"image {_name_of(image)!r} has no lateral radiograph that is known by its name or its DICOM tags; "
            "expected one frontal and one lateral radiograph of the study. Name the other by the parameter 'lateral', "
            "or upload it as 'label'."
        )

    def _path(self, field: str, name: str | Path) -> Path:
        """An upload, or a path of the studies."""
        path = name if isinstance(name, Path) else self.datastore().path(name)
        if path is None:
            raise HTTPException(404, f"{field} {name!r} is not in the studies; GET /datastore/?output=all lists them.")
        return path

    @contextmanager
    def _errors_answered(self) -> Iterator[None]:
        """A client receives what the bundle says of its input; a training, a process of its own, ends with it."""
        try:
            yield
        except HTTPException:
            raise
        except Exception as error:
            cause = root_cause(error)
            if not isinstance(cause, BundleError):
                raise
            if not self._server_mode:
                sys.exit(f"error: {cause}")
            raise HTTPException(STATUS.get(type(cause), 500), self.without_folders(str(cause))) from error


def _name_of(image: str | Path) -> str:
    return image.name if isinstance(image, Path) else image
