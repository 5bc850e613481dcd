"""
What is to be learnt from a GPU that is at hand for minutes, in one command without a network. See on_gpu.md.

    python benchmarks/on_gpu.py                      tests, times and memory, into output/on_gpu.json
    python benchmarks/on_gpu.py --device cpu --quick the same at small sizes where there is no GPU, to try it out
    python benchmarks/on_gpu.py --train 9 --dataset_dir DIR --output OUT
                                                     all three stages trained, in calls of 9 minutes at most

Exit status: 0 when all is measured, or trained; 1 when something failed, which the JSON names; 75 when the time of
`--train` was up, and the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

import torch

import on_gpu_cases as cases
from launcher.failures import LaunchError
from launcher.places import CONFIGS
from processes import Stopped, TimeUp, Worker, WorkFailed, asked_to_end, run_until
from projector import OURS, PEERS, PLAIN, processor
from scripts import InputError
from scripts.errors import BundleError
from scripts.io.atomic_write import write_json
from scripts.training.devices import choose_device
from table import Table
from unattended import FAILED, FINISHED, train

PARTS = ("tests", "steps", "inference", "projector", "compiled")
TESTS = "tests/workflows/test_devices.py"
TEST_SHARE = 0.4
"""Of the time, at most, for the tests."""
LEAST = 10.0
"""Seconds without which no measurement is begun."""
LIMIT_GB = {1: 10, 2: 16, 3: 35}
"""What a training of each stage may take of a GPU, by the design."""
OTHERS = (PLAIN, "nanodrr triton", "nanodrr torch", "DiffDRR trilinear", "DiffDRR Siddon")
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "triton", "nanodrr", "diffdrr")
SPLIT = ROOT / CONFIGS / "split.json"
OVERLAYS = (ROOT / CONFIGS / "weights", Path(__file__).with_name("on_gpu_weights"))
UNITS = "The end of a name: s, bytes, gb (10^9 bytes), hu. What has none is a number or a word."
PEAKS = ("peak_allocated", "peak_resident", "both_peak_allocated", "both_peak_resident")
COLUMNS = {
    "part": 10, "what": 26, "seconds": 9, "backward too": 12, "peak GB": 8, "reserved GB": 11, "planned GB": 10,
    "limit GB": 8,
}  # fmt: skip


class Case(NamedTuple):
    """One measurement."""

    part: str
    name: str
    function: Callable[..., dict[str, Any]]
    arguments: dict[str, Any]
    needs: str | None = None
    """A module without which it is missing."""


class Report:
    """
    The JSON, which is written whole after everything that is added.

    Args:
        path: of the file; what is there is replaced.
        begun: what is known before anything is measured.
    """

    def __init__(self, path: Path, **begun: Any) -> None:
        empty = {name: [] for name in ("errors", "missing", "left_out")}
        self.path, self.content = path, {"finished": False, "units": UNITS, **begun, "parts": {}, **empty}
        self.write()

    def measured(self, part: str, name: str, **figures: Any) -> None:
        self.content["parts"].setdefault(part, []).append({"what": name, **figures})
        self.write()

    def noted(self, kind: str, part: str, name: str, message: str) -> None:
        """`kind` is "errors", "missing" (a package) or "left_out" (for want of time)."""
        print(f"{part}, {name}: {kind.replace('_', ' ')}: {message.splitlines()[-1]}", flush=True)
        self.content[kind].append({"part": part, "what": name, "message": message})
        self.write()

    def finish(self) -> None:
        self.content["finished"] = True
        self.write()

    def write(self) -> None:
        write_json(str(self.path), self.content)


def main(arguments: Sequence[str] | None = None) -> int:
    started = time.monotonic()
    options = parse_arguments(arguments)
    try:
        device = chosen_device(options.device)
        if options.train is None:
            return measure_all(options, device, started + 60 * options.minutes)
        end = started + 60 * options.train
        return train(options.output, options.dataset_dir, options.datalist, options.overlay, device, end)
    except (BundleError, LaunchError) as error:
        print(f"on_gpu.py: error: {error}", file=sys.stderr)
        return FAILED


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="or the folder OUT of --train")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: the GPU, without which nothing is measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all measurements; what is left out is named")
    parser.add_argument("--quick", action="store_true", help="small sizes; tests are collected and not run")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train for so long at most instead of measuring")
    parser.add_argument("--dataset_dir", type=Path, metavar="DIR", help="where the datalist's files lie")
    split = "whose training and validation are taken; default: bundle/configs/split.json"
    parser.add_argument("--datalist", type=Path, default=SPLIT, metavar="FILE", help=split)
    overlays = "configs that change ids of train.json, the last counts most; default: weights on_gpu_weights"
    parser.add_argument("--overlay", type=Path, nargs="+", default=OVERLAYS, metavar="FILE", help=overlays)
    options = parser.parse_args(arguments)
    if options.train is not None and options.output is None:
        parser.error("--train needs --output OUT, the folder that it goes on in")
    for name in ("output", "dataset_dir", "datalist"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).resolve())
    options.output = options.output or ROOT / "output" / "on_gpu.json"
    options.overlay = [overlay.resolve() for overlay in options.overlay]
    return options


def chosen_device(name: str | None) -> str:
    """
    "cuda" or "cpu".

    Raises:
        InputError: when there is no GPU and the CPU was not asked for.
    """
    if name is None and not torch.cuda.is_available():
        raise InputError(
            "PyTorch finds no GPU (CUDA) on this machine, so that there is nothing to measure. To try it out on the "
            "CPU, at small sizes: python benchmarks/on_gpu.py --device cpu --quick"
        )
    return choose_device(name or "cuda").type


def measure_all(options: argparse.Namespace, device: str, end: float) -> int:
    """Every part, each guarded, then the table; the exit status."""
    report = Report(options.output, machine=machine(device), quick=options.quick, minutes=options.minutes)
    try:
        with asked_to_end():
            for part in (part for part in PARTS if part in options.parts):
                if part == "tests":
                    run_tests(report, device, options.quick, end)
                else:
                    measure(report, [case for case in all_cases(device, options.quick) if case.part == part], end)
        report.finish()
    except Stopped:
        print("Asked to end; what was measured so far is in the JSON.", flush=True)
    print_table(report.content)
    print(f"\nAll figures are in {options.output}.")
    return FINISHED if report.content["finished"] and not report.content["errors"] else FAILED


def all_cases(device: str, quick: bool) -> Iterator[Case]:
    """The measurements, those that matter most first."""
    size, repeats = (32, 1) if quick else (256, 10)
    how = {"device": device, "quick": quick, "repeats": repeats}
    for stage, crop in ((1, None), (2, None), (3, None), (3, 32 if quick else 128)):
        name = f"stage {stage}" + (f", crop {crop}" if crop else "")
        yield Case("steps", name, cases.training_step, {"stage": stage, "crop": crop, **how})
        planned = {"stage": stage, "crop": crop, "device": device, "quick": quick}
        yield Case("steps", f"{name}, planned", cases.planned_step, planned)
    for precision in ("float32", "bfloat16"):
        yield Case("inference", precision, cases.inference, {"precision": precision, **how})
    yield Case("projector", "lift", cases.lift, {"device": device, "size": size, "repeats": repeats})
    for name in (OURS, *OTHERS):
        case = {"projector": name, "size": size, "device": device, "budget": 0.1 if quick else 2.0}
        if device == "cuda" or name != "nanodrr triton":
            yield Case("projector", name, cases.project_both, case, PEERS.get(name))
    if device == "cuda":
        for stage in (1, 2, 3):
            step = {"stage": stage, "crop": None, "compiled": True, **how}
            yield Case("compiled", f"stage {stage}, compiled", cases.training_step, step)


def measure(report: Report, chosen: Sequence[Case], end: float) -> None:
    """The cases one after the other, each in what is left of the time."""
    worker = Worker()
    try:
        for case in chosen:
            left = end - time.monotonic()
            if left < LEAST:
                report.noted("left_out", case.part, case.name, "no time was left")
            elif case.needs and importlib.util.find_spec(case.needs) is None:
                report.noted("missing", case.part, case.name, f"package {case.needs} is not installed")
            else:
                _measure_one(report, worker, case, left)
    finally:
        worker.close()


def _measure_one(report: Report, worker: Worker, case: Case, left: float) -> None:
    print(f"{case.part}, {case.name} ...", flush=True)
    try:
        figures = worker.call(case.function, left, **case.arguments)
    except WorkFailed as error:
        report.noted("errors", case.part, case.name, str(error))
        return
    if "stage" in case.arguments:
        figures["limit_gb"] = LIMIT_GB[case.arguments["stage"]]
    report.measured(case.part, case.name, **figures)


def run_tests(report: Report, device: str, quick: bool, end: float) -> None:
    """The device tests on the device, or, without a GPU, on tensors that only say that they are on one."""
    options = ["-q", "-rfE", "--tb=short", *(["--collect-only"] if quick else [])]
    command = [sys.executable, "-m", "pytest", *options, TESTS]
    environment = {**os.environ, **({"BUNDLE_TEST_DEVICE": device} if device == "cuda" else {})}
    now = time.monotonic()
    limit = now + TEST_SHARE * (end - now)
    with TemporaryFile() as output:
        try:
            status = run_until(command, limit, cwd=ROOT, env=environment, stdout=output, stderr=output)
        except TimeUp:
            status = None
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").splitlines()
    summary = "stopped, too slow" if status is None else lines[-1] if lines else ""
    outcome = {"exit_status": status, "summary": summary, "output": lines[-200:]}
    outcome["failed"] = [line for line in lines if re.match("FAILED|ERROR", line)]
    report.measured("tests", TESTS, seconds_s=time.monotonic() - now, on=device, **outcome)
    if status != 0:
        report.noted("errors", "tests", TESTS, summary)


def machine(device: str) -> dict[str, Any]:
    """Where and when this is measured, and of what."""
    described = {
        "device": device,
        "gpu": None,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "driver": _output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "packages": {name: _version_of(name) for name in PACKAGES},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _output_of(["git", "rev-parse", "HEAD"]),
        "changed": _output_of(["git", "status", "--porcelain"]),
    }
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        capability = f"{card.major}.{card.minor}"
        described |= {"gpu": card.name, "gpu_memory_bytes": card.total_memory, "capability": capability}
    return described


def _output_of(command: list[str]) -> str | None:
    """What a command prints; None where it is not there or fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def print_table(content: dict[str, Any]) -> None:
    """A row for each measurement; GB are 10⁹ bytes."""
    where = content["machine"]
    what = f"{where['gpu'] or where['processor']}, torch {where['packages']['torch']}, commit {where['commit']}"
    print(f"\n{where['date']}, {what}")
    table = Table(COLUMNS, markdown=False)
    for part, measured in content["parts"].items():
        for figures in measured:
            table.add(part=part, **cells(figures))


def cells(figures: dict[str, Any]) -> dict[str, Any]:
    """The columns of one measurement; where forward and backward were measured each, the memory is that of both."""
    in_gb = {name: value / 1e9 for name, value in figures.items() if name.endswith("_bytes")}
    return {
        "what": figures.get("summary", figures["what"]),
        "seconds": first_of(figures, "step_s", "run_s", "forward_s", "seconds_s"),
        "backward too": figures.get("both_s"),
        "peak GB": first_of(in_gb, *(f"{name}_bytes" for name in PEAKS)),
        "reserved GB": first_of(in_gb, "peak_reserved_bytes", "both_peak_reserved_bytes"),
        "planned GB": in_gb.get("planned_bytes"),
        "limit GB": figures.get("limit_gb"),
    }


def first_of(figures: dict[str, Any], *names: str) -> float | None:
    """The first of these figures that there is."""
    return next((figures[name] for name in names if name in figures), None)


if __name__ == "__main__":
    sys.exit(main())
