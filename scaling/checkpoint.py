"""Atomic save of tensors, and loading that runs no code from the file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from scaling.rundir import beside

Place = Callable[[Path], AbstractContextManager[Path]]
"""Opens a draft that takes the place of a path at the end of the block."""


def save(path: Path, state: dict[str, Any], *, place: Place = beside) -> None:
    """Tensors and plain values; a crash or a full disk leaves the previous file. Raises OSError."""
    with place(path) as draft, open(draft, "wb") as file:  # of a name torch would turn OSError into RuntimeError
        torch.save(state, file)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """None when there is no checkpoint."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
