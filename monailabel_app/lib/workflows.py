"""The bundle's own workflows, run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from scripts.errors import CheckpointError
from scripts.io.config_text import as_literal
from scripts.io.shared_overlay import NAME, read_shared_overlay

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


def run_workflow(run_id: str, configs: list[Path], **overrides: Any) -> None:
    """
    Runs what `python -m monai.bundle run RUN_ID --config_file CONFIGS` runs.

    Args:
        run_id: the workflow.
        configs: config files, merged in this order.
        overrides: values of config ids. A text is taken as it is, whatever letters it has.
    """
    files, places = [str(file) for file in configs], {"bundle_root": str(BUNDLE), **overrides}
    values = {name: as_literal(value) if isinstance(value, str) else value for name, value in places.items()}
    workflow = ConfigWorkflow(files, logging_file=False, run_id=run_id, **values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def sidecar_overlay(weights: Path) -> list[Path]:
    """
    The config that a training run leaves next to weights of other sizes than the configs' own: numbers and words alone.

    Raises:
        CheckpointError: when it holds anything that could be run.
    """
    overlay = weights.parent / NAME
    if not overlay.is_file():
        return []
    try:
        read_shared_overlay(overlay)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return [overlay]
