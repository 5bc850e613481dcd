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
from scripts.datalist import build_datalist
from scripts.errors import InputError
from scripts.files import write_whole

from lib.reconstruction import checked_device
from lib.workflows import BUNDLE, overlay_beside, run_workflow

STAGES = (1, 2, 3)


class TrainingTask(TrainTask):
    """
    Trains the stages in turn on the CTs of the studies, split by patient, then puts the result where the server reads
    its weights. What it leaves is in a folder `training_DATE_TIME` beside them: the datalist, the stages' weights,
    those that were served before as `before.pth`, and TensorBoard's files.

    Args:
        weights: the file that is served.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__("Trains the three stages on the studies' CTs; the server then serves the new weights")
        self.weights = weights

    def config(self) -> dict[str, Any]:
        """What a request may set. With 0 for `max_epochs` each stage has the epochs of its config."""
        return {"device": device_list(), "pretrained": True, "max_epochs": 0, "val_split": 0.2}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        request = {**self.config(), **request}
        overrides = {"device": checked_device(request["device"]), **_epochs(request["max_epochs"])}
        fractions = _fractions(request["val_split"])
        folder = self.weights.parent / f"training_{datetime.now():%Y%m%d_%H%M%S}"
        folder.mkdir(parents=True)
        build_datalist(datastore.folder, folder / "datalist.json", fractions, seed=0, overwrite=False)
        start = self._start(folder) if request["pretrained"] and self.weights.is_file() else []
        for stage in STAGES:
            configs = [BUNDLE / "configs" / "train.json", *start]
            configs += [BUNDLE / "configs" / f"stage{stage}.json"] if stage > 1 else []
            configs += overlay_beside(self.weights)
            places = {"dataset_dir": str(folder), "ckpt_dir": str(folder), "output_dir": str(folder)}
            run_workflow("training", configs, **places, **overrides)
        write_whole(str(self.weights), lambda path: shutil.copyfile(folder / f"stage{STAGES[-1]}_best.pth", path))
        print(f"The server now serves the weights of {folder}.")
        return {"folder": str(folder), "weights": str(self.weights)}

    def _start(self, folder: Path) -> list[Path]:
        """Keeps the weights that are served, and gives a config with the handler that starts from them."""
        before, config = folder / "before.pth", folder / "start.json"
        shutil.copyfile(self.weights, before)
        loader = {"_target_": "scripts.CascadeCheckpointLoader", "path": str(before), "stage": STAGES[-1]}
        loader["network"] = f"$@network_def.up_to({STAGES[-1]})"
        config.write_text(json.dumps({"+train#handlers": [loader]}), encoding="utf-8")
        return [config]


def _epochs(value: Any) -> dict[str, int]:
    if not isinstance(value, int) or value < 0:
        raise InputError(f"max_epochs is {value!r}, expected a whole number, 0 for the epochs of the configs.")
    return {"epochs": value} if value else {}


def _fractions(value: Any) -> tuple[float, float, float]:
    if not isinstance(value, (int, float)) or not 0 < value < 1:
        raise InputError(f"val_split is {value!r}, expected the part of the patients to validate on, between 0 and 1.")
    return 1 - value, value, 0
