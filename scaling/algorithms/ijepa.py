"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): predict a teacher's tokens of four blocks from the rest of an image.

The student sees a context without these blocks; the teacher, its running mean, sees the whole image; a narrow
predictor fills in one block at a time. Hyper-parameters: ijepa@52c1ae9:configs/in1k_vith14_ep300.yaml. Unlike there,
all blocks of a run have one number of patches, and all contexts (src/masks/multiblock.py draws a size for each step
and cuts all to the smallest of the batch, from the bottom), so that shapes are static and a part of a batch needs to
know nothing of the rest; blocks reach the last row and column; the class token, which the reference lacks, belongs to
the context.
Letters: B batch, N patches, T blocks, M patches of a block, K of the context, D encoder width, d predictor width.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.algorithms.algorithm import Picture
from scaling.algorithms.attention import attention_picture
from scaling.algorithms.closed_forms import block_counts, predictor_size
from scaling.data.views import normalise, random_crop
from scaling.models.shape import Shape
from scaling.models.vit import Encoder, blocks, gather, position_table
from scaling.options import IJepaOptions
from scaling.parallel import Draws


class Predictor(nn.Module):
    """Class token and context (B, 1 + K, D) -> the tokens of every block (B, T, M, D), each block on its own."""

    positions: Tensor

    def __init__(self, shape: Shape, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(shape.width, width)
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, shape.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("positions", position_table(int(shape.n_patches**0.5), width), persistent=False)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BKD: Tensor, context_BK: Tensor, targets_BTM: Tensor) -> Tensor:
        b, t, m = targets_BTM.shape
        first = context_BK.new_zeros(b, 1)
        seen = self.embed(tokens_BKD) + self.positions[0, torch.cat([first, context_BK + 1], dim=1)]
        asked = self.mask_token + self.positions[0, targets_BTM.flatten(0, 1) + 1]
        tokens = torch.cat([seen.repeat_interleave(t, dim=0), asked.to(seen.dtype)], dim=1)
        predicted: Tensor = self.predict(self.norm(self.blocks(tokens)[:, -m:]))
        return predicted.unflatten(0, (b, t))


class IJEPA(nn.Module):
    def __init__(self, shape: Shape, options: IJepaOptions) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        self.encoder = Encoder(shape, drop_path=options.drop_path)
        self.predictor = Predictor(shape, *predictor_size(shape, options))
        self.teacher = Encoder(shape)
        self.teacher.load_state_dict(copy.deepcopy(self.encoder.state_dict()))
        self.teacher.requires_grad_(False)
        self.probed = self.teacher

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Smooth L1 distance, its corner at 1, from the teacher's tokens, each normalised over its values."""
        size, scale = self.shape.image_size, self.options.crop_scale
        images = random_crop(normalise(images_BCHW), size, scale, draws, flip=False)  # as in the reference
        context_BK, targets_BTM = self.masks(len(images), draws)
        expected_BTMD = self.targets(images, targets_BTM)
        tokens_BKD = self.encoder(images, kept_BK=context_BK)
        predicted_BTMD = self.predictor(tokens_BKD, context_BK, targets_BTM)
        return F.smooth_l1_loss(predicted_BTMD.float(), expected_BTMD), {}

    @torch.no_grad()
    def targets(self, images_BCHW: Tensor, targets_BTM: Tensor) -> Tensor:
        """(B, T, M, D), fp32."""
        tokens_BND = self.teacher(images_BCHW)[:, 1:].float()
        normed_BND = F.layer_norm(tokens_BND, tokens_BND.shape[-1:])
        return gather(normed_BND, targets_BTM.flatten(1)).unflatten(1, targets_BTM.shape[1:])

    def masks(self, n_images: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """Patches of the context (B, K) and of the blocks (B, T, M), the context without any patch of a block.

        Blocks are rectangles but for a first or last row that may be short. The context is a random choice of what
        the blocks leave of a square; beside the square only if that is not enough.
        """
        o, grid, n = self.options, math.isqrt(self.shape.n_patches), self.shape.n_patches
        n_context, n_block = block_counts(self.shape, o)
        aspect_BT1 = draws.uniform((n_images, o.n_targets, 1), *o.target_aspect)
        width = (n_block / aspect_BT1).sqrt().round().clamp(math.ceil(n_block / grid), grid)
        height = (n_block / width).ceil()
        left, top = (
            (draws.uniform((n_images, o.n_targets, 1)) * (grid - extent + 1)).floor() for extent in (width, height)
        )
        step = torch.arange(n_block, device=draws.device)
        row = (step / width).floor()
        targets_BTM = ((top + row) * grid + left + step - row * width).long()
        turned_BT1 = draws.uniform((n_images, o.n_targets, 1)) < 0.5  # else no short row would reach the last corner
        targets_BTM = torch.where(turned_BT1, n - 1 - targets_BTM, targets_BTM)

        side_B1 = (draws.uniform((n_images, 1), *o.context_scale) * n).sqrt().round().clamp(1, grid)
        left, top = ((draws.uniform((n_images, 1)) * (grid - side_B1 + 1)).floor() for _ in range(2))
        at = torch.arange(n, device=draws.device)
        x, y = at % grid - left, at // grid - top
        outside_BN = (x < 0) | (x >= side_B1) | (y < 0) | (y >= side_B1)
        taken_BN = torch.zeros_like(outside_BN).scatter(1, targets_BTM.flatten(1), True)
        rank_BN = draws.uniform((n_images, n)) + outside_BN + 2 * taken_BN
        return rank_BN.argsort(dim=1)[:, :n_context], targets_BTM

    def picture(self, images_BCHW: Tensor) -> Picture:
        """Of the class token, which only the predictor reads: of all tokens the one without a target."""
        remark = " It has no target of its own: it helps to predict hidden blocks."
        return attention_picture(self.probed, images_BCHW, remark)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The teacher moves towards the student, less and less: momentum rises in a straight line (src/train.py)."""
        start, end = self.options.ema
        momentum = start + (end - start) * progress
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.encoder.parameters()), 1 - momentum)
