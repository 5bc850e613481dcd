"""
The reconstruction of one pair, by the objects of `inference.json`, in a process of its own: a file at which a decoder
ends it, or for which it takes forever, ends no other.
"""

from __future__ import annotations

import multiprocessing
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from lib.answers import without_folders

from scripts.errors import BundleError, InputError
from scripts.io.config_text import as_literal
from scripts.reporting.reconstructor import Reconstructor

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PROCESSES = multiprocessing.get_context(START)
"""Forked from one that has imported this module and computed nothing; started anew where there is no fork."""
LONGEST_SECONDS = 1200.0
"""For a reconstruction at 256³ on one core, many times over; then its process is killed."""
AS_INFER = "$monai.transforms.Compose([@postprocessing, @assessment, @save]).flatten()"
"""That of the evaluator of `inference.json`, with what writes the results."""


def reconstruct_into(folder: Path, pair: dict[str, Path], weights: Path, device: str | None) -> list[str]:
    """
    Writes what `infer` writes.

    Args:
        folder: where to.
        pair: the radiographs, `frontal` and `lateral`.
        weights: with their sidecar files next to them.
        device: such as "cuda:1"; None for the default.

    Returns:
        What was said of the radiographs, such as an assumed pixel spacing, without folders.

    Raises:
        BundleError: see :class:`~scripts.Reconstructor`.
    """
    files = {name: as_literal(str(path)) for name, path in pair.items()}
    ids = {**files, "output_dir": as_literal(str(folder)), "evaluator#postprocessing": AS_INFER}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        Reconstructor(weights, device, **ids)(pair["frontal"], pair["lateral"])
    said = (str(each.message) for each in caught if "field '" in str(each.message))
    return [without_folders(text, [folder]) for text in dict.fromkeys(said)]


def reconstruct_apart(folder: Path, pair: dict[str, Path], weights: Path, device: str | None) -> list[str]:
    """
    The same in another process.

    Raises:
        InputError: with the message of what went wrong there, or that it has ended without one.
    """
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_work, args=(there, folder, pair, weights, device), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(LONGEST_SECONDS):
            raise InputError(f"given up after {LONGEST_SECONDS:g} seconds.")
        is_done, said = here.recv()
    except EOFError:
        raise InputError("these files have ended the reconstruction; expected radiographs that are whole.") from None
    finally:
        process.kill()
        process.join()
        here.close()
    if not is_done:
        raise InputError(said)
    return said


def _work(answers: Connection, folder: Path, pair: dict[str, Path], weights: Path, device: str | None) -> None:
    try:
        answers.send((True, reconstruct_into(folder, pair, weights, device)))
    except BundleError as error:
        answers.send((False, without_folders(str(error), [folder])))
    except Exception as error:  # of a file, which the server's log names and its answer does not
        answers.send((False, f"cannot be reconstructed ({type(error).__name__})."))
        raise
