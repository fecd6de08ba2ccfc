"""Spec -> encoder: a timm ViT of any width, depth, image and patch size; `shape.py` has its closed-form counts.

Letters in shapes: B batch, C channels, H height, W width, N patches, K kept patches, P values of a patch, D width.
The position table is the frozen 2-D sine-cosine one of MAE and MoCo v3, so that a model has the same trainable
parameters whatever the image size and the algorithm.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath as TimmDropPath
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.models.block import Block
from scaling.models.shape import Shape
from scaling.parallel import Part


class DropPath(nn.Module):
    """timm's, with draws for the whole batch of which the images here are a part."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part: Part | None = None
        """Set before each forward pass of a step; None when all the batch is here."""

    def forward(self, tokens_BND: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return tokens_BND
        n = len(tokens_BND) if self.part is None else self.part.n_all(len(tokens_BND))
        keep = tokens_BND.new_empty(n, 1, 1).bernoulli_(1 - self.rate).div_(1 - self.rate)
        return tokens_BND * (keep if self.part is None else self.part.rows(keep))


class Encoder(nn.Module):
    """timm's VisionTransformer with three ways in: all patches, some kept, some masked."""

    def __init__(
        self, shape: Shape, *, drop_path: float = 0.0, uniform: bool = False, layer_scale: float | None = None
    ) -> None:
        """`drop_path` is the last block's, and with `uniform` every block's; `layer_scale` as DINOv2's option."""
        super().__init__()
        self.shape = shape
        self.vit = VisionTransformer(
            img_size=shape.image_size,
            patch_size=shape.patch_size,
            in_chans=shape.channels,
            num_classes=0,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            global_pool="",
            block_fn=Block,
            drop_path_rate=drop_path,
            init_values=layer_scale,
        )
        for block in self.vit.blocks:
            for name in ("drop_path1", "drop_path2"):
                theirs = getattr(block, name)
                if uniform and drop_path:
                    setattr(block, name, DropPath(drop_path))
                elif isinstance(theirs, TimmDropPath):
                    setattr(block, name, DropPath(theirs.drop_prob))
        self.vit.pos_embed.requires_grad_(False)
        grid = shape.image_size // shape.patch_size
        self.vit.pos_embed.data.copy_(position_table(grid, shape.width))
        nn.init.xavier_uniform_(self.vit.patch_embed.proj.weight.view(shape.width, -1))

    def forward(
        self,
        images_BCHW: Tensor,
        *,
        kept_BK: Tensor | None = None,
        masked_BN: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, 1 + N, D), class token first, after the last norm; (B, 1 + K, D) for kept patches alone.

        `masked_BN` is true where a patch is replaced by `mask_token`. Other image sizes get their own position table.
        """
        patches_BNP = patchify(images_BCHW, self.shape.patch_size)
        positions = self.positions(images_BCHW.shape[-1])
        if kept_BK is not None:  # before the projection, which then costs a quarter at a mask ratio of 0.75
            patches_BNP = gather(patches_BNP, kept_BK)
            patch_positions = F.embedding(kept_BK, positions[0, 1:])
        else:
            patch_positions = positions[:, 1:]
        projection = self.vit.patch_embed.proj
        tokens_BND = F.linear(patches_BNP, projection.weight.flatten(1), projection.bias)
        if masked_BN is not None and mask_token is not None:
            tokens_BND = torch.where(masked_BN[..., None], mask_token.to(tokens_BND.dtype), tokens_BND)
        first_B1D = (self.vit.cls_token + positions[:, :1]).expand(len(images_BCHW), -1, -1)
        tokens = torch.cat([first_B1D.to(tokens_BND.dtype), tokens_BND + patch_positions], dim=1)
        for block in self.vit.blocks:
            tokens = block(tokens)
        normed: Tensor = self.vit.norm(tokens)
        return normed

    def class_attention(self, images_BCHW: Tensor) -> Tensor:
        """(B, heads, N): how the class token's attention in the last block is shared out, its own share left out."""
        seen: list[Tensor] = []
        attention = self.vit.blocks[-1].attn
        hook = attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        try:
            self(images_BCHW)
        finally:
            hook.remove()
        (tokens,) = seen
        q, k, _ = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = attention.q_norm(q), attention.k_norm(k)
        shares: Tensor = (q[:, :, :1] @ k.transpose(-2, -1) * attention.scale).float().softmax(dim=-1)
        return shares[:, :, 0, 1:]

    def positions(self, image_size: int) -> Tensor:
        """(1, 1 + N, D); for crops of another size, the sine-cosine table stretched over the same extent."""
        own: Tensor = self.vit.pos_embed
        if image_size == self.shape.image_size:
            return own
        grid = image_size // self.shape.patch_size
        extent = self.shape.image_size / self.shape.patch_size
        return position_table(grid, self.shape.width, extent=extent).to(own.device)


def start_as_mae(encoder: Encoder) -> None:
    """First weights of the reference MAE (models_mae.py, initialize_weights): Xavier in every linear layer, 0.02 in
    the class token. timm's are normal of deviation 0.02 at any width."""
    for module in encoder.vit.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.normal_(encoder.vit.cls_token, std=0.02)


def blocks(width: int, depth: int, heads: int) -> nn.Sequential:
    """Transformer blocks outside an encoder, such as a decoder's."""
    return nn.Sequential(*(Block(width, heads, mlp_ratio=4, qkv_bias=True) for _ in range(depth)))


def position_table(grid: int, width: int, *, extent: float | None = None) -> Tensor:
    """(1, 1 + grid^2, width) sine-cosine table of MAE (util/pos_embed.py), zeros for the class token.

    `extent` spreads the grid's centres over so many patches of the full image.
    """
    step = (extent or grid) / grid
    at = (torch.arange(grid, dtype=torch.float64) + 0.5) * step - 0.5
    rate = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angle = at[:, None] * rate
    one = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = one.repeat_interleave(grid, dim=0), one.repeat(grid, 1)
    table = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table])[None].float()


def patchify(images_BCHW: Tensor, patch_size: int) -> Tensor:
    """(B, N, P), values of a patch in the order of the projection's weight: channel, row, column."""
    b, c, h, w = images_BCHW.shape
    p = patch_size
    grid = images_BCHW.reshape(b, c, h // p, p, w // p, p)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


def unpatchify(patches_BNP: Tensor, patch_size: int) -> Tensor:
    """`patchify` undone, for square images: (B, C, H, W)."""
    b, n, values = patches_BNP.shape
    p, side = patch_size, round(n**0.5)
    grid = patches_BNP.reshape(b, side, side, values // p**2, p, p)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, values // p**2, side * p, side * p)


def gather(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """(B, K, D): the tokens at `index_BK` of each image."""
    b, n, _ = tokens_BND.shape
    rows = index_BK + torch.arange(0, b * n, n, device=index_BK.device)[:, None]  # whole rows, ten times as fast
    return tokens_BND.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, index_BK.shape)


def use_fused_attention(on: bool) -> None:
    """Chooses the attention kernel of every encoder made from now on in this process."""
    set_fused_attn(on)
