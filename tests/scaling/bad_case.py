"""One kind of bad data: how it comes about, and the reason or error that an import must give for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BadCase:
    name: str
    """What is wrong, in words."""
    options: Mapping[str, Any]
    """Of the source, as in an import's YAML: `reader` and its options, without `path`."""
    make: Callable[[Path], object]
    """Writes the bad data into an empty folder."""
    aside: str | None = None
    """Reason with which its item, or one of its images, is set aside."""
    error: str | None = None
    """Part of the SpecError's text, where nothing can be imported."""
    n_good: int = 0
    """Images that `make` writes beside the bad ones, and that must be imported."""
