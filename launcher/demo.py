"""The demo: a real chest CT, reconstructed from two projected X-rays, and a small cascade that is trained on it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from . import places
from .computing import Computing
from .evaluation import run_evaluation
from .processes import launch_line
from .tables import print_measurements, print_summary
from .training import demo_dataset, train_stages
from .weights import sidecar_overlay
from .workflows import run_workflow


def run_demo(output: Path, wanted: bool | None, computing: Computing) -> None:
    """
    Args:
        output: gets the reconstruction, and the training in `training`.
        wanted: whether to train; None asks, where somebody can answer.
        computing: where it computes.
    """
    if places.WEIGHTS.is_file():
        demo_reconstruction(output, computing)
    else:
        print(f"{places.WEIGHTS}: no such weights, so that there is nothing to reconstruct with before a training.")
        wanted = wanted is not False
    if wanted or (wanted is None and sys.stdin.isatty() and agreed()):
        demo_training(output / "training", computing)
    else:
        print(f"\nA small cascade is trained on this CT, in about ten minutes, by\n\n    {demo_training_line(output)}")


def agreed() -> bool:
    """Asks at the terminal whether to train; only a yes is one."""
    try:
        answer = input("\nTrain the small cascade on this CT now, about ten minutes? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def demo_training_line(output: Path) -> str:
    place = [] if output == places.ROOT / "output" / "demo" else ["--output", output]
    return launch_line("demo", "--train", *place)


def demo_reconstruction(output: Path, computing: Computing) -> None:
    """The demo's CT, its X-rays, and what the shipped weights make of them."""
    started = time.monotonic()
    print("The shipped weights reconstruct the chest CT LIDC-IDRI-0001 from two X-rays that are projected from it.")
    dataset = output / "data"
    configs = [places.CONFIGS / "train.json", *sidecar_overlay(places.WEIGHTS), places.CONFIGS / "demo_data.json"]
    run_workflow("run", configs, output, computing, dataset_dir=dataset, validation_cases="0", test_cases="0")
    note = "This patient is one of the six that the weights were trained on: the machinery, not generalisation."
    run_evaluation(dataset, output, places.WEIGHTS, computing, note=note, training_records="[]", num_workers="0")
    show_case(output)
    print(
        f"\nDone in {time.monotonic() - started:.0f} seconds. Open {output / 'report.html'} in a browser; "
        f"{output / 'stage3.nii.gz'} is the reconstructed CT, 256³ voxels in HU,\n"
        f"and {output / 'report.png'} and {output / 'xrays.png'} are figures.\n"
        "This patient is one of the six that the weights were trained on: figures and scores show the machinery, not\n"
        f"generalisation. Scores of patients that the weights have not seen are in {places.MODEL_CARD}.\n"
        "Research use only, not for diagnosis."
    )


def demo_training(output: Path, computing: Computing) -> None:
    """A small cascade, trained on random deformations of the demo's CT and scored on others."""
    started = time.monotonic()
    print("One patient: the training shows that the machinery works, not how well it does on people it has not seen.")
    overlay = places.CONFIGS / "demo"
    dataset = demo_dataset(output, overlay, computing)
    train_stages([1, 2, 3], dataset, output, overlay, computing)
    note = "The network was trained on this patient: the demo shows the machinery, not generalisation."
    run_evaluation(dataset, output, output / "stage3_best.pth", computing, note=note)
    show_case(output)
    print(
        f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Open {output / 'report.html'} "
        f"in a browser; {output / 'report.png'} and {output / 'xrays.png'} are figures of the same.\n"
        f"The scores, with their definitions, are in {output / 'metrics.json'}.\n"
        "These scores are of one patient: the network was trained on random deformations of this CT and scored on\n"
        "others of the same CT. They show the machinery, not generalisation. Research use only, not for diagnosis."
    )


def show_case(output: Path) -> None:
    """Moves the files of the demo's one written case from the evaluation's folder for it, and prints the scores."""
    for file in (output / "cases" / "original").iterdir():
        file.replace(output / file.name)
    shutil.rmtree(output / "cases")
    print_summary(json.loads((output / "metrics.json").read_text(encoding="utf-8"))["summary"])
    print_measurements(json.loads((output / "measurements.json").read_text(encoding="utf-8")))
