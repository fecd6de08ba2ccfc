"""Masked autoencoder (He et al. 2022, arXiv 2111.06377).

Encode a random quarter of the patches, decode all, predict the pixels of the hidden ones.
Letters: B batch, N patches, K kept, M = N - K masked, P values of a patch, D encoder width, d decoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.algorithms.algorithm import Picture
from scaling.algorithms.closed_forms import decoder_size, masked_once, n_kept
from scaling.data.views import normalise, pixels, random_crop
from scaling.models.block import Block
from scaling.models.shape import Shape
from scaling.models.vit import (
    Encoder,
    blocks,
    gather,
    patchify,
    position_table,
    start_as_mae,
    unpatchify,
)
from scaling.options import MaeOptions
from scaling.parallel import Draws


class Decoder(nn.Module):
    """Class token and kept patches (B, 1 + K, D) -> values of the masked patches (B, M, P)."""

    positions: Tensor

    def __init__(self, shape: Shape, width: int, depth: int, heads: int, *, masked_once: bool) -> None:
        super().__init__()
        self.masked_once = masked_once
        """As `closed_forms.masked_once` decides."""
        self.embed = nn.Linear(shape.width, width)
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, shape.patch_values)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.register_buffer("positions", position_table(int(shape.n_patches**0.5), width), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BKD: Tensor, kept_BK: Tensor, masked_BM: Tensor) -> Tensor:
        """Works in the order kept, masked; positions follow it, so nothing is shuffled back. The last block works on
        the masked patches alone, as nothing else is predicted. In front of the first all images have the same token at
        a masked position: its query, key and value may be computed once."""
        encoded = self.embed(tokens_BKD)
        b, m = masked_BM.shape
        positions_Nd = self.positions[0, 1:]
        seen_at = torch.cat([self.positions[:, :1].expand(b, -1, -1), F.embedding(kept_BK, positions_Nd)], dim=1)
        seen = encoded + seen_at
        hidden = self.mask_token + F.embedding(masked_BM, positions_Nd)
        tokens = torch.cat([seen, hidden], dim=1)
        *early, last = [block for block in self.blocks if isinstance(block, Block)]
        first, qkv = early[0] if early else last, None
        if self.masked_once:
            qkv_seen, qkv_1N3d = first.qkv(seen), first.qkv(self.mask_token + self.positions[:, 1:])
            chosen_BMN = F.one_hot(masked_BM, len(positions_Nd)).to(qkv_1N3d.dtype)  # so is its backward a product
            qkv = torch.cat([qkv_seen, chosen_BMN @ qkv_1N3d[0]], dim=1)
        for block in early:
            tokens, qkv = block(tokens, qkv_BT3D=qkv), None
        predicted: Tensor = self.predict(self.norm(last(tokens, m, qkv)))
        return predicted


class MAE(nn.Module):
    def __init__(self, shape: Shape, options: MaeOptions) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        self.probed = self.encoder = Encoder(shape, drop_path=options.drop_path)
        if options.first_weights == "xavier":
            start_as_mae(self.encoder)
        self.decoder = Decoder(shape, *decoder_size(shape, options), masked_once=masked_once(shape, options))

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error on masked patches, in units of each patch's own deviation if `norm_pixels`."""
        images = random_crop(normalise(images_BCHW), self.shape.image_size, self.options.crop_scale, draws)
        order_BN = draws.uniform((len(images), self.shape.n_patches)).argsort(dim=1)
        kept = n_kept(self.shape, self.options)
        tokens_BKD = self.encoder(images, kept_BK=order_BN[:, :kept])
        predicted_BMP = self.decoder(tokens_BKD, order_BN[:, :kept], order_BN[:, kept:])
        target_BMP = gather(patchify(images, self.shape.patch_size), order_BN[:, kept:])
        if self.options.norm_pixels:
            target_BMP.sub_(target_BMP.mean(dim=-1, keepdim=True))
            length = torch.linalg.vector_norm(target_BMP, dim=-1, keepdim=True)  # var_mean takes 20 times as long
            target_BMP.div_((length.square() / (target_BMP.shape[-1] - 1) + 1e-6).sqrt())
        return F.mse_loss(predicted_BMP.float(), target_BMP), {}

    def after_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def picture(self, images_BCHW: Tensor) -> Picture:
        """Whole images, what is left of them, and with the hidden patches as predicted."""
        images, patch = normalise(images_BCHW), self.shape.patch_size
        generator, kept = torch.Generator().manual_seed(0), n_kept(self.shape, self.options)
        order_BN = torch.rand(len(images), self.shape.n_patches, generator=generator).argsort(dim=1).to(images.device)
        tokens_BKD = self.encoder(images, kept_BK=order_BN[:, :kept])
        predicted_BMP = self.decoder(tokens_BKD, order_BN[:, :kept], order_BN[:, kept:]).float()
        patches_BNP = patchify(images, patch)
        if self.options.norm_pixels:
            variance, mean = torch.var_mean(gather(patches_BNP, order_BN[:, kept:]), dim=-1, keepdim=True)
            predicted_BMP = predicted_BMP * (variance + 1e-6).sqrt() + mean
        at_BMP = order_BN[:, kept:, None].expand_as(predicted_BMP)
        visible, filled = patches_BNP.scatter(1, at_BMP, 0.0), patches_BNP.scatter(1, at_BMP, predicted_BMP)
        rows = {"visible": visible, "reconstructed": filled}
        caption = f"{1 - kept / self.shape.n_patches:.0%} of the patches are hidden and predicted from the others" + (
            "; each has the mean and contrast of the true one, which the objective leaves out"
            * self.options.norm_pixels
        )
        shown = {name: pixels(unpatchify(patches, patch)) for name, patches in rows.items()}
        return Picture(rows={"image": images_BCHW, **shown}, caption=caption + ".")
