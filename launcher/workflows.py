"""The lines that run the bundle's workflows and scripts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import places
from .computing import Computing
from .failures import LaunchError
from .from_bundle import config_text, shared_overlay
from .processes import run
from .tracebacks import remove_log

PACKAGES = "PyTorch and MONAI"


def run_workflow(
    workflow: str, configs: list[Path], output: Path, computing: Computing = Computing(), **overrides: Path | str
) -> None:
    """
    Runs one `monai.bundle run` line from the repository root.

    Args:
        workflow: id of what is run.
        configs: merged in this order.
        output: gets the `error.log` of a run that fails.
        computing: where it computes.
        overrides: values of config ids.

    Raises:
        LaunchError: with the bundle's own message where it has one.
    """
    names = [config.as_posix() for config in configs]
    line = ["-m", "monai.bundle", "run", workflow, "--config_file", str(names) if len(names) > 1 else names[0]]
    line += ["--bundle_root", places.BUNDLE.as_posix()]
    if computing.device is not None:
        overrides["device"] = f"$scripts.devices.choose_device('{computing.device}')"
    line += [part for name, value in overrides.items() for part in (f"--{name}", as_config_value(value))]
    if computing.gpus > 1:
        line = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={computing.gpus}", *line]
    error_log = output / "error.log"
    remove_log(error_log)
    command, shown_as = [str(places.PYTHON), *line], config_text.as_typed(["python", *line])
    trusted = {"PYTHONWARNINGS": without_warning_of_configs()} if all(map(is_trusted, configs)) else {}
    status = run(command, shown_as, error_log, computing=computing, loads=PACKAGES, further=trusted)
    if status != 0:
        raise LaunchError(f"the command above ended with status {status}.")


def run_script(module: str, *arguments: str) -> None:
    """Runs one of the bundle's scripts that have a command line, from the bundle's folder."""
    line = ["-m", module, *arguments]
    command, shown_as = [str(places.PYTHON), *line], f"cd {places.BUNDLE} && {config_text.as_typed(['python', *line])}"
    status = run(command, shown_as, folder=places.ROOT / places.BUNDLE, loads=PACKAGES)
    if status != 0:
        raise LaunchError(f"the command above ended with status {status}; its message is above.")


def run_on_dask(address: str, shards: int) -> None:
    """Runs this command line once for each shard on the workers of a Dask cluster, where it lies as it does here."""
    own = without_options(sys.argv[1:], "--dask", "--shards")
    line = [sys.executable, str(places.ROOT / "launch.py"), *own]
    run_script("scripts.on_dask", "--folder", Path.cwd().as_posix(), address, str(shards), *line)


def without_options(line: list[str], *names: str) -> list[str]:
    """A command line without some options and their values."""
    left, is_value = [], False
    for word in line:
        if not is_value and not word.startswith(tuple(f"{name}=" for name in names)) and word not in names:
            left.append(word)
        is_value = word in names
    return left


def is_trusted(config: Path) -> bool:
    """Whether a config is the bundle's own, or holds the numbers and words alone that a sidecar of weights may hold."""
    if (places.ROOT / config).resolve().is_relative_to(places.ROOT / places.CONFIGS):
        return True
    try:
        shared_overlay.read_shared_overlay(config)
    except ValueError:
        return False
    return True


def without_warning_of_configs() -> str:
    """Python's warnings as the user has set them, without MONAI's that a config of others can run any code."""
    own = "ignore:parsing config_file:UserWarning:monai.bundle.scripts"
    return ",".join(filter(None, (own, os.environ.get("PYTHONWARNINGS"))))


def as_config_value(value: Path | str) -> str:
    """
    A value of a config id as MONAI's parser reads it: a path in which it would take a letter for a sign of its own,
    such as `run#1`, stands as the expression of a Python text that has these letters as `$'run\\x231'`.
    """
    if not isinstance(value, Path):
        return value
    text = value.as_posix()
    return config_text.as_literal(text) if set(text) & set(config_text.SIGNS) else text
