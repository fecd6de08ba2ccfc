"""What every test may need: where the reference data lie, when they are there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SCALING_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images (`data/`) and published numbers (`reference/`); skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data in {SHARED}; set SCALING_SHARED")
    return SHARED
