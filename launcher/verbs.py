"""What each verb of the command line does."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from . import places
from .computing import Computing
from .demo import run_demo
from .evaluation import evaluate_pairs, run_evaluation
from .failures import LaunchError
from .from_bundle import config_text
from .overlays import checked_overlay
from .processes import launch_line, run
from .tables import (
    formatted,
    print_assessment,
    print_lesions,
    print_measurement_errors,
    print_measurements,
    print_protocol,
    print_robustness,
    print_summary,
)
from .training import demo_dataset, train_stages, write_atlas, write_cubes
from .weights import assessed_beside, check_start, check_weights, sidecar_overlay
from .workflows import PACKAGES, run_on_dask, run_script, run_workflow

WITHOUT_LABEL = "--without-label"
"""The option of `test` that skips what needs MONAI Label's environment."""
WHOLE_SUITE = ["--numprocesses", "2", "--dist", "worksteal", "tests"]
"""All tests by two processes; one that has none left takes from the other."""
KEEPS_FREED_MEMORY = {
    **dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**31 - 1)),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Has glibc keep what is freed: small networks' tensors come and go, and giving their pages back took a fifth of the
time of some test files."""


def demo(arguments: argparse.Namespace) -> None:
    run_demo(arguments.output, arguments.train, arguments.computing)


def test(arguments: argparse.Namespace) -> None:
    is_whole = not set(arguments.pytest) - {WITHOUT_LABEL}
    line = ["-m", "pytest", *arguments.pytest, *(WHOLE_SUITE if is_whole else [])]
    computing, further = (Computing(threads=1), KEEPS_FREED_MEMORY) if is_whole else (Computing(), {})
    shown_as = config_text.as_typed(["python", *line])
    if run([str(places.PYTHON), *line], shown_as, computing=computing, further=further) != 0:
        raise LaunchError("tests failed; see above.")


def fetch(arguments: argparse.Namespace) -> None:
    manifest = ["--manifest", arguments.manifest.as_posix()] if arguments.manifest else ["--pairs"]
    chosen = [arguments.collection] if arguments.collection else manifest
    chosen += ["--patients", arguments.patients] if arguments.patients else []
    chosen += ["--address", arguments.address] if arguments.address else []
    chosen += ["--any-licence"] if arguments.any_licence else []
    run_script("scripts.fetch", *chosen, "--dir", arguments.dir.as_posix(), *["--dry-run"] * arguments.dry_run)
    if arguments.dry_run:
        return
    following = ["datalist", "--check"] if arguments.collection else ["evaluate", "--pairs", "--dataset_dir"]
    print(f"\nNext: {launch_line(*following, arguments.dir)}")


def datalist(arguments: argparse.Namespace) -> None:
    options = [f"--{option}" for option in ("overwrite", "check") if getattr(arguments, option)]
    run_script("scripts.datalist", arguments.dataset_dir.as_posix(), *options)
    further = ["train", "--dataset_dir"] if arguments.check else ["datalist", "--check"]
    print(f"\nNext: {launch_line(*further, arguments.dataset_dir)}")


def register(arguments: argparse.Namespace) -> None:
    _check_datalist(arguments.datalist)
    chosen = {"dataset_dir": arguments.dataset_dir}
    chosen |= {"datalist": arguments.datalist} if arguments.datalist else {}
    configs = [places.CONFIGS / f"{name}.json" for name in ("train", "anatomy", "register")]
    run_workflow("run", configs, arguments.output, arguments.computing, output_dir=arguments.output, **chosen)
    following = launch_line("train", "--dataset_dir", arguments.dataset_dir, "--shapes_dir", arguments.output)
    print(f"\nNext: {following}")


def preprocess(arguments: argparse.Namespace) -> None:
    dataset = arguments.dataset_dir
    output = arguments.output or dataset.with_name(f"{dataset.name}_cubes")
    overlay = checked_overlay(arguments.overlay, dataset) if arguments.overlay else None
    if arguments.dask:
        run_on_dask(arguments.dask, arguments.shards)
    else:
        write_cubes(dataset, dataset / "datalist.json", output, overlay, arguments.computing, arguments.shard)
    further = ["--overlay", arguments.overlay] if arguments.overlay else []
    when = "Once all shards are made" if arguments.shard else "Next"
    print(f"\n{when}: {launch_line('train', *further, '--dataset_dir', output)}")


def train(arguments: argparse.Namespace) -> None:
    overlay = checked_overlay(arguments.overlay, arguments.dataset_dir) if arguments.overlay else None
    stages = [1, 2, 3] if arguments.stage == "all" else [int(arguments.stage)]
    start = getattr(arguments, "from")
    if start:
        check_start(start, arguments.dataset_dir, arguments.output)
    dataset = arguments.dataset_dir or demo_dataset(arguments.output, overlay, arguments.computing)
    train_stages(
        stages,
        dataset,
        arguments.output,
        overlay,
        arguments.computing,
        arguments.shapes_dir,
        arguments.anatomy,
        start,
        arguments.view_dropout,
    )
    weights = arguments.output / f"stage{stages[-1]}_best.pth"
    if stages[-1] < 3:
        chosen = ["--overlay", arguments.overlay] if arguments.overlay else []
        chosen += ["--from", start] if start else []
        chosen += ["--shapes_dir", arguments.shapes_dir] if arguments.shapes_dir else []
        chosen += ["--anatomy"] if arguments.anatomy else []
        chosen += [] if arguments.view_dropout is None else ["--view_dropout", arguments.view_dropout]
        chosen += ["--dataset_dir", dataset, "--output", arguments.output, *arguments.computing.options()]
        following = launch_line("train", "--stage", stages[-1] + 1, *chosen)
    else:
        scored = ["--dataset_dir", dataset, "--weights", weights, "--output", arguments.output / "evaluation"]
        following = launch_line("evaluate", *scored, *arguments.computing.options())
    print(f"\nThe weights are in {weights}.\nNext: {following}")


def atlas(arguments: argparse.Namespace) -> None:
    check_weights(arguments.weights)
    asked: dict[str, Path | str] = {"datalist": arguments.datalist} if arguments.datalist else {}
    asked |= {"atlas_cts": str(arguments.cts)} if arguments.cts else {}
    write_atlas(
        sidecar_overlay(arguments.weights), arguments.dataset_dir, arguments.weights, arguments.computing, **asked
    )
    print("\nAn atlas holds CTs of patients: pass it on only where their licences and consents allow that.")


def infer(arguments: argparse.Namespace) -> None:
    given = named_radiographs(arguments)
    if not given or ("pairs" in given and len(given) > 1):
        raise LaunchError("infer needs --frontal and --lateral, or one of them, or --pairs alone.")
    check_radiographs(given)
    if arguments.copy_patient and not arguments.dicom:
        raise LaunchError("--copy-patient needs --dicom: only the DICOM series names a patient.")
    if arguments.uncertainty and len(given) == 1 and not arguments.pairs:
        raise LaunchError("--uncertainty needs --frontal and --lateral: the intervals are those of pairs.")
    asked = {name: "True" for name in ("dicom", "copy_patient", "uncertainty") if getattr(arguments, name)}
    asked |= {} if arguments.pairs else {name: "$None" for name in ("frontal", "lateral") if name not in given}
    reconstruct(arguments, [], **given, **asked)
    if arguments.pairs:
        return
    if (measured := arguments.output / "measurements.json").is_file():
        print_measurements(json.loads(measured.read_text(encoding="utf-8")))
    written = ["ct.nii.gz", *(["ct_dicom"] if arguments.dicom else []), "preview.png", "view.html", "measurements.json"]
    written += ["uncertainty.nii.gz", "uncertainty.json"] if arguments.uncertainty else []
    where_there = ("familiarity.json", "calibration.json", "calibration.png")
    written += [name for name in where_there if (arguments.output / name).is_file()]
    written += ["run.json"]
    print(f"\nWrote {', '.join(written)} in {arguments.output}; view.html opens in a browser. Research use only.")


def named_radiographs(arguments: argparse.Namespace) -> dict[str, Path]:
    """What is named of `--frontal`, `--lateral` and `--pairs`."""
    return {name: getattr(arguments, name) for name in ("frontal", "lateral", "pairs") if getattr(arguments, name)}


def check_radiographs(named: dict[str, Path]) -> None:
    """
    Raises:
        LaunchError: when one of them is not there.
    """
    for name, path in named.items():
        if not (path.exists() if name == "pairs" else path.is_file()):
            raise LaunchError(f"--{name} {path}: no such file{' or folder' if name == 'pairs' else ''}.")


def reconstruct(arguments: argparse.Namespace, overlays: list[str], **chosen: Path | str) -> None:
    """Runs the inference of one pair or of many by overlays of its config, named without `.json`."""
    check_weights(arguments.weights)
    names = ["inference", *(["pairs"] if arguments.pairs else []), *overlays]
    configs = [*(places.CONFIGS / f"{name}.json" for name in names), *sidecar_overlay(arguments.weights)]
    chosen |= {"weights": arguments.weights, "output_dir": arguments.output, **assessed_beside(arguments.weights)}
    run_workflow("run", configs, arguments.output, arguments.computing, **chosen)
    if arguments.pairs:
        print(f"\nEach pair has a folder in {arguments.output}; pairs.csv next to them has a row of each.")


def assess(arguments: argparse.Namespace) -> None:
    given = named_radiographs(arguments)
    if set(given) not in ({"frontal", "lateral"}, {"pairs"}):
        raise LaunchError("assess needs --frontal and --lateral, or --pairs alone.")
    check_radiographs(given)
    reconstruct(arguments, ["assess", "assess_pairs"] if arguments.pairs else ["assess"], **given)
    if arguments.pairs:
        return
    print_assessment(json.loads((arguments.output / "assessment.json").read_text(encoding="utf-8")))
    print(f"\nWrote assessment.json and assessment.png in {arguments.output}, next to what `infer` writes.")


def evaluate(arguments: argparse.Namespace) -> None:
    _check_evaluation(arguments)
    if arguments.pairs:
        _evaluate_pairs(arguments)
        return
    check_weights(arguments.weights)
    if arguments.dask:
        run_on_dask(arguments.dask, arguments.shards)
    asked: dict[str, Path | str] = {"test_section": arguments.section}
    given = {name: getattr(arguments, name) for name in ("datalist", "stop_after", "only", "shard")}
    asked |= {name: value if isinstance(value, Path) else str(value) for name, value in given.items() if value}
    kind = next((name for name in ("robustness", "lesions") if getattr(arguments, name)), None)
    kind = f"protocol_{arguments.protocol}" if arguments.protocol else kind
    further = (places.CONFIGS / f"{kind}.json",) if kind else ()
    output = arguments.output
    workflow = "merge" if arguments.merge or arguments.dask else "run"
    run_evaluation(arguments.dataset_dir, output, arguments.weights, arguments.computing, further, workflow, **asked)
    if arguments.shard:
        print(f"\nShard {arguments.shard} is in {output / 'shards'}. Once all are: the same command with --merge.")
        return
    _print_evaluation(kind, output)


def _check_evaluation(arguments: argparse.Namespace) -> None:
    """Refuses what an evaluation cannot do together."""
    _check_datalist(arguments.datalist)
    if arguments.stop_after and not arguments.robustness:
        raise LaunchError("--stop_after needs --robustness: an evaluation scores every stage of the weights.")
    of_pairs = [f"--{name}" for name in ("pairs", "robustness", "lesions", "protocol") if getattr(arguments, name)]
    if arguments.only and of_pairs:
        raise LaunchError(f"--only {arguments.only}: cannot be scored by {of_pairs[0]}, which is of both X-rays.")
    if arguments.predictions and not arguments.pairs:
        raise LaunchError("--predictions needs --pairs: other scores are of weights.")
    of_one = [f"--{name}" for name in ("pairs", "lesions") if getattr(arguments, name)]
    if of_one and (arguments.shard or arguments.dask or arguments.merge):
        raise LaunchError(f"{of_one[0]} runs in one process: leave --shard, --dask and --merge out.")
    if of_one and arguments.gpus > 1:
        raise LaunchError(f"--gpus {arguments.gpus}: {of_one[0]} runs in one process; leave --gpus out.")


def _print_evaluation(kind: str | None, output: Path) -> None:
    """
    The tables of an evaluation that has ended, and where its files are.

    Args:
        kind: the config that was merged after `evaluate.json`; None for none.
        output: holds its results.
    """
    report = json.loads((output / f"{kind or 'metrics'}.json").read_text(encoding="utf-8"))
    if kind == "robustness":
        print_robustness(report["summary"])
        print(f"\nEvery case is in {output / 'robustness.csv'}; robustness.png next to it is the figure.")
    elif kind == "lesions":
        print_lesions(report)
        print(f"\nEvery lesion is in {output / 'lesions.csv'}; lesions.png next to it is the figure.")
    elif kind:
        print_protocol(report["summary"])
        print(f"\nEvery case is in {output / f'{kind}.csv'}; {kind}.json next to it has the definitions.")
    else:
        print_summary(report["summary"])
        print_measurement_errors(output / "measurement_errors.json")
        worst = [f"{case['case']} {formatted(case['psnr_db'], 2)} dB" for case in report["worst_cases"]]
        print(
            f"\nWorst cases: {', '.join(worst)}; their figures are in {output / 'cases'}. "
            f"Every case is in {output / 'metrics.csv'}."
        )


def _evaluate_pairs(arguments: argparse.Namespace) -> None:
    asked = {"datalist": arguments.datalist} if arguments.datalist else {}
    chosen = (arguments.weights, arguments.predictions, arguments.computing)
    evaluate_pairs(arguments.dataset_dir, arguments.output, *chosen, **asked)


def package(arguments: argparse.Namespace) -> None:
    options = ["--without-weights"] if arguments.without_weights else []
    options += ["--large-files-url", arguments.large_files_url] if arguments.large_files_url else []
    run_script("scripts.package", arguments.output.as_posix(), *options)


def publish(arguments: argparse.Namespace) -> None:
    run_script("scripts.publish", arguments.hub, *["--yes"] * arguments.yes, *["--public"] * arguments.public)


def label(arguments: argparse.Namespace) -> None:
    if not arguments.studies.is_dir():
        raise LaunchError(f"--studies {arguments.studies}: no such folder.")
    if not arguments.weights.is_file():
        print(f"{arguments.weights}: no such weights. The server starts; it reconstructs once they are there.")
    app = places.LABEL_APP.name
    line = ["-m", "monailabel.main", "start_server", "--app", app, "--studies", arguments.studies.as_posix()]
    line += ["--conf", "weights", arguments.weights.as_posix()]
    for name in ("overlay", "token_file", "device"):
        value = getattr(arguments, name)
        if value is not None:
            line += ["--conf", name, value.as_posix() if isinstance(value, Path) else value]
    line += ["--host", arguments.host, "--port", str(arguments.port), "--uvicorn_app", f"{app}.server:app"]
    python = Path(os.path.relpath(places.LABEL_PYTHON, places.ROOT)).as_posix()
    command, shown_as = [str(places.LABEL_PYTHON), *line], config_text.as_typed([python, *line])
    status = run(command, shown_as, computing=arguments.computing, loads="MONAI Label, PyTorch and MONAI")
    if status != 0:
        raise LaunchError(f"the server ended with status {status}; its message is above.")


def node(arguments: argparse.Namespace) -> None:
    check_weights(arguments.weights)
    line = ["-m", places.NODE.name, "--host", arguments.host, "--port", str(arguments.port), "--aet", arguments.aet]
    line += ["--allow", *arguments.allow, "--store", arguments.store, "--queue", arguments.queue.as_posix()]
    line += ["--weights", arguments.weights.as_posix()]
    for name in ("quiet", "retry", "most_objects", "most_gib"):
        line += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    line += ["--device", arguments.device] if arguments.device else []
    command, shown_as = [str(places.PYTHON), *line], config_text.as_typed(["python", *line])
    status = run(command, shown_as, computing=arguments.computing, loads=PACKAGES)
    if status != 0:
        raise LaunchError(f"the node ended with status {status}; its message is above.")


def page(arguments: argparse.Namespace) -> None:
    check_weights(arguments.weights)
    line = ["-m", places.TRIAL_PAGE.name, "--host", arguments.host, "--port", str(arguments.port)]
    line += ["--weights", arguments.weights.as_posix()]
    line += ["--device", arguments.device] if arguments.device else []
    python = Path(os.path.relpath(places.PAGE_PYTHON, places.ROOT)).as_posix()
    command, shown_as = [str(places.PAGE_PYTHON), *line], config_text.as_typed([python, *line])
    status = run(command, shown_as, computing=arguments.computing, loads=f"Gradio, {PACKAGES}")
    if status != 0:
        raise LaunchError(f"the page's server ended with status {status}; its message is above.")


def install(arguments: argparse.Namespace) -> None:
    print(f"What {', '.join(arguments.verbs)} need{'s' * (len(arguments.verbs) == 1)} is installed.")


def _check_datalist(datalist: Path | None) -> None:
    if datalist and not datalist.is_file():
        raise LaunchError(f"--datalist {datalist}: no such file.")
