"""
Builds `datalist.json` from a folder of studies, or checks every record of one. From the bundle's folder:

    python -m scripts.datalist DIR             write DIR/datalist.json, and tell what is left out and why
    python -m scripts.datalist DIR --check     load every record as training does, and list what is wrong
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from monai.data import partition_dataset
from pydicom.misc import is_dicom
from tqdm import tqdm

from .dicom_headers import Header, describe_headers, patients_by_folder, read_header
from .errors import InputError
from .files import write_json
from .image_files import describe_file, image_suffix
from .record_check import check_records, print_problems, training_transforms
from .records import SECTIONS, is_inside
from .studies import Image, LeftOut, PatientRecord, pair_by_study

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SHOWN_ALONE = 3
"""Files of one folder that are left out for one reason are told one by one up to this number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit status: 1 when nothing can be written or the check finds problems."""
    options = _parse(arguments)
    datalist = options.datalist or options.folder / "datalist.json"
    try:
        if options.check:
            problems, count = check_records(str(datalist), training_transforms())
            print_problems(problems, count)
            return 1 if problems else 0
        build_datalist(options.folder, datalist, options.fractions, options.seed, options.overwrite)
    except (InputError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def build_datalist(folder: Path, datalist: Path, fractions: Sequence[float], seed: int, overwrite: bool) -> None:
    """
    Writes a datalist of all studies of a folder, split by patient, and prints what it holds and what it leaves out.

    Args:
        folder: searched with all folders below it; hidden files and links to folders are passed over.
        datalist: where to write. Paths are relative to its folder, or absolute when it lies outside of `folder`.
        fractions: of the patients in training, validation and test, see :func:`split_by_patient`.
        seed: of the split.
        overwrite: whether a datalist that is there may be replaced.

    Raises:
        InputError: when `folder` is none or holds no study, or `datalist` is there and `overwrite` is not set.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of studies.")
    if datalist.exists() and not overwrite:
        raise InputError(f"{datalist}: is there already. Replace it by --overwrite, or write another by --datalist FILE.")
    records, left_out = find_records(folder)
    _print_left_out([entry for entry in left_out if (folder / entry.path).resolve() != datalist.resolve()])
    if not records:
        raise InputError(f"{folder}: no CT found, expected at least one (their names: bundle/docs/quickstart.md).")
    sections = split_by_patient([record.patient for record in records], fractions, seed)
    members = {name: [r for r in records if r.patient in patients] for name, patients in sections.items()}
    write_json(str(datalist), {name: [_fields(r, folder, datalist) for r in found] for name, found in members.items()})
    _print_sections(datalist, members)


def find_records(folder: Path) -> tuple[list[PatientRecord], list[LeftOut]]:
    """The records of a folder, in an order that the file system has no part in, and all that is in none of them."""
    paths, left_out = _walk(folder)
    dicom = [path for path in paths if image_suffix(path) is None and is_dicom(folder / path)]
    headers = [read_header(folder, path) for path in tqdm(dicom, desc="Reading DICOM headers", disable=not dicom)]
    known = [header for header in headers if isinstance(header, Header)]
    patients = patients_by_folder(known)
    found = [describe_file(folder, path, patients) for path in paths if image_suffix(path)] + describe_headers(known)
    records, unpaired = pair_by_study(image for image in found if isinstance(image, Image))
    left_out += [entry for entry in (*headers, *found) if isinstance(entry, LeftOut)] + unpaired
    others = set(paths) - set(dicom) - {path for path in paths if image_suffix(path)}
    left_out += [LeftOut(path, _reason_of_other(path)) for path in others if not _is_part_of_metaimage(path, paths)]
    return records, sorted(left_out)


def split_by_patient(patients: Iterable[str], fractions: Sequence[float], seed: int) -> dict[str, set[str]]:
    """
    Patients by section, drawn by MONAI's `partition_dataset`. Each section with a fraction above 0 gets a patient before
    any gets a second one, training first; the others go where most are wanting.

    Args:
        patients: in any order, also repeatedly.
        fractions: of training, validation and test; they need not sum to 1.
        seed: of the draw.

    Raises:
        InputError: when fractions are not three finite numbers, none negative and that of training above 0.
    """
    if len(fractions) != 3 or not all(math.isfinite(f) and f >= 0 for f in fractions) or fractions[0] == 0:
        raise InputError(f"fractions {list(fractions)}: expected three numbers, none negative, the first above 0.")
    ordered = sorted(set(patients))
    wanted = [fraction / sum(fractions) * len(ordered) for fraction in fractions]
    counts = [0, 0, 0]
    for _ in ordered:
        empty = [i for i in range(3) if fractions[i] > 0 and counts[i] == 0]
        counts[empty[0] if empty else max(range(3), key=lambda i: wanted[i] - counts[i])] += 1
    parts = partition_dataset(ordered, ratios=counts, shuffle=True, seed=seed)
    return {name: set(part) for name, part in zip(SECTIONS, parts)}


def _walk(folder: Path) -> tuple[list[str], list[LeftOut]]:
    """Paths of all files, from the folder on, and what cannot be reached or leads out of it."""
    paths, left_out = [], []

    def refuse(error: OSError) -> None:
        place = Path(os.path.relpath(error.filename, folder)).as_posix()
        left_out.append(LeftOut(place, f"cannot be listed ({error.strerror})"))

    for place, names, files in os.walk(folder, onerror=refuse):
        here = Path(os.path.relpath(place, folder))
        links = [name for name in names if os.path.islink(os.path.join(place, name))]
        left_out += [LeftOut((here / name).as_posix(), "a link to a folder is not followed") for name in links]
        names[:] = [name for name in names if name not in links and not name.startswith(".")]
        for path in ((here / name).as_posix() for name in files if not name.startswith(".")):
            target = os.path.realpath(folder / path)
            if os.path.exists(target) and is_inside(target, str(folder)):
                paths.append(path)
            else:
                left_out.append(LeftOut(path, f"is a link to {target}, which is outside or missing"))
    return sorted(paths), left_out


def _reason_of_other(path: str) -> str:
    if path.lower().endswith(DICOM_SUFFIXES):
        return "is no DICOM file: the letters DICM are not at byte 128"
    return "is no image file of a known kind"


def _is_part_of_metaimage(path: str, paths: Sequence[str]) -> bool:
    """Whether a file holds the voxels of a `.mhd` header beside it."""
    stem, suffix = os.path.splitext(path)
    return suffix.lower() in (".raw", ".zraw") and f"{stem}.mhd" in paths


def _fields(record: PatientRecord, folder: Path, datalist: Path) -> dict[str, str]:
    start = datalist.absolute().parent
    is_below = is_inside(str(folder), str(start))
    root = Path(os.path.relpath(os.path.realpath(folder), os.path.realpath(start)) if is_below else folder.absolute())
    return {field: (root / path).as_posix() for field, path in record.fields().items()}


def _print_left_out(left_out: Sequence[LeftOut]) -> None:
    """All that is left out with its reason; many files of one folder with the same reason in one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in left_out:
        groups.setdefault((PurePosixPath(entry.path).parent.as_posix(), entry.reason), []).append(entry.path)
    print(f"Left out: {len(left_out) or 'nothing'}")
    for (parent, reason), paths in groups.items():
        alone = len(paths) <= SHOWN_ALONE
        for path in paths if alone else [f"{parent}/ ({len(paths)} files such as {PurePosixPath(paths[0]).name})"]:
            print(f"  {path}: {reason}")


def _print_sections(datalist: Path, members: dict[str, list[PatientRecord]]) -> None:
    print(f"Wrote {datalist}\n{'section':<12}{'patients':>9}{'CTs':>6}{'with films':>12}")
    for section, records in members.items():
        patients, paired = {record.patient for record in records}, [record for record in records if record.films]
        print(f"{section:<12}{len(patients):>9}{len(records):>6}{len(paired):>12}")
    for section, reader in (("validation", "training"), ("test", "evaluation")):
        if not members[section]:
            print(f"The section '{section}' is empty; {reader} needs at least one patient there.")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.datalist", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds the studies")
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="default: DIR/datalist.json")
    parser.add_argument("--seed", type=int, default=0, help="of the split; default: 0")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        default=(0.7, 0.15, 0.15),
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="of the patients; default: 0.7 0.15 0.15",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a datalist that is there")
    parser.add_argument("--check", action="store_true", help="load every record of the datalist instead of writing one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
