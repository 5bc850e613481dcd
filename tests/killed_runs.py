"""
Training in processes that are killed at chosen moments. As a script, given JSON on the command line, it trains for each
run in one process after the other, each killed at the next of its `moments`, then once to the end:

- `step N`: after the Nth step of that process;
- `writing FILE`: when FILE is written under its temporary name and not yet renamed;
- `written FILE`: just after it has got its name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path

from ignite.engine import Engine, Events


class Killer:
    """A handler that kills its process after a step, once in the life of a `torchrun`, if it is of the given rank."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def attach(self, engine: Engine) -> None:
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and int(os.environ["RANK"]) == self.rank:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.step), kill)


def kill(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment: str) -> None:
    """Arranges that this process is killed at a moment."""
    from scripts import Resume

    what, where = moment.split()
    if what == "step":
        attach, steps = Resume.attach, count(1)

        def attach_with_killer(resume: Resume, engine: Engine) -> None:
            attach(resume, engine)
            engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: kill() if next(steps) == int(where) else None)

        Resume.attach = attach_with_killer
        return
    replace = os.replace

    def replace_and_kill(source: str, target: str) -> None:
        if what == "writing" and Path(target).name == where:
            kill()
        replace(source, target)
        if what == "written" and Path(target).name == where:
            kill()

    os.replace = replace_and_kill


def main(runs: list[dict]) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
    import scripts  # noqa: F401  what takes time is imported once, for all processes
    from bundle_runs import bundle_run_here

    for run in runs:
        for moment in [*run["moments"], None]:
            child = os.fork()
            if child == 0:
                if moment:
                    kill_at(moment)
                bundle_run_here("training", run["configs"], **run["overrides"])
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            expected = -signal.SIGKILL if moment else 0
            if status != expected:
                sys.exit(f"A process that was to be killed at '{moment}' ended with {status}, expected {expected}.")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
