"""
All three stages trained without supervision, in calls that end in time: :mod:`on_gpu`'s `--train`.

OUT holds all that the next call needs, on this machine or another: `cubes` as by `launch.py preprocess`, `resume`, each
stage's best weights and epochs, `on_gpu`, the overlay that it is trained by, and `records.json`, whom it is of.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from monai.bundle import ConfigParser

from launcher.failures import LaunchError
from launcher.overlays import configs_of, content_of, merged
from launcher.places import CONFIGS
from launcher.training import RESUME
from processes import Stopped, asked_to_end, run_until
from scripts.data.datalist import read_datalist, section_of
from scripts.data.evaluation_records import DATALIST
from scripts.io.atomic_write import write_json
from scripts.io.stage_overlays import OF_STAGE, STAGES
from scripts.training.progress import in_words
from scripts.training.resume import is_finished

FINISHED, FAILED, GOES_ON = 0, 1, 75
"""Exit statuses; 75 is EX_TEMPFAIL of `sysexits.h`."""
OVERLAY = "on_gpu"
RECORDS = "records.json"
"""In OUT: the sections of the datalist that the training was begun with."""
SECTIONS = ("training", "validation")


def train(
    output: Path, dataset_dir: Path | None, datalist: Path, overlays: Sequence[Path], device: str, end: float
) -> int:
    """
    Goes on with a training, which it begins where there is none, until it is finished or the time is up.

    Args:
        output: OUT.
        dataset_dir: where the datalist's relative paths start; None where the cubes are made.
        datalist: its sections `training` and `validation` are taken.
        overlays: configs that change ids of `train.json`, a later one before an earlier one.
        device: "cuda" or "cpu".
        end: `time.monotonic()` at which it is stopped; the epoch in progress is run again by the next call.

    Returns:
        One of the statuses above; a stage that has failed has printed why.

    Raises:
        BundleError, LaunchError: when it cannot begin or go on.
    """
    overlay = write_overlay(output, overlays)
    keep_records(output, datalist)
    try:
        with asked_to_end():
            status = _go_on(output, dataset_dir, datalist, overlay, device, end)
    except Stopped:
        status = GOES_ON
    print_standing(output, overlay, status)
    return status


def _go_on(output: Path, dataset_dir: Path | None, datalist: Path, overlay: Path, device: str, end: float) -> int:
    stages, cubes = unfinished(output), output / "cubes"
    if not stages:
        return FINISHED
    if dataset_dir is None and not (cubes / DATALIST).is_file():
        raise LaunchError(f"{cubes} has no cubes: say by --dataset_dir where the files that {datalist} names lie.")
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, Path(__file__).with_name("train_stages.py"), "--output", output, "--overlay", overlay]
    command += [] if dataset_dir is None else ["--dataset_dir", dataset_dir]
    command += ["--datalist", datalist, "--stages", *stages]
    return FAILED if run_until(list(map(str, command)), end, env={**os.environ, **hidden}) else FINISHED


def write_overlay(output: Path, overlays: Sequence[Path]) -> Path:
    """
    The overlays as one, a folder with a config for each stage, whose datalist is that of the cubes; its path.

    Raises:
        LaunchError: when a training by another one has begun in the folder, or two overlays add to the same id.
    """
    folder = output / OVERLAY
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        content = {**merged(overlays, stage), "datalist": f"$@dataset_dir + '/{DATALIST}'"}
        path = folder / OF_STAGE.format(stage)
        before = content_of(path, stage) if path.is_file() and (output / RESUME).is_dir() else content
        changed = sorted(name for name in {**before, **content} if before.get(name) != content.get(name))
        if changed:
            raise LaunchError(
                f"{path}: the training in this folder has other values of {', '.join(changed)} than the overlays now. "
                f"Name the overlays that it was begun with, or choose another --output."
            )
        write_json(str(path), content)
    return folder


def keep_records(output: Path, datalist: Path) -> None:
    """
    Keeps whom a training is of.

    Raises:
        InputError: when the datalist cannot be read.
        LaunchError: when the training in the folder was begun with other records.
    """
    content = read_datalist(str(datalist))
    records = {section: section_of(content, str(datalist), section) for section in SECTIONS}
    path = output / RECORDS
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != records:
        raise LaunchError(
            f"{path}: the training in this folder is of other records than {datalist} names. Name the datalist that it "
            f"was begun with, or choose another --output."
        )
    write_json(str(path), records)


def unfinished(output: Path) -> list[int]:
    """The stages that are still to be trained."""
    return [stage for stage in STAGES if not is_finished(str(output / RESUME), stage)]


def print_standing(output: Path, overlay: Path, status: int) -> None:
    """What is done, what is left, and how it goes on."""
    print()
    for stage in STAGES:
        print(f"Stage {stage}: {'finished' if stage not in unfinished(output) else progress(output, stage, overlay)}")
    if status == GOES_ON:
        print("The time is up; the same command goes on.")
    elif status == FINISHED:
        print(f"The weights are in {output / 'stage3_best.pth'}.")
    sys.stdout.flush()


def progress(output: Path, stage: int, overlay: Path) -> str:
    """How many epochs of a stage are done, what they took, and what the others take at that pace."""
    path, epochs = output / f"stage{stage}_epochs.jsonl", epochs_of(stage, overlay)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines:
        return f"none of {epochs} epochs"
    seconds = sum(json.loads(line)["seconds"] for line in lines) / len(lines)
    left = in_words(seconds * (epochs - len(lines)))
    return f"{len(lines)} of {epochs} epochs, {seconds:.1f} s each, about {left} left"


def epochs_of(stage: int, overlay: Path) -> int:
    """How many epochs a stage has in the configs."""
    names = ["train.json", *([f"stage{stage}.json"] if stage > 1 else [])]
    config = ConfigParser()
    config.read_config([*(str(ROOT / CONFIGS / name) for name in names), *map(str, configs_of(overlay, stage))])
    return config.get_parsed_content("epochs")
