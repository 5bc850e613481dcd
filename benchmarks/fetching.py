"""
What a fetched CT costs besides the network: a made CT of as many slices as LIDC-IDRI's have on average, 512 x 512 each,
is fetched from a server of this machine, verified, and read as `fetch` does before it writes a datalist. CPU seconds
are those of one process, the server among them. From the repository's root:

    python benchmarks/fetching.py [--patients 2] [--markdown]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bundle")]

from ct_series_files import write_series
from object_server import COLLECTION, bucket
from scripts.data.chest_ct import check_chest_ct, check_chest_series
from scripts.data.collection import SHIPPED
from scripts.data.fetching import fetch_patients
from scripts.data.manifest import CT, Manifest, Patient, Series, read_manifest
from scripts.io.object_store import ObjectStore
from table import Table

PIXELS, SIDE_MM, HEIGHT_MM = 512, 0.7, 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    shipped = read_manifest(SHIPPED["lidc_idri"], kinds=(CT,))
    slices = round(sum(patient.series[CT].objects for patient in shipped.patients) / len(shipped.patients))
    table = Table({"part": 40, "CPU s": 8, "MB/s": 6}, options.markdown)
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        measure(table, Path(folder), options.patients, slices)


def measure(table: Table, folder: Path, count: int, slices: int) -> None:
    """Prints CPU seconds a patient of each part, and millions of bytes in each of them."""
    sides = {"shape": (PIXELS, PIXELS, slices), "spacing": (SIDE_MM, SIDE_MM, HEIGHT_MM / slices)}
    files = [path.read_bytes() for path in sorted(write_series(folder / "made", **sides).iterdir())]
    names = [str(uuid5(NAMESPACE_URL, f"series {number}")) for number in range(count)]
    objects = {f"{name}/{uuid5(NAMESPACE_URL, str(i))}.dcm": file for name in names for i, file in enumerate(files)}
    size = sum(map(len, files))
    patients = [Patient(f"P{i}", {CT: Series(name, slices, size)}) for i, name in enumerate(names)]

    def add(part: str, work: Callable[[], object]) -> None:
        start = time.process_time()
        work()
        seconds = (time.process_time() - start) / count
        table.add(**{"part": part, "CPU s": seconds, "MB/s": size / 1e6 / seconds})

    with bucket(objects) as server:
        manifest = Manifest(**COLLECTION, address=server.address, patients=patients)

        def fetch() -> None:
            fetch_patients(manifest, patients, folder / "d", ObjectStore(server.address))

        add(f"fetch {slices} slices from this machine", fetch)
        add("verify what is there", fetch)
        places = [str(folder / "d" / patient.name / CT) for patient in patients]
        add("read its headers", lambda: list(map(check_chest_series, places)))
        add("read its pixels too, as of --pairs", lambda: list(map(check_chest_ct, places)))


if __name__ == "__main__":
    main()
