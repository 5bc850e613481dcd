"""
Cross-attention from the tokens of a volume to the feature maps of two X-rays, and the transformer layer around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from monai.networks.blocks import CrossAttentionBlock, MLPBlock
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, scaled_dot_product_attention

from ..projection.geometry import BiplanarGeometry

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TOKENS_BY_COLUMN = ("b a y z c -> (b z a) y c", "b x a z c -> (b z a) x c")
"""For the frontal and the lateral view: one sequence for each token column along the view's axis."""
COLUMNS_TO_TOKENS = ("(b z a) y c -> b a y z c", "(b z a) x c -> b x a z c")


class BiplanarCrossAttention(nn.Module):
    """
    Cross-attention of volume tokens with each view's feature map, the outputs of the views added.

    In the "ray" form the tokens of one column, all of which the rays of one view cross, attend to the window of the
    feature map that is the column's footprint; the column's cone-beam drift is in the window. In the "dense" form every
    token attends to the whole map. Both forms have the same weights, those of MONAI's
    :class:`~monai.networks.blocks.CrossAttentionBlock`.

    The block's linear maps of keys and values are moved to the side of the queries and the outputs:
    `q (W f) = (q W) f`. The numbers are the same, and a map has far more pixels than a volume has tokens, each pixel in
    many windows, and fewer channels than a head.

    Args:
        hidden_size: width of a token.
        num_heads: attention heads.
        context_size: channels of the feature maps.
        attention: "ray" or "dense".

    Raises:
        ValueError: when `attention` is neither.
    """

    def __init__(self, hidden_size: int, num_heads: int, context_size: int, attention: str = "ray") -> None:
        super().__init__()
        if attention not in ("ray", "dense"):
            raise ValueError(f"attention is {attention!r}, expected 'ray' or 'dense'.")
        self.is_dense = attention == "dense"
        self.block = CrossAttentionBlock(
            hidden_size, num_heads, context_input_size=context_size, use_flash_attention=True
        )

    def forward(
        self,
        tokens: Float[Tensor, "B N N N hidden_size"],
        context: Float[Tensor, "B V H W context_size"],
        windows: Int[Tensor, "N K"],
    ) -> Float[Tensor, "B N N N hidden_size"]:
        """
        Args:
            tokens: those of the volume, along X, Y, Z.
            context: each view's feature map.
            windows: pixel indices from :func:`ray_windows`; not read in the dense form.

        Returns:
            The sum of both views' attention outputs for each token.
        """
        return self.of_keys(tokens, key_sequences(context, None if self.is_dense else windows))

    def of_keys(
        self, tokens: Float[Tensor, "B N N N hidden_size"], keys: Sequence[Float[Tensor, "M L context_size"] | None]
    ) -> Float[Tensor, "B N N N hidden_size"]:
        """
        The output of :meth:`forward`, from what :func:`key_sequences` returns, which all layers share. A view with None
        in the place of its keys is masked: nothing attends to it.
        """
        attend = self._attend_to_map if self.is_dense else self._attend_to_windows
        of_views = (attend(tokens, of_view, view) for view, of_view in enumerate(keys) if of_view is not None)
        return reduce(torch.add, of_views)

    def _attend_to_map(self, tokens: Tensor, keys: Tensor, view: int) -> Tensor:
        return self.attend(rearrange(tokens, "b x y z c -> b (x y z) c"), keys).view_as(tokens)

    def _attend_to_windows(self, tokens: Tensor, keys: Tensor, view: int) -> Tensor:
        columns = rearrange(tokens, TOKENS_BY_COLUMN[view])
        return rearrange(self.attend(columns, keys), COLUMNS_TO_TOKENS[view], b=len(tokens), a=tokens.shape[3])

    def attend(
        self, queries: Float[Tensor, "N Q hidden_size"], keys: Float[Tensor, "N K context_size"]
    ) -> Float[Tensor, "N Q hidden_size"]:
        """The block's output for these queries and keys, which are its values too."""
        heads = self.block.num_heads
        to_key, to_value = (
            rearrange(layer.weight, "(h d) c -> h d c", h=heads) for layer in (self.block.to_k, self.block.to_v)
        )
        query = rearrange(self.block.to_q(queries), "n q (h d) -> n q h d", h=heads)
        query = rearrange(torch.einsum("nqhd,hdc->nqhc", query, to_key), "n q h c -> n 1 (q h) c")
        attended = scaled_dot_product_attention(query, keys[:, None], keys[:, None], scale=self.block.scale)
        attended = rearrange(attended, "n 1 (q h) c -> n q h c", h=heads)
        return self.block.out_proj(torch.einsum("nqhc,hdc->nqhd", attended, to_value).flatten(2))


class BiplanarTransformerLayer(nn.Module):
    """
    A pre-norm transformer layer: self-attention of the volume tokens, cross-attention with the X-rays, an MLP.

    In self-attention, keys and values are the averages of 2 x 2 x 2 tokens, at an eighth of the cost (spatial
    reduction, Wang et al., 2021, arXiv:2102.12122).

    Args:
        hidden_size: width of a token.
        num_heads: attention heads.
        mlp_dim: width of the MLP.
        context_size: channels of the X-ray feature maps.
        attention: "ray" or "dense", see :class:`BiplanarCrossAttention`.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_dim: int, context_size: int, attention: str = "ray"
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(hidden_size)
        self.self_attention = CrossAttentionBlock(hidden_size, num_heads, use_flash_attention=True)
        self.cross_norm = nn.LayerNorm(hidden_size)
        self.cross_attention = BiplanarCrossAttention(hidden_size, num_heads, context_size, attention)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = MLPBlock(hidden_size, mlp_dim)

    def forward(
        self,
        tokens: Float[Tensor, "B N N N hidden_size"],
        keys: Sequence[Float[Tensor, "M L context_size"] | None],
    ) -> Float[Tensor, "B N N N hidden_size"]:
        """Arguments as in :meth:`BiplanarCrossAttention.of_keys`; returns the tokens of the next layer."""
        normed = self.self_norm(tokens)
        attended = self.self_attention(normed.flatten(1, 3), averaged(normed))
        tokens = tokens + attended.view_as(tokens)
        tokens = tokens + self.cross_attention.of_keys(self.cross_norm(tokens), keys)
        return tokens + self.mlp(self.mlp_norm(tokens))


def key_sequences(
    context: Float[Tensor, "B V H W C"], windows: Int[Tensor, "N K"] | None
) -> list[Float[Tensor, "M L C"]]:
    """
    For each view the sequences of pixels that a :class:`BiplanarCrossAttention` attends to: the window of each column
    of each batch entry, or, without windows, the whole map of each batch entry, as the "dense" form does.
    """
    if windows is None:
        return list(rearrange(context, "b v h w c -> v b (h w) c"))
    return [
        rearrange(features[:, windows][:, :, :, windows], "b z k a w c -> (b z a) (k w) c")
        for features in context.unbind(1)
    ]


def averaged(tokens: Float[Tensor, "B N N N C"]) -> Float[Tensor, "B M C"]:
    """Averages over 2 x 2 x 2 tokens: a sequence of M = ceil(N / 2)³."""
    averages = avg_pool3d(rearrange(tokens, "b x y z c -> b c x y z"), 2, ceil_mode=True)
    return rearrange(averages, "b c x y z -> b (x y z) c")


def ray_windows(
    geometry: BiplanarGeometry, tokens: int, pixels: int, device: torch.device
) -> Int[Tensor, "{tokens} K"]:
    """
    The rows (or columns) of a feature map that hold the footprint of each token, at any depth and in either view.

    Footprints in a volume that is centred on the isocentre are nearly the same along both axes of the detector and in
    both views, so that one table serves them all, and every batch entry. Detector coordinates run against the volume's.

    Args:
        geometry: of the acquisition.
        tokens: tokens along a side of the volume.
        pixels: pixels of the feature map along a side of the detector.
        device: where the table is wanted.

    Returns:
        Pixel indices, the window of token `i` along any axis of the volume, inside the map.
    """
    lowest, highest = _footprint_bounds(geometry, tokens)
    pixel_mm = geometry.detector_size_mm / pixels
    first = np.floor(lowest / pixel_mm + (pixels - 1) / 2).astype(int)
    last = np.ceil(highest / pixel_mm + (pixels - 1) / 2).astype(int)
    width = min(int((last - first).max()) + 1, pixels)
    first = ((first + last + 1 - width) // 2).clip(0, pixels - width)
    return torch.from_numpy(first[:, None] + np.arange(width)).to(device)


def _footprint_bounds(geometry: BiplanarGeometry, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Lowest and highest detector coordinate in mm of each token's layer, over both detector axes, views and all batch
    entries: two `(N,)`. A projection maps the corners of a convex cell to the corners of its footprint.
    """
    edges = np.linspace(-geometry.fov_mm / 2, geometry.fov_mm / 2, tokens + 1)
    corners = np.meshgrid(edges, edges, edges, indexing="ij")
    lowest, highest = np.full(tokens, np.inf), np.full(tokens, -np.inf)
    for case in geometry.cases_apart():
        for view, across in ((0, 0), (1, 1)):
            for projected, axis in zip(case.projected_point(corners, view), (across, 2)):
                layers = np.moveaxis(projected, axis, 0).reshape(tokens + 1, -1)
                low, high = layers.min(1), layers.max(1)
                lowest = np.minimum(lowest, np.minimum(low[:-1], low[1:]))
                highest = np.maximum(highest, np.maximum(high[:-1], high[1:]))
    return lowest, highest
