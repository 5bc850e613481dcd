"""
The CTs of a datalist as the cubes that training starts from, so that no training has to make them again:

    python benchmarks/cubes.py --dataset_dir DIR --output OUT/cubes

OUT/cubes then is a dataset of its own: the sections `training` and `validation`, each CT at the cascade's full size and
rounded to whole HU, and its radiographs where it has any. It may be copied to other machines, and needs DIR no more.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from os import cpu_count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from monai.bundle import ConfigParser
from monai.transforms import Compose

from scripts import InputError, ResampleToCubed, load_records
from scripts.data.datalist import LABEL_FIELDS, RADIOGRAPH_FIELDS, SOURCE_FIELDS, read_datalist, section_of
from scripts.errors import BundleError
from scripts.io.atomic_write import write_atomically, write_json
from scripts.io.image_writer import cube_affine, write_ct
from scripts.io.radiograph import XRAY_KEYS
from scripts.projection.imaging import NUMBER_OF_STAGES

CONFIGS = ROOT / "bundle" / "configs"
SPLIT = CONFIGS / "split.json"
SECTIONS = ("training", "validation")
DATALIST = "datalist.json"

Record = dict[str, Any]


def make_cubes(
    folder: Path, datalist: Path, dataset_dir: Path | None, overlays: Sequence[Path] = (), end: float = inf
) -> bool:
    """
    Makes what is missing of the cubes of a datalist.

    Args:
        folder: holds the cubes and their `datalist.json`.
        datalist: names the CTs.
        dataset_dir: where its relative paths start; None where all cubes should be there.
        overlays: configs that change ids of `train.json`, of which the geometry's count.
        end: `time.monotonic()` from which on no more cube is begun.

    Returns:
        Whether all are there.

    Raises:
        InputError: when the folder holds the cubes of another datalist or size, a CT cannot be read, or cubes are
            missing and there is no `dataset_dir`.
        OutputError: when a cube cannot be written.
    """
    config = ConfigParser()
    config.read_config([str(CONFIGS / "train.json"), *map(str, overlays)])
    imaging = config.get_parsed_content("imaging")
    geometry = imaging.geometry
    config["volume_size"] = size = imaging.volume_size(NUMBER_OF_STAGES)
    sections = {section: section_of(read_datalist(str(datalist)), str(datalist), section) for section in SECTIONS}
    made_of = {"volume_size": size, "fov_mm": geometry.fov_mm, **sections}
    records = _records_of(folder, datalist, dataset_dir, made_of)
    missing = [record for record in records if not (folder / record["ct"]).is_file()]
    if missing:
        sources = _sources(datalist, dataset_dir)
        make = partial(_make, folder, sources, _to_cube(config), cube_affine(size, geometry.fov_mm), end)
        pool = ThreadPoolExecutor(cpu_count())
        try:
            list(pool.map(make, missing))
        finally:
            pool.shutdown(cancel_futures=True)
    return all((folder / record["ct"]).is_file() for record in records)


def _records_of(folder: Path, datalist: Path, dataset_dir: Path | None, made_of: Record) -> list[Record]:
    """The records of the folder's datalist, which is written where it is missing."""
    path = folder / DATALIST
    if not path.is_file():
        sources = _sources(datalist, dataset_dir)
        cubes = {name: [_cube_of(name, *numbered) for numbered in enumerate(sources[name])] for name in SECTIONS}
        write_json(str(path), {"made_of": made_of, **cubes})
    content = read_datalist(str(path))
    if content.get("made_of") != made_of:
        raise InputError(
            f"{path}: field 'made_of' tells of cubes of another datalist, size or field of view than {datalist} and "
            f"the overlays ask for. Choose another --output, or remove {folder}."
        )
    return [record for section in SECTIONS for record in content[section]]


def _sources(datalist: Path, dataset_dir: Path | None) -> dict[str, list[Record]]:
    if dataset_dir is None:
        raise InputError(f"cubes are missing: say by --dataset_dir where the files that {datalist} names lie.")
    return {section: load_records(str(datalist), section, str(dataset_dir)) for section in SECTIONS}


def _cube_of(section: str, number: int, source: Record) -> Record:
    """A record with the files of the folder; its labels are written out, since they depend on where the CT was."""
    name = f"{section}_{number}_{source['name']}"
    radiographs = {key: f"{name}_{key}_{Path(source[key]).name}" for key in XRAY_KEYS if key in source}
    kept = {field: source[field] for field in (*LABEL_FIELDS, *RADIOGRAPH_FIELDS, *SOURCE_FIELDS) if field in source}
    return {"ct": f"{name}.nii.gz", **radiographs, **kept}


def _make(
    folder: Path, sources: dict[str, list[Record]], to_cube: Compose, affine: Any, end: float, record: Record
) -> None:
    """Radiographs first, so that a cube tells that all of its record is there."""
    if time.monotonic() >= end:
        return
    section, number, _ = record["ct"].split("_", 2)
    source = sources[section][int(number)]
    for key in XRAY_KEYS:
        if key in record:
            write_atomically(str(folder / record[key]), partial(shutil.copyfile, source[key]))
    write_ct(str(folder / record["ct"]), to_cube({"ct": source["ct"]})["ct"].as_tensor()[0], affine)
    print(f"{folder / record['ct']}", flush=True)


def _to_cube(config: ConfigParser) -> Compose:
    """The part of the configured loading that ends with the cube."""
    transforms = config.get_parsed_content("load").transforms
    last = next(place for place, each in enumerate(transforms) if isinstance(each, ResampleToCubed))
    return Compose(transforms[: last + 1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, metavar="DIR", required=True, help="holds the CTs")
    parser.add_argument("--datalist", type=Path, default=SPLIT, metavar="FILE", help="default: the bundle's split.json")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT/cubes")
    parser.add_argument("--overlay", type=Path, nargs="+", default=[], metavar="FILE", help="with another geometry")
    options = parser.parse_args(arguments)
    try:
        make_cubes(options.output, options.datalist, options.dataset_dir, options.overlay)
    except BundleError as error:
        print(f"cubes.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
