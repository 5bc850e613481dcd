"""
Overlays of a training: a config that changes ids of `train.json`, or a folder of them, in which `all.json` is for every
stage and `stage1.json`, `stage2.json` and `stage3.json` are each for one, after it. This module needs Python alone, so
that the launcher reads it as well.
"""

from __future__ import annotations

from pathlib import Path

ALL = "all.json"
OF_STAGE = "stage{}.json"
STAGES = (1, 2, 3)


def configs_of(overlay: Path, stage: int) -> list[Path]:
    """
    The configs of an overlay that a stage is trained by, in the order in which they are merged.

    Args:
        overlay: a file or a folder.
        stage: 1, 2 or 3.

    Raises:
        ValueError: when the folder holds a config of another name, or none.
    """
    if not overlay.is_dir():
        return [overlay]
    names = [ALL, *map(OF_STAGE.format, STAGES)]
    found = {path.name: path for path in sorted(overlay.glob("*.json"))}
    strange = sorted(set(found) - set(names))
    if strange or not found:
        holds = f"holds {strange[0]}" if strange else "holds no config"
        raise ValueError(f"{overlay}: {holds}, expected some of {', '.join(names)} in a folder of overlays.")
    return [found[name] for name in (ALL, OF_STAGE.format(stage)) if name in found]
