"""The reference study's read-out (arXiv 2505.09329; BioVFM@5fc0e0d: evaluation/MyLitModel.py, models/builder.py).

Mean of the patch tokens, batch norm without parameters, a linear layer from N(0, 0.01), AdamW on the cross-entropy, the
rate on a cosine from epoch to epoch, the weights of the epoch with the lowest validation loss. On cached features, so
three things differ: no rotations and shifts of the images, no drop path in the frozen DINOv2 (theirs is in training
mode), and the mean is taken after the encoder's last norm (theirs of MAE puts an untrained one behind the mean).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scaling.data.source import TaskInfo, TaskKind
from scaling.probe_options import BiovfmOptions
from scaling.probes.basis import exact_products
from scaling.probes.features import Splits
from scaling.probes.linear import log_loss, one_hot, probabilities
from scaling.probes.metrics import Labels, Scores

EPSILON, MOMENTUM = 1e-6, 0.1
"""Of the batch norm: the study's, and PyTorch's default."""
BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
START = 0.01
"""Standard deviation of the first weights."""


class Biovfm:
    """Good for numbers beside the published ones; dearer than `linear`, and worse where few data want a penalty."""

    pool = "mean"

    def __init__(self, options: BiovfmOptions) -> None:
        self.options = options

    def predict(self, splits: Splits, info: TaskInfo, *, seed: int) -> tuple[Scores, dict[str, Any]]:
        """Probabilities for the test split, and the epoch chosen with its validation loss."""
        train, val = splits.train, splits.val
        targets = torch.from_numpy(one_hot(train.labels, info)).float().to(train.features.device)
        with exact_products():
            head = Head(train.features.shape[1], targets.shape[1], self.options, seed, train.features.device)
            sigmoid = _kind(info) == "multi-label"
            best, epoch, kept = math.inf, 0, head.state()
            for now in range(self.options.epochs):
                head.epoch(now, train.features, targets, sigmoid=sigmoid)
                loss = _loss(head.logits(val.features), val.labels, info)
                if loss < best:
                    best, epoch, kept = loss, now + 1, head.state()
            logits = Head.logits_of(splits.test.features, kept).double().cpu().numpy()
        scores = probabilities(logits, _kind(info))
        return scores[:, -1:] if info.kind == "binary" else scores, {"epoch": epoch, "val_loss": best}


def _loss(logits: Tensor, labels: Labels, info: TaskInfo) -> float:
    return log_loss(logits.double().cpu().numpy(), labels, _kind(info))


def _kind(info: TaskInfo) -> TaskKind:
    """Binary tasks have two classes here, as in the study."""
    return "multi-label" if info.kind == "multi-label" else "multi-class"


State = tuple[Tensor, Tensor, Tensor]
"""Weights with the bias as last column (k, d + 1), running mean and variance (d,)."""


class Head:
    """Batch norm, linear layer and AdamW by hand: of a batch only one product forth and one back are needed."""

    def __init__(self, width: int, k: int, options: BiovfmOptions, seed: int, device: torch.device) -> None:
        self.options = options
        self.draws = torch.Generator().manual_seed(seed)
        weights = torch.zeros(k, width + 1)
        weights[:, :-1].normal_(0, START, generator=self.draws)  # cut off at 2 in the study, which is at 200 deviations
        self.weights = weights.to(device)
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.mean, self.variance = self.weights.new_zeros(width), self.weights.new_ones(width)
        self.steps = 0

    def epoch(self, now: int, x_ND: Tensor, targets_NK: Tensor, *, sigmoid: bool) -> None:
        """Full batches in a new order; of fewer images than a batch, all as one."""
        o = self.options
        rate = o.lr * (1 + math.cos(math.pi * now / o.epochs)) / 2
        order = torch.randperm(len(x_ND), generator=self.draws).to(x_ND.device)
        size = min(o.batch_size, len(order))
        for chosen in order[: len(order) // size * size].split(size):
            self._step(x_ND[chosen], targets_NK[chosen], rate, sigmoid=sigmoid)

    def _step(self, x_BD: Tensor, targets_BK: Tensor, rate: float, *, sigmoid: bool) -> None:
        variance, mean = torch.var_mean(x_BD, dim=0, correction=0)
        normed = (x_BD - mean) * (variance + EPSILON).rsqrt()
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance * (len(x_BD) / max(1, len(x_BD) - 1)), MOMENTUM)
        logits = torch.addmm(self.weights[:, -1], normed, self.weights[:, :-1].T)
        residual = (logits.sigmoid() - targets_BK) / targets_BK.shape[1] if sigmoid else logits.softmax(1) - targets_BK
        residual /= len(x_BD)
        gradient = torch.cat([residual.T @ normed, residual.sum(dim=0)[:, None]], dim=1)
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square(), 1 - BETAS[1])
        self.weights.mul_(1 - rate * self.options.weight_decay)
        size = (self.second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(ADAM_EPSILON)
        self.weights.addcdiv_(self.first, size, value=-rate / (1 - BETAS[0] ** self.steps))

    def state(self) -> State:
        return self.weights.clone(), self.mean.clone(), self.variance.clone()

    def logits(self, x_ND: Tensor) -> Tensor:
        return self.logits_of(x_ND, (self.weights, self.mean, self.variance))

    @staticmethod
    def logits_of(x_ND: Tensor, state: State) -> Tensor:
        """(n, k) by the running moments."""
        weights, mean, variance = state
        return torch.addmm(weights[:, -1], (x_ND - mean) * (variance + EPSILON).rsqrt(), weights[:, :-1].T)
