"""The command line: verbs and their options, and what is refused before any work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from . import places, verbs
from .computing import Computing
from .failures import LaunchError

OVERLAY = "a config that changes ids of train.json, or a folder with all.json, stage1.json, stage2.json, stage3.json"


def parse_arguments(description: str) -> argparse.Namespace:
    """What the command line says; ends the process with a usage line when that makes no sense."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = parser.add_subparsers(required=True, metavar="VERB")
    for name, (summary, add_options) in VERBS.items():
        verb = choices.add_parser(name, help=summary)
        add_options(verb)
        verb.set_defaults(verb=getattr(verbs, name), verbs=[name])
    arguments, further = parser.parse_known_args()
    if further and arguments.verb is not verbs.test:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    arguments.pytest = further
    return arguments


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Makes the paths whole, gathers what says where to compute as `computing`, and refuses, before any work, what would
    go wrong later or be read otherwise.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, Path):
            path = Path(os.path.abspath(value))  # a link says by its name what it leads to, as in a cache
            if not str(path).isprintable():
                raise LaunchError(
                    f"--{name} {str(path)!r}: holds a character that cannot be printed, expected a path without one. "
                    f"Rename it, or choose another."
                )
            setattr(arguments, name, path)
    if not 1 <= getattr(arguments, "port", 1) <= 65535:
        raise LaunchError(f"--port {arguments.port}: expected a number from 1 to 65535.")
    if not 0 <= (getattr(arguments, "view_dropout", None) or 0) <= 1:
        raise LaunchError(f"--view_dropout {arguments.view_dropout:g}: expected a probability from 0 to 1.")
    if bool(getattr(arguments, "dask", None)) != bool(getattr(arguments, "shards", None)):
        raise LaunchError("--dask ADDRESS and --shards N go together: where to run how many parts.")
    given = {name: getattr(arguments, name) for name in ("device", "threads", "gpus") if hasattr(arguments, name)}
    arguments.computing = Computing(**given)


def _add_to_demo(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--output", type=Path, default=places.ROOT / "output" / "demo", metavar="DIR")
    short = verb.add_mutually_exclusive_group()
    short.add_argument("--train", action="store_true", default=None, help="train the small cascade without being asked")
    short.add_argument("--no-train", dest="train", action="store_false", help="do not ask and do not train")
    _add_computing(verb)


def _add_to_fetch(verb: argparse.ArgumentParser) -> None:
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("collection", nargs="?", metavar="COLLECTION", help="CTs of LIDC-IDRI, or by an index of another")
    what.add_argument("--pairs", action="store_true", help="LIDC-IDRI's patients with radiographs and a CT, 19 GB")
    what.add_argument("--manifest", type=Path, metavar="FILE", help="series of another collection, in that form")
    verb.add_argument("--dir", type=Path, required=True, metavar="DIR", help="gets a folder for each patient")
    verb.add_argument("--patients", metavar="N", help="the first N, or all; of pairs whom no weights have met")
    verb.add_argument("--dry-run", action="store_true", help="say how many bytes that is, and fetch nothing")
    verb.add_argument("--any-licence", action="store_true", help="also a COLLECTION that is neither CC BY nor CC0")
    verb.add_argument("--address", metavar="URL", help="of a mirror of the public bucket")


def _add_to_datalist(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("dataset_dir", type=Path, metavar="DIR", help="holds the studies")
    mode = verb.add_mutually_exclusive_group()
    mode.add_argument("--overwrite", action="store_true", help="replace a datalist that is there")
    mode.add_argument("--check", action="store_true", help="load every record of the datalist instead of writing one")


def _add_to_register(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--dataset_dir", type=Path, required=True, metavar="DIR", help="holds the CTs")
    verb.add_argument("--datalist", type=Path, metavar="FILE", help="default: DIR/datalist.json; paths start at DIR")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets a file for each training CT")
    _add_computing(verb)


def _add_to_preprocess(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("dataset_dir", type=Path, metavar="DIR", help="holds datalist.json and its CTs")
    verb.add_argument("--output", type=Path, metavar="CUBES", help="gets the dataset of cubes; default: DIR_cubes")
    verb.add_argument("--overlay", type=Path, metavar="FILE", help=f"of the training: {OVERLAY}")
    _add_shards(verb)
    _add_computing(verb)


def _add_to_train(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--stage", choices=["1", "2", "3", "all"], default="all")
    verb.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, one for each GPU")
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--overlay", type=Path, metavar="FILE", help=OVERLAY)
    tiny, summary = places.CONFIGS / "tiny.json", "small sizes and a short schedule, to try things out: --overlay"
    is_chosen = {"action": "store_const", "const": places.ROOT / tiny, "help": f"{summary} {tiny.as_posix()}"}
    what.add_argument("--tiny", dest="overlay", **is_chosen)
    verb.add_argument("--from", type=Path, metavar="WEIGHTS", help="each stage starts from its part of these weights")
    verb.add_argument(
        "--view_dropout", type=float, metavar="P", help="mask one X-ray of P of the samples: weights for one view too"
    )
    verb.add_argument("--anatomy", action="store_true", help="stages 2 and 3 learn from other patients' bodies as well")
    verb.add_argument("--dataset_dir", type=Path, metavar="DIR", help="holds datalist.json; default: the demo's CT")
    verb.add_argument("--shapes_dir", type=Path, metavar="DIR", help="what `register` has written, to train on")
    verb.add_argument("--output", type=Path, default=places.ROOT / "output" / "train", metavar="DIR")
    _add_computing(verb)


def _add_to_atlas(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--dataset_dir", type=Path, required=True, metavar="DIR", help="holds datalist.json and its CTs")
    verb.add_argument("--datalist", type=Path, metavar="FILE", help="default: DIR/datalist.json; paths start at DIR")
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE", help="what it comes next to")
    verb.add_argument("--cts", type=int, metavar="K", help="how many CTs at most, one of each patient; default: 24")
    _add_computing(verb)


def _add_to_infer(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--frontal", type=Path, metavar="FILE")
    verb.add_argument("--lateral", type=Path, metavar="FILE")
    verb.add_argument("--pairs", type=Path, metavar="DIR|CSV", help="all pairs of a folder of studies, or of a table")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR")
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE")
    verb.add_argument("--dicom", action="store_true", help="write a DICOM CT series as well, which names nobody")
    verb.add_argument("--copy-patient", action="store_true", help="let it name the patient of the frontal DICOM file")
    verb.add_argument("--uncertainty", action="store_true", help="add each voxel's uncertainty")
    _add_computing(verb)


def _add_to_assess(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--frontal", type=Path, metavar="FILE")
    verb.add_argument("--lateral", type=Path, metavar="FILE")
    verb.add_argument("--pairs", type=Path, metavar="DIR|CSV", help="all pairs of a folder of studies, or of a table")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR")
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE")
    _add_computing(verb)


def _add_to_evaluate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--dataset_dir", type=Path, required=True, metavar="DIR", help="without a datalist all CTs count")
    verb.add_argument("--datalist", type=Path, metavar="FILE", help="default: DIR/datalist.json; paths start at DIR")
    verb.add_argument("--section", choices=["test", "validation"], default="test", help="of the datalist")
    verb.add_argument("--only", choices=["frontal", "lateral"], help="score with that X-ray alone, the other masked")
    verb.add_argument("--output", type=Path, default=places.ROOT / "output" / "evaluate", metavar="DIR")
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE")
    verb.add_argument("--gpus", type=int, default=1, metavar="N", help="processes, one for each GPU")
    other = verb.add_mutually_exclusive_group()
    other.add_argument("--protocol", choices=["x2ct"], help="score by the protocol of X2CT-GAN, as in publications")
    other.add_argument(
        "--robustness", action="store_true", help="score perturbed X-rays, of which the network is not told all"
    )
    other.add_argument("--lesions", action="store_true", help="plant balls in the lungs and score what is kept of them")
    other.add_argument("--pairs", action="store_true", help="score real radiographs against a CT in another posture")
    verb.add_argument("--predictions", type=Path, metavar="DIR", help="volumes of another system to score by --pairs")
    verb.add_argument("--stop_after", type=int, choices=[1, 2, 3], metavar="N", help="the last stage of --robustness")
    part = _add_shards(verb)
    part.add_argument("--merge", action="store_true", help="make the tables of all cases of what the shards have left")
    _add_computing(verb)


def _add_to_package(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--output", type=Path, required=True, metavar="DIR")
    verb.add_argument("--without-weights", action="store_true", help="leave bundle/models/model.pt out")
    verb.add_argument("--large-files-url", metavar="URL", help="where files above 25 MB will lie: {version}, {path}")


def _add_to_publish(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--hub", required=True, metavar="OWNER/NAME", help="repository on the Hugging Face Hub")
    verb.add_argument(
        "--yes", action="store_true", help="upload; without it say what would be sent, and what is missing"
    )
    verb.add_argument("--public", action="store_true", help="let everybody see a repository that is made")


def _add_to_label(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--studies", type=Path, required=True, metavar="DIR", help="holds X-rays, and CTs to train on")
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE")
    verb.add_argument("--overlay", type=Path, metavar="FILE", help=OVERLAY)
    verb.add_argument("--host", default="127.0.0.1", help="who may ask; any host but this machine needs --token-file")
    verb.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that every request has to bring")
    verb.add_argument("--port", type=int, default=8000)
    _add_computing(verb)


def _add_to_node(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--aet", required=True, metavar="NAME", help="AE title of the node")
    verb.add_argument("--port", type=int, required=True)
    verb.add_argument(
        "--host", default="127.0.0.1", help="where it listens; beyond this machine each --allow has a HOST"
    )
    verb.add_argument("--allow", nargs="+", required=True, metavar="AET[=HOST]", help="who may send")
    verb.add_argument("--store", required=True, metavar="AET@HOST:PORT", help="who gets the results")
    verb.add_argument("--queue", type=Path, required=True, metavar="DIR", help="holds what waits, and what has failed")
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE")
    verb.add_argument(
        "--quiet", type=float, default=30.0, metavar="S", help="a study is complete after so long; %(default)g"
    )
    verb.add_argument(
        "--retry", type=float, default=60.0, metavar="S", help="before results are sent again; %(default)g"
    )
    verb.add_argument("--most-objects", type=int, default=2000, metavar="N", help="in the queue; %(default)d")
    verb.add_argument("--most-gib", type=float, default=50.0, metavar="N", help="of the queue; %(default)g")
    _add_computing(verb)


def _add_to_page(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--weights", type=Path, default=places.WEIGHTS, metavar="FILE")
    verb.add_argument("--host", default="127.0.0.1", help="a name of this machine for itself; no other is taken")
    verb.add_argument("--port", type=int, default=7860, help="default: %(default)d")
    _add_computing(verb)


def _add_to_install(verb: argparse.ArgumentParser) -> None:
    others = [name for name in VERBS if name != "install"]
    verb.add_argument("verbs", nargs="+", choices=others, metavar="VERB", help=f"of {', '.join(others)}")


def _add_shards(verb: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """The options of a verb whose records may be dealt out to several machines; what more there is to choose from."""
    part = verb.add_mutually_exclusive_group()
    part.add_argument("--shard", metavar="I/N", help="the Ith of N parts alone, such as 1/8 to 8/8")
    part.add_argument("--dask", metavar="ADDRESS", help="run --shards N parts on the workers of a Dask scheduler")
    verb.add_argument("--shards", type=int, metavar="N", help="how many parts, with --dask")
    return part


def _add_computing(verb: argparse.ArgumentParser) -> None:
    """The options of a verb that computes."""
    verb.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps, xpu; default: a GPU where there is one")
    verb.add_argument("--threads", type=int, metavar="N", help="of the CPU, for each process; default: all cores")


VERBS = {
    "demo": ("reconstruct a real chest CT by the shipped weights; then a short training", _add_to_demo),
    "test": ("run the tests; further arguments go to pytest, --without-label among them", lambda verb: None),
    "fetch": ("fetch public CTs, or radiographs and CTs; the same command goes on after a stop", _add_to_fetch),
    "datalist": ("write DIR/datalist.json from the studies in DIR, or check it", _add_to_datalist),
    "register": ("register the training CTs to each other; the same command goes on after a stop", _add_to_register),
    "preprocess": ("make the cubes that CTs are read as, once; the same command goes on", _add_to_preprocess),
    "train": ("train one stage, or all three in turn; the same command goes on after a stop", _add_to_train),
    "atlas": ("put CTs of the training section next to weights that read other patients' bodies", _add_to_atlas),
    "infer": ("reconstruct a CT from two X-rays, or one, or from each pair of a folder or a table", _add_to_infer),
    "assess": ("reconstruct a CT from two X-rays and say, without a CT, how far to trust it", _add_to_assess),
    "evaluate": ("score weights on the CTs of a folder, or on a section of its datalist", _add_to_evaluate),
    "package": ("pack the bundle for a model zoo, with its SHA-256", _add_to_package),
    "publish": ("say what of the bundle would go to the Hugging Face Hub; --yes uploads it", _add_to_publish),
    "label": ("serve a folder of studies by MONAI Label", _add_to_label),
    "node": ("reconstruct what is sent by DICOM, and store the results", _add_to_node),
    "page": ("a page on this machine to try it: two radiographs in, the report out", _add_to_page),
    "install": ("make what these verbs need, and run none of them", _add_to_install),
}
"""Each verb of :mod:`verbs`, its summary in the help, and what adds its options."""
