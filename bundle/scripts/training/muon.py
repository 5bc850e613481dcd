"""Training by orthogonalised momentum (Muon) where a parameter is a matrix, and by AdamW where it is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of s, s³ and s⁵ in the polynomial that an iteration takes of each singular value s (Jordan et al., 2024)."""
ITERATIONS = 5
"""As Jordan et al. (2024) have them."""
MOMENTUM = 0.95
"""Of the average of gradients, as Jordan et al. (2024) have it."""
UPDATE_RMS = 0.2
"""Root mean square of an update at learning rate 1, about that of AdamW's (Liu et al., 2025)."""
SMALLEST_SIDE = 8
"""Fewest rows and columns of a matrix that is orthogonalised: that of the networks' narrowest layers."""
LARGEST_KERNEL = 7
"""Most voxels along a side of a convolution's kernel; what is larger is no kernel, but a table such as of positions."""


class MuonWithAdamW(torch.optim.Optimizer):
    """
    Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks") for the weights of linear
    layers and convolutions, `torch.optim.AdamW` for all else: biases, norms, learned positions, layers with fewer than
    `SMALLEST_SIDE` inputs or outputs.

    Muon's step from a weight W, `(R, ...)`, by the gradient G, with μ = `MOMENTUM`, both flattened to R rows and C
    columns:

        M = μ M + (1 - μ) G
        W = (1 - lr · weight_decay) W - lr · UPDATE_RMS · sqrt(max(R, C)) · orthogonalised(μ M + (1 - μ) G)

    The factor gives the update the root mean square of AdamW's, so that one learning rate and one weight decay
    serve both (Liu et al., 2025, "Muon is Scalable for LLM Training", arXiv:2502.16982).

    `torch.optim.Muon` takes two-dimensional parameters alone and orthogonalises in bfloat16; here convolutions are
    flattened, and it is done in float32. The first and the last layer, which Jordan et al. leave to AdamW, are
    orthogonalised where their shape allows.

    There are two parameter groups, the matrices and the others, with the same learning rate and weight decay. Each
    step is a function of gradients and state alone, so that the processes of a distributed training stay the same.

    Args:
        params: what is trained; parameters, not groups of them.
        lr: the learning rate.
        weight_decay: decoupled, as AdamW's.

    Raises:
        ValueError: what AdamW raises: no parameters, or a negative learning rate or weight decay.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        parameters = list(params)
        defaults = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay).defaults
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        others = [parameter for parameter in parameters if not is_matrix(parameter)]
        super().__init__([{"params": matrices}, {"params": others}], {**defaults, "momentum": MOMENTUM})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; a `closure` computes the loss and the gradients before it, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices, others = self.param_groups
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                self._orthogonalised_step(parameter, parameter.grad, matrices)
        adamw = torch.optim.AdamW([others])  # anew, since what is loaded or copied has other groups and another state
        adamw.state = self.state
        adamw.step()
        return loss

    def _orthogonalised_step(self, weight: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[weight], group["momentum"]
        if not state:
            state["average"] = torch.zeros_like(weight)
        average = state["average"].lerp_(gradient, 1 - momentum)
        matrix = gradient.lerp(average, momentum).flatten(1)
        update = orthogonalised(matrix.float()).to(weight.dtype).view(weight.shape)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * UPDATE_RMS * max(matrix.shape) ** 0.5)


def is_matrix(parameter: torch.Tensor) -> bool:
    """
    Whether a parameter is orthogonalised: two or more dimensions, of which those from the third on are a kernel's, and
    at least `SMALLEST_SIDE` rows and columns, flattened. Learned positions `(D, H, W, C)` are no such matrix, since C
    is no kernel's side; a table of two dimensions cannot be told from a layer's weight.
    """
    if parameter.ndim < 2 or any(side > LARGEST_KERNEL for side in parameter.shape[2:]):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= SMALLEST_SIDE


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """
    The matrix with its own singular vectors and singular values of about 1, between 0.68 and 1.21, by Newton-Schulz
    iterations of a quintic polynomial (Jordan et al., 2024). Singular values below 0.0015 of the matrix's Frobenius
    norm become smaller ones; a matrix of zeros stays as it is.

    Args:
        matrix: `(R, C)`, in the precision in which it is computed.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if is_tall else matrix
    wide = wide / wide.norm().clamp_min(torch.finfo(wide.dtype).tiny)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.T if is_tall else wide).contiguous()
