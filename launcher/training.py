"""The three stages' training."""

from __future__ import annotations

import json
from pathlib import Path

from . import places
from .computing import Computing
from .failures import LaunchError
from .files import write_atomically
from .from_bundle import shared_overlay
from .overlays import configs_of, content_of, shared_with_inference
from .weights import read_sidecar_overlay
from .workflows import run_workflow

RESUME = "resume"
"""The folder of a training that holds what it goes on from."""


def train_stages(
    stages: list[int],
    dataset: Path,
    output: Path,
    overlay: Path | None,
    computing: Computing = Computing(),
    shapes: Path | None = None,
) -> None:
    """
    Trains stages one after the other, each from the weights of the one before; what is finished is passed over.

    Args:
        stages: of 1, 2 and 3, ascending.
        dataset: holds `datalist.json`, unless the overlay names another.
        output: gets the weights, and has what an earlier call has left.
        overlay: a config that changes ids of `train.json`, or a folder of them; its path may start at the repository
            root.
        computing: where it computes.
        shapes: holds the displacements that `register` has written, to train on; None for none.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not has_begun(output, overlay):
        shared = shared_with_inference(places.ROOT / overlay) if overlay else {}
        (output / shared_overlay.NAME).unlink(missing_ok=True)
        if shared:
            write_atomically(output / shared_overlay.NAME, json.dumps(shared, indent=4) + "\n")
    if 1 in stages and stages != [1]:
        check_what_later_stages_need(dataset, output, overlay, computing)
    for stage in stages:
        configs = [places.CONFIGS / "train.json"]
        configs += [places.CONFIGS / f"stage{stage}.json"] if stage > 1 else []
        configs += configs_of(overlay, stage)
        configs += [places.CONFIGS / "multi_gpu_train.json"] if computing.gpus > 1 else []
        print(f"\n=== Stage {stage} ===")
        given = {"dataset_dir": dataset, "ckpt_dir": output, "output_dir": output}
        given |= {"shapes_dir": shapes} if shapes else {}
        run_workflow("training", configs, output, computing, **given)


def check_what_later_stages_need(dataset: Path, output: Path, overlay: Path | None, computing: Computing) -> None:
    """
    Has the last stage's loss made, whose network may have to be downloaded, before the first one takes its hours; once
    that has ended, the later stages begin at once and ask for themselves.
    """
    if (output / RESUME / "stage1_finished.json").is_file():
        return
    chosen = content_of(overlay, 3) if overlay else {}
    if chosen.get("vgg") == 0 or chosen.get("vgg_weights") == "untrained":
        return
    configs = [places.CONFIGS / "train.json", places.CONFIGS / "stage3.json", *configs_of(overlay, 3)]
    print("\n=== What the later stages need ===")
    run_workflow("check", configs, output, computing.of_one_process(), dataset_dir=dataset)


def has_begun(output: Path, overlay: Path | None) -> bool:
    """Whether a training of the same sizes has begun in a folder and goes on; one of other sizes is refused."""
    if not (output / RESUME).is_dir():
        return False
    before = read_sidecar_overlay(output)
    now = shared_with_inference(places.ROOT / overlay) if overlay else {}
    if before != now:
        found = f"the sizes of {output / shared_overlay.NAME}" if before else "the sizes of train.json"
        raise LaunchError(
            f"{output} holds a training with {found}, this one has those of {overlay if now else 'train.json'}. "
            f"Choose another --output, or remove that folder."
        )
    return True


def demo_dataset(output: Path, overlay: Path | None, computing: Computing = Computing()) -> Path:
    """The dataset that is made from the demo's CT, written unless a training that began with it can go on."""
    dataset = output / "data"
    if has_begun(output, overlay) and (dataset / "datalist.json").is_file():
        return dataset
    configs = [places.CONFIGS / "train.json", *configs_of(overlay, 3), places.CONFIGS / "demo_data.json"]
    run_workflow("run", configs, output, computing.of_one_process(), dataset_dir=dataset)
    return dataset
