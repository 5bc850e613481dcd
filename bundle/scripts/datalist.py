"""
Builds `datalist.json` from a folder of studies, or checks every record of one. From the bundle's folder:

    python -m scripts.datalist DIR             write DIR/datalist.json, and list what is excluded, with the reason
    python -m scripts.datalist DIR --check     load every record as training does, and list what is wrong
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .data.datalist_builder import FRACTIONS, SEED, build_datalist
from .data.datalist_check import check_records, print_problems, training_transforms
from .errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 when nothing can be written or the check finds errors."""
    options = _parse(arguments)
    datalist = options.datalist or options.folder / "datalist.json"
    try:
        if options.check:
            problems, count = check_records(str(datalist), training_transforms())
            print_problems(problems, count)
            return int(any(problem.is_error for problem in problems))
        build_datalist(options.folder, datalist, options.fractions, options.seed, options.overwrite)
    except (InputError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.datalist", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds the studies")
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="default: DIR/datalist.json")
    parser.add_argument("--seed", type=int, default=SEED, help="of the split; default: %(default)s")
    parser.add_argument(
        "--fractions",
        type=float,
        nargs=3,
        default=FRACTIONS,
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="of the patients; default: 0.7 0.15 0.15",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--overwrite", action="store_true", help="replace a datalist that is there")
    mode.add_argument("--check", action="store_true", help="load every record of the datalist instead of writing one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
