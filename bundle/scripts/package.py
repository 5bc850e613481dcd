"""
Packs the bundle for a model zoo, from the bundle's folder:

    python -m scripts.package OUT      write OUT/biplanar_xray_ct_reconstruction_v<version>.zip and its SHA-256

The same files make the same archive, byte by byte. `monai.bundle download` unpacks the archive.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser

from .data import met_records
from .data.datalist import read_datalist
from .data.known_views import read_known_views
from .errors import CheckpointError, InputError
from .evaluation.measurement_intervals import intervals_beside
from .evaluation.out_of_distribution import read_detector
from .evaluation.prediction_intervals import read_interval_table
from .io.atomic_write import write_atomically
from .io.licences import check_shareable
from .io.nifti import load_nifti, read_json
from .io.own_paths import check_no_own_paths
from .io.sidecar import sha256_of, sidecar_path
from .projection.geometry import BiplanarGeometry
from .projection.imaging import NUMBER_OF_STAGES
from .radiographs.pair_statistics import read_statistics
from .radiographs.view_classifier import read_view_classifier
from .training.checkpoints import CascadeCheckpointLoader, read_checkpoint

NAME = "biplanar_xray_ct_reconstruction"
BUNDLE = Path(__file__).resolve().parents[1]
WEIGHTS = "models/model.pt"
STAGE_WEIGHTS = {stage: f"models/stage{stage}_best.pth" for stage in range(1, NUMBER_OF_STAGES)}
"""Of the earlier stages, for users who train on from one: the first parts of the weights, which hold them all."""
TRAINING = "models/model_training.json"
"""The log of the weights' training, a datalist too: its sections name the CTs that the weights derive from."""
ATLAS = "models/model_atlas.nii.gz"
"""A volume that derives from CTs; the JSON in its header lists their `records`."""
VIEWS = "models/view_classifier.json"
"""The view classifier, which belongs to no weights and is always packed; its `records` are the CTs it derives from."""
OF_WEIGHTS = (WEIGHTS, *STAGE_WEIGHTS.values(), "models/model_*.json", "models/mean_volume.nii.gz", ATLAS)
"""What belongs to the weights, and stays out of an archive without them."""
LARGE_FILES = "large_files.yml"
CONTENT = (
    "LICENSE",
    "configs/**/*.json",
    "configs/logging.conf",
    "docs/*.ipynb",
    "docs/*.md",
    "docs/*.txt",
    "docs/metrics.json",
    "docs/images/*.png",
    "models/README.md",
    "unit_tests/*.py",
    *OF_WEIGHTS,
    VIEWS,
    "scripts/**/*.py",
    "scripts/reporting/viewer.html",
    "scripts/reporting/viewer.css",
    "scripts/reporting/viewer.js",
)
"""What belongs to the bundle; anything else in its folder, such as other weights, stays out of the archive."""
LARGEST_FILE = 25_000_000
"""Bytes. The zoo takes no larger file: it stores those elsewhere and lists them in `large_files.yml`."""
EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 when something that is needed is missing or does not fit."""
    options = _parse(arguments)
    try:
        write_package(options.folder, options.without_weights, options.large_files_url)
    except (InputError, CheckpointError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def write_package(folder: Path, without_weights: bool = False, large_files_url: str | None = None) -> Path:
    """
    Writes the archive and, next to it, its checksum in the form that `sha256sum -c` reads; prints what is in them.

    Args:
        folder: where to.
        without_weights: whether to leave out the weights and what belongs to them, also when they are there.
        large_files_url: where a file above :data:`LARGEST_FILE` will be found; `{version}` and `{path}` are filled in.

    Returns:
        The archive's path.

    Raises:
        InputError: when there are no weights and `without_weights` is not set, or a file is too large and there is no
            `large_files_url`, or what :func:`checked_files` raises.
        CheckpointError: see :func:`checked_files`.
    """
    version, paths = bundle_version(), checked_files(without_weights)
    belongs_to_weights = [name for name in content_files() if is_of_weights(name)]
    large = {name: paths.pop(name) for name in sorted(paths) if paths[name].stat().st_size > LARGEST_FILE}
    contents = {name: path.read_bytes() for name, path in paths.items()}
    if large:
        contents[LARGE_FILES] = _large_files(large, large_files_url, version).encode()
    archive = folder / f"{NAME}_v{version}.zip"
    write_atomically(str(archive), lambda temporary: _write_archive(temporary, contents))
    checksum = f"{sha256_of(str(archive))}  {archive.name}\n"
    write_atomically(f"{archive}.sha256", lambda temporary: Path(temporary).write_bytes(checksum.encode()))
    print(f"Wrote {archive}: {len(contents)} files, {archive.stat().st_size / 1e6:.1f} MB\n{checksum}", end="")
    _print_left_out({*contents, *large, *belongs_to_weights})
    for name in large:
        print(f"Upload {BUNDLE / name} to {_url(large_files_url, name, version)}; it is listed in {LARGE_FILES}.")
    if without_weights:
        print("The archive holds no weights.")
    return archive


def bundle_version() -> str:
    return json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]


def content_files() -> dict[str, Path]:
    """What there is of :data:`CONTENT`, by the names in the bundle."""
    found = (path for pattern in CONTENT for path in BUNDLE.glob(pattern) if not path.name.startswith("."))
    return {path.relative_to(BUNDLE).as_posix(): path for path in found}


def is_of_weights(name: str) -> bool:
    """Whether a file of the bundle belongs to its weights."""
    return any(fnmatch(name, pattern) for pattern in OF_WEIGHTS)


def checked_files(without_weights: bool = False) -> dict[str, Path]:
    """
    What may be shared of the bundle: :func:`content_files`, after every check.

    Args:
        without_weights: whether to leave out the weights and what belongs to them, which are not checked then.

    Raises:
        InputError: when there are no weights and `without_weights` is not set, a record that weights or atlas derive
            from is of a licence that does not allow it, or a file holds a path of this machine.
        CheckpointError: when the weights do not fit the network of `inference.json`, those of an earlier stage are not
            their first part, or a sidecar cannot be used with them.
    """
    paths = content_files()
    if without_weights:
        paths = {name: path for name, path in paths.items() if not is_of_weights(name)}
    else:
        _check_weights()
        _check_licences()
    _check_view_classifier()
    for path in paths.values():
        check_no_own_paths(str(path), path.read_bytes(), BUNDLE)
    return paths


def _print_left_out(known: set[str]) -> None:
    found = (path for path in BUNDLE.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    others = sorted({path.relative_to(BUNDLE).as_posix() for path in found} - known)
    if others:
        print(f"Excluded, since they are no part of the bundle: {', '.join(others)}")


def _check_weights() -> None:
    """Loads weights and sidecars as inference does, for `inference.json`; compares the weights of earlier stages."""
    path = BUNDLE / WEIGHTS
    if not path.is_file():
        raise InputError(
            f"{path}: no such weights. Train the three stages and make it of stage3_best.pth (models/README.md has the "
            f"lines), or pack the bundle without weights by --without-weights."
        )
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    loader = CascadeCheckpointLoader(str(path), network, stage=NUMBER_OF_STAGES)
    loader(Engine(lambda engine, batch: None))
    for stage, name in STAGE_WEIGHTS.items():
        if (BUNDLE / name).is_file():
            _check_part(BUNDLE / name, network.up_to(stage).state_dict())
    _check_sidecars(str(path), parser.get_parsed_content("geometry"))


def _check_sidecars(weights: str, geometry: BiplanarGeometry) -> None:
    read_known_views(weights)
    met_records.read_met_records(weights)
    if Path(familiarity := sidecar_path(weights, "familiarity")).is_file():
        read_detector(familiarity, weights)
    if Path(projections := sidecar_path(weights, "projections")).is_file():
        read_statistics(projections, weights)
    intervals_beside(weights, geometry.fov_mm)
    if Path(uncertainty := sidecar_path(weights, "uncertainty")).is_file():
        read_interval_table(uncertainty, weights, geometry.fov_mm)


def _check_licences() -> None:
    """Of the CTs that trained or chose the weights, or are part of the atlas; those that were scored left nothing."""
    if (training := BUNDLE / TRAINING).is_file():
        log = read_datalist(str(training))
        for section in met_records.SECTIONS:
            check_shareable(log.get(section, []), f"{training}: section '{section}'")
    if not (training.is_file() and log.get("training")):
        print(f"{TRAINING} names no training records: whose CTs the weights derive from is not checked.")
    if (atlas := BUNDLE / ATLAS).is_file():
        records = read_json(load_nifti(atlas), atlas).get("records")
        if not isinstance(records, list) or not records:
            raise InputError(f"{atlas}: its header lists no 'records', expected those of the CTs that it derives from.")
        check_shareable(records, str(atlas))


def _check_view_classifier() -> None:
    read_view_classifier(str(path := BUNDLE / VIEWS))
    records = json.loads(path.read_text(encoding="utf-8")).get("records")
    if not isinstance(records, list) or not records:
        raise InputError(f"{path}: lists no 'records', expected those of the CTs that it derives from; make it anew.")
    check_shareable(records, str(path))


def _check_part(path: Path, expected: dict[str, torch.Tensor]) -> None:
    """Whether a file holds exactly these tensors, whatever its precision."""
    found = read_checkpoint(str(path))
    same_names = isinstance(found, dict) and set(found) == set(expected)
    if not same_names or not all(found[name].equal(tensor.to(found[name])) for name, tensor in expected.items()):
        raise CheckpointError(
            f"{path}: is not the first part of {BUNDLE / WEIGHTS}, expected that of the same training in the same "
            f"precision. Make both anew by `python -m scripts.half_precision` (models/README.md has the lines), or "
            f"move it elsewhere."
        )


def _write_archive(path: str, contents: dict[str, bytes]) -> None:
    """Sorted, stored, of one time and mode: neither the clock, the file system nor a compressor's version shows."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(f"{NAME}/{name}", EARLIEST_TIME)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, contents[name])


def _large_files(paths: dict[str, Path], url: str | None, version: str) -> str:
    """The list that `monai.bundle download_large_files` reads."""
    if url is None:
        raise InputError(
            f"{', '.join(paths)}: above {LARGEST_FILE / 1e6:.0f} MB, which the zoo does not take. Say where it will be "
            f"found, such as --large-files-url 'https://HOST/{{version}}/{{path}}', or leave the weights out by "
            f"--without-weights."
        )
    files = [
        {"path": name, "url": _url(url, name, version), "hash_val": sha256_of(str(path)), "hash_type": "sha256"}
        for name, path in paths.items()
    ]
    return yaml.safe_dump({"large_files": files}, sort_keys=False)


def _url(template: str, path: str, version: str) -> str:
    return template.replace("{version}", version).replace("{path}", path)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.package", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="where to write")
    parser.add_argument("--without-weights", action="store_true", help="leave models/*.pt and *.pth out")
    parser.add_argument(
        "--large-files-url",
        metavar="URL",
        help="where files above 25 MB will be found, {version} and {path} in it filled in",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
