"""The three stages' training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import places
from .computing import Computing
from .failures import LaunchError
from .files import write_atomically
from .from_bundle import shared_overlay
from .overlays import configs_of, content_of, shared_with_inference
from .weights import read_sidecar_overlay, sidecar_overlay
from .workflows import run_workflow

ANATOMY = places.CONFIGS / "anatomy.json"
"""What a training of stages 2 and 3 with other people's bodies as evidence changes."""
RESUME = "resume"
"""The folder of a training that holds what it goes on from."""


def train_stages(
    stages: list[int],
    dataset: Path,
    output: Path,
    overlay: Path | None,
    computing: Computing = Computing(),
    shapes: Path | None = None,
    anatomy: bool = False,
    start: Path | None = None,
    view_dropout: float | None = None,
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
        anatomy: whether stages 2 and 3 learn from other people's bodies, which are found before them; an atlas of them
            comes next to the weights in the end.
        start: weights of which each stage starts from its own part, with the sizes, geometry and units that lie next to
            them, which the overlay may change; None for random ones.
        view_dropout: the probability that one X-ray of a sample is masked; None for that of the overlay, or none.
    """
    output.mkdir(parents=True, exist_ok=True)
    of_start = sidecar_overlay(start) if start else []
    if not has_begun(output, overlay, anatomy, start):
        shared = shared_by(overlay, anatomy, start)
        (output / shared_overlay.NAME).unlink(missing_ok=True)
        if shared:
            write_atomically(output / shared_overlay.NAME, json.dumps(shared, indent=4) + "\n")
    if 1 in stages and stages != [1]:
        check_what_later_stages_need(dataset, output, overlay, computing)
    for stage in stages:
        configs = [places.CONFIGS / "train.json"]
        configs += [places.CONFIGS / f"stage{stage}.json"] if stage > 1 else []
        configs += of_start
        configs += [ANATOMY] if anatomy and stage > 1 else []
        configs += configs_of(overlay, stage)
        if anatomy and stage > 1:
            find_neighbours(configs, dataset, output, computing)
        configs += [places.CONFIGS / "multi_gpu_train.json"] if computing.gpus > 1 else []
        print(f"\n=== Stage {stage} ===")
        given: dict[str, Path | str] = {"dataset_dir": dataset, "ckpt_dir": output, "output_dir": output}
        given |= {"shapes_dir": shapes} if shapes else {}
        given |= {"start_from": start} if start else {}
        given |= {} if view_dropout is None else {"view_dropout": str(view_dropout)}
        run_workflow("training", configs, output, computing, **given)
    if anatomy and stages[-1] > 1:
        overlays = [*of_start, *configs_of(overlay, stages[-1])]
        write_atlas(overlays, dataset, output / f"stage{stages[-1]}_best.pth", computing)


def write_cubes(
    dataset: Path,
    datalist: Path,
    output: Path,
    overlay: Path | None,
    computing: Computing = Computing(),
    shard: str | None = None,
) -> None:
    """Makes what is missing of the cubes that a datalist's CTs are read as, or of a part of them."""
    configs = [places.CONFIGS / "train.json", *configs_of(overlay, 3), places.CONFIGS / "preprocess.json"]
    chosen: dict[str, Path | str] = {"dataset_dir": dataset, "datalist": datalist, "output_dir": output}
    chosen |= {"shard": shard} if shard else {}
    run_workflow("run", configs, output, computing, **chosen)


def find_neighbours(configs: list[Path], dataset: Path, output: Path, computing: Computing) -> None:
    """Makes the files of what other people's bodies say that are not there yet, by the configs of a stage."""
    print("\n=== Neighbours ===")
    places_of = {"dataset_dir": dataset, "ckpt_dir": output, "output_dir": output}
    run_workflow("evidence", configs, output, computing.of_one_process(), **places_of)


def write_atlas(
    overlays: list[Path], dataset: Path, weights: Path, computing: Computing, **further: Path | str
) -> None:
    """Writes the atlas of weights next to them, from the CTs of a training section."""
    configs = [places.CONFIGS / "train.json", ANATOMY, *overlays]
    chosen = {"dataset_dir": dataset, "weights": weights, **further}
    run_workflow("atlas", configs, weights.parent, computing.of_one_process(), **chosen)


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


def shared_by(overlay: Path | None, anatomy: bool, start: Path | None = None) -> dict[str, Any]:
    """
    What inference has to know of a training with an overlay, with other people's bodies or without, that starts from
    weights.
    """
    shared = shared_with_inference(places.ROOT / overlay) if overlay else {}
    shared |= shared_overlay.shared_part(content_of(ANATOMY, 2)) if anatomy else {}
    before = read_sidecar_overlay(start.parent) if start else {}
    return {**{name: value for name, value in before.items() if name not in shared}, **shared}


def has_begun(output: Path, overlay: Path | None, anatomy: bool = False, start: Path | None = None) -> bool:
    """Whether a training of the same network has begun in a folder and goes on; one of another is refused."""
    if not (output / RESUME).is_dir():
        return False
    before = read_sidecar_overlay(output)
    now = shared_by(overlay, anatomy, start)
    if before != now:
        found = f"the sizes of {output / shared_overlay.NAME}" if before else "the sizes of train.json"
        chosen = " and ".join(str(each) for each in (start, overlay) if each) if now else "train.json"
        raise LaunchError(
            f"{output} holds a training with {found}, this one has those of {chosen}. "
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
