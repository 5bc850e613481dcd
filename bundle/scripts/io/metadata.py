"""What the bundle says of itself, `metadata.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METADATA = Path(__file__).resolve().parents[2] / "configs" / "metadata.json"


def bundle_metadata() -> dict[str, Any]:
    """The content of the file, such as `version`, `name` and `authors`."""
    return json.loads(METADATA.read_text(encoding="utf-8"))
