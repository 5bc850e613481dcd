"""The studies of a folder, as MONAI Label's clients see them."""

from __future__ import annotations

import io
import logging
import os
import shutil
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from monailabel.interfaces.datastore import Datastore
from starlette.exceptions import HTTPException

from scripts.data.datalist import is_inside
from scripts.data.folder_scan import find_images
from scripts.data.name_conventions import describe_file, image_suffix
from scripts.data.study_pairing import Image, pair_by_study, pair_radiographs

LONGEST_LISTING = 10_000
"""Studies that one answer lists."""

logger = logging.getLogger(__name__)


class StudyDatastore(Datastore):
    """
    Lists each study that has one frontal and one lateral radiograph, by names or DICOM tags. Its id is the path of the
    frontal radiograph from the folder on; its information names the lateral radiograph and the CT.

    Nothing but an upload is written to the folder, and nothing in it is deleted or replaced. Labels do not exist here.

    Args:
        folder: holds the studies; searched as for a datalist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._info: dict[str, dict[str, str | None]] = {}
        self._cts: set[str] = set()  # those that a training takes
        self._one_upload_at_a_time = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Searches the folder anew. A study whose names are no UTF-8 cannot be sent to a client, and is passed over."""
        images, _ = find_images(self.folder)
        found = {pair.frontal: {"lateral": pair.lateral, "ct": pair.ct} for pair in pair_radiographs(images)}
        odd = [
            name for name, info in found.items() if not all(map(_is_text, (name, info["lateral"], info["ct"] or "")))
        ]
        for name in odd:
            logger.warning(
                f"{name}: its name is no UTF-8, or that of its lateral radiograph or CT; rename it. It is not listed."
            )
            del found[name]
        self._info, self._cts = found, {record.ct for record in pair_by_study(images)[0]}

    def path(self, name: str) -> Path | None:
        """The file or folder of a name from the folder on; None where there is none or it leads out of the folder."""
        if not name or "\0" in name or os.path.isabs(name):
            return None
        path = os.path.realpath(self.folder / name)
        return Path(path) if os.path.exists(path) and is_inside(path, str(self.folder)) else None

    def lateral_of(self, frontal: Path) -> Path | None:
        """The lateral radiograph that belongs to a frontal one, also in a folder that has changed since."""
        for search in (False, True):
            if search:
                self.refresh()
            for name, info in self._info.items():
                if self.path(name) == frontal:
                    return self.path(info["lateral"])
        return None

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None = None) -> str:
        """
        Copies a radiograph or a CT into the folder.

        Args:
            image_id: its name there, of a file in no further folder.
            image_filename: where it is.
            image_info: not used.

        Raises:
            HTTPException: 409 when a file of this name is there, in whatever case of letters, when a study would have
                two radiographs of one view or two CTs, or when a study or a CT would no longer be listed or trained on;
                507 when the folder cannot be written to.
        """
        with self._one_upload_at_a_time:
            self.refresh()
            pairs, cts = self._info, self._cts
            self._copy_new(image_filename, image_id)
            self.refresh()
            if harmed := self._second_of(image_id) or self._lost(pairs, cts):
                (self.folder / image_id).unlink()
                self.refresh()
                message = (
                    f"with image {image_id!r} it would not be known what belongs to {harmed!r}; expected another name."
                )
                raise HTTPException(409, message)
        return image_id

    def _copy_new(self, source: str, name: str) -> None:
        """Opened as a file that must not be there yet, so that none is replaced which comes in between."""
        taken = HTTPException(409, f"image {name!r} is there already, and is not replaced; expected another name.")
        if name.casefold() in (other.casefold() for other in os.listdir(self.folder)):
            raise taken
        target = self.folder / name
        try:
            with open(source, "rb") as given, target.open("xb") as file:
                try:
                    shutil.copyfileobj(given, file)
                except OSError:
                    target.unlink()
                    raise
        except FileExistsError as error:
            raise taken from error
        except OSError as error:
            message = (
                f"image {name!r} cannot be written into the studies ({error.strerror}); ask the server's operator."
            )
            raise HTTPException(507, message) from error

    def _second_of(self, name: str) -> str | None:
        """An image of the kind and the study, by its name, of one that lies directly in the folder."""
        paths = (Path(entry) for entry in os.scandir(self.folder) if entry.is_file(follow_symlinks=False))
        names = sorted(path.name for path in paths if image_suffix(path.name) and not path.name.startswith("."))
        found = {other: describe_file(self.folder, other, {}) for other in names}
        new = found.pop(name, None)
        kinds = ((other, image) for other, image in found.items() if isinstance(image, Image))
        return next((other for other, image in kinds if replace(image, path=name) == new), None)

    def _lost(self, pairs: dict[str, dict[str, str | None]], cts: set[str]) -> str | None:
        """
        A study that is no longer listed with the lateral radiograph and the CT that it had, or a CT that is in no
        record.
        """
        changed = (name for name, info in pairs.items() if not self._goes_on(name, info))
        return next(changed, None) or min(cts - self._cts, default=None)

    def _goes_on(self, name: str, before: dict[str, str | None]) -> bool:
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
        """Names of the studies, of the first :data:`LONGEST_LISTING`, of a folder that is searched anew."""
        self.refresh()
        listed = islice(self._info.items(), LONGEST_LISTING)
        objects = {name: {"image": {"info": info}} for name, info in listed}
        return {"name": self.name(), "total": len(self._info), "objects": objects}

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


def _is_text(name: str) -> bool:
    """Whether a name has no bytes that the system could not decode."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
