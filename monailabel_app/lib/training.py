"""The task that answers `/train/`."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list

from lib.devices import device_called
from lib.reconstruction import SIDECARS
from lib.request_keys import TrainingParameters
from lib.workflows import BUNDLE, run_workflow, sidecar_overlay
from scripts import sidecar_path
from scripts.data.datalist_builder import build_datalist
from scripts.io.atomic_write import write_atomically
from scripts.io.config_text import as_literal
from scripts.io.stage_overlays import configs_of

STAGES = (1, 2, 3)


class TrainingTask(TrainTask):
    """
    Trains the stages in turn on the CTs of the studies, split by patient, then puts the result where the server reads
    its weights. What it leaves is in a folder `training_DATE_TIME` next to them: the datalist, the stages' weights,
    those that were served before as `before.pth`, with their sidecar files, and TensorBoard's files.

    Args:
        weights: the file that is served.
        overlay: a config of the operator's own that changes ids of the training, or a folder with one for each stage;
            None for none.
        device: where a request does not name one; empty for the config's own choice.
    """

    def __init__(self, weights: Path, overlay: Path | None, device: str) -> None:
        super().__init__("Trains the three stages on the studies' CTs; the server then serves the new weights")
        self.weights, self.overlay, self.device = weights, overlay, device

    def config(self) -> dict[str, Any]:
        """What a request may set, with the defaults."""
        return {**TrainingParameters().model_dump(exclude={"client_id"}), "device": device_list()}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        asked = TrainingParameters(
            **{name: request[name] for name in TrainingParameters.model_fields if name in request}
        )
        overrides = {"device": device_called(asked.device or self.device), "epochs": asked.max_epochs}
        overrides = {name: value for name, value in overrides.items() if value}
        fractions = (1 - asked.val_split, asked.val_split, 0)
        folder = self.weights.parent / f"training_{datetime.now():%Y%m%d_%H%M%S}"
        folder.mkdir(parents=True)
        build_datalist(datastore.folder, folder / "datalist.json", fractions, seed=0, overwrite=False)
        start = self._start(folder) if asked.pretrained and self.weights.is_file() else []
        for stage in STAGES:
            configs = [BUNDLE / "configs" / "train.json", *start]
            configs += [BUNDLE / "configs" / f"stage{stage}.json"] if stage > 1 else []
            configs += [*sidecar_overlay(self.weights), *(configs_of(self.overlay, stage) if self.overlay else [])]
            places = {"dataset_dir": str(folder), "ckpt_dir": str(folder), "output_dir": str(folder)}
            run_workflow("training", configs, **places, **overrides)
        self._put_sidecars_away(folder)
        write_atomically(str(self.weights), lambda path: shutil.copyfile(folder / f"stage{STAGES[-1]}_best.pth", path))
        print(f"The server now serves the weights of {folder}.")
        return {"folder": str(folder), "weights": str(self.weights)}

    def _put_sidecars_away(self, folder: Path) -> None:
        """They belong to the weights that were served before, and are refused next to others."""
        for name in SIDECARS:
            sidecar = Path(sidecar_path(str(self.weights), name))
            if sidecar.is_file():
                shutil.move(sidecar, sidecar_path(str(folder / "before.pth"), name))

    def _start(self, folder: Path) -> list[Path]:
        """Keeps the weights that are served, and returns a config with the handler that starts from them."""
        before, config = folder / "before.pth", folder / "start.json"
        shutil.copyfile(self.weights, before)
        loader = {"_target_": "scripts.CascadeCheckpointLoader", "path": as_literal(str(before)), "stage": STAGES[-1]}
        loader["network"] = f"$@network_def.up_to({STAGES[-1]})"
        config.write_text(json.dumps({"+train#handlers": [loader]}), encoding="utf-8")
        return [config]
