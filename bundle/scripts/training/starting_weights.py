"""A stage's training starts from weights of an earlier training instead of random ones."""

from __future__ import annotations

import os
from collections.abc import Mapping

import ignite.distributed as idist
from torch import Tensor

from ..errors import CheckpointError
from ..networks.cascade import ProgressiveCascadeModel
from ..projection.imaging import NUMBER_OF_STAGES
from .checkpoints import read_checkpoint


def start_from(weights: str | None, network: ProgressiveCascadeModel, stage: int) -> None:
    """
    Loads a stage's own part of weights, whatever their precision; a training that goes on has its own in their place,
    see :class:`~scripts.Resume`. All of the file is compared with the network before anything is loaded, so that what
    a later stage could not start from is told before the first is trained. The stages before come from this training.

    MONAI's `CheckpointLoader` would load the stages before as well, or pass over what does not fit.

    Args:
        weights: a file of one, two or all stages; None leaves the network as it is.
        network: the whole cascade.
        stage: 1, 2 or 3, whose training is about to begin; one that the file does not hold is left as it is, and told.

    Raises:
        CheckpointError: when the file is missing or damaged, or a parameter is unknown, missing, of another shape, or
            not finite.
    """
    if weights is None:
        return
    if not os.path.isfile(weights):
        found = "is a folder" if os.path.isdir(weights) else "no such file"
        raise CheckpointError(f"{weights}: {found}, expected weights to start from, such as OUT/stage3_best.pth.")
    state = read_checkpoint(weights)
    _check(weights, state, network.state_dict())
    before = network.up_to(stage - 1).state_dict() if stage > 1 else {}
    part = network.up_to(stage)
    own = {name: state[name] for name in part.state_dict() if name in state and name not in before}
    if own:
        missing = part.load_state_dict({**before, **own}, strict=False).missing_keys
        if missing:
            raise CheckpointError(f"{weights}: lacks field '{missing[0]}' of stage {stage}. {_NEXT_STEP}")
    if idist.get_rank() == 0:
        print(f"Stage {stage} starts {f'from {weights}' if own else f'untrained: {weights} holds {_stages(state)}'}.")


_NEXT_STEP = (
    "A training starts from weights of its own sizes: choose the 'network_def' that they were trained with by the "
    "overlay.json that lay next to them, or train without them."
)


def _check(weights: str, state: object, expected: Mapping[str, Tensor]) -> None:
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{weights}: holds no flat state dict of tensors, expected weights of a training.")
    for name, value in state.items():
        if name not in expected:
            raise CheckpointError(f"{weights}: field '{name}' is no parameter of this network. {_NEXT_STEP}")
        if value.shape != expected[name].shape:
            found, wanted = tuple(value.shape), tuple(expected[name].shape)
            raise CheckpointError(f"{weights}: field '{name}' has shape {found}, expected {wanted}. {_NEXT_STEP}")
        if not value.isfinite().all():
            raise CheckpointError(f"{weights}: field '{name}' holds values that are not finite. Take earlier weights.")


def _stages(state: Mapping[str, Tensor]) -> str:
    held = [stage for stage in range(1, NUMBER_OF_STAGES + 1) if any(f"stages.{stage - 1}." in name for name in state)]
    return f"stage{'s' if len(held) > 1 else ''} {' and '.join(map(str, held))} alone"
