"""The bundle's workflows, run as a user runs them, at sizes that take seconds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from scripts.io.stage_overlays import configs_of
from warm_python import warm_python

ROOT = Path(__file__).resolve().parents[1]

OVERLAY = {
    "epochs": 2,
    "learning_rate": 0.01,
    "batch_size": 2,
    "repeats": 2,
    "num_workers": 0,
    "device": "$torch.device('cpu')",
    "vgg_weights": "untrained",
    "vgg_fraction": 0.05,
    "geometry#detector_pixels": 128,
    "network_def#tokens": 4,
    "network_def#num_layers": [1, 1, 1],
    "network_def#num_heads": [2, 2, 2],
    "network_def#hidden_size": 16,
    "network_def#mlp_dim": 32,
    "network_def#feature_channels": [8, 8, 8],
    "network_def#encoder_channels": [8, 16],
    "network_def#context_size": 16,
    "network_def#context_channels": [8, 8, 8],
    "network_def#local_channels": [8, 8, 4],
    "network_def#detail_channels": 4,
}
"""The configuration of the `small_cascade`: a cascade of 16, 32 and 64 voxels."""


def network_of(bundle: Path) -> torch.nn.Module:
    """The network of a bundle's `inference.json`, without its weights."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    return parser.get_parsed_content("network_def").eval()


def write_random_weights(path: Path, overlay: Path) -> Path:
    """Weights of the network of `inference.json` at the sizes of an overlay, as they are drawn; their path."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundle" / "configs" / "inference.json"), str(overlay)])
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), path)
    return path


def stage_configs(stage: int, *further: Path) -> list[str]:
    """The config files of one stage, from the folder that holds the bundle."""
    own = [] if stage == 1 else [f"bundle/configs/stage{stage}.json"]
    return [
        "bundle/configs/train.json",
        *own,
        *(str(path) for each in further for path in configs_of(Path(each), stage)),
    ]


def read_configs(configs: list[str], **overrides: str) -> ConfigParser:
    """The merged configs, nothing evaluated yet."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / config) for config in configs])
    parser.update({"bundle_root": str(ROOT / "bundle"), **overrides})
    return parser


def bundle_run(
    workflow: str, configs: list[str], processes: int = 1, restarts: int = 0, **overrides: Any
) -> subprocess.CompletedProcess:
    """
    One `python -m monai.bundle run` line, run from the folder that holds the bundle by :func:`warm_python`, for several
    processes under `torchrun`; its output is in `stdout`. With restarts the processes are `torchrun`'s own, which sees
    by what signal one has ended.
    """
    python = sys.executable if restarts else warm_python()
    line = [python, "-m", "monai.bundle", "run", workflow, "--config_file", str(configs), "--bundle_root", "bundle"]
    line += [part for name, value in overrides.items() for part in (f"--{name}", str(value))]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--no-python", f"--nproc_per_node={processes}"]
        line = [sys.executable, *torchrun, f"--max-restarts={restarts}", *line]
    environment = {"OMP_NUM_THREADS": str(max(1, 2 // processes)), **os.environ, "PYTHONIOENCODING": "utf-8"}
    environment["PYTHONFAULTHANDLER"] = "1"  # a process that aborts says where
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    return subprocess.run(line, cwd=ROOT, env=environment, **output)


def pasted(line: str) -> subprocess.CompletedProcess:
    """A line that was printed, run by a shell with :func:`warm_python` in the repository root; output in `stdout`."""
    python = shlex.quote(str(warm_python()))
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "PYTHONIOENCODING": "utf-8"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    return subprocess.run(line.replace("python ", f"{python} ", 1), shell=True, cwd=ROOT, env=environment, **output)


def next_line(printed: str) -> str:
    """The line that a training has printed as the one that comes next."""
    (line,) = re.findall(r"^Next: (.*)$", printed, re.M)
    return line


def cause_of(error: BaseException, kind: type[Exception]) -> str:
    """The message of the error of this kind that led to another: the workflow engine wraps what is raised in it."""
    while not isinstance(error, kind):
        assert error.__cause__ is not None, f"no {kind.__name__} led to {error!r}"
        error = error.__cause__
    return str(error)


def bundle_run_here(workflow: str, configs: list[str], **overrides: Any) -> ConfigWorkflow:
    """The same in this process, for what is quick; returns the workflow after its run."""
    paths = [str(ROOT / config) for config in configs]
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in overrides.items()}
    run = ConfigWorkflow(paths, logging_file=False, run_id=workflow, bundle_root=str(ROOT / "bundle"), **texts)
    run.initialize()
    run.run()
    return run
