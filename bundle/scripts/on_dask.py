"""
Runs the shards of a command on the workers of a Dask cluster, each as a process of its own. From the bundle's folder:

    python -m scripts.on_dask --folder DIR tcp://HOST:8786 8 python launch.py preprocess DATA

runs `python launch.py preprocess DATA --shard 1/8` to `--shard 8/8` in DIR, which the workers see under the same path.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from monai.utils import optional_import
from tqdm import tqdm

from .data.shards import Shard
from .errors import InputError, one_line_message, shown

SECONDS_TO_ANSWER = 30
"""For which a scheduler is waited for."""
LAST_LINES = 12
"""Of what a shard that failed has printed."""
ERROR = "error: "
"""What stands before a command's own message, its last words."""


def run_shards(address: str, count: int, command: Sequence[str], folder: str) -> None:
    """
    Runs a command once for each shard, `--shard 1/N` and so on behind it, and waits for all. A shard whose worker is
    lost is run by another. What a shard prints is shown where it fails.

    Args:
        address: of the scheduler, such as `tcp://HOST:8786`.
        count: of the shards.
        command: the program and its arguments.
        folder: where it is run.

    Raises:
        InputError: when there is no scheduler at that address, Dask is not installed, or shards have failed.
    """
    distributed, has_dask = optional_import("distributed")
    if not has_dask:
        raise InputError(f"{address}: Dask is not installed here: `pip install distributed`.")
    shards = [str(Shard(number, count)) for number in range(1, count + 1)]
    try:
        client = distributed.Client(address, timeout=SECONDS_TO_ANSWER)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{address}: no Dask scheduler answers ({one_line_message(error)}), expected an address such as "
            f"tcp://HOST:8786, which `dask scheduler` prints."
        ) from error
    with client:
        of_futures = {client.submit(_run, [*command, "--shard", each], folder, pure=False): each for each in shards}
        failed = {}
        for future in tqdm(distributed.as_completed(of_futures), total=count, desc="Shards"):
            if said := _said(future.exception() or future.result()):
                failed[of_futures[future]] = said
    if failed:
        messages = [f"shard {shard}: {failed[shard]}" for shard in shards if shard in failed]
        raise InputError("\n".join([f"{len(failed)} of {count} shards failed:", *messages]))


def _run(command: Sequence[str], folder: str) -> tuple[int, str]:
    """On a worker: status and output."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, **output)
    return done.returncode, done.stdout


def _said(result: tuple[int, str] | BaseException) -> str | None:
    """Why a shard has failed; None where it has not."""
    if isinstance(result, BaseException):
        return one_line_message(result)
    status, output = result
    if status == 0:
        return None
    lines = [shown(line) for line in output.rpartition(ERROR)[2].splitlines() if line.strip()]
    return "\n".join(lines[-LAST_LINES:]) or f"ended with status {status}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 when a shard has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.on_dask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", metavar="ADDRESS", help="of the scheduler, such as tcp://HOST:8786")
    parser.add_argument("count", type=int, metavar="N", help="of the shards")
    parser.add_argument("--folder", default=str(Path.cwd()), metavar="DIR", help="where the command is run")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    if options.count < 1 or not options.command:
        parser.error("expected at least one shard, and a command")
    try:
        run_shards(options.address, options.count, options.command, options.folder)
    except InputError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
