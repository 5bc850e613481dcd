"""The commands that come before and after a training: the line that runs this process, with another stage."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ..io import stage_overlays
from ..io.config_text import as_typed
from ..projection.imaging import NUMBER_OF_STAGES

TRAIN = "train.json"
EVALUATE = "evaluate.json"
OF_OTHER_WORKFLOWS = {EVALUATE, "uncertainty.json", "familiarity.json"}
OF_SEVERAL_PROCESSES = "multi_gpu_train.json"
OF_OVERLAYS = {stage_overlays.ALL, *map(stage_overlays.OF_STAGE.format, stage_overlays.STAGES)}


@dataclass(frozen=True)
class RunLine:
    """
    A line `python -m monai.bundle run ...` or, with several processes on one machine, one of `torchrun`.

    Args:
        configs: config files, `train.json` among them, as they were named.
        options: the other options, the values of config ids, as texts.
        processes: how many take part.
    """

    configs: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    processes: int = 1

    def of_training(self, stage: int) -> RunLine:
        """The same line with the configs of the training of a stage."""
        own = [stage_overlays.OF_STAGE.format(stage)] if stage > 1 else []
        return replace(self, configs=self._with_own(own, stage))

    def of_evaluation(self, output_dir: str) -> RunLine:
        """The same line with the configs of the evaluation, whose results go to `output_dir`."""
        configs = self._with_own([EVALUATE], NUMBER_OF_STAGES)
        kept = tuple(config for config in configs if PurePath(config).name != OF_SEVERAL_PROCESSES)
        options = {**dict(self.options), "output_dir": output_dir}
        return replace(self, configs=kept, options=tuple(options.items()))

    def typed(self, workflow: str) -> str:
        """As one would type it."""
        configs = str(list(self.configs)) if len(self.configs) > 1 else self.configs[0]
        python = (
            ["python"] if self.processes == 1 else ["torchrun", "--standalone", f"--nproc_per_node={self.processes}"]
        )
        line = [*python, "-m", "monai.bundle", "run", workflow, "--config_file", configs]
        return as_typed([*line, *(part for name, value in self.options for part in (f"--{name}", value))])

    def _with_own(self, names: list[str], stage: int) -> tuple[str, ...]:
        """The configs with these of the bundle in place of a stage's, and with each overlay's for this stage."""
        bundle = next(PurePath(config).parent for config in self.configs if PurePath(config).name == TRAIN)
        found: dict[str, None] = {}  # an ordered set: the configs of an overlay's folder come together
        for config in self.configs:
            folder, name = PurePath(config).parent, PurePath(config).name
            if name == TRAIN:
                found |= dict.fromkeys([config, *((folder / own).as_posix() for own in names)])
            elif name not in OF_OVERLAYS:
                found[config] = None
            elif folder != bundle:
                found |= dict.fromkeys(_of_stage(config, stage))
        return tuple(found)


def _of_stage(config: str, stage: int) -> list[str]:
    """The configs for a stage in the folder of an overlay's config; this one alone where no overlay's folder has it."""
    try:
        found = stage_overlays.configs_of(Path(config).parent, stage)
    except ValueError:
        return [config]
    return [path.as_posix() for path in found]


def this_line(arguments: Sequence[str] | None = None) -> RunLine | None:
    """
    The line that runs this process; None where that is no `monai.bundle run` of a training, or takes several machines.

    Args:
        arguments: those of the process, by default its own.
    """
    program, *given = sys.argv if arguments is None else arguments
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if PurePath(program).parts[-3:] != ("monai", "bundle", "__main__.py") or given[:1] != ["run"]:
        return None
    options = dict(_options(given[1:]))
    configs = _configs(options.pop("config_file", ""))
    names = {PurePath(config).name for config in configs}
    is_one_machine = processes == int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not is_one_machine or TRAIN not in names or names & OF_OTHER_WORKFLOWS:
        return None
    return RunLine(configs, tuple((name, value) for name, value in options.items() if name != "run_id"), processes)


def training_command(stage: int, ckpt_dir: str) -> str:
    """
    The command that trains a stage and leaves its checkpoint in `ckpt_dir`: :func:`this_line` with that stage, else the
    general one, from the folder that holds the bundle.
    """
    line = this_line()
    if line is not None:
        options = {**dict(line.options), "ckpt_dir": ckpt_dir}
        return replace(line.of_training(stage), options=tuple(options.items())).typed("training")
    overlay = "" if stage == 1 else f", 'bundle/configs/stage{stage}.json'"
    configs = f"\"['bundle/configs/{TRAIN}'{overlay}]\""
    general = f"python -m monai.bundle run training --config_file {configs} --bundle_root bundle --dataset_dir DIR"
    return f"{general} --ckpt_dir {ckpt_dir} (with the overlay configs of its sizes, if it has any)"


def following_command(stage: int, ckpt_dir: str) -> str | None:
    """The command that comes after the training of a stage, the next one's or the evaluation; None where unknown."""
    line = this_line()
    if line is None:
        return None
    if stage < NUMBER_OF_STAGES:
        return line.of_training(stage + 1).typed("training")
    return line.of_evaluation(str(Path(ckpt_dir) / "evaluation")).typed("run")


def _options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of `--name value`, `--name=value` and `--name`, which `fire` takes for true."""
    found, index = [], 0
    while index < len(arguments):
        name, has_value, value = arguments[index].removeprefix("--").partition("=")
        if arguments[index].startswith("--"):
            if not has_value and index + 1 < len(arguments) and not arguments[index + 1].startswith("--"):
                index, value = index + 1, arguments[index + 1]
            found.append((name, value if has_value or value else "True"))
        index += 1
    return found


def _configs(value: str) -> tuple[str, ...]:
    """The files of `--config_file`, which is one path or a list of Python."""
    try:
        parsed = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return (value,)
    return tuple(map(str, parsed)) if isinstance(parsed, list | tuple) else (value,)
