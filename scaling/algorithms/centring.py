"""What keeps a teacher's prototypes from collapsing onto one: centring by a running mean (DINO) or by Sinkhorn (SwAV).

Both look across all rows of a step, whichever processes and micro-batches have them. Letters: R rows, P prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from scaling import parallel
from scaling.algorithms.cross_entropy import pieces

CENTRE_MOMENTUM = 0.9
"""dinov2/loss/dino_clstoken_loss.py"""


class Centring(nn.Module):
    """Teacher's logits of a term -> distributions for the student: centred, so that no prototype takes all, and sharp.

    By the running mean of the logits or by Sinkhorn's algorithm; either knows of all rows of a step, wherever they are.
    """

    mean: Tensor
    seen: Tensor
    """Mean logits of the step's rows so far; the mean moves by it afterwards."""

    def __init__(self, prototypes: int, how: Literal["mean", "sinkhorn"]) -> None:
        super().__init__()
        self.how = how
        if how == "mean":
            self.register_buffer("mean", torch.zeros(1, prototypes))
            self.register_buffer("seen", torch.zeros(1, prototypes), persistent=False)
        self.moves = False
        """Whether the step has any rows in any part."""
        self.columns: Tensor | None = None
        """In a step of several parts: `sinkhorn_columns` of all rows, (1, P)."""

    def forward(self, logits_RP: Tensor, temperature: float, n_all: int) -> Tensor:
        """(R, P); `n_all` is how many rows the step has in all its parts."""
        wide = torch.promote_types(logits_RP.dtype, torch.float32)
        if self.how == "sinkhorn":
            scaled = logits_RP.to(wide) / temperature
            return sinkhorn(scaled) if self.columns is None else (scaled + self.columns).softmax(dim=-1)
        self.moves = n_all > 0
        self.seen += logits_RP.sum(dim=0, dtype=wide) / max(1, n_all)
        target_RP = torch.empty_like(logits_RP, dtype=wide)
        for rows in pieces(logits_RP):
            target_RP[rows] = ((logits_RP[rows].to(wide) - self.mean) * (1 / temperature)).softmax(dim=-1)
        return target_RP

    def after_step(self) -> None:
        self.columns = None
        if self.moves:
            self.mean.lerp_(parallel.total(self.seen), 1 - CENTRE_MOMENTUM)
            self.seen.zero_()
            self.moves = False


def sinkhorn(logits: Tensor, *, iterations: int = 3) -> Tensor:
    """Rows sum to 1, columns share the batch evenly (Caron et al. 2020, SwAV); an empty batch stays empty.

    Columns reach over the rows of all processes, as in the reference.
    """
    if not len(logits) and parallel.n_ranks() == 1:
        return logits
    top = logits.max() if len(logits) else logits.new_tensor(-math.inf)
    q = (logits - parallel.largest(top)).exp()
    for _ in range(iterations):
        q = q / parallel.total(q.sum(dim=0, keepdim=True))
        q = q / q.sum(dim=1, keepdim=True)
    return q


def sinkhorn_columns(parts: Callable[[], Iterable[Tensor]], *, iterations: int = 3) -> Tensor:
    """(1, P) by which (logits + columns).softmax(dim=1) is `sinkhorn` of the rows of all parts and all processes.

    `parts` gives the logits, one part after the other, once an iteration. Rows sum to 1 whatever their scale, so that
    the columns' scales are all there is to know of the other rows. In logarithms, so that nothing underflows.
    """
    columns: Tensor | None = None
    for _ in range(iterations):
        rows = (logits if columns is None else (logits + columns).log_softmax(dim=1) for logits in parts())
        sums, _ = parallel.gather(torch.stack([log_q.logsumexp(dim=0) for log_q in rows]))
        total = sums.logsumexp(dim=0, keepdim=True)
        columns = -total if columns is None else columns - total
    assert columns is not None
    return columns
