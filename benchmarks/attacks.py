"""
Counts what strangers may send: hostile requests, files, names, sidecar files and weights. From the repository's root:

    python benchmarks/attacks.py [--markdown]

It runs the tests that hold them, each parameter of a test as one input, and damages files at random. An input fails
when anything else comes of it than its test says: an exception that is no message, a file that is read, written,
changed or deleted elsewhere, a program that is started, memory or time without bound. What cannot be tried on this
system is skipped. The server's part needs MONAI Label's environment, which `python launch.py test` makes. The exit
status is 1 when an input has failed, or fewer than :data:`LEAST_INPUTS` were tried.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import redirect_stderr
from os import devnull
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bundle")]

from fuzz import KINDS, fuzz
from table import Table

LEAST_INPUTS = 500
COPIES = 12
"""Of a file of each kind, each damaged otherwise."""
REFUSALS = "refused or named or damaged or other_weights"
AREAS = {
    "requests to the server": (["serving/test_label_attacks"], "not are_its_own and not every_answer"),
    "radiographs, CTs, datalists": (["io/test_hostile_files"], "not usual and not order_mark and not any_language"),
    "headers of NRRD, MetaImage": (
        ["io/test_itk_headers"],
        "refused or damage or elsewhere or link or beside or counted",
    ),
    "overlays": (["io/test_shared_overlay"], REFUSALS),
    "sidecar files": (["evaluation/test_out_of_distribution", "evaluation/test_prediction_intervals"], REFUSALS),
    "weights": (["training/test_checkpoints"], REFUSALS),
    "names for the launcher": (["launcher/test_launch_paths"], "not datalist_is_written"),
}
"""Test modules and, as for pytest's `-k`, which of their tests hold attacks: the others are what has to go on."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    table = Table({"area": 30, "inputs": 6, "passed": 6, "failed": 6, "skipped": 7}, parser.parse_args().markdown)
    total, failed = Counter(), []
    for area, (modules, names) in AREAS.items():
        outcomes = outcomes_of(modules, names)
        add_row(table, area, Counter(outcomes.values()), total)
        failed += [test for test, outcome in outcomes.items() if outcome == "failed"]
    crashes = damaged_at_random()
    damaged = Counter(passed=COPIES * len(KINDS) - len(crashes), failed=len(crashes))
    add_row(table, "files damaged at random", damaged, total)
    add_row(table, "all", total, Counter())
    print("".join(f"failed: {what}\n" for what in [*failed, *crashes]), end="")
    tried = total["passed"] + total["failed"]
    if tried < LEAST_INPUTS:
        print(f"only {tried} inputs were tried, expected at least {LEAST_INPUTS}")
    return int(total["failed"] > 0 or tried < LEAST_INPUTS)


def add_row(table: Table, area: str, counts: Counter[str], total: Counter[str]) -> None:
    by_outcome = {outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")}
    table.add(area=area, inputs=counts["passed"] + counts["failed"], **by_outcome)
    total.update(counts)


def outcomes_of(modules: list[str], names: str) -> dict[str, str]:
    """
    Runs tests: "passed", "failed" or "skipped" by test and parameter.

    Raises:
        RuntimeError: when pytest cannot run them, or there are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [f"tests/{module}.py" for module in modules]
        line = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-k", names, f"--junit-xml={report}", *files]
        run = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace")
        if run.returncode not in (0, 1):  # pytest's: all have passed, some have failed
            raise RuntimeError(f"pytest ended with status {run.returncode}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
        return read_outcomes(report)


def read_outcomes(report: Path) -> dict[str, str]:
    """Of a report in JUnit's XML. A test that fails, and then in its end, stands there twice."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        test, found = f"{case.get('classname')}::{case.get('name')}", {child.tag for child in case}
        outcome = "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"
        outcomes[test] = "failed" if "failed" in (outcome, outcomes.get(test)) else outcome
    return outcomes


def damaged_at_random() -> list[str]:
    """What became of those of :data:`COPIES` damaged files of each kind that were neither read nor refused by name."""
    crashes = []
    with warnings.catch_warnings(), open(devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                _, found = fuzz(kind, COPIES, Path(folder))
            crashes += [f"{kind}, copy {copy}: {type(error).__name__}: {error}" for copy, error in found]
    return crashes


if __name__ == "__main__":
    sys.exit(main())
