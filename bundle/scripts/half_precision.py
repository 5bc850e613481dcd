"""
Writes the weights of a training in half precision, as they are shipped, from the bundle's folder:

    python -m scripts.half_precision OUT/stage3_best.pth models/model.pt

The same weights become the same bytes. They are loaded as any others: the network stays in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from .data.known_views import read_known_views, read_view_dropout, write_known_views
from .data.met_records import read_met_records, write_met_records
from .errors import CheckpointError, OutputError
from .io.atomic_write import write_checkpoint
from .training.checkpoints import read_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 when the weights cannot be read, rounded or written."""
    options = _parse(arguments)
    try:
        write_half_precision(options.weights, options.output)
    except (CheckpointError, OutputError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


def write_half_precision(weights: str, output: str) -> None:
    """
    Writes :func:`in_half_precision` of a checkpoint, whole or not at all, with a copy of the sidecars of known views
    and met records where they are there; prints its size and the largest rounding.

    Args:
        weights: a flat state dict, as training writes it.
        output: where to.

    Raises:
        CheckpointError: when the file cannot be read, or holds what half precision cannot.
        OutputError: when the result cannot be written.
    """
    state = read_checkpoint(weights)
    rounded = in_half_precision(state, weights)
    views, met = read_known_views(weights), read_met_records(weights)
    write_checkpoint(output, rounded)
    if views is not None:
        write_known_views(output, views, read_view_dropout(weights))
    if met is not None:
        write_met_records(output, met)
    error = max((rounded[name].double() - state[name].double()).abs().max().item() for name in state)
    size = os.path.getsize(output) / 1e6
    print(f"Wrote {output}: {len(rounded)} tensors, {size:.1f} MB; no value has changed by more than {error:.1e}.")


def in_half_precision(state: Any, source: str) -> dict[str, torch.Tensor]:
    """
    A flat state dict, its floating tensors rounded to float16, each in C order; others as they are.

    Args:
        state: the state dict.
        source: what an error calls it.

    Raises:
        CheckpointError: when it is no flat state dict of tensors that hold values, or a value is not finite, or its
            magnitude is above float16's largest, 65504.
    """
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{source}: holds a {type(state).__name__}, expected a flat state dict of tensors.")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{source}: '{name}' is a {type(tensor).__name__}, expected a tensor.")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            largest = state[name].abs().max().item()
            raise CheckpointError(
                f"{source}: '{name}' holds a magnitude of {largest:g}, expected finite values of at most "
                f"{torch.finfo(torch.half).max:g}. Ship these weights as they are, or train them anew."
            )
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in halves.items()}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    prog, formatter = "python -m scripts.half_precision", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=formatter)
    parser.add_argument("weights", metavar="WEIGHTS", help="a checkpoint of a training, such as OUT/stage3_best.pth")
    parser.add_argument("output", metavar="OUTPUT", help="where to write, such as models/model.pt")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
