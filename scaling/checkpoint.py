"""Atomic save of tensors, and loading that runs no code from the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from scaling.rundir import write_whole


def save(path: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values; a crash leaves the previous file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """None when there is no checkpoint."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
