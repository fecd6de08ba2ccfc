"""GPUs by the name that Ray gives them: what a run would take on one that nobody has timed. Row 2, a table of facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

REACHED = 0.3
"""Share of the peak that a price assumes. A guess between those of published codes, whose small models lie lower."""
REACHED_BETWEEN = (0.1, 0.5)
"""Shares that published codes bracket: MAE's ViT-L on V100 10.5 % (mae@efb2a80:PRETRAIN.md, 42 h on 64), DINOv2's ViT-L
on A100 45 % (dinov2@b8931f7:README.md, a day on 32); derived from their times and our closed forms."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    flops: float
    """A second, dense, in bf16; in fp16 where it has no bf16."""
    memory_gb: int


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {  # NVIDIA's data sheets; SXM where there are several
        "V100": Accelerator(flops=125e12, memory_gb=32),
        "T4": Accelerator(flops=65e12, memory_gb=16),
        "A100": Accelerator(flops=312e12, memory_gb=80),
        "L4": Accelerator(flops=121e12, memory_gb=24),
        "L40S": Accelerator(flops=362e12, memory_gb=48),
        "H100": Accelerator(flops=989e12, memory_gb=80),
        "H200": Accelerator(flops=989e12, memory_gb=141),
        "B200": Accelerator(flops=2250e12, memory_gb=180),
    }
)
