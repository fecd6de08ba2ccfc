"""What each algorithm costs at a shape, in closed form. Imports no torch, so that planning thousands of runs is quick.

The contract tests count the same with torch: parameters to the last one, FLOPs to a per cent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scaling.models.shape import (
    Shape,
    block_flops,
    block_params,
    block_values,
    encoder_flops,
    encoder_values,
    n_params,
)
from scaling.options import BaselineOptions, DinoV2Options, MaeOptions


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an algorithm costs at a shape."""

    n_params: dict[str, int]
    """Trainable parameters by part; `encoder` first."""
    flops_per_image: float
    """Of one training step divided by its batch, multiply-add = 2, backward = 2 x forward; attention counted."""
    values_per_image: float = 0.0
    """Activations kept for the backward pass; decides the memory of a step, to perhaps a third."""
    n_params_held: int = 0
    """Parameters in memory that no optimiser moves, such as a teacher's."""


def n_kept(shape: Shape, options: MaeOptions) -> int:
    """Patches MAE's encoder sees; at least one."""
    return max(1, int(shape.n_patches * (1 - options.mask_ratio)))


def decoder_size(shape: Shape, options: MaeOptions) -> tuple[int, int, int]:
    """Width, depth, heads of MAE's decoder. `paper` is one for every encoder (section 4, table 1)."""
    return (512, 8, 16) if options.decoder == "paper" else (shape.width, 2, shape.heads)


def mae(shape: Shape, options: MaeOptions) -> Cost:
    width, depth, _ = decoder_size(shape, options)
    kept, n, p = n_kept(shape, options), shape.n_patches, shape.patch_values
    decoder = (shape.width + 1) * width + width + depth * block_params(width) + 2 * width + (width + 1) * p
    forward = (
        encoder_flops(shape, kept)
        + 2 * (kept + 1) * shape.width * width
        + depth * block_flops(n + 1, width)
        + 2 * (n - kept) * width * p
    )
    return Cost(
        n_params={"encoder": n_params(shape), "decoder": decoder},
        flops_per_image=3 * forward,
        values_per_image=encoder_values(shape, kept) + depth * block_values(n + 1, width) + 3 * n * p,
    )


def global_size(shape: Shape, options: DinoV2Options) -> int:
    """Pixels of DINOv2's global crops."""
    return options.global_size or shape.image_size


def local_size(shape: Shape, options: DinoV2Options) -> int:
    """Pixels of a local crop: half the image, in whole patches."""
    return options.local_size or math.ceil(shape.image_size / 2 / shape.patch_size) * shape.patch_size


def dinov2(shape: Shape, options: DinoV2Options) -> Cost:
    o, p = options, shape.patch_size
    n_global, n_local = (global_size(shape, o) // p) ** 2, (local_size(shape, o) // p) ** 2
    h, b = o.head_hidden, o.head_bottleneck
    layers = [(shape.width, h), (h, h), (h, b)]
    head = sum(i * j + j for i, j in layers) + o.prototypes * b
    per_token = 2.0 * (sum(i * j for i, j in layers) + b * o.prototypes)
    masked = 2 * o.mask_probability * sum(o.mask_range) / 2 * n_global
    student = 2 * encoder_flops(shape, n_global) + o.n_local * encoder_flops(shape, n_local)
    teacher = 2 * encoder_flops(shape, n_global)
    heads = (3 * (2 + o.n_local + masked) + (2 + masked)) * per_token
    seen = 2 * encoder_values(shape, n_global) + o.n_local * encoder_values(shape, n_local)
    # A student's row of logits is kept in the run's precision and, for its log-softmax, in fp32; a teacher's in fp32.
    logits = (3 * (2 + o.n_local + masked) + 2 * (2 + masked)) * o.prototypes
    return Cost(
        n_params={"encoder": n_params(shape), "head": head, "mask_token": shape.width},
        flops_per_image=3 * student + teacher + heads,
        values_per_image=seen + (2 + o.n_local + masked) * 5 * h + logits,
        n_params_held=n_params(shape) + head,
    )


Last = Literal["norm", "scale", "linear"]
"""What is behind a projector's last layer: batch norm alone, batch norm with a scale, or a bias alone."""


def projector_params(widths: Sequence[int], last: Last) -> int:
    """Layers without biases; batch norms of two values each behind all but the last."""
    layers = sum(i * o for i, o in itertools.pairwise(widths))
    return layers + 2 * sum(widths[1:-1]) + (0 if last == "norm" else widths[-1])


def projector_flops(widths: Sequence[int]) -> float:
    """Forward, of one row."""
    return 2.0 * sum(i * o for i, o in itertools.pairwise(widths))


def projector_values(widths: Sequence[int]) -> float:
    """Values kept for the backward pass, for one row: inputs of layers and of both halves of a batch norm."""
    return widths[0] + 3.0 * sum(widths[1:])


def random(shape: Shape, options: BaselineOptions) -> Cost:
    return Cost(n_params={"encoder": n_params(shape)}, flops_per_image=0.0)


def pixels(shape: Shape, options: BaselineOptions) -> Cost:
    return Cost(n_params={"encoder": 0}, flops_per_image=0.0)
