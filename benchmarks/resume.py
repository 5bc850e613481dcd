"""
The three-stage schedule with its real epochs, 50, 30 and 20, on small volumes: once left alone, and once killed in the
middle of each stage and started again by the same call; compares the bytes that both leave.

    python benchmarks/resume.py --output output/resume
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.places import CONFIGS, PYTHON
from launcher.training import demo_dataset, train_stages

MIDDLE = {1: 25, 2: 15, 3: 10}
"""The epoch of each stage after which it is killed."""
SMALLER = {"repeats": 2, "val_interval": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    output = options.output.resolve()
    if options.run:
        train_stages([1, 2, 3], output / "data", options.run, overlay_of(output))
        return
    output.mkdir(parents=True, exist_ok=True)
    demo_dataset(output, overlay_of(output))
    shutil.rmtree(output / "alone", ignore_errors=True)
    shutil.rmtree(output / "killed", ignore_errors=True)
    started = time.monotonic()
    status = start(output, output / "alone").wait()
    print(f"Left alone: status {status}, {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    for stage, epoch in MIDDLE.items():
        process = start(output, output / "killed")
        while process.poll() is None and epochs_of(output / "killed", stage) < epoch:
            time.sleep(0.05)
        if process.poll() is not None:
            sys.exit(f"stage {stage} ended before it was killed")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"Killed in stage {stage} after epoch {epochs_of(output / 'killed', stage)}")
    status = start(output, output / "killed").wait()
    print(f"Killed three times: status {status}, {time.monotonic() - started:.0f} s")
    for stage in MIDDLE:
        sums = [digest(output / run / f"stage{stage}_best.pth") for run in ("alone", "killed")]
        epochs = [epochs_of(output / run, stage) for run in ("alone", "killed")]
        print(
            f"stage{stage}_best.pth: {sums[0]} and {sums[1]}, {'equal' if sums[0] == sums[1] else 'DIFFERENT'}; epochs "
            f"{epochs}"
        )


def overlay_of(output: Path) -> Path:
    """`tiny.json` without its short schedule."""
    tiny = json.loads((ROOT / CONFIGS / "tiny.json").read_text(encoding="utf-8"))
    path = output / "small.json"
    path.write_text(json.dumps({**{key: tiny[key] for key in tiny if key != "epochs"}, **SMALLER}), encoding="utf-8")
    return path


def start(output: Path, folder: Path) -> subprocess.Popen:
    """The training of all stages in a process group of its own, its output in a file next to the results."""
    with open(f"{folder}.log", "ab") as log:
        line = [str(PYTHON), __file__, "--output", str(output), "--run", str(folder)]
        return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)


def epochs_of(folder: Path, stage: int) -> int:
    """How many epochs of a stage are reported."""
    path = folder / f"stage{stage}_epochs.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
