"""
The memory and the arithmetic of a piece of work that is planned and not done: its tensors have shapes and no values.

What no plan holds: the workspaces of cuDNN and of the allocator, and the CUDA context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from scripts import BiplanarGeometry
from scripts.projection import axis_aligned

Work = Callable[[], object]


class Plan(NamedTuple):
    """What a piece of work takes."""

    peak_bytes: int
    """Parameters, gradients, optimizer and inputs included."""
    flops: int
    """Of convolutions, matrix products and attention, two for each multiply-add; not of lifts and interpolation."""


def plan(modules: Sequence[nn.Module], work_on: Callable[..., Work]) -> Plan:
    """
    Plans one call of what `work_on` returns for copies of the modules without values.

    Args:
        modules: real ones; they are not changed.
        work_on: takes the copies, makes inputs and optimizer, and returns the work. It may be called once only.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        copies = [deepcopy(module) for module in modules]
    with mode, _numbers_that_are_real():
        work = work_on(*copies)
        tracker, counter = _PeakTracker(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        tracker.track_external(*copies, *(leaf for leaf in tree_leaves(vars(work)) if isinstance(leaf, torch.Tensor)))
        with tracker, counter:
            work()
    return Plan(sum(of["Total"] for of in tracker.get_tracker_snapshot("peak").values()), counter.get_total_flops())


class _PeakTracker(MemTracker):
    """Without the statistics by module, which refuse frozen parameters and modules that are called twice."""

    def _pre_fw_hook(self, *arguments) -> None:
        pass

    _post_fw_hook = _pre_bw_hook = _post_bw_hook = _pre_fw_hook


@contextmanager
def _numbers_that_are_real() -> Iterator[None]:
    """
    Computes what decides about shapes, the geometry's checks and the tables of weights, with values; the values that
    losses and optimizer read are ones. Lifts work in the steps of a GPU, which are fewer and larger.
    """
    with (
        patch.object(BiplanarGeometry, "__post_init__", _outside(BiplanarGeometry.__post_init__)),
        patch.object(BiplanarGeometry, "is_along_axes", property(_outside(BiplanarGeometry.is_along_axes.fget))),
        patch.object(axis_aligned, "_weights", _real_weights),
        patch.dict(axis_aligned.WORKING_SET, cpu=axis_aligned.WORKING_SET["gpu"]),
        patch.object(torch.Tensor, "item", lambda self: 1.0),
    ):
        yield


def _outside(function: Callable) -> Callable:
    def with_values(*arguments):
        with unset_fake_temporarily():
            return function(*arguments)

    return with_values


def _real_weights(geometry, region, pixels, like, interpolate_voxels, compute=axis_aligned._weights):
    with unset_fake_temporarily():
        weights = compute(geometry, region, pixels, torch.empty(0, dtype=like.dtype), interpolate_voxels)
    return tree_map_only(torch.Tensor, torch.clone, weights)


def _attention_flops(query, key, value, *rest, out_shape=None, **options) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient, query, key, value, *rest, out_shape=None, **options) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""The counter knows the attention of a GPU only."""
