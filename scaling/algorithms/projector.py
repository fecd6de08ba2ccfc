"""What joint-embedding algorithms share: a projector with batch norm, and a loss over the whole batch in parts.

Batch norm takes its statistics over all images of a step, in every process and micro-batch, as the references do
(SyncBatchNorm in moco-v3@c349e6e:main_moco.py, cross-replica statistics in google-research/simclr:resnet.py). Its
backward couples images too, so that exact statistics alone would not do: instead the small part of the network that
looks across images, projector and loss, is computed on the class tokens of all of them, and only the encoder, which
is nearly all of the cost, works in parts. Every process then repeats that small part.
Letters: B images of the global batch, V views, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.algorithms.closed_forms import Last
from scaling.parallel import Draws

LossOfAll = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Class tokens of all images (B, V, D), fp32 -> mean loss over the images and what else to log, without gradients."""


class BatchNorm(nn.Module):
    """Rows (n, D) to mean 0 and deviation 1 over all n, in fp32; always those of the batch, nothing is kept of it.

    Needs two rows. Optionally a scale and an offset for each value.
    """

    def __init__(self, width: int, *, scale: bool = True, offset: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if offset else None

    def forward(self, rows_nD: Tensor) -> Tensor:
        normed = F.batch_norm(rows_nD.float(), None, None, training=True, eps=1e-5)
        scaled = normed if self.weight is None else normed * self.weight
        return scaled if self.bias is None else scaled + self.bias


class Projector(nn.Sequential):
    """Perceptron of the given widths, input first; batch norm and ReLU behind every layer but the last.

    Behind the last: `norm`, batch norm alone (MoCo v3); `scale`, batch norm with a scale (SimCLR); `linear`, a bias
    alone (LeJEPA). Layers before a batch norm have no bias, which it would take away. Rows (n, D) -> (n, last width).
    """

    def __init__(self, widths: Sequence[int], last: Last) -> None:
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(widths[:-1]):
            layers += [nn.Linear(i, o, bias=False), BatchNorm(o), nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=last == "linear"))
        if last != "linear":
            layers.append(BatchNorm(widths[-1], scale=last == "scale", offset=False))
        super().__init__(*layers)


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """A loss of the whole batch and its gradients, known before its parts are differentiated: GradCache (Gao et al.
    2021, arXiv 2101.06983) at the class tokens."""

    loss: Tensor
    terms: dict[str, Tensor]
    by_token_BVD: Tensor
    by_parameter: list[tuple[nn.Parameter, Tensor]]

    @classmethod
    def of(cls, loss_of_all: LossOfAll, tokens_BVD: Tensor, heads: Sequence[nn.Module]) -> Ahead:
        """`heads` are the modules that stand between the tokens and the loss."""
        parameters = [p for head in heads for p in head.parameters() if p.requires_grad]
        with torch.enable_grad():
            tokens_BVD = tokens_BVD.detach().requires_grad_()
            loss, terms = loss_of_all(tokens_BVD)
            by_token_BVD, *gradients = torch.autograd.grad(loss, [tokens_BVD, *parameters])
        by_parameter = list(zip(parameters, gradients, strict=True))
        return cls(loss=loss.detach(), terms=terms, by_token_BVD=by_token_BVD, by_parameter=by_parameter)

    def loss_of(self, tokens_bVD: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the whole, whose backward gives the images here their share of it, as a mean over them.

        The heads get their whole gradient from every part, because the parts' shares add up to one.
        """
        slope = (tokens_bVD.float() * draws.rows(self.by_token_BVD)).sum() / draws.share
        for parameter, gradient in self.by_parameter:
            slope = slope + (parameter * gradient).sum()
        return self.loss + (slope - slope.detach()), self.terms
