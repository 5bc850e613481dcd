"""The acquisition geometry of the bundle's training, at any number of pixels."""

from __future__ import annotations

from pathlib import Path

from monai.bundle import ConfigParser

from scripts import BiplanarGeometry

TRAINING = Path(__file__).resolve().parent.parent / "bundle" / "configs" / "train.json"


def bundle_geometry(detector_pixels: int) -> BiplanarGeometry:
    """That of `train.json`, on a detector of so many pixels a side."""
    config = ConfigParser()
    config.read_config(str(TRAINING))
    return config.get_parsed_content("geometry").with_pixels(detector_pixels)
