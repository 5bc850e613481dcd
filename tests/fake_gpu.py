"""A GPU without a GPU: its tensors have a shape and a device but no values; those of the CPU next to them are real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from monai.data import MetaTensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


@contextmanager
def fake_gpu(has_float64: bool = True) -> Iterator[None]:
    """
    Lets PyTorch believe in a device `cuda`, by fake tensors for that device alone.

    An operation that mixes devices fails as it does on a GPU; so does NumPy on a tensor of the GPU, and float64 where
    the GPU has none, as Apple's. What is computed on the CPU is computed, so that records, files and figures are real.
    A value that is read from the GPU is 1, and a mask is full.

    So this finds where devices meet, and neither wrong numbers nor what kernels, autocast, memory and several processes
    do. Autograd's engine asks the driver: `backward` sets a gradient of ones for every parameter instead, and the
    backward passes of our own functions are to be called by themselves. MONAI's tensors lose their metadata on the
    way to the GPU.
    """

    def backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        if loss.device.type != "cuda":
            raise RuntimeError(f"the loss is on {loss.device}, expected cuda")
        pending, leaves = [loss.grad_fn], set()
        while pending:
            node = pending.pop()
            if node is None or node in leaves:
                continue
            leaves.add(node)
            if hasattr(node, "variable"):
                node.variable.grad = torch.ones_like(node.variable)
            pending += [following for following, _ in node.next_functions]

    with (
        patch.object(torch.Tensor, "backward", backward),
        patch("torch.utils.swap_tensors", lambda first, second: None),  # Module.to of a module that is used twice
        patch.object(MetaTensor, "__new__", staticmethod(_metadata_for_real_tensors)),
        _FakeGpuMode(has_float64),
    ):
        yield


class _FakeGpuMode(FakeTensorMode):
    def __init__(self, has_float64: bool) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.has_float64, self.depth = has_float64, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        goes_to_gpu = device is not None and torch.device(device).type != "cpu"
        if not goes_to_gpu and not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func in READ:
            return READ[func](*args, **kwargs)
        if func is aten._to_copy.default and device is not None and not goes_to_gpu:
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0].fill_(1)
        if func is aten.index.Tensor and any(index is not None and index.dtype == torch.bool for index in args[1]):
            return _at_full_mask(*args)
        self.depth += 1
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.depth -= 1
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        is_result = self.depth == 0  # not an intermediate one of how fake tensors are made
        if is_result and not self.has_float64 and any(t.is_cuda and t.dtype == torch.float64 for t in tensors):
            raise TypeError(f"{func}: this GPU has no float64")
        return result


def _at_full_mask(values: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
    (mask,) = indices
    if mask.device not in (values.device, torch.device("cpu")):
        raise RuntimeError(f"values on {values.device}, their mask on {mask.device}")
    return values.flatten(0, mask.ndim - 1)


def _metadata_for_real_tensors(kind: type, x: Any, *args: Any, made: Any = MetaTensor.__new__, **kwargs: Any) -> Any:
    """A tensor of MONAI's, or `x` itself where it is fake, which cannot become one."""
    return x if isinstance(x, FakeTensor) else made(kind, x, *args, **kwargs)


READ = {
    aten._local_scalar_dense.default: lambda values: torch.ones((), dtype=values.dtype).item(),
    aten.masked_select.default: lambda values, mask: values.expand(mask.shape).flatten(),
    aten.equal.default: lambda first, second: True,
    aten.is_nonzero.default: lambda values: True,
}
"""Operations that read values, and what they read."""
