"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image attract, views of all others repel.

The projector's batch norm runs over both views of all images, as in the reference (google-research/simclr, run.py:
`global_bn`; model.py joins the views), and the loss compares all of them, whichever processes and micro-batches they
are in: see `projector`. The class token takes the place of ResNet's pooled features, as in MoCo v3's comparison.
Letters: B images of the global batch, b of a part, V = 2 views, D encoder width, d projected width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling import parallel
from scaling.algorithms.algorithm import Picture
from scaling.algorithms.attention import attention_picture
from scaling.algorithms.closed_forms import simclr_widths
from scaling.algorithms.projector import Ahead, Projector
from scaling.data.views import blur, jitter, normalise, random_crop
from scaling.models.shape import Shape
from scaling.models.vit import Encoder
from scaling.options import SimClrOptions
from scaling.parallel import Draws


class SimCLR(nn.Module):
    def __init__(self, shape: Shape, options: SimClrOptions) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        self.probed = self.encoder = Encoder(shape, drop_path=options.drop_path)
        self.projector = Projector(simclr_widths(shape, options), "scale")
        self.ahead: Ahead | None = None
        """In a step of several parts: the loss of the whole batch and its gradients."""

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent in nats, and the mean cosine of the two views of an image."""
        tokens_bVD = self.tokens(images_BCHW, draws)
        if self.ahead is not None:
            return self.ahead.loss_of(tokens_bVD, draws)
        return self.loss_of_all(parallel.gather(tokens_bVD)[0])

    def tokens(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """(b, V, D) class tokens of both views."""
        tokens_VbD = self.encoder(self.views(normalise(images_BCHW), draws))[:, 0].unflatten(0, (2, -1))
        return tokens_VbD.float().transpose(0, 1)

    def views(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """(2 b, ...), all first views before all second ones, of one distribution (section 3 and appendix A)."""
        o = self.options
        both = random_crop(images_BCHW.repeat(2, 1, 1, 1), self.shape.image_size, o.crop_scale, draws)
        s = o.colour_strength
        return blur(jitter(both, draws, light=0.8 * s, saturation=0.8 * s, hue=0.2 * s), draws, probability=0.5)

    def loss_of_all(self, tokens_BVD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows_VBd = self.projector(tokens_BVD.transpose(0, 1).flatten(0, 1)).unflatten(0, (2, -1))
        cosine = F.cosine_similarity(*rows_VBd.detach().unbind()).mean()
        return nt_xent(rows_VBd, self.options.temperature), {"positive_cosine": cosine}

    @torch.no_grad()
    def look_ahead(self, parts: Iterable[tuple[Tensor, Draws]], *, progress: float) -> None:
        """One more forward pass of the encoder, which `train_flops` leaves out; holds the class tokens of all images
        and, for a moment, the projector's activations and 4 B^2 similarities, as a step in one part does."""
        tokens = [parallel.gather(self.tokens(images_BCHW, draws))[0] for images_BCHW, draws in parts]
        self.ahead = Ahead.of(self.loss_of_all, torch.cat(tokens), [self.projector])

    def picture(self, images_BCHW: Tensor) -> Picture:
        return attention_picture(self.probed, images_BCHW)

    def after_step(self, progress: float) -> None:
        self.ahead = None


def nt_xent(rows_VBd: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each view's partner among the 2 B - 1 other views, by cosine, mean over all (equation 1)."""
    with torch.autocast(rows_VBd.device.type, enabled=False):
        unit = F.normalize(rows_VBd.float().flatten(0, 1), dim=-1)
        logits = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
        return F.cross_entropy(logits, partner)
