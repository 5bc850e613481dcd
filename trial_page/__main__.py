"""The command line: `python -m trial_page`; `python launch.py page` makes the environment and calls it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results import Results

SECONDS_BETWEEN_REMOVALS = 60.0
SECONDS_TO_END = 5
"""For what is being answered when the server is ended."""


def main() -> int:
    """Serves until SIGINT or SIGTERM; the exit status."""
    arguments = parsed()
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr, level=logging.WARNING)
    warnings.simplefilter("ignore")  # they are said on the page; the terminal needs no name of a file
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which removes the folder on its way
    with tempfile.TemporaryDirectory(prefix="trial_page_") as folder:
        try:
            return serve(arguments, Path(folder))
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def serve(arguments: argparse.Namespace, folder: Path) -> int:
    """All that comes and is made lies in `folder`, which only its user reads."""
    uploads, results = folder / "uploads", folder / "results"
    for place in (uploads, results):
        place.mkdir(mode=0o700)
    own = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.environ.update(own | {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_SHARE": "False"})  # read when it is imported
    import uvicorn
    from lib.access import is_loopback

    from . import worker
    from .gate import guarded
    from .page import app_of
    from .results import Results

    if not is_loopback(arguments.host.lower()):
        way = "To reach it from another machine use `ssh -L`, which also asks who that is."
        print(f"error: --host {arguments.host}: expected this machine, such as 127.0.0.1. {way}", file=sys.stderr)
        return 1
    worker.PROCESSES.set_forkserver_preload(["trial_page.worker"])
    kept = Results(results)
    reconstruct = partial(worker.reconstruct_apart, weights=arguments.weights, device=arguments.device)
    threading.Thread(target=forget, args=(kept, uploads), daemon=True).start()
    app = app_of(reconstruct, kept, uploads, arguments.host, arguments.port)
    server = uvicorn.Config(
        guarded(app, kept, uploads, arguments.host),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    print(f"http://{arguments.host}:{arguments.port} is the page. Research use only, not for diagnosis.", flush=True)
    uvicorn.Server(server).run()
    return 0


def forget(results: Results, uploads: Path) -> None:
    """Removes what is too old of both, for as long as the process lives."""
    from .uploads import forget_old

    while True:
        time.sleep(SECONDS_BETWEEN_REMOVALS)
        results.forget_old()
        forget_old(uploads)


def parsed(line: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; every option that has a default has it in the launcher."""
    parser = argparse.ArgumentParser(prog="trial_page", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--device")
    return parser.parse_args(line)


if __name__ == "__main__":
    sys.exit(main())
