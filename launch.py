#!/usr/bin/env python3
"""
The launcher: makes the environment on first use, then runs the bundle's workflows, printing each line that it runs.

    python launch.py demo       reconstruct a real chest CT from two projected X-rays, and train a small cascade on it
    python launch.py test       run the tests
    python launch.py datalist   pair and split the studies of a folder, or check the datalist of one
    python launch.py train      train one stage or all three
    python launch.py infer      reconstruct a CT from a frontal and a lateral X-ray
    python launch.py evaluate   score trained weights on the CTs of a folder, or on the test section of its datalist
    python launch.py package    pack the bundle for a model zoo
    python launch.py label      serve a folder of studies by MONAI Label, from an environment of its own

Research use only, not for diagnosis. Needs Python 3.10 or newer and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "requirements.txt"
REQUIREMENTS_DEMO = ROOT / "requirements-demo.txt"
REQUIREMENTS_PEERS = ROOT / "requirements-peers.txt"
LABEL_APP = ROOT / "monailabel_app"
LABEL_ENVIRONMENT = ROOT / ".venv-label"
LABEL_PYTHON = LABEL_ENVIRONMENT / PYTHON.relative_to(ENVIRONMENT)
REQUIREMENTS_LABEL = LABEL_APP / "requirements.txt"
REQUIREMENTS_LABEL_SERVER = LABEL_APP / "requirements-server.txt"
WITHOUT_LABEL = "--without-label"
CONFIGS = Path("bundle") / "configs"
WEIGHTS = ROOT / "bundle" / "models" / "model.pt"
MODEL_CARD = ROOT / "bundle" / "docs" / "README.md"
RESUME = "resume"
DEVICE = re.compile(r"[a-z]+(:\d{1,3})?", re.ASCII)
MOST_GPUS = 1024
SIGNS_OF_MONAI = "#@%$"
"""What steps between ids, refers to one, copies one and begins an expression in a config's text."""
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
SECONDS_TO_END = 40
"""What a process gets to end by itself; torchrun gives its own 30."""
SUMMARY_COLUMNS = {"ssim": 3, "mae_hu": 0, "psnr_x2ct_db": 1}
TRACEBACK = b"Traceback (most recent call last)"
BUNDLE_ERROR = re.compile(
    r"^(?:scripts\.errors\.)?(?:Input|Output|Checkpoint|Divergence|PretrainedWeights)Error: (.+(?:\n\S.*)*)", re.M
)
RANK = re.compile(r"^\[rank\d+\]: ?", re.M)
RANK_AT_END = re.compile(rb"\[rank\d+\]: $")
FIRST_ERROR = re.compile(r"^Traceback .*\n(?:[ \t].*\n)*(\S.*)", re.M)


class LaunchError(Exception):
    """What went wrong, in one message for the user."""


class Ended(BaseException):
    """A signal has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def module_of_bundle(name: str) -> ModuleType:
    """One of the bundle's modules that need nothing that is not here; the bundle itself needs its packages."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "bundle" / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cores, errors, shared_overlay = map(module_of_bundle, ("cores", "errors", "shared_overlay"))


def main() -> int:
    arguments = parse_arguments()
    try:
        check_arguments(arguments)
        install(with_peers=arguments.verb is test)
        if arguments.verb is label or (arguments.verb is test and WITHOUT_LABEL not in arguments.pytest):
            install_label()
        arguments.verb(arguments)
    except (LaunchError, OSError) as error:
        message = "\n".join(map(errors.shown, str(error).split("\n")))
        print(f"\nlaunch.py: error: {message}", file=sys.stderr)
        return 1
    except (Ended, KeyboardInterrupt) as ended:
        number = ended.number if isinstance(ended, Ended) else signal.SIGINT
        print(f"\nlaunch.py: ended by {signal.Signals(number).name}.", file=sys.stderr)
        return 128 + number
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("demo", help="reconstruct a real chest CT by the shipped weights; then a short training")
    verb.add_argument("--output", type=Path, default=ROOT / "output" / "demo", metavar="DIR")
    short = verb.add_mutually_exclusive_group()
    short.add_argument("--train", action="store_true", default=None, help="train the small cascade without being asked")
    short.add_argument("--no-train", dest="train", action="store_false", help="do not ask and do not train")
    add_computing(verb)
    verb.set_defaults(verb=demo)

    verb = verbs.add_parser("test", help="run the tests; further arguments go to pytest, --without-label among them")
    verb.set_defaults(verb=test)

    verb = verbs.add_parser("datalist", help="write DIR/datalist.json from the studies in DIR, or check it")
    verb.add_argument("dataset_dir", type=Path, metavar="DIR", help="holds the studies")
    mode = verb.add_mutually_exclusive_group()
    mode.add_argument("--overwrite", action="store_true", help="replace a datalist that is there")
    mode.add_argument("--check", action="store_true", help="load every record of the datalist instead of writing one")
    verb.set_defaults(verb=datalist)

    verb = verbs.add_parser("train", help="train one stage, or all three in turn; the same command goes on after a stop")
    verb.add_argument("--stage", choices=["1", "2", "3", "all"], default="all")
    verb.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, one for each GPU")
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--overlay", type=Path, metavar="FILE", help="a config that changes ids of train.json")
    tiny = "small sizes and a short schedule, to try things out: --overlay bundle/configs/tiny.json"
    what.add_argument("--tiny", dest="overlay", action="store_const", const=ROOT / CONFIGS / "tiny.json", help=tiny)
    verb.add_argument("--dataset_dir", type=Path, metavar="DIR", help="holds datalist.json; default: the demo's CT")
    verb.add_argument("--output", type=Path, default=ROOT / "output" / "train", metavar="DIR")
    add_computing(verb)
    verb.set_defaults(verb=train)

    verb = verbs.add_parser("infer", help="reconstruct a CT from two X-rays")
    verb.add_argument("--frontal", type=Path, required=True, metavar="FILE")
    verb.add_argument("--lateral", type=Path, required=True, metavar="FILE")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR")
    verb.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE")
    verb.add_argument("--dicom", action="store_true", help="write a DICOM CT series as well, which names nobody")
    verb.add_argument("--copy-patient", action="store_true", help="let it name the patient of the frontal DICOM file")
    verb.add_argument("--uncertainty", action="store_true", help="add each voxel's uncertainty")
    add_computing(verb)
    verb.set_defaults(verb=infer)

    verb = verbs.add_parser("evaluate", help="score weights on the CTs of a folder, or on a section of its datalist")
    verb.add_argument("--dataset_dir", type=Path, required=True, metavar="DIR", help="without a datalist all CTs count")
    verb.add_argument("--datalist", type=Path, metavar="FILE", help="default: DIR/datalist.json; paths start at DIR")
    verb.add_argument("--section", choices=["test", "validation"], default="test", help="of the datalist")
    verb.add_argument("--output", type=Path, default=ROOT / "output" / "evaluate", metavar="DIR")
    verb.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE")
    verb.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, one for each GPU")
    other = verb.add_mutually_exclusive_group()
    other.add_argument("--protocol", choices=["x2ct"], help="score by the protocol of X2CT-GAN, as published figures are")
    other.add_argument("--robustness", action="store_true", help="score X-rays taken otherwise than the network is told")
    verb.add_argument("--stop_after", type=int, choices=[1, 2, 3], metavar="N", help="the last stage of --robustness")
    add_computing(verb)
    verb.set_defaults(verb=evaluate)

    verb = verbs.add_parser("package", help="pack the bundle for a model zoo, with its SHA-256")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR")
    verb.add_argument("--without-weights", action="store_true", help="leave bundle/models/model.pt out")
    verb.add_argument("--large-files-url", metavar="URL", help="where files above 25 MB will lie: {version}, {path}")
    verb.set_defaults(verb=package)

    verb = verbs.add_parser("label", help="serve a folder of studies by MONAI Label")
    verb.add_argument("--studies", type=Path, required=True, metavar="DIR", help="holds X-rays, and CTs to train on")
    verb.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE")
    verb.add_argument("--overlay", type=Path, metavar="FILE", help="a config that changes ids of its trainings")
    verb.add_argument("--host", default="127.0.0.1", help="who may ask; any host but this machine needs --token-file")
    verb.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that every request has to bring")
    verb.add_argument("--port", type=int, default=8000)
    add_computing(verb)
    verb.set_defaults(verb=label)

    arguments, further = parser.parse_known_args()
    if further and arguments.verb is not test:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    arguments.pytest = further
    return arguments


def add_computing(verb: argparse.ArgumentParser) -> None:
    """The options of a verb that computes."""
    verb.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps, xpu; default: a GPU where there is one")
    verb.add_argument("--threads", type=int, metavar="N", help="of the CPU, for each process; default: all cores")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Makes the paths whole and refuses, before any work, what would go wrong later or be read otherwise."""
    for name, value in vars(arguments).items():
        if isinstance(value, Path):
            path = value.resolve()
            if not str(path).isprintable():
                raise LaunchError(
                    f"--{name} {str(path)!r}: holds a character that cannot be printed, expected a path without one. "
                    f"Rename it, or choose another."
                )
            if arguments.verb is label and name in ("studies", "weights") and "#" in str(path):
                raise LaunchError(
                    f"--{name} {path}: holds '#', expected a path without it: the server hands it to MONAI, which reads "
                    f"'#' as a step between ids. Rename it, or choose another."
                )
            setattr(arguments, name, path)
    device, threads = getattr(arguments, "device", None), getattr(arguments, "threads", None)
    if device is not None and not DEVICE.fullmatch(device):
        raise LaunchError(f"--device {device!r}: expected a name such as cpu, cuda, cuda:1, mps or xpu.")
    if threads is not None and threads < 1:
        raise LaunchError(f"--threads {threads}: expected a number of at least 1.")
    if not 1 <= getattr(arguments, "gpus", 1) <= MOST_GPUS:
        raise LaunchError(f"--gpus {arguments.gpus}: expected a number from 1 to {MOST_GPUS}.")
    if device is not None and ":" in device and getattr(arguments, "gpus", 1) > 1:
        raise LaunchError(f"--device {device}: expected cuda or cpu with --gpus {arguments.gpus}, one device a process.")
    if not 1 <= getattr(arguments, "port", 1) <= 65535:
        raise LaunchError(f"--port {arguments.port}: expected a number from 1 to 65535.")
    COMPUTING.update(device=device, threads=threads)


COMPUTING: dict[str, str | int | None] = {"device": None, "threads": None}
"""What the user has chosen of where to compute; None for the default."""


def demo(arguments: argparse.Namespace) -> None:
    output, wanted = arguments.output, arguments.train
    if WEIGHTS.is_file():
        demo_reconstruction(output)
    else:
        print(f"{WEIGHTS}: no such weights, so that there is nothing to reconstruct with before a training.")
        wanted = wanted is not False
    if wanted or (wanted is None and sys.stdin.isatty() and agreed()):
        demo_training(output / "training")
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
    place = [] if output == ROOT / "output" / "demo" else ["--output", output.as_posix()]
    return shown(["python", "launch.py", "demo", "--train", *place])


def demo_reconstruction(output: Path) -> None:
    """The demo's CT, its X-rays, and what the shipped weights make of them."""
    started = time.monotonic()
    print("The shipped weights reconstruct the chest CT LIDC-IDRI-0001 from two X-rays that are projected from it.")
    dataset = output / "data"
    configs = [CONFIGS / "train.json", *overlay_beside(WEIGHTS), CONFIGS / "demo_data.json"]
    bundle("run", configs, output, dataset_dir=dataset, validation_cases="0", test_cases="0")
    note = "This patient is one of the six that the weights were trained on: the machinery, not generalisation."
    run_evaluation(dataset, output, WEIGHTS, note=note, training_records="[]", num_workers="0")
    show_case(output)
    print(
        f"\nDone in {time.monotonic() - started:.0f} seconds. Open {output / 'report.html'} in a browser; "
        f"{output / 'stage3.nii.gz'} is the reconstructed CT, 256³ voxels in HU,\n"
        f"and {output / 'report.png'} and {output / 'xrays.png'} are pictures.\n"
        "This patient is one of the six that the weights were trained on: picture and figures show the machinery, not\n"
        f"generalisation. Figures of patients that the weights have not seen are in {MODEL_CARD}.\n"
        "Research use only, not for diagnosis."
    )


def demo_training(output: Path) -> None:
    """A small cascade, trained on random deformations of the demo's CT and scored on others."""
    started = time.monotonic()
    print("One patient: the training shows that the machinery works, not how well it does on people it has not seen.")
    dataset = demo_dataset(output, CONFIGS / "demo.json")
    train_stages([1, 2, 3], dataset, output, CONFIGS / "demo.json")
    note = "The network was trained on this patient: the demo shows the machinery, not generalisation."
    run_evaluation(dataset, output, output / "stage3_best.pth", note=note)
    show_case(output)
    print(
        f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Open {output / 'report.html'} "
        f"in a browser; {output / 'report.png'} and {output / 'xrays.png'} are pictures of the same.\n"
        f"The figures, with their definitions, are in {output / 'metrics.json'}.\n"
        "These figures are of one patient: the network was trained on random deformations of this CT and scored on\n"
        "others of the same CT. They show the machinery, not generalisation. Research use only, not for diagnosis."
    )


def show_case(output: Path) -> None:
    """Moves the files of the demo's one written case from the evaluation's folder for it, and prints the scores."""
    for file in (output / "cases" / "original").iterdir():
        file.replace(output / file.name)
    shutil.rmtree(output / "cases")
    print_summary(json.loads((output / "metrics.json").read_text(encoding="utf-8"))["summary"])


def test(arguments: argparse.Namespace) -> None:
    chosen = arguments.pytest if set(arguments.pytest) - {WITHOUT_LABEL} else [*arguments.pytest, "tests"]
    if run([str(PYTHON), "-m", "pytest", *chosen], shown_as="python -m pytest") != 0:
        raise LaunchError("tests failed; see above.")


def datalist(arguments: argparse.Namespace) -> None:
    options = [f"--{option}" for option in ("overwrite", "check") if getattr(arguments, option)]
    bundle_script("scripts.datalist", arguments.dataset_dir.as_posix(), *options)


def train(arguments: argparse.Namespace) -> None:
    overlay = checked_overlay(arguments.overlay, arguments.dataset_dir) if arguments.overlay else None
    stages = [1, 2, 3] if arguments.stage == "all" else [int(arguments.stage)]
    dataset = arguments.dataset_dir or demo_dataset(arguments.output, overlay)
    train_stages(stages, dataset, arguments.output, overlay, arguments.gpus)
    print(f"\nThe weights are in {arguments.output / f'stage{stages[-1]}_best.pth'}.")


def infer(arguments: argparse.Namespace) -> None:
    for name in ("frontal", "lateral"):
        if not getattr(arguments, name).is_file():
            raise LaunchError(f"--{name} {getattr(arguments, name)}: no such file.")
    if arguments.copy_patient and not arguments.dicom:
        raise LaunchError("--copy-patient needs --dicom: only the DICOM series names a patient.")
    check_weights(arguments.weights)
    asked = {name: "True" for name in ("dicom", "copy_patient", "uncertainty") if getattr(arguments, name)}
    if arguments.weights.with_name(f"{arguments.weights.stem}_familiarity.json").is_file():
        asked["familiarity"] = "True"
    bundle(
        "run",
        [CONFIGS / "inference.json", *overlay_beside(arguments.weights)],
        arguments.output,
        frontal=arguments.frontal,
        lateral=arguments.lateral,
        weights=arguments.weights,
        output_dir=arguments.output,
        **asked,
    )
    written = ["ct.nii.gz", *(["ct_dicom"] if arguments.dicom else []), "preview.png", "view.html"]
    written += ["uncertainty.nii.gz", "uncertainty.json"] if arguments.uncertainty else []
    written += ["familiarity.json"] if "familiarity" in asked else []
    print(f"\nWrote {', '.join(written)} in {arguments.output}; view.html opens in a browser. Research use only.")


def evaluate(arguments: argparse.Namespace) -> None:
    check_weights(arguments.weights)
    if arguments.datalist and not arguments.datalist.is_file():
        raise LaunchError(f"--datalist {arguments.datalist}: no such file.")
    if arguments.stop_after and not arguments.robustness:
        raise LaunchError("--stop_after needs --robustness: an evaluation scores every stage of the weights.")
    asked: dict[str, Path | str] = {"test_section": arguments.section}
    asked |= {"datalist": arguments.datalist} if arguments.datalist else {}
    asked |= {"stop_after": str(arguments.stop_after)} if arguments.stop_after else {}
    kind = "robustness" if arguments.robustness else f"protocol_{arguments.protocol}" if arguments.protocol else None
    further = (CONFIGS / f"{kind}.json",) if kind else ()
    run_evaluation(arguments.dataset_dir, arguments.output, arguments.weights, arguments.gpus, further, **asked)
    report = json.loads((arguments.output / f"{kind or 'metrics'}.json").read_text(encoding="utf-8"))
    if arguments.robustness:
        print_robustness(report["summary"])
        print(f"\nEvery case is in {arguments.output / 'robustness.csv'}; robustness.png beside it is the picture.")
        return
    if arguments.protocol:
        print_protocol(report["summary"])
        print(f"\nEvery case is in {arguments.output / f'{kind}.csv'}; {kind}.json beside it has the definitions.")
        return
    print_summary(report["summary"])
    worst = [f"{case['case']} {formatted(case['psnr_db'], 2)} dB" for case in report["worst_cases"]]
    print(
        f"\nWorst cases: {', '.join(worst)}; their pictures are in {arguments.output / 'cases'}. "
        f"Every case is in {arguments.output / 'metrics.csv'}."
    )


def package(arguments: argparse.Namespace) -> None:
    options = ["--without-weights"] if arguments.without_weights else []
    options += ["--large-files-url", arguments.large_files_url] if arguments.large_files_url else []
    bundle_script("scripts.package", arguments.output.as_posix(), *options)


def label(arguments: argparse.Namespace) -> None:
    if not arguments.studies.is_dir():
        raise LaunchError(f"--studies {arguments.studies}: no such folder.")
    if not arguments.weights.is_file():
        print(f"{arguments.weights}: no such weights. The server starts; it reconstructs once they are there.")
    line = ["-m", "monailabel.main", "start_server", "--app", LABEL_APP.name, "--studies", arguments.studies.as_posix()]
    line += ["--conf", "weights", arguments.weights.as_posix()]
    for name in ("overlay", "token_file", "device"):
        if getattr(arguments, name) is not None:
            line += ["--conf", name, as_text(getattr(arguments, name))]
    line += ["--host", arguments.host, "--port", str(arguments.port)]
    line += ["--uvicorn_app", f"{LABEL_APP.name}.server:app"]
    status = run([str(LABEL_PYTHON), *line], shown_as=shown([LABEL_PYTHON.relative_to(ROOT).as_posix(), *line]))
    if status != 0:
        raise LaunchError(f"the server ended with status {status}; its message is above.")


def demo_dataset(output: Path, overlay: Path | None) -> Path:
    """The dataset that is made from the demo's CT, written unless a training that began with it can go on."""
    dataset = output / "data"
    if has_begun(output, overlay) and (dataset / "datalist.json").is_file():
        return dataset
    configs = [CONFIGS / "train.json", *([overlay] if overlay else []), CONFIGS / "demo_data.json"]
    bundle("run", configs, output, dataset_dir=dataset)
    return dataset


def checked_overlay(overlay: Path, dataset: Path | None) -> Path:
    """The path of a training's overlay config, from the repository root where it lies in it."""
    if "datalist" in content_of(overlay) and dataset is None:
        raise LaunchError(f"{overlay} names a datalist: say by --dataset_dir where the files of its records lie.")
    return overlay.relative_to(ROOT) if overlay.is_relative_to(ROOT) else overlay


def content_of(overlay: Path) -> dict:
    try:
        content = json.loads(overlay.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LaunchError(f"{overlay}: no such file.") from error
    except ValueError as error:
        raise LaunchError(f"{overlay}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise LaunchError(f"{overlay}: holds a {type(content).__name__}, expected an object of config ids.")
    return content


def shared_with_inference(overlay: Path) -> dict:
    """What an overlay changes of network, geometry and units: all that evaluation and inference need to know of it."""
    shared = shared_overlay.shared_part(content_of(overlay))
    try:
        shared_overlay.check_shared_overlay(shared, overlay)
    except ValueError as error:
        raise LaunchError(str(error)) from error
    return shared


def train_stages(stages: list[int], dataset: Path, output: Path, overlay: Path | None, gpus: int = 1) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if not has_begun(output, overlay):
        shared = shared_with_inference(ROOT / overlay) if overlay else {}
        (output / shared_overlay.NAME).unlink(missing_ok=True)
        if shared:
            write_whole(output / shared_overlay.NAME, json.dumps(shared, indent=4) + "\n")
    if 1 in stages and stages != [1]:
        check_what_later_stages_need(dataset, output, overlay)
    for stage in stages:
        configs = [CONFIGS / "train.json"]
        configs += [CONFIGS / f"stage{stage}.json"] if stage > 1 else []
        configs += [overlay] if overlay else []
        configs += [CONFIGS / "multi_gpu_train.json"] if gpus > 1 else []
        print(f"\n=== Stage {stage} ===")
        bundle("training", configs, output, gpus, dataset_dir=dataset, ckpt_dir=output, output_dir=output)


def check_what_later_stages_need(dataset: Path, output: Path, overlay: Path | None) -> None:
    """
    Has the last stage's loss made, whose network may have to be downloaded, before the first one takes its hours; once
    that has ended, the later stages begin at once and ask for themselves.
    """
    if (output / RESUME / "stage1_finished.json").is_file():
        return
    chosen = content_of(ROOT / overlay) if overlay else {}
    if chosen.get("vgg") == 0 or chosen.get("vgg_weights") == "untrained":
        return
    configs = [CONFIGS / "train.json", CONFIGS / "stage3.json", *([overlay] if overlay else [])]
    print("\n=== What the later stages need ===")
    bundle("check", configs, output, dataset_dir=dataset)


def has_begun(output: Path, overlay: Path | None) -> bool:
    """Whether a training of the same sizes has begun in a folder and goes on; one of other sizes is refused."""
    if not (output / RESUME).is_dir():
        return False
    before = read_beside(output)
    now = shared_with_inference(ROOT / overlay) if overlay else {}
    if before != now:
        found = f"the sizes of {output / shared_overlay.NAME}" if before else "the sizes of train.json"
        raise LaunchError(
            f"{output} holds a training with {found}, this one has those of {overlay if now else 'train.json'}. "
            f"Choose another --output, or remove that folder."
        )
    return True


def run_evaluation(
    dataset: Path, output: Path, weights: Path, gpus: int = 1, further: tuple[Path, ...] = (), **overrides: Path | str
) -> None:
    configs = [CONFIGS / "train.json", CONFIGS / "evaluate.json", *further, *overlay_beside(weights)]
    # An overlay may name the datalist of its training, which is not that of this dataset.
    places = {"dataset_dir": dataset, "datalist": dataset / "datalist.json", "weights": weights, "output_dir": output}
    bundle("run", configs, output, gpus, **{**places, **overrides})


def overlay_beside(weights: Path) -> list[Path]:
    """The overlay config that a training has left beside its weights; none where it would not change the network."""
    return [weights.parent / shared_overlay.NAME] if read_beside(weights.parent) else []


def read_beside(folder: Path) -> dict:
    """What the overlay config of a folder of weights holds: numbers and words, which nothing evaluates."""
    overlay = folder / shared_overlay.NAME
    if not overlay.is_file():
        return {}
    try:
        return shared_overlay.read_shared_overlay(overlay)
    except ValueError as error:
        raise LaunchError(str(error)) from error


def check_weights(weights: Path) -> None:
    if not weights.is_file():
        raise LaunchError(
            f"{weights}: no such weights. Train them with `python launch.py train --stage all` (or see them work with "
            f"`python launch.py demo`), then name them by --weights DIR/stage3_best.pth."
        )


def print_summary(summary: list[dict]) -> None:
    scores = f"{'PSNR dB':>9}{'':<14}{'SSIM':>6}{'MAE HU':>8}{'X2CT dB':>9}"
    print(f"\n{'group':<22}{'size':>5}  {'method':<26}{'cases':>6}{scores}")
    for entry in summary:
        means = [formatted(entry[name]["mean"], places) for name, places in SUMMARY_COLUMNS.items()]
        print(
            f"{entry['group']:<22}{entry['size']:>4}³  {entry['method']:<26}{entry['cases']:>6}"
            f"{psnr_with_interval(entry)}{means[0]:>6}{means[1]:>8}{means[2]:>9}"
        )
    print(
        "PSNR: 3-D, whole cube, data range the HU window, mean (95 % interval over patients); "
        "the X2CT convention reads higher."
    )


def print_protocol(summary: list[dict]) -> None:
    """The mean scores of the last stage and of its baselines by the protocol of X2CT-GAN."""
    print(f"\n{'group':<22}{'method':<26}{'cases':>6}{'PSNR dB':>9}{'':<14}{'PSNR-3D dB':>11}{'SSIM':>7}")
    for entry in summary:
        volume_psnr, ssim = formatted(entry["psnr_3d_db"]["mean"], 2), formatted(entry["ssim"]["mean"], 3)
        scores = f"{psnr_with_interval(entry)}{volume_psnr:>11}{ssim:>7}"
        print(f"{entry['group']:<22}{entry['method']:<26}{entry['cases']:>6}{scores}")
    print(
        "By the protocol of X2CT-GAN: PSNR slice by slice and of the whole cube, peak 4095, 320 mm at 128³; mean (95 % "
        "interval over patients)."
    )


def print_robustness(summary: list[dict]) -> None:
    """The mean PSNR of each stage under each condition, and how much that is more than as the network is told."""
    print(f"\n{'change of the X-rays':<62}{'value':>18}  {'stage':<7}{'PSNR dB':>8}{'change':>8}")
    for entry in summary:
        value = entry["value"] if isinstance(entry["value"], str) else ""
        if isinstance(entry["value"], (int, float)):
            value = f"{entry['value']:g} {entry['unit']}".strip()
        means = [formatted(entry[name]["mean"], 2) for name in ("psnr_db", "psnr_change_db")]
        print(f"{entry['change']:<62}{value:>18}  {entry['stage']:<7}{means[0]:>8}{means[1]:>8}")


def psnr_with_interval(entry: dict) -> str:
    """The mean PSNR and its interval over patients, in 23 columns."""
    psnr = entry["psnr_db"]
    interval = "" if psnr["low"] is None else f" ({psnr['low']:.1f}-{psnr['high']:.1f})"
    return f"{formatted(psnr['mean'], 2):>9}{interval:<14}"


def formatted(value: float | None, places: int) -> str:
    """A number, or a dash for one that is not finite, which the report holds as null."""
    return "-" if value is None else f"{value:.{places}f}"


def bundle(workflow: str, configs: list[Path], output: Path, gpus: int = 1, **overrides: Path | str) -> None:
    """Runs one `monai.bundle run` line from the repository root."""
    names = [config.as_posix() for config in configs]
    line = ["-m", "monai.bundle", "run", workflow, "--config_file", str(names) if len(names) > 1 else names[0]]
    line += ["--bundle_root", "bundle"]
    if COMPUTING["device"] is not None:
        overrides["device"] = f"$scripts.devices.choose_device('{COMPUTING['device']}')"
    line += [part for name, value in overrides.items() for part in (f"--{name}", as_config_value(value))]
    if gpus > 1:
        line = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", *line]
    remove_log(output / "error.log")
    status = run([str(PYTHON), *line], shown_as=shown(["python", *line]), error_log=output / "error.log", processes=gpus)
    if status != 0:
        raise LaunchError(f"the command above ended with status {status}.")


def bundle_script(module: str, *arguments: str) -> None:
    """Runs one of the bundle's scripts that have a command line, from the bundle's folder."""
    line = ["-m", module, *arguments]
    status = run([str(PYTHON), *line], shown_as=f"cd bundle && {shown(['python', *line])}", folder=ROOT / "bundle")
    if status != 0:
        raise LaunchError(f"the command above ended with status {status}; its message is above.")


def as_config_value(value: Path | str) -> str:
    """
    A value of a config id as MONAI's parser reads it: a path in which it would take a letter for a sign of its own,
    such as `run#1`, stands as the expression of a Python text that has these letters as `$'run\\x231'`.
    """
    text = as_text(value)
    if not isinstance(value, Path) or not set(text) & set(SIGNS_OF_MONAI):
        return text
    return "$" + "".join(f"\\x{ord(letter):02x}" if letter in SIGNS_OF_MONAI else letter for letter in repr(text))


def as_text(value: Path | str) -> str:
    return value.as_posix() if isinstance(value, Path) else value


def run(
    command: list[str], shown_as: str, error_log: Path | None = None, folder: Path = ROOT, processes: int = 1
) -> int:
    """
    Runs a command from a folder, by default the repository root, its output passed on. With an `error_log` a Python
    traceback goes there, and the message at its end becomes the error.
    """
    print(f"\n$ {shown_as}", flush=True)
    environment = {**threads_of(processes), **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    if COMPUTING["threads"] is not None:
        environment["OMP_NUM_THREADS"] = str(COMPUTING["threads"])
    with child(command, cwd=folder, env=environment, stderr=None if error_log is None else subprocess.PIPE) as process:
        traceback = "" if error_log is None else pass_on(process)
        status = process.wait()
    if status == 0:
        sys.stderr.write(traceback)
    elif traceback:
        raise LaunchError(f"{message_of(traceback)}\n({log_traceback(error_log, traceback)})")
    return status


@contextmanager
def child(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """
    A process with a group of its own. Whatever ends this one before it ends the group first. On Windows, where the
    console sends Ctrl+C to both, the process alone is ended.
    """
    with ending_signals() as received:
        process = subprocess.Popen(command, start_new_session=os.name == "posix", **options)
        try:
            received.is_raised = True
            if received.numbers:
                raise Ended(received.numbers[0])
            yield process
        except BaseException as error:
            end_group(process, error.number if isinstance(error, Ended) else signal.SIGTERM)
            raise


class Received:
    """The signals to end that have come; raised as :class:`Ended` when there is somebody to tell."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.is_raised = False

    def __call__(self, number: int, frame: object) -> None:
        self.numbers.append(number)
        if self.is_raised:
            raise Ended(number)


@contextmanager
def ending_signals() -> Iterator[Received]:
    """Holds the signals that would end this process at once, save those that it ignores, as under `nohup`."""
    received = Received()
    earlier = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    heeded = {number: handler for number, handler in earlier.items() if handler != signal.SIG_IGN}
    try:
        for number in heeded:
            signal.signal(number, received)
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def end_group(process: subprocess.Popen, number: int) -> None:
    """Asks a process and all that it has started to end by a signal, and makes them after a while."""
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    send_to_group(process, number)
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        pass
    send_to_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def send_to_group(process: subprocess.Popen, number: int) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()
    except ProcessLookupError:
        return


def threads_of(processes: int) -> dict[str, str]:
    """
    OpenMP's threads for each of several processes: the cores that this one may use, shared out. They sleep while they
    wait: by default they spin for a while, which on a machine with other work takes the cores from those that compute.
    """
    return {"OMP_NUM_THREADS": str(cores.share_of_cores(processes)), "OMP_WAIT_POLICY": "PASSIVE"}


def remove_log(error_log: Path) -> None:
    """That of an earlier run, which would lie beside good results. A link is removed and not what it leads to."""
    if error_log.is_symlink() or error_log.is_file():
        error_log.unlink()


def write_whole(path: Path, text: str) -> None:
    """The file gets its name when it is whole, and takes the place of a link instead of being written through it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".unfinished-", delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def log_traceback(error_log: Path, traceback: str) -> str:
    """Writes the log where that is possible, which it need not be where a result could not be written; says which."""
    try:
        write_whole(error_log, traceback)
    except OSError as error:
        return f"The whole traceback could not be written to {error_log}: {error.strerror}."
    return f"The whole traceback is in {error_log}."


def shown(command: list[str]) -> str:
    """A command as one would type it, a list of config files in double quotes."""
    plain = [part.startswith("['") and not set(part) & set('"$`\\') for part in command]
    return " ".join(f'"{part}"' if is_plain else shlex.quote(part) for part, is_plain in zip(command, plain))


def pass_on(process: subprocess.Popen) -> str:
    """Copies the process's stderr to ours, as it comes, up to the first traceback, and returns what follows."""
    held = b""
    while chunk := process.stderr.read1(4096):
        passed, found, rest = (held + chunk).partition(TRACEBACK)
        if found:
            write_error(RANK_AT_END.sub(b"", passed))
            return (found + rest + process.stderr.read()).decode("utf-8", "replace")
        kept = next(n for n in reversed(range(len(TRACEBACK))) if passed.endswith(TRACEBACK[:n]))
        held = passed[len(passed) - kept :]
        write_error(passed[: len(passed) - kept])
    write_error(held)
    return ""


def write_error(output: bytes) -> None:
    sys.stderr.buffer.write(output)
    sys.stderr.buffer.flush()


def message_of(traceback: str) -> str:
    """The bundle's own error where there is one, else the first of a chain, which is its cause."""
    traceback = RANK.sub("", traceback)  # torchrun's processes put their number before each line
    error = BUNDLE_ERROR.search(traceback) or FIRST_ERROR.search(traceback)
    return error.group(1).strip() if error else traceback.strip().splitlines()[-1]


def install(with_peers: bool = False) -> None:
    """Makes `.venv` and installs what the bundle needs."""
    wanted: dict[Path, list[str]] = {REQUIREMENTS: [], REQUIREMENTS_DEMO: ["--no-deps"]}
    if with_peers:
        wanted[REQUIREMENTS_PEERS] = ["--no-deps"]
    install_into(ENVIRONMENT, PYTHON, wanted)


def install_label() -> None:
    """Makes `.venv-label` for MONAI Label over `.venv`: it holds only what must be older there, and the server."""
    install_into(LABEL_ENVIRONMENT, LABEL_PYTHON, requirements_of_label(), over=PYTHON)


def requirements_of_label() -> dict[Path, list[str]]:
    """In the order of their installation, each file with pip's options. Conflicts can only be with what `.venv` has."""
    quiet, constraints = "--no-warn-conflicts", REQUIREMENTS_LABEL.relative_to(ROOT).as_posix()
    return {
        REQUIREMENTS: [quiet, "-c", constraints],
        REQUIREMENTS_LABEL: [quiet],
        REQUIREMENTS_LABEL_SERVER: ["--no-deps"],
    }


def install_into(environment: Path, python: Path, wanted: dict[Path, list[str]], over: Path | None = None) -> None:
    """
    Makes an environment and installs requirements, save those files that have been installed as they are now.

    Args:
        environment: its folder.
        python: its interpreter, which need not exist yet.
        wanted: requirements files, each with pip's options.
        over: interpreter of another environment, whose packages are found after this one's own, so that the large ones
            are on the disk once.
    """
    if sys.version_info < (3, 10):
        raise LaunchError(f"Python {sys.version.split()[0]} found, 3.10 or newer expected.")
    marker = environment / "installed-requirements.sha256"
    done = marker.read_text(encoding="utf-8").splitlines() if python.is_file() and marker.is_file() else []
    missing = {file: options for file, options in wanted.items() if checksum(file) not in done}
    if not missing:
        return
    print(f"Installing the requirements into {environment}; this happens once and takes a few minutes.", flush=True)
    if not python.is_file():
        make_environment(environment, python, over)
    for file, options in missing.items():
        pip_install(python, [*options, "-r", file.relative_to(ROOT).as_posix()])
        done = [line for line in done if line.split()[-1] != checksum(file).split()[-1]] + [checksum(file)]
        marker.write_text("\n".join(done) + "\n", encoding="utf-8")


def make_environment(environment: Path, python: Path, over: Path | None) -> None:
    """By the Python of `over`, for which the packages there are built, else by this one."""
    with child([str(over or sys.executable), "-m", "venv", str(environment)]) as process:
        status = process.wait()
    if status != 0:
        shutil.rmtree(environment, ignore_errors=True)
        raise LaunchError(f"{environment} could not be made; Python's message is above.")
    if over is not None:
        (packages_of(python) / "over.pth").write_text(f"{packages_of(over)}\n", encoding="utf-8")


def packages_of(python: Path) -> Path:
    """The folder from which an interpreter imports what pip installs."""
    line = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.check_output(line, encoding="utf-8").strip())


def checksum(file: Path) -> str:
    """As `sha256sum` prints it in the repository root."""
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT).as_posix()}"


def pip_install(python: Path, arguments: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    if run(command, shown_as=shown(["python", "-m", "pip", "install", *arguments])) != 0:
        raise LaunchError("the requirements could not be installed; pip's message is above.")


if __name__ == "__main__":
    sys.exit(main())
