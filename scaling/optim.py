"""AdamW and its schedules, as fractions of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from scaling.options import Recipe


def adamw(module: nn.Module, recipe: Recipe, *, lr: float, device: torch.device) -> torch.optim.AdamW:
    """Two groups: weight matrices decay; biases, norms and tokens do not (MAE and DINOv2 alike)."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decays = [p for name, p in trained if p.squeeze().ndim >= 2 and not name.endswith("token")]
    rest = [p for name, p in trained if p.squeeze().ndim < 2 or name.endswith("token")]
    groups = [{"params": decays, "decays": True}, {"params": rest, "decays": False, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=device.type in ("cpu", "cuda")
    )


def learning_rate(recipe: Recipe, progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine from the peak to `final_lr` of it. `progress` is the share of steps done, 0-1."""
    if progress < recipe.warmup:
        return peak * progress / recipe.warmup
    done = (progress - recipe.warmup) / max(1e-12, 1 - recipe.warmup)
    return peak * (recipe.final_lr + (1 - recipe.final_lr) * (1 + math.cos(math.pi * done)) / 2)


def weight_decay(recipe: Recipe, progress: float) -> float:
    """Cosine from the first value to the last."""
    start, end = recipe.weight_decay, recipe.weight_decay_end
    return start if end is None else end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


def set_schedules(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float, peak: float) -> float:
    """Sets this step's learning rate and decay; returns the learning rate."""
    lr = learning_rate(recipe, progress, peak)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay(recipe, progress)
    return lr


def clip(parameters: Iterable[nn.Parameter], largest: float | None) -> None:
    if largest is not None:
        nn.utils.clip_grad_norm_(parameters, largest, foreach=True)
