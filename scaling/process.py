"""How processes of a run hang together. Row 1, standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's mallopt(3)."""


def die_with_parent(parent: int) -> None:
    """On Linux the kernel kills this process when `parent` is gone, also if it went before this call.

    The kernel watches the parent's thread that started this process: start children from a thread that lives as long
    as its process. Elsewhere nothing happens; there a closed pipe must do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def keep_freed_memory() -> None:
    """What this process frees stays its own, for what it allocates next; for one that ends when its work is done.

    A training step on a CPU frees tens of megabytes and wants them again at once. By default glibc gives such pieces
    back, and the kernel clears every page of them anew: 50,000 page faults a step of a ViT-Tiny at batch 256, a sixth
    of its time. Elsewhere than under glibc nothing happens.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
