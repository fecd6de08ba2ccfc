"""What fixes an encoder, and its closed-form counts. Imports no torch, so that planning needs none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What fixes an encoder."""

    width: int
    depth: int
    heads: int
    image_size: int
    patch_size: int
    channels: int

    @property
    def n_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        return self.channels * self.patch_size**2


def n_params(shape: Shape) -> int:
    """Trainable parameters of the encoder: patch projection, class token, blocks, last norm."""
    d = shape.width
    return embedding_params(shape) + shape.depth * block_params(d) + 2 * d


def embedding_params(shape: Shape) -> int:
    """What of `n_params` makes tokens of pixels: patch projection with its bias, class token; positions are frozen."""
    return (shape.patch_values + 1) * shape.width + shape.width


def block_params(width: int) -> int:
    """qkv and output projection 4 D^2 + 4 D, MLP of ratio 4 8 D^2 + 5 D, two norms 4 D."""
    return 12 * width**2 + 13 * width


def scale_params(shape: Shape) -> int:
    """Beside `n_params`, of an encoder with LayerScale: a factor a channel behind attention and MLP of each block."""
    return 2 * shape.width * shape.depth


def block_flops(tokens: int, width: int) -> float:
    """Forward FLOPs of one block for one image, multiply-add = 2: projections and MLP 24 T D^2, attention 4 T^2 D."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


def block_values(tokens: int, width: int) -> float:
    """Values one block keeps for its backward pass, per image, with fused attention.

    Per token: inputs of both norms 2 D, of qkv and of the first MLP layer 2 D, q k v 3 D, input of the projection D,
    input and output of GELU 8 D (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1, without dropout).
    """
    return 16 * tokens * width


def encoder_flops(shape: Shape, tokens: int) -> float:
    """Forward FLOPs for one image of so many patches, class token added: projection and blocks."""
    d = shape.width
    return 2 * tokens * shape.patch_values * d + shape.depth * block_flops(tokens + 1, d)


def encoder_values(shape: Shape, tokens: int) -> float:
    """Values the encoder keeps for its backward pass, for one image of so many patches, class token added."""
    return tokens * shape.patch_values + shape.depth * block_values(tokens + 1, shape.width)


def scale_values(shape: Shape, tokens: int) -> float:
    """Beside `encoder_values`, of an encoder with LayerScale: what it multiplies, 2 D a token and block."""
    return 2.0 * (tokens + 1) * shape.width * shape.depth
