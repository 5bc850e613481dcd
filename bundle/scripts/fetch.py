"""
Fetches CTs, or radiographs and CTs, of public collections by plain HTTPS. From the bundle's folder:

    python -m scripts.fetch LIDC-IDRI --dir DIR --patients 10            a CT of each of ten patients
    python -m scripts.fetch LIDC-IDRI --dir DIR --patients 10 --dry-run  say what that would be
    python -m scripts.fetch --pairs --dir DIR                 199 patients with radiographs and a CT, 19.3 GB
    python -m scripts.fetch --pairs --dir DIR --patients 5    five of them

The same line goes on after a stop, and verifies what is there. Then it reads what has come, and writes
DIR/datalist.json: of a collection's CTs the sections of training, of --pairs the pairs of a frontal and a lateral
radiograph with a CT; and who is left out, with the reason. Other collections than LIDC-IDRI are looked up in the
index of Imaging Data Commons, where that is installed; it also gives the manifest of one:

    python -m scripts.fetch LIDC-IDRI --write-manifest configs/lidc_idri.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .data import collection_datalist
from .data.collection import collection_manifest, passed_over, write_collection_manifest
from .data.evaluation_records import DATALIST
from .data.fetching import fetch_patients
from .data.manifest import LIDC_PAIRS, Manifest, Patient, read_manifest
from .data.met_patients import met_patients
from .data.pair_datalist import check_replaceable, print_pair_table, write_pair_datalist
from .errors import BundleError, InputError
from .io.object_store import ObjectStore

ALL = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parse(arguments)
    try:
        if options.write_manifest:
            found = write_collection_manifest(options.collection, options.write_manifest)
            print(f"Wrote {options.write_manifest} from {found.index}; {found.others} CTs of other sources left alone.")
        elif options.collection:
            _fetch_collection(options)
        else:
            _fetch_pairs(options)
    except BundleError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def _fetch_pairs(options: argparse.Namespace) -> None:
    manifest = read_manifest(options.manifest)
    met = met_patients()
    patients = manifest.chosen(None if options.patients == ALL else options.patients, last=tuple(met))
    check_replaceable(options.dir)
    if _fetch(manifest, patients, options):
        print_pair_table(write_pair_datalist(manifest, patients, options.dir, met))
        print(f"Wrote {options.dir / DATALIST}.")


def _fetch_collection(options: argparse.Namespace) -> None:
    manifest = collection_manifest(options.collection, options.any_licence)
    if options.patients is None:
        whole = f"{len(manifest.patients)} patients of {_size(manifest.patients)}"
        raise InputError(f"{manifest.collection} has {whole}: give --patients N, or --patients {ALL}.")
    patients = manifest.chosen(None if options.patients == ALL else options.patients)
    left_out, met = passed_over(manifest, patients), met_patients(manifest.collection)
    collection_datalist.check_replaceable(manifest, options.dir)
    if _fetch(manifest, patients, options):
        content = collection_datalist.write_collection_datalist(manifest, patients, options.dir, met, left_out)
        collection_datalist.print_table(content, met)
        print(f"Wrote {options.dir / DATALIST}.")


def _fetch(manifest: Manifest, patients: Sequence[Patient], options: argparse.Namespace) -> bool:
    """Whether it has fetched, and was not only asked what that would be."""
    print(f"{manifest.collection}, {manifest.licence}: {manifest.attribution}")
    if options.dry_run:
        files = sum(series.objects for patient in patients for series in patient.series.values())
        print(f"{len(patients)} patients, {files} files, {_size(patients)}. Nothing is fetched.")
        return False
    fetch_patients(manifest, patients, options.dir, ObjectStore(options.address or manifest.address))
    print(f"{len(patients)} patients are whole in {options.dir}.")
    return True


def _size(patients: Sequence[Patient]) -> str:
    return f"{sum(patient.size for patient in patients) / 1e9:.2f} GB"


def _number_or_all(text: str) -> int | str:
    return ALL if text == ALL else int(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("collection", nargs="?", metavar="COLLECTION", help="of Imaging Data Commons, such as LIDC-IDRI")
    what.add_argument("--pairs", dest="manifest", action="store_const", const=LIDC_PAIRS, help=LIDC_PAIRS.name)
    what.add_argument("--manifest", type=Path, metavar="FILE", help="another one of that form")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dir", type=Path, metavar="DIR", help="gets a folder for each patient")
    where.add_argument("--write-manifest", type=Path, metavar="FILE", help="gets what the index says of COLLECTION")
    parser.add_argument(
        "--patients",
        type=_number_or_all,
        metavar="N",
        help=f"the first N, or '{ALL}'; of pairs those whom the weights have not met, by default all",
    )
    parser.add_argument("--dry-run", action="store_true", help="say how many bytes that is, and fetch nothing")
    parser.add_argument(
        "--any-licence", action="store_true", help="also a COLLECTION of other licences than CC BY, CC0"
    )
    parser.add_argument("--address", metavar="URL", help="of a mirror of the bucket; default: the manifest's")
    options = parser.parse_args(arguments)
    if options.write_manifest and not options.collection:
        parser.error("--write-manifest needs COLLECTION")
    return options


if __name__ == "__main__":
    sys.exit(main())
