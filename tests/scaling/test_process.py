"""What a run's process asks of its system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

ALLOCATIONS = """
import resource
import numpy as np
from scaling.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # a step's pieces: made, filled, freed
        pieces = [np.ones(5_000_000, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc can be told")
def test_freed_memory_that_is_kept_costs_no_page_faults_when_it_is_wanted_again() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATIONS], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual > 1000  # 20 MB are some 5,000 pages
    assert kept < usual / 10
