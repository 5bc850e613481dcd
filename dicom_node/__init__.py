"""
A DICOM node that serves the bundle next to it: CTs from pairs of chest radiographs. Research use only, not for
diagnosis.

`python launch.py node` starts it; see bundle/docs/serving.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
