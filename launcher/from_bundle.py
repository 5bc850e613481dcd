"""The modules of the bundle that the launcher reads, which need Python alone; the bundle itself needs its packages."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from .places import BUNDLE, ROOT


def module_of_bundle(path: str) -> ModuleType:
    """A module of the bundle by its file."""
    file = ROOT / BUNDLE / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


config_text = module_of_bundle("scripts/io/config_text.py")
cores = module_of_bundle("scripts/training/cores.py")
errors = module_of_bundle("scripts/errors.py")
loading = module_of_bundle("scripts/training/loading.py")
measurement_table = module_of_bundle("scripts/reporting/measurement_table.py")
shared_overlay = module_of_bundle("scripts/io/shared_overlay.py")
stage_overlays = module_of_bundle("scripts/io/stage_overlays.py")
