"""What each algorithm costs at a shape, in closed form. Imports no torch, so that planning thousands of runs is quick.

The contract tests count the same with torch: parameters to the last one, FLOPs to a per cent.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scaling.errors import Problem, SpecError
from scaling.models.shape import (
    Shape,
    block_flops,
    block_params,
    block_values,
    encoder_flops,
    encoder_values,
    n_params,
    scale_params,
    scale_values,
)
from scaling.options import (
    BaselineOptions,
    DinoV2Options,
    IJepaOptions,
    LeJepaOptions,
    MaeOptions,
    MocoV3Options,
    SimClrOptions,
    SupervisedOptions,
)


@dataclass(frozen=True)
class Stack:
    """Transformer blocks that are trained, one behind the other."""

    sequences: float
    """Of an image that go through together."""
    depth: int
    tokens: int
    width: int
    scaled: bool = False
    """Whether they have LayerScale."""

    @property
    def block_inputs(self) -> float:
        """Values that go into one block, for an image."""
        return self.sequences * self.tokens * self.width

    @property
    def block_values(self) -> float:
        """Values that one block keeps for its backward pass, for an image."""
        return self.sequences * block_values(self.tokens, self.width) + 2 * self.scaled * self.block_inputs


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an algorithm costs at a shape."""

    n_params: dict[str, int]
    """Trainable parameters by part; `encoder` first and whole: what is `frozen` of it is a part below zero."""
    flops_per_image: float
    """Of one training step divided by its batch, multiply-add = 2, backward = 2 x forward; attention counted."""
    values_per_image: float = 0.0
    """Activations kept for the backward pass; decides the memory of a step, to perhaps a third."""
    stacks: tuple[Stack, ...] = ()
    """All that `values_per_image` counts."""
    n_params_held: int = 0
    """Parameters in memory that no optimiser moves, such as a teacher's."""

    @property
    def values_recomputed(self) -> float:
        """`values_per_image` where blocks keep their input alone and, one at a time, make the rest anew."""
        spared = sum(stack.depth * (stack.block_values - stack.block_inputs) for stack in self.stacks)
        return self.values_per_image - spared + max((stack.block_values for stack in self.stacks), default=0.0)


def n_kept(shape: Shape, options: MaeOptions) -> int:
    """Patches MAE's encoder sees; at least one."""
    return max(1, int(shape.n_patches * (1 - options.mask_ratio)))


def decoder_size(shape: Shape, options: MaeOptions) -> tuple[int, int, int]:
    """Width, depth, heads of MAE's decoder. `paper` is one for every encoder (section 4, table 1)."""
    return (512, 8, 16) if options.decoder == "paper" else (shape.width, 2, shape.heads)


def masked_once(shape: Shape, options: MaeOptions) -> bool:
    """Whether the decoder's first block finds queries, keys and values of masked patches once a batch: choosing them
    from a table of n rows costs 4 n d FLOPs a patch for the 6 d^2 it saves."""
    return 2 * shape.n_patches < 3 * decoder_size(shape, options)[0]


def mae(shape: Shape, options: MaeOptions) -> Cost:
    width, depth, _ = decoder_size(shape, options)
    kept, n, p = n_kept(shape, options), shape.n_patches, shape.patch_values
    decoder = (shape.width + 1) * width + width + depth * block_params(width) + 2 * width + (width + 1) * p
    # The last block asks for masked patches alone: keys and values of all, the rest of it for n - kept.
    last = 4 * (n + 1) * width**2 + 20 * (n - kept) * width**2 + 4 * (n + 1) * (n - kept) * width
    # The first may find what masked patches ask for and offer in a table, made once a batch and not counted: a
    # product in the forward pass and one in the backward, where other products have two.
    table = (4 * n - 6 * width) * (n - kept) * width if masked_once(shape, options) else 0
    forward = (
        encoder_flops(shape, kept)
        + 2 * (kept + 1) * shape.width * width
        + (depth - 1) * block_flops(n + 1, width)
        + last
        + table
        + 2 * (n - kept) * width * p
    )
    return Cost(
        n_params={"encoder": n_params(shape), "decoder": decoder},
        flops_per_image=3 * forward,
        values_per_image=encoder_values(shape, kept) + depth * block_values(n + 1, width) + 3 * n * p,
        stacks=(Stack(1, shape.depth, kept + 1, shape.width), Stack(1, depth, n + 1, width)),
    )


@functools.lru_cache(maxsize=256)
def paper_axis(shape: Shape) -> int:
    """Trainable parameters of MAE at the shape's width and depth with the paper's decoder, at 224/16 and 3 channels.

    The model size of the reference study's laws, whatever the algorithm (BioVFM-21M, arXiv 2505.09329; in
    BioVFM@d988462:analysis/analyze_results.ipynb 31.2, 47.4, 111.66 and 329.24 million); 0 without an encoder.
    """
    if not shape.width:
        return 0
    there = replace(shape, image_size=224, patch_size=16, channels=3)
    return sum(mae(there, MaeOptions(decoder="paper")).n_params.values())


def global_size(shape: Shape, options: DinoV2Options | LeJepaOptions) -> int:
    """Pixels of DINOv2's global crops."""
    return options.global_size or shape.image_size


def local_size(shape: Shape, options: DinoV2Options | LeJepaOptions) -> int:
    """Pixels of a local crop: half the image, in whole patches."""
    return options.local_size or math.ceil(shape.image_size / 2 / shape.patch_size) * shape.patch_size


def head_sizes(options: DinoV2Options) -> dict[str, tuple[int, int, int]]:
    """Hidden width, bottleneck and prototypes of each of DINOv2's heads, by name; iBOT's is among them if separate."""
    sizes = {"head": (options.head_hidden, options.head_bottleneck, options.prototypes)}
    if options.ibot_head != "tied":
        sizes["ibot_head"] = (options.ibot_head.hidden, options.ibot_head.bottleneck, options.ibot_head.prototypes)
    return sizes


def n_local(options: DinoV2Options) -> int:
    """Local crops of an image: DINO alone looks at them."""
    return options.n_local if options.dino_weight else 0


def dinov2(shape: Shape, options: DinoV2Options) -> Cost:
    o, p = options, shape.patch_size
    n_global, n_small = (global_size(shape, o) // p) ** 2, (local_size(shape, o) // p) ** 2
    cls = 2 if o.dino_weight else 0
    masked = 2 * o.mask_probability * sum(o.mask_range) / 2 * n_global if o.ibot_weight else 0
    scaled = o.layer_scale is not None
    n_params_of, heads, kept = {"encoder": n_params(shape) + (scale_params(shape) if scaled else 0)}, 0.0, 0.0
    for name, (h, b, prototypes) in head_sizes(o).items():
        serves_ibot = name == "ibot_head" or o.ibot_head == "tied"
        teacher = (cls if name == "head" else 0) + (masked if serves_ibot else 0)
        student = teacher + (n_local(o) if name == "head" else 0)
        layers = [(shape.width, h), (h, h), (h, b)]
        n_params_of[name] = sum(i * j + j for i, j in layers) + prototypes * b
        heads += (3 * student + teacher) * 2.0 * (sum(i * j for i, j in layers) + b * prototypes)
        # A student's row of logits and its gradient are kept in the run's precision, a teacher's in fp32.
        kept += student * 5 * h + (2 * student + 2 * teacher) * prototypes
    n_held = sum(n_params_of.values())
    if o.ibot_weight:
        n_params_of["mask_token"] = shape.width
    encoded = 2 * encoder_flops(shape, n_global)
    seen = 2 * encoder_values(shape, n_global) + n_local(o) * encoder_values(shape, n_small)
    if scaled:
        seen += 2 * scale_values(shape, n_global) + n_local(o) * scale_values(shape, n_small)
    return Cost(
        n_params=n_params_of,
        flops_per_image=3 * (encoded + n_local(o) * encoder_flops(shape, n_small)) + encoded + heads,
        values_per_image=seen + kept,
        stacks=(
            Stack(2, shape.depth, n_global + 1, shape.width, scaled),
            Stack(n_local(o), shape.depth, n_small + 1, shape.width, scaled),
        ),
        n_params_held=n_held,
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


def simclr_widths(shape: Shape, options: SimClrOptions) -> list[int]:
    """Of the projector, input first."""
    return [shape.width, *[options.projector_hidden] * (options.projector_layers - 1), options.projector_width]


def simclr(shape: Shape, options: SimClrOptions) -> Cost:
    """Without the similarities, 24 B d FLOPs an image of a batch of B, d = `projector_width`."""
    widths, n = simclr_widths(shape, options), shape.n_patches
    return Cost(
        n_params={"encoder": n_params(shape), "projector": projector_params(widths, "scale")},
        flops_per_image=3 * 2 * (encoder_flops(shape, n) + projector_flops(widths)),
        values_per_image=2 * (encoder_values(shape, n) + projector_values(widths)),
        stacks=(Stack(2, shape.depth, n + 1, shape.width),),
    )


def mocov3_widths(shape: Shape, options: MocoV3Options) -> tuple[list[int], list[int]]:
    """Of the projector and of the predictor, input first."""
    hidden, out = options.head_hidden, options.head_width
    return [shape.width, hidden, hidden, out], [out, hidden, out]


def mocov3(shape: Shape, options: MocoV3Options) -> Cost:
    """Without the similarities, 8 B d FLOPs an image of a batch of B, d = `head_width`; without the backward of a
    frozen patch projection."""
    projector, predictor = mocov3_widths(shape, options)
    n = shape.n_patches
    parts = {
        "encoder": n_params(shape),
        "projector": projector_params(projector, "norm"),
        "predictor": projector_params(predictor, "norm"),
    }
    student = encoder_flops(shape, n) + projector_flops(projector) + projector_flops(predictor)
    teacher = encoder_flops(shape, n) + projector_flops(projector)
    flops, held = 2 * (3 * student + teacher), parts["encoder"] + parts["projector"]
    if options.freeze_patches:
        frozen = (shape.patch_values + 1) * shape.width
        parts["frozen"], held = -frozen, held + frozen
        flops -= 2 * 2 * 2 * n * shape.patch_values * shape.width
    kept = encoder_values(shape, n) + projector_values(projector) + projector_values(predictor)
    return Cost(
        n_params=parts,
        flops_per_image=flops,
        values_per_image=2 * kept,
        stacks=(Stack(2, shape.depth, n + 1, shape.width),),
        n_params_held=held,
    )


def block_counts(shape: Shape, options: IJepaOptions) -> tuple[int, int]:
    """Patches of I-JEPA's context and of one of its blocks.

    The context has what even blocks without overlap leave, 3 of 10, which at 14 x 14 patches is about what the
    reference's has after it is cut to the smallest of a batch. Raises SpecError where blocks may leave nothing.
    """
    n, o = shape.n_patches, options
    block = max(1, round(o.target_scale * n))
    context = min(int(min(o.context_scale) * n), n - o.n_targets * block)
    if context < 1:
        what = f"{o.n_targets} blocks of {block} patches may hide all {n} of an image; take fewer or smaller blocks "
        raise SpecError([Problem(where="algorithms.ijepa", what=what + "(n_targets, target_scale) or smaller patches")])
    return context, block


def predictor_size(shape: Shape, options: IJepaOptions) -> tuple[int, int, int]:
    """Width, depth, heads of I-JEPA's predictor."""
    if options.predictor == "paper":
        return 384, 6 if shape.depth <= 12 else 12, shape.heads
    return shape.width // 2, max(1, shape.depth // 2), shape.heads


def ijepa(shape: Shape, options: IJepaOptions) -> Cost:
    context, block = block_counts(shape, options)
    width, depth, _ = predictor_size(shape, options)
    t, d = options.n_targets, shape.width
    predictor = (d + 1) * width + width + depth * block_params(width) + 2 * width + (width + 1) * d
    tokens = 1 + context + block
    predicted = 2 * (1 + context + t * block) * d * width + t * depth * block_flops(tokens, width)
    kept = t * (depth * block_values(tokens, width) + block * 3 * d)
    return Cost(
        n_params={"encoder": n_params(shape), "predictor": predictor},
        flops_per_image=3 * (encoder_flops(shape, context) + predicted) + encoder_flops(shape, shape.n_patches),
        values_per_image=encoder_values(shape, context) + kept,
        stacks=(Stack(1, shape.depth, context + 1, d), Stack(t, depth, tokens, width)),
        n_params_held=n_params(shape),
    )


def lejepa_widths(shape: Shape, options: LeJepaOptions) -> list[int]:
    """Of the projector, input first."""
    return [shape.width, options.projector_hidden, options.projector_hidden, options.projector_width]


def lejepa(shape: Shape, options: LeJepaOptions) -> Cost:
    o, widths = options, lejepa_widths(shape, options)
    n_global, n_small = ((size(shape, o) // shape.patch_size) ** 2 for size in (global_size, local_size))
    views = 2 + o.n_local
    encoded = 2 * encoder_flops(shape, n_global) + o.n_local * encoder_flops(shape, n_small)
    sliced = 2.0 * o.projector_width * o.n_slices
    seen = 2 * encoder_values(shape, n_global) + o.n_local * encoder_values(shape, n_small)
    return Cost(
        n_params={"encoder": n_params(shape), "projector": projector_params(widths, "linear")},
        flops_per_image=3 * (encoded + views * projector_flops(widths)) + 2 * views * sliced,
        values_per_image=seen + views * (projector_values(widths) + 2 * o.n_slices),
        stacks=(
            Stack(2, shape.depth, n_global + 1, shape.width),
            Stack(o.n_local, shape.depth, n_small + 1, shape.width),
        ),
    )


def supervised(shape: Shape, options: SupervisedOptions) -> Cost:
    """Without heads until a plan has found the labels."""
    width = shape.width * (2 if options.pool == "both" else 1)
    classes = sum(head.n_classes for head in options.labels.heads) if options.labels else 0
    return Cost(
        n_params={"encoder": n_params(shape), "head": (width + 1) * classes},
        flops_per_image=3 * (encoder_flops(shape, shape.n_patches) + 2.0 * width * classes),
        values_per_image=encoder_values(shape, shape.n_patches) + width + 2 * classes,
        stacks=(Stack(1, shape.depth, shape.n_patches + 1, shape.width),),
    )


def random(shape: Shape, options: BaselineOptions) -> Cost:
    return Cost(n_params={"encoder": n_params(shape)}, flops_per_image=0.0)


def pixels(shape: Shape, options: BaselineOptions) -> Cost:
    return Cost(n_params={"encoder": 0}, flops_per_image=0.0)
