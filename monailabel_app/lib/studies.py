"""The studies of a folder, as MONAI Label's clients see them."""

from __future__ import annotations

import io
import os
import shutil
import threading
from pathlib import Path
from typing import Any, NoReturn

from monailabel.interfaces.datastore import Datastore
from scripts.files import remove_earlier, write_whole
from scripts.records import is_inside
from scripts.study_search import find_film_pairs
from starlette.exceptions import HTTPException


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
        self._info: dict[str, dict[str, str | None]] = {}
        self._one_upload_at_a_time = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        self._info = {pair.frontal: {"lateral": pair.lateral, "ct": pair.ct} for pair in find_film_pairs(self.folder)}

    def path(self, name: str) -> Path | None:
        """The file or folder of a name from the folder on; None where there is none or it leads out of the folder."""
        if not name or "\0" in name or os.path.isabs(name):
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

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None = None) -> str:
        """
        Copies a film or a CT into the folder.

        Args:
            image_id: its name there, of a file in no further folder.
            image_filename: where it is.
            image_info: not used.

        Raises:
            HTTPException: 409 when a file of this name is there, in whatever case of letters, or when a listed study
                would no longer be known, since it had two films of one view or two CTs.
        """
        with self._one_upload_at_a_time:
            if image_id.casefold() in (name.casefold() for name in os.listdir(self.folder)):
                told = f"image {image_id!r} is there already, and is not replaced; expected another name."
                raise HTTPException(409, told)
            self.refresh()
            before = self._info
            write_whole(str(self.folder / image_id), lambda path: shutil.copyfile(image_filename, path))
            self.refresh()
            if study := next((name for name, info in before.items() if not self._goes_on(name, info)), None):
                remove_earlier(str(self.folder / image_id))
                self.refresh()
                told = f"image {image_id!r} would be a second of its kind in the study {study!r}; expected another name."
                raise HTTPException(409, told)
        return image_id

    def _goes_on(self, name: str, before: dict[str, str | None]) -> bool:
        """Whether a study is still listed with the lateral film and the CT that it had."""
        now = self._info.get(name, {})
        return now.get("lateral") == before["lateral"] and before["ct"] in (None, now.get("ct"))

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

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        """The rest of what MONAI Label's datastores can do."""
        raise NotImplementedError("this app keeps no label maps and deletes nothing.")

    set_name = set_description = remove_image = remove_label = update_label_info = get_dataset_archive = _refuse
    save_label = update_image_info = _refuse
