"""Where a verb computes, and with how much of the machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from .failures import LaunchError
from .from_bundle import cores

DEVICE = re.compile(r"[a-z]+(:\d{1,3})?", re.ASCII)
MOST_GPUS = 1024


@dataclass(frozen=True)
class Computing:
    """
    What the user has chosen of where to compute; None for the default.

    Args:
        device: such as "cpu" or "cuda:1".
        threads: of the CPU, for each process.
        gpus: processes, one for each GPU.

    Raises:
        LaunchError: naming the option, when nothing can be computed so.
    """

    device: str | None = None
    threads: int | None = None
    gpus: int = 1

    def __post_init__(self) -> None:
        if self.device is not None and not DEVICE.fullmatch(self.device):
            raise LaunchError(f"--device {self.device!r}: expected a name such as cpu, cuda, cuda:1, mps or xpu.")
        if self.threads is not None and self.threads < 1:
            raise LaunchError(f"--threads {self.threads}: expected a number of at least 1.")
        if not 1 <= self.gpus <= MOST_GPUS:
            raise LaunchError(f"--gpus {self.gpus}: expected a number from 1 to {MOST_GPUS}.")
        if self.gpus > 1 and self.device is not None and ":" in self.device:
            raise LaunchError(
                f"--device {self.device}: expected cuda or cpu with --gpus {self.gpus}, one device a process."
            )

    def of_one_process(self) -> Computing:
        """The same for a run that is not shared out."""
        return replace(self, gpus=1)

    def options(self) -> list[str]:
        """The options of a verb that choose the same."""
        given = {"--device": self.device, "--threads": self.threads, "--gpus": self.gpus if self.gpus > 1 else None}
        return [part for name, value in given.items() if value is not None for part in (name, str(value))]

    def environment(self) -> dict[str, str]:
        """
        This process's environment with OpenMP's threads for each process, where neither the user nor an option says
        otherwise: the cores that this one may use, shared out. They sleep while they wait: by default they spin for a
        while, which on a machine with other work takes the cores from those that compute.
        """
        default = {"OMP_NUM_THREADS": str(cores.share_of_cores(self.gpus)), "OMP_WAIT_POLICY": "PASSIVE"}
        chosen = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return {**default, **os.environ, **chosen}
