"""Batch entries of different kinds, each kind computed by itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .geometry import BiplanarGeometry


def by_kind(
    kinds: Sequence[Hashable],
    compute: Callable[..., Sequence[Tensor]],
    geometry: BiplanarGeometry,
    *tensors: Tensor,
) -> Sequence[Tensor]:
    """
    `compute(geometry, *tensors)`, once for the entries of each kind, which go together.

    Args:
        kinds: of each batch entry, or one for all.
        compute: returns tensors that have the entries along their first axis.
        geometry: of the batch.
        tensors: with the entries along their first axis.

    Returns:
        What `compute` returns, the entries in their order.
    """
    if len(set(kinds)) == 1:
        return compute(geometry, *tensors)
    groups: dict[Hashable, list[int]] = {}
    for entry, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(entry)
    parts = [compute(geometry.select(group), *(tensor[group] for tensor in tensors)) for group in groups.values()]
    order = [entry for group in groups.values() for entry in group]
    places = sorted(range(len(order)), key=order.__getitem__)
    return [torch.cat(of_kinds)[places] for of_kinds in zip(*parts)]
