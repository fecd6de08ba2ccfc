"""Cross entropy to a teacher's distributions over very many prototypes, the largest tensors of DINO and iBOT.

Letters: R rows of logits, S rows of targets, P prototypes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

AT_ONCE = {"cpu": 2**18, "cuda": 2**27}
"""Most logits made fp32 at a time: on a CPU what a core's cache holds, on a GPU half a gigabyte."""


class _CrossEntropy(torch.autograd.Function):
    """Finds its gradient with its value, some rows at a time: nothing of R P values is kept but that gradient, in the
    logits' own precision, in which they need it."""

    @staticmethod
    def forward(ctx: Any, logits_RP: Tensor, target_SP: Tensor, temperature: float) -> Tensor:
        wide = torch.promote_types(logits_RP.dtype, torch.float32)
        loss_R = logits_RP.new_empty(len(logits_RP), dtype=wide)
        differs_RP = torch.empty_like(logits_RP) if ctx.needs_input_grad[0] else None
        for mine, theirs in _pieces(logits_RP, target_SP):
            scaled, target = logits_RP[mine].to(wide) * (1 / temperature), target_SP[theirs]
            shares = scaled.softmax(dim=-1)  # on a CPU in half the time of log_softmax and exp
            log_sum = scaled.amax(dim=-1) - shares.amax(dim=-1).log()
            loss_R[mine] = log_sum - scaled.mul_(target).sum(dim=-1)
            if differs_RP is not None:
                differs_RP[mine] = shares.sub_(target)
        ctx.save_for_backward(differs_RP)
        ctx.temperature = temperature
        return loss_R

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (differs_RP,) = ctx.saved_tensors
        to_logits, per_R = torch.empty_like(differs_RP), gradients[0] / ctx.temperature
        for rows in pieces(differs_RP):  # in fp32: rounded to bf16, a row's factor would bend all of it alike
            to_logits[rows] = differs_RP[rows].to(per_R.dtype).mul_(per_R[rows, None])
        return to_logits, None, None


def _pieces(logits_RP: Tensor, target_SP: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of logits, and those of the targets they go with."""
    for view in range(0, len(logits_RP), len(target_SP) or 1):
        for rows in pieces(target_SP):
            yield slice(view + rows.start, view + rows.stop), rows


def pieces(logits_RP: Tensor) -> Iterator[slice]:
    """Rows, as many at a time as are to be made fp32 at once."""
    at_once = max(1, AT_ONCE["cpu" if logits_RP.device.type == "cpu" else "cuda"] // logits_RP.shape[-1])
    return (slice(start, min(start + at_once, len(logits_RP))) for start in range(0, len(logits_RP), at_once))


def cross_entropy(logits_RP: Tensor, target_SP: Tensor, temperature: float) -> Tensor:
    """(R,) -sum(target log softmax(logits / temperature)) in nats, at least fp32. Targets sum to 1, get no gradient,
    and start over for logits beyond them: R is a multiple of S."""
    loss_R: Tensor = _CrossEntropy.apply(logits_RP, target_SP.detach(), temperature)
    return loss_R
