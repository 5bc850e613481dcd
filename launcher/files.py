"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """The file gets its name when it is whole, and takes the place of a link instead of being written through it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"encoding": "utf-8", "dir": path.parent, "prefix": ".unfinished-", "delete": False}
    with tempfile.NamedTemporaryFile("w", **options) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
