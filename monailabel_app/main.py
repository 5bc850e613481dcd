"""
A MONAI Label app that serves the bundle beside it: CTs from pairs of chest X-rays. Research use only, not for
diagnosis.

`python launch.py label --studies DIR` starts it; see bundle/docs/monai_label.md.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from fastapi import HTTPException  # noqa: E402
from lib.reconstruction import ReconstructionTask  # noqa: E402
from lib.studies import StudyDatastore  # noqa: E402
from lib.training import TrainingTask  # noqa: E402
from lib.workflows import BUNDLE  # noqa: E402
from monailabel.config import settings  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from scripts.errors import (  # noqa: E402
    BundleError,
    CheckpointError,
    InputError,
    OutputError,
    PretrainedWeightsError,
    root_cause,
)
from scripts.records import is_inside  # noqa: E402
from scripts.study_search import find_film_pairs  # noqa: E402

MODEL = "biplanar_xray_ct_reconstruction"
STATUS = {InputError: 400, CheckpointError: 503, PretrainedWeightsError: 503, OutputError: 507}
"""What the server answers to the bundle's errors; to the others of them 500."""

logger = logging.getLogger(__name__)


class BiplanarApp(MONAILabelApp):
    """
    Args:
        app_dir: this folder.
        studies: folder of the studies.
        conf: `weights`, the file to serve; by default the bundle's `models/model.pt`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.weights = Path(conf.get("weights") or BUNDLE / "models" / "model.pt").resolve()
        self.uploads = tempfile.tempdir = os.path.realpath(tempfile.mkdtemp(prefix="monailabel_"))
        atexit.register(self.remove_uploads)
        settings.MONAI_LABEL_SESSION_PATH = os.path.join(self.uploads, "sessions")
        metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
        super().__init__(app_dir, studies, conf, metadata["name"], metadata["description"], metadata["version"])
        if not self.weights.is_file():
            logger.warning(f"{self.weights}: no such weights; nothing can be reconstructed before they are there.")

    def init_datastore(self) -> StudyDatastore:
        return StudyDatastore(Path(self.studies))

    def init_infers(self) -> dict[str, ReconstructionTask]:
        return {MODEL: ReconstructionTask(self.weights)}

    def init_trainers(self) -> dict[str, TrainingTask]:
        return {MODEL: TrainingTask(self.weights)}

    def infer(self, request: dict[str, Any], datastore: StudyDatastore | None = None) -> dict[str, Any]:
        """
        Reconstructs the study `image`: a listed one, any frontal film of the studies with `lateral` naming the other,
        or an upload, whose second file MONAI Label calls `label`.
        """
        with self._errors_told(), self._uploads_forgotten(request):
            if request.get("model") not in self._infers:
                raise HTTPException(404, f"model '{request.get('model')}' does not exist, expected {MODEL}.")
            frontal, lateral = self._films(request)
            return super().infer({**request, "image": str(frontal), "lateral": str(lateral)})

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._errors_told():
            return super().train(request)

    def batch_infer(self, request: dict[str, Any], datastore: StudyDatastore | None = None) -> dict[str, Any]:
        with self._errors_told():
            raise InputError("this server reconstructs one study a request; ask for each by /infer/.")

    def _films(self, request: dict[str, Any]) -> tuple[Path, Path]:
        frontal, lateral = self._path("image", request["image"]), request.get("lateral") or request.get("label")
        if lateral:
            return frontal, self._path("lateral", lateral)
        if frontal.is_dir():
            pairs = find_film_pairs(frontal)
            if len(pairs) == 1:
                return frontal / pairs[0].frontal, frontal / pairs[0].lateral
        elif partner := self.datastore().lateral_of(frontal):
            return frontal, partner
        raise InputError(
            f"image '{request['image']}' has no lateral film that its name or its DICOM tags tell; expected one "
            f"frontal and one lateral film of the study. Name the other by the parameter 'lateral'."
        )

    def _path(self, field: str, name: Any) -> Path:
        """A path from a request, which lies in the studies or is an upload."""
        path = self.datastore().path(name) if isinstance(name, str) else None
        if path is None and isinstance(name, str) and os.path.isabs(name) and "\0" not in name:
            path = Path(os.path.realpath(name)) if is_inside(name, self.uploads) and os.path.exists(name) else None
        if path is None:
            raise HTTPException(404, f"{field} {name!r} is not in the studies; GET /datastore/?output=all lists them.")
        return path

    @contextmanager
    def _uploads_forgotten(self, request: dict[str, Any]) -> Iterator[None]:
        """MONAI Label keeps a request's files when it fails. Those of a session stay."""
        try:
            yield
        finally:
            for path in (request.get("image"), request.get("label")):
                if isinstance(path, str) and os.path.dirname(path) == self.uploads and os.path.isfile(path):
                    os.remove(path)

    def remove_uploads(self) -> None:
        """All that is left of requests, when the server ends."""
        shutil.rmtree(self.uploads, ignore_errors=True)

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        """A client is told what the bundle says of its input; a training, a process of its own, ends with it."""
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
            raise HTTPException(STATUS.get(type(cause), 500), str(cause)) from error
