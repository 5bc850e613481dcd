"""Says when the packages are loaded. This module needs Python alone, so that the launcher reads it as well."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

STARTED = "BUNDLE_LOADING_SINCE"
"""The environment variable by which the launcher says when it started this process: seconds since the epoch."""


def was_launched() -> bool:
    """Whether the launcher has started this process; it says by itself what comes next."""
    return STARTED in os.environ


def report_loaded() -> None:
    """Writes one line to stderr, by the first process on each machine, where the launcher waits for it."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0" and multiprocessing.parent_process() is None
    if was_launched() and is_first:
        print(f"Loaded in {time.time() - float(os.environ[STARTED]):.0f} s.", file=sys.stderr, flush=True)
