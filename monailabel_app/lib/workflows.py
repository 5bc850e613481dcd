"""The bundle's own workflows, run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
OVERLAY = "overlay.json"


def run_workflow(run_id: str, configs: list[Path], weights: Path, **overrides: Any) -> None:
    """
    Runs what `python -m monai.bundle run RUN_ID --config_file CONFIGS` runs.

    Args:
        run_id: the workflow.
        configs: config files, merged in this order.
        weights: the server's weights; the overlay config beside them, which says their sizes, comes last.
        overrides: values of config ids. A text must not come from a request as it is: one that starts with `$` is run.
    """
    overlay = weights.parent / OVERLAY
    files = [str(file) for file in (*configs, *([overlay] if overlay.is_file() else []))]
    workflow = ConfigWorkflow(files, logging_file=False, run_id=run_id, bundle_root=str(BUNDLE), **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
