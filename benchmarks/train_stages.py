"""The launcher's training of some stages, by the interpreter that runs this; a process of :mod:`unattended`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launcher import places
from launcher.failures import LaunchError
from launcher.training import train_stages


def main(dataset: str, output: str, overlay: str, *stages: str) -> int:
    places.PYTHON = Path(sys.executable)  # not that of `.venv`, which a lent machine need not have
    try:
        train_stages([int(stage) for stage in stages], Path(dataset), Path(output), Path(overlay))
    except LaunchError as error:
        print(f"\non_gpu.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
