"""The bundle's own workflows, run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"


def run_workflow(run_id: str, configs: list[Path], **overrides: Any) -> None:
    """
    Runs what `python -m monai.bundle run RUN_ID --config_file CONFIGS` runs.

    Args:
        run_id: the workflow.
        configs: config files, merged in this order.
        overrides: values of config ids. A text must not come from a request as it is: one that starts with `$` is run.
    """
    files = [str(file) for file in configs]
    workflow = ConfigWorkflow(files, logging_file=False, run_id=run_id, bundle_root=str(BUNDLE), **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def overlay_beside(weights: Path) -> list[Path]:
    """The config that a training run leaves beside weights of other sizes than the configs' own."""
    overlay = weights.parent / "overlay.json"
    return [overlay] if overlay.is_file() else []
