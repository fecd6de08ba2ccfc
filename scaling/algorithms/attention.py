"""Where a class token looks: the picture of algorithms that train one (Caron et al. 2021, arXiv 2104.14294, fig. 3)."""

from __future__ import annotations

from torch import Tensor, nn

from scaling.algorithms.algorithm import Picture
from scaling.data.views import normalise
from scaling.models.vit import Encoder


def attention_picture(encoder: nn.Module, images_BCHW: Tensor, remark: str = "") -> Picture:
    """Of uint8 images: the mean of all heads of the last block, then each head. Only of an encoder whose class token
    is read by its objective: nothing else trains what that token asks in the last block."""
    assert isinstance(encoder, Encoder)
    shares_BHN, patch = encoder.class_attention(normalise(images_BCHW)), encoder.shape.patch_size
    rows = {"mean of heads": heat_map(shares_BHN.mean(dim=1), patch)}
    rows |= {f"head {i + 1}": heat_map(shares_BN, patch) for i, shares_BN in enumerate(shares_BHN.unbind(1))}
    caption = "Attention of the class token over the patches in the last block, from 0 to its largest value."
    return Picture(rows={"image": images_BCHW, **rows}, caption=caption + remark)


def heat_map(shares_BN: Tensor, patch_size: int) -> Tensor:
    """(B, 1, H, W) uint8: 0 black, each image's largest share white; a patch's square has one value."""
    scaled = shares_BN / shares_BN.amax(dim=1, keepdim=True).clamp_min(1e-12)
    grid = (scaled * 255).round().byte().unflatten(1, (round(shares_BN.shape[1] ** 0.5), -1))
    return grid.repeat_interleave(patch_size, dim=1).repeat_interleave(patch_size, dim=2)[:, None]
