"""`python -m dicom_node`: the command that `python launch.py node` runs."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from scripts.errors import BundleError
from scripts.reporting.reconstructor import Reconstructor

from . import peers
from .reception import Reception
from .sending import Delivery
from .study_queue import StudyQueue
from .worker import Worker

logger = logging.getLogger("dicom_node")


def main() -> int:
    """Serves until SIGINT or SIGTERM; the exit status."""
    arguments = parsed()
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr, level=logging.INFO)
    logging.logThreads = False
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what they say holds names and values of objects
    warnings.simplefilter("ignore")  # pydicom's hold values of objects
    try:
        peers.check_reach(arguments.host, arguments.allow)
        queue = StudyQueue(arguments.queue, arguments.most_objects, arguments.most_gib * 2**30)
        reconstructor = Reconstructor(arguments.weights, arguments.device)
        reception = Reception(queue, arguments.aet, arguments.allow, (arguments.host, arguments.port))
    except (BundleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stopped, failed = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def end(raised: threading.ExceptHookArgs) -> None:
        """Of a connection's thread nothing is left; without one of the node's own, it would take and never give."""
        logger.error("%s ended by %s", raised.thread.name, raised.exc_type.__name__)  # a message may hold a value
        if raised.thread in threads:
            failed.set()
            stopped.set()

    threading.excepthook = end
    delivery = Delivery(queue, arguments.aet, arguments.store, arguments.retry)
    worker = Worker(queue, reconstructor, arguments.quiet)
    works = {
        "reception": reception.run,
        "worker": lambda: worker.run(stopped),
        "sending": lambda: delivery.run(stopped),
    }
    threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works.items()]
    for thread in threads:
        thread.start()
    place = f"{arguments.host}, port {reception.port}"
    logger.info("%s listens on %s. Research use only, not for diagnosis.", arguments.aet, place)
    stopped.wait()
    reception.close()
    for job in queue.jobs() if not failed.is_set() else []:
        job.forget_attempts()  # what is at hand is done again at the next start, and is not to blame for this end
    return int(failed.is_set())


def parsed(line: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; every option that has a default has it in the launcher."""
    parser = argparse.ArgumentParser(prog="dicom_node", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--aet", type=peers.title, required=True)
    parser.add_argument("--allow", type=peers.sender, nargs="+", required=True)
    parser.add_argument("--store", type=peers.target, required=True)
    parser.add_argument("--queue", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--quiet", type=float, required=True)
    parser.add_argument("--retry", type=float, required=True)
    parser.add_argument("--most-objects", type=int, required=True)
    parser.add_argument("--most-gib", type=float, required=True)
    return parser.parse_args(line)


if __name__ == "__main__":
    sys.exit(main())
