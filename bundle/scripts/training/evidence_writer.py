"""Finds the neighbours of each record's first reconstruction, and keeps what they say."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from ..data.evidence import FIELD_TO_MAKE, EvidenceFiles, write_evidence


class EvidenceWriter:
    """
    An Ignite handler for an evaluator of the first stage over :meth:`~scripts.EvidenceFiles.missing` records, one at a
    time: writes the file of each. What is written before a stop is not made again.

    Args:
        files: where they lie, and whose CTs are registered.

    Raises:
        InputError: when a patient has no neighbours.
        OutputError: when a file cannot be written.
    """

    def __init__(self, files: EvidenceFiles) -> None:
        self.files = files

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        batch, volumes = engine.state.batch, engine.state.output[CommonKeys.PRED]
        (path,), (patient,) = batch[FIELD_TO_MAKE], batch["patient"]
        write_evidence(path, self.files.neighbours(patient)(volumes[0])[0], self.files.imaging)
