"""SplitMix64 (Steele, Lea & Flood 2014): a fixed random order of any 64-bit numbers, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The counter's step: 2^64 / golden ratio, odd."""


def mix(state: Keys) -> Keys:
    """The output function: a bijection of 64-bit numbers, at least 1-d."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
