"""Where things lie in the repository."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "requirements.txt"
REQUIREMENTS_DEMO = ROOT / "requirements-demo.txt"
REQUIREMENTS_DEV = ROOT / "requirements-dev.txt"
REQUIREMENTS_PUBLISH = ROOT / "requirements-publish.txt"
LABEL_APP = ROOT / "monailabel_app"
LABEL_ENVIRONMENT = ROOT / ".venv-label"
LABEL_PYTHON = LABEL_ENVIRONMENT / PYTHON.relative_to(ENVIRONMENT)
REQUIREMENTS_LABEL = LABEL_APP / "requirements.txt"
REQUIREMENTS_LABEL_SERVER = LABEL_APP / "requirements-server.txt"
NODE = ROOT / "dicom_node"
REQUIREMENTS_NODE = NODE / "requirements.txt"
TRIAL_PAGE = ROOT / "trial_page"
PAGE_ENVIRONMENT = ROOT / ".venv-page"
PAGE_PYTHON = PAGE_ENVIRONMENT / PYTHON.relative_to(ENVIRONMENT)
REQUIREMENTS_PAGE = TRIAL_PAGE / "requirements.txt"
BUNDLE = Path("bundle")
"""From the repository root, where the bundle's workflows are run."""
CONFIGS = BUNDLE / "configs"
WEIGHTS = ROOT / BUNDLE / "models" / "model.pt"
MODEL_CARD = ROOT / BUNDLE / "docs" / "README.md"
