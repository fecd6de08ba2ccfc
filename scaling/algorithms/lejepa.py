"""LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544): views of an image predict their mean; embeddings stay normal.

No teacher, no stop-gradient, no schedule of its own: collapse is kept away by SIGReg, which compares the embeddings of
each view, along random directions, with a standard normal distribution. As in lejepa@2f2d970:MINIMAL.md, for several
resolutions as in README.md: the mean is that of the global views. The projector reads the class token; its batch norm
and SIGReg look across all images of a step, whichever processes and micro-batches they are in: see `projector`.
Letters: B images of the global batch, b of a part, V views, global ones first, D encoder width, d embedding width,
S slices, K knots.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scaling import parallel
from scaling.algorithms.algorithm import Picture
from scaling.algorithms.attention import attention_picture
from scaling.algorithms.closed_forms import global_size, lejepa_widths, local_size
from scaling.algorithms.projector import Ahead, Projector
from scaling.data.views import blur, jitter, normalise, random_crop, solarise
from scaling.models.shape import Shape
from scaling.models.vit import Encoder
from scaling.options import LeJepaOptions
from scaling.parallel import Draws


class LeJEPA(nn.Module):
    def __init__(self, shape: Shape, options: LeJepaOptions) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        self.probed = self.encoder = Encoder(shape, drop_path=options.drop_path)
        self.projector = Projector(lejepa_widths(shape, options), "linear")
        self.ahead: Ahead | None = None
        """In a step of several parts: the loss of the whole batch and its gradients."""

    def loss(self, images_BCHW: Tensor, *, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """lambda SIGReg + (1 - lambda) prediction, both terms beside it."""
        tokens_bVD = self.tokens(images_BCHW, draws)
        if self.ahead is not None:
            return self.ahead.loss_of(tokens_bVD, draws)
        return self.loss_of_all(parallel.gather(tokens_bVD)[0], self.slices(draws))

    def tokens(self, images_BCHW: Tensor, draws: Draws) -> Tensor:
        """(b, V, D) class tokens."""
        cls = [self.encoder(views)[:, 0] for views in self.views(normalise(images_BCHW), draws)]
        return torch.cat(cls).float().unflatten(0, (-1, len(images_BCHW))).transpose(0, 1)

    def views(self, images_BCHW: Tensor, draws: Draws) -> list[Tensor]:
        """(2 b, ...) global views, all first ones before all second ones, and (6 b, ...) local ones likewise."""
        o, views = self.options, []
        kinds = (
            (2, global_size(self.shape, o), o.global_scale),
            (o.n_local, local_size(self.shape, o), o.local_scale),
        )
        for n, size, scale in kinds:
            if n:
                view = jitter(random_crop(images_BCHW.repeat(n, 1, 1, 1), size, scale, draws), draws)
                views.append(solarise(blur(view, draws, probability=0.5), draws, probability=0.2))
        return views

    def slices(self, draws: Draws) -> Tensor:
        """(d, S) random unit vectors, the same for all images and views of a step."""
        size = (self.options.projector_width, self.options.n_slices)
        return nn.functional.normalize(torch.randn(size, generator=draws.generator, device=draws.device), dim=0)

    def loss_of_all(self, tokens_BVD: Tensor, slices_dS: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        o, n_views = self.options, tokens_BVD.shape[1]
        rows_VBd = self.projector(tokens_BVD.transpose(0, 1).flatten(0, 1)).float().unflatten(0, (n_views, -1))
        normality = sigreg(rows_VBd, slices_dS, n_knots=o.n_knots, t_max=o.t_max)
        prediction = (rows_VBd - rows_VBd[:2].mean(dim=0)).square().mean()
        loss = o.sigreg_weight * normality + (1 - o.sigreg_weight) * prediction
        return loss, {"sigreg": normality.detach(), "prediction": prediction.detach()}

    @torch.no_grad()
    def look_ahead(self, parts: Iterable[tuple[Tensor, Draws]], *, progress: float) -> None:
        """One more forward pass of the encoder, which `train_flops` leaves out; holds the class tokens of all views of
        all images and, for a moment, the projector's activations and the slices, as a step in one part does."""
        tokens, slices_dS = [], torch.empty(0)
        for images_BCHW, draws in parts:
            tokens.append(parallel.gather(self.tokens(images_BCHW, draws))[0])
            slices_dS = self.slices(draws)
        self.ahead = Ahead.of(partial(self.loss_of_all, slices_dS=slices_dS), torch.cat(tokens), [self.projector])

    def picture(self, images_BCHW: Tensor) -> Picture:
        return attention_picture(self.probed, images_BCHW)

    def after_step(self, progress: float) -> None:
        self.ahead = None


def sigreg(rows_VBd: Tensor, slices_dS: Tensor, *, n_knots: int = 17, t_max: float = 3.0) -> Tensor:
    """Distance of the embeddings from a standard normal distribution, a mean over views and slices; fp32.

    Along each slice B times the Epps-Pulley statistic: the squared distance of the B images' characteristic function
    from exp(-t^2 / 2), weighted by exp(-t^2 / 2) and integrated over -t_max to t_max by the trapezoidal rule.
    """
    with torch.autocast(rows_VBd.device.type, enabled=False):
        values: Tensor = _EppsPulley.apply(rows_VBd.float() @ slices_dS, n_knots, t_max)
        return values.mean()


class _EppsPulley(torch.autograd.Function):
    """(V, B, S) -> (V, S), with one derivative made in the forward pass, so that no knot's cosines are kept: K times
    less memory than automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, values_VBS: Tensor, n_knots: int, t_max: float) -> Tensor:
        n, step = values_VBS.shape[1], t_max / (n_knots - 1)
        statistic, slope_VBS = torch.zeros_like(values_VBS[:, 0]), torch.zeros_like(values_VBS)
        for k in range(n_knots):
            t = torch.tensor(k * step)
            normal = torch.exp(-t.square() / 2).item()
            weight = step * normal * (1 if k in (0, n_knots - 1) else 2)
            angle_VBS = values_VBS * (k * step)
            cos_VBS, sin_VBS = angle_VBS.cos(), angle_VBS.sin_()
            real_VS, imaginary_VS = cos_VBS.mean(dim=1) - normal, sin_VBS.mean(dim=1)
            statistic += n * weight * (real_VS.square() + imaginary_VS.square())
            by_angle = 2 * weight * k * step
            slope_VBS.addcmul_(cos_VBS, imaginary_VS[:, None], value=by_angle)
            slope_VBS.addcmul_(sin_VBS, real_VS[:, None], value=-by_angle)
        ctx.save_for_backward(slope_VBS)
        return statistic

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope_VBS,) = ctx.saved_tensors
        return slope_VBS * gradients[0][:, None], None, None
