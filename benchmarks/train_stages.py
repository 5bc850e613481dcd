"""
The launcher's cubes of a datalist and then its training of some stages, by the interpreter that runs this; a process of
:mod:`unattended`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launcher import places
from launcher.failures import LaunchError
from launcher.training import train_stages, write_cubes


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    places.PYTHON = Path(sys.executable)  # not that of `.venv`, which a lent machine need not have
    cubes = options.output / "cubes"
    try:
        if options.dataset_dir is not None:
            write_cubes(options.dataset_dir, options.datalist, cubes, options.overlay)
        train_stages(options.stages, cubes, options.output, options.overlay)
    except LaunchError as error:
        print(f"\non_gpu.py: error: {error}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_dir", type=Path, help="without it the cubes are there")
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--overlay", type=Path, required=True)
    parser.add_argument("--stages", type=int, nargs="+", required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
