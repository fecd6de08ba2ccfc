"""How processes of a run hang together. Row 1, standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """On Linux the kernel kills this process when `parent` is gone, also if it went before this call.

    The kernel watches the parent's thread that started this process: start children from a thread that lives as long
    as its process. Elsewhere nothing happens; there a closed pipe must do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
