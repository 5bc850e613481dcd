"""The studies of a folder, as MONAI Label's clients see them."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from scripts.files import write_whole
from scripts.records import is_inside
from scripts.studies import FilmPair
from scripts.study_search import find_film_pairs


class StudyDatastore(Datastore):
    """
    Lists each study that has one frontal and one lateral film, by names or DICOM tags. Its id is the path of the
    frontal film from the folder on; its information names the lateral film and the CT.

    Nothing but an upload is written to the folder, and nothing in it is deleted or replaced. Labels do not exist here.

    Args:
        folder: holds the studies; searched as for a datalist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._info: dict[str, dict[str, Any]] = {}
        self.refresh()

    def refresh(self) -> None:
        pairs = {pair.frontal: pair for pair in find_film_pairs(self.folder)}
        self._info = {name: {**self._info.get(name, {}), **_described(pair)} for name, pair in pairs.items()}

    def path(self, name: str) -> Path | None:
        """The file or folder of a name from the folder on; None where there is none or it leads out of the folder."""
        if not name or "\0" in name:
            return None
        path = os.path.realpath(self.folder / name)
        return Path(path) if os.path.exists(path) and is_inside(path, str(self.folder)) else None

    def lateral_of(self, frontal: Path) -> Path | None:
        """The lateral film that belongs to a frontal one, also in folders that have changed since the last search."""
        for search in (False, True):
            if search:
                self.refresh()
            for name, info in self._info.items():
                if self.path(name) == frontal:
                    return self.path(info["lateral"])
        return None

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Moves an uploaded file, of a film or a CT, into the folder; its id there is its name with the suffix."""
        try:
            return self._add(image_id, image_filename)
        finally:
            Path(image_filename).unlink()

    def _add(self, image_id: str, image_filename: str) -> str:
        suffix = "".join(Path(image_filename).suffixes)
        name = image_id if image_id.endswith(suffix) else image_id + suffix
        if "\0" in name or not is_inside(str(self.folder / name), str(self.folder)):
            raise HTTPException(400, f"image '{image_id}' leads out of the studies; expected a name inside the folder.")
        target = self.folder / name
        if os.path.lexists(target):
            raise HTTPException(409, f"image '{name}' is there already, and is not replaced; expected another name.")
        write_whole(str(target), lambda path: shutil.copyfile(image_filename, path))
        self.refresh()
        return name

    def list_images(self) -> list[str]:
        return list(self._info)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Studies with a CT."""
        return [name for name, info in self._info.items() if info["ct"]]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Studies without a CT."""
        return [name for name, info in self._info.items() if not info["ct"]]

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return dict(self._info.get(image_id, {}))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Kept until the server ends."""
        self._info[image_id].update({name: value for name, value in info.items() if name not in ("lateral", "ct")})

    def get_image_uri(self, image_id: str) -> str:
        return str(self.path(image_id) or "") if image_id in self._info else ""

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO | None:
        uri = self.get_image_uri(image_id)
        return io.BytesIO(Path(uri).read_bytes()) if uri else None

    def status(self) -> dict[str, Any]:
        return {"total": len(self._info), "completed": len(self.get_labeled_images()), "label_tags": {}}

    def json(self) -> dict[str, Any]:
        """All studies, of a folder that is searched anew."""
        self.refresh()
        return {"name": self.name(), "objects": {name: {"image": {"info": info}} for name, info in self._info.items()}}

    def name(self) -> str:
        return os.path.basename(self.folder)

    def description(self) -> str:
        return "Studies with a frontal and a lateral X-ray"

    def datalist(self) -> list[dict[str, Any]]:
        return []

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        return {}

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return ""

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> None:
        return None

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        return ""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return {}

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> NoReturn:
        """Labels are refused, and the upload is not kept."""
        os.remove(label_filename)
        self._refuse()

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        raise HTTPException(
            405,
            "this server keeps no label maps and deletes nothing; to train on a CT, put it beside the films of its "
            "study (PUT /datastore/image).",
        )

    set_name = set_description = remove_image = remove_label = update_label_info = get_dataset_archive = _refuse


def _described(pair: FilmPair) -> dict[str, Any]:
    return {"lateral": pair.lateral, "ct": pair.ct}
