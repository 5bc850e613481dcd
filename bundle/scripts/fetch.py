"""
Fetches radiographs and CTs of public collections by plain HTTPS. From the bundle's folder:

    python -m scripts.fetch --pairs --dir DIR                 199 patients with radiographs and a CT, 19.3 GB
    python -m scripts.fetch --pairs --dir DIR --patients 5    five of them

The same line goes on after a stop, and verifies what is there. Then it reads what has come, and writes
DIR/datalist.json: the pairs of a frontal and a lateral radiograph with a CT, and who is left out, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .data.evaluation_records import DATALIST
from .data.fetching import fetch_patients
from .data.manifest import LIDC_PAIRS, read_manifest
from .data.met_patients import met_patients
from .data.pair_datalist import check_replaceable, print_pair_table, write_pair_datalist
from .errors import BundleError
from .io.object_store import ObjectStore


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parse(arguments)
    try:
        manifest = read_manifest(options.manifest)
        met = met_patients()
        patients = manifest.chosen(options.patients, last=tuple(met))
        check_replaceable(options.dir)
        print(f"{manifest.collection}, {manifest.licence}: {manifest.attribution}")
        fetch_patients(manifest, patients, options.dir, ObjectStore(options.address or manifest.address))
        print(f"{len(patients)} patients are whole in {options.dir}.")
        print_pair_table(write_pair_datalist(manifest, patients, options.dir, met))
    except BundleError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    print(f"Wrote {options.dir / DATALIST}.")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pairs", dest="manifest", action="store_const", const=LIDC_PAIRS, help=LIDC_PAIRS.name)
    what.add_argument("--manifest", type=Path, metavar="FILE", help="another one of that form")
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="gets a folder for each patient")
    parser.add_argument(
        "--patients", type=int, metavar="N", help="the first N whom the weights have not met; default: all"
    )
    parser.add_argument("--address", metavar="URL", help="of a mirror of the bucket; default: the manifest's")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
