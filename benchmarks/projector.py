"""
Time and memory of the bundle's projector and lift, and of open projectors that do the same, as Markdown tables.

    python benchmarks/projector.py > table.md       about a quarter of an hour on 2 cores
    python benchmarks/projector.py --quick          a small size, to see that it runs

Each row is measured in a process of its own, with `--quick` in this one, see `benchmarks/measure.py`; progress goes to
stderr. What the columns
mean is said in `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from itertools import product
from pathlib import Path

MEASURE = Path(__file__).resolve().parent / "measure.py"
OURS, PLAIN = "this bundle", "plain slice stack"
PEERS = {
    "nanodrr torch": "nanodrr",
    "nanodrr triton": "nanodrr",
    "DiffDRR trilinear": "diffdrr",
    "DiffDRR Siddon": "diffdrr",
    "RTK Joseph": "itk.RTKPython",
}
"""Each with the module that has to be installed."""
ONE_DEVICE_ONLY = {"nanodrr triton": "cuda", "RTK Joseph": "cpu"}
BYTES = 4
CHANNELS = 16
MISSING = "-"

Measured = Callable[..., dict]
"""From what is to be measured to its result."""


def main() -> None:
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(arguments.threads)
    sizes, views, budget = ([32], [2], 0.2) if arguments.quick else ([64, 128, 256], [1, 2], 5.0)
    measured = in_this_process if arguments.quick else in_a_process_of_its_own
    machine = measured(kind="machine", device="cpu", size=64 if arguments.quick else 512)
    for device in ["cpu", "cuda"] if machine["gpu"] else ["cpu"]:
        if device == "cuda":
            machine = measured(kind="machine", device="cuda", size=512)
        settings = {"device": device, "budget": budget}
        print(description(machine, device))
        bandwidth = machine["bandwidth_bytes_per_s"]
        print(table(projection_rows(measured, arguments.only, sizes, views, settings, bandwidth)))
        print(table(lift_rows(measured, sizes, settings)), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32³ voxels only, short runs")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every projector")
    others = [PLAIN, *PEERS]
    parser.add_argument("--only", nargs="+", default=others, choices=others, help="the projectors to compare with")
    return parser.parse_args()


def in_this_process(**case) -> dict:
    """The result of `measure.py`."""
    from measure import measure

    print(" ".join(map(str, case.values())), file=sys.stderr, flush=True)
    return measure(**case)


def in_a_process_of_its_own(**case) -> dict:
    """The result of `measure.py`, from a process of its own; empty where that has failed."""
    print(" ".join(map(str, case.values())), file=sys.stderr, flush=True)
    process = subprocess.run([sys.executable, MEASURE, json.dumps(case)], stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout.splitlines()[-1]) if process.returncode == 0 else {}


def projection_rows(
    measured: Measured, others: list[str], sizes: list[int], views: list[int], settings: dict, bandwidth: float
) -> Iterator[dict[str, str]]:
    """Ours first, which has always two views."""
    others = [name for name in others if runs_here(name, settings["device"])]
    for size in sizes:
        ours = {}
        for projector, count in [(OURS, 2), *product(others, views)]:
            case = {"projector": projector, "size": size, "views": count}
            result = measured(kind="projection", **case, **settings)
            ours = ours or result
            yield projection_row(case, result, ours, bandwidth)


def runs_here(projector: str, device: str) -> bool:
    on_device = ONE_DEVICE_ONLY.get(projector, device) == device
    return on_device and (projector == PLAIN or importlib.util.find_spec(PEERS[projector]) is not None)


def projection_row(case: dict, result: dict, ours: dict, bandwidth: float) -> dict[str, str]:
    """The least traffic is the volume read and the projections written, and once more for the gradient."""
    size, views = case["size"], case["views"]
    least = 2 * BYTES * (size**3 + views * (2 * size) ** 2)
    return {
        "voxels to pixels": f"{size}³ to {2 * size}²",
        "projector": case["projector"],
        "views": str(views),
        "forward, ms": number(result, "forward_s", 1000),
        "times ours": ratio(result, ours, "forward_s"),
        "forward + backward, ms": number(result, "both_s", 1000),
        "times ours ": ratio(result, ours, "both_s"),
        "of bandwidth": f"{least / bandwidth / result['both_s']:.1%}" if "both_s" in result else MISSING,
        "memory at start, MiB": number(result, "start_mib"),
        "added, forward": number(result, "forward_added_mib"),
        "added, both": number(result, "both_added_mib"),
        "times ours  ": ratio(result, ours, "both_added_mib"),
    }


def lift_rows(measured: Measured, sizes: list[int], settings: dict) -> Iterator[dict[str, str]]:
    for size in sizes:
        result = measured(kind="lift", size=size, channels=CHANNELS, **settings)
        yield {
            "lift, pixels to voxels": f"2 x {CHANNELS} x {2 * size}² to {size}³",
            "lift, ms": number(result, "lift_s", 1000),
            "writing the result, ms": number(result, "write_s", 1000),
            "ratio": short(result["lift_s"] / result["write_s"]) if result else MISSING,
            "memory at start, MiB": number(result, "start_mib"),
            "added": number(result, "added_mib"),
            "of which the result": f"{2 * CHANNELS * size**3 * BYTES / 2**20:.0f}",
        }


def number(result: dict, name: str, factor: float = 1) -> str:
    return short(result[name] * factor) if name in result else MISSING


def ratio(result: dict, ours: dict, name: str) -> str:
    return short(result[name] / ours[name]) if ours.get(name) and name in result else MISSING


def short(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def table(rows: Iterator[dict[str, str]]) -> str:
    """Markdown; spaces at the end of a column's name, which tell columns apart, are dropped."""
    rows = list(rows)
    heading, rule = [name.strip() for name in rows[0]], ["---"] + ["---:"] * (len(rows[0]) - 1)
    lines = [heading, rule, *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def description(machine: dict, device: str) -> str:
    where = machine["gpu"] if device == "cuda" else f"{processor()}, threads: {machine['threads']}"
    bandwidth = f"{machine['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s"
    return f"{date.today()}, {where}, torch {machine['torch']}; memory is copied at {bandwidth}, read plus written.\n"


def processor() -> str:
    """The CPU's name where Linux tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
