"""AdamW and its schedules, as fractions of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from scaling.options import DinoV2Options, Recipe

BLOCKS = "encoder.vit.blocks."
STEM = ("encoder.vit.patch_embed.", "encoder.vit.cls_token", "mask_token")
"""What makes an encoder's tokens; parameters by the first letters of their names."""


def adamw(module: nn.Module, recipe: Recipe, *, lr: float, device: torch.device) -> torch.optim.AdamW:
    """Weight matrices decay; biases, norms, scales and tokens do not (MAE and DINOv2 alike).

    Two groups, and two more for each factor of the learning rate other than 1.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    depth = len({name.split(".")[3] for name, _ in trained if name.startswith(BLOCKS)})
    members: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for name, p in trained:
        decays = p.squeeze().ndim >= 2 and not name.endswith("token")
        members.setdefault((decays, lr_factor(name, depth, recipe)), []).append(p)
    groups: list[dict[str, Any]] = [
        {"params": found, "decays": decays, "lr_factor": factor, **({} if decays else {"weight_decay": 0.0})}
        for (decays, factor), found in members.items()
    ]
    return torch.optim.AdamW(
        groups, lr=lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=device.type in ("cpu", "cuda")
    )


def lr_factor(name: str, depth: int, recipe: Recipe) -> float:
    """What a parameter's learning rate is multiplied by, of an encoder of so many blocks.

    layer_decay ** (depth - i) in block i, one power more before the blocks, none behind them; dinov2@b8931f7:
    dinov2/utils/param_groups.py.
    """
    if not isinstance(recipe, DinoV2Options):
        return 1.0
    if name.startswith(BLOCKS):
        return recipe.layer_decay ** (depth - int(name.split(".")[3]))
    if name.startswith(STEM):
        return recipe.layer_decay ** (depth + 1) * (recipe.patch_lr if name.startswith(STEM[0]) else 1.0)
    return 1.0


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
    """Sets this step's learning rates and decay; returns the learning rate of a factor of 1."""
    lr = learning_rate(recipe, progress, peak)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)  # checkpoints from before there were factors have none
        if group["decays"]:
            group["weight_decay"] = weight_decay(recipe, progress)
    return lr


def clip(parameters: Iterable[nn.Parameter], largest: float | None) -> None:
    if largest is not None:
        nn.utils.clip_grad_norm_(parameters, largest, foreach=True)
