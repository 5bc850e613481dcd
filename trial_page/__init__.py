"""
A page to try the bundle next to it: two radiographs in, the report of `infer` out. Research use only, not for
diagnosis.

`python launch.py page` starts it; see bundle/docs/serving.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "monailabel_app")]
