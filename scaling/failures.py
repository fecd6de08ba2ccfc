"""Why an attempt gave no result, as a closed set of classes, each with its own policy of trying again.

Row 1, standard library only: the class of an exception is told by its name and text, so nothing here imports torch.
"""

from __future__ import annotations

import errno
import re
import signal
from dataclasses import dataclass
from typing import Literal, get_args

FailureClass = Literal["gpu_oom", "host_oom", "preempted", "hang", "io", "error"]
"""gpu_oom: the GPU's memory ran out; host_oom: the machine's; preempted: asked to go, or its node or watcher is gone;
hang: no step for too long; io: reading or writing failed; error: everything else, most of all mistakes in the code.
A run that diverged or collapsed is no failure but a result."""
FAILURE_CLASSES: tuple[FailureClass, ...] = get_args(FailureClass)

EXIT_DONE, EXIT_FAILED, EXIT_IO, EXIT_STOPPED, EXIT_FENCED = 0, 1, 74, 75, 76
"""Exit codes of an attempt: result or failed.json written; failed, and not even that could be written; saved and gone
on request; another attempt owns the run."""

GPU_OOM = re.compile(r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|HIP out of memory")
HOST_OOM = re.compile(r"DefaultCPUAllocator: can't allocate|Cannot allocate memory|std::bad_alloc")
IO_NAMES = {"BadZipFile", "UnpicklingError", "EOFError", "error"}
"""Beside OSError: what readers raise on files cut short; `error` is zlib's."""


class Stopped(RuntimeError):
    """The run was asked to stop, saved its checkpoint and can go on from it."""


def classify_exception(error: BaseException) -> FailureClass:
    """Of an exception that ended an attempt, by the names along its class's line and by its text."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, Stopped):
        return "preempted"
    if "OutOfMemoryError" in names or GPU_OOM.search(str(error)):
        return "gpu_oom"
    if isinstance(error, MemoryError) or HOST_OOM.search(str(error)):
        return "host_oom"
    if isinstance(error, OSError):
        return "host_oom" if error.errno == errno.ENOMEM else "io"
    return "io" if names & IO_NAMES else "error"


def classify_exit(code: int | None, log_tail: str, *, oom_killed: bool = False) -> tuple[FailureClass, str]:
    """Class and words for a process that ended without saying why: `code` negative for a signal, None if unknown.

    `oom_killed`: the machine's memory monitor or its kernel says that it killed for memory.
    """
    if oom_killed:
        return "host_oom", "killed because the machine's memory ran out"
    if code is None:
        return "preempted", "its node or the process that watched it is gone"
    if code in (EXIT_STOPPED, -signal.SIGTERM, 128 + signal.SIGTERM):
        return "preempted", "was asked to stop"
    if code == EXIT_IO:
        return "io", "could not write why it failed; its disk may be full"
    if GPU_OOM.search(log_tail):
        return "gpu_oom", "the GPU's memory ran out"
    if HOST_OOM.search(log_tail):
        return "host_oom", "the machine's memory ran out"
    if code == -signal.SIGKILL:
        return "preempted", "killed by SIGKILL; the machine's memory may have run out"
    if code < 0:
        return "error", f"killed by {signal.Signals(-code).name}"
    return "error", f"ended with exit code {code} and no result"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What follows a failure of one class."""

    tries: int
    """Further attempts; each class counts its own."""
    backoff: float = 0.0
    """Seconds before the first further attempt; doubles with each, jitter of +-20 % included by the scheduler."""
    longest: float = 600.0
    """Backoff stays below this, seconds."""

    def delay(self, n_failed: int) -> float:
        """Seconds to wait after the `n_failed`-th failure of this class, 1-based."""
        return min(self.longest, self.backoff * 2 ** (n_failed - 1))


POLICIES: dict[FailureClass, Policy] = {
    "gpu_oom": Policy(tries=2),  # each with half the micro-batch, on a whole GPU
    "host_oom": Policy(tries=2, backoff=10),  # each with 1.5 x the memory asked for
    "preempted": Policy(tries=20, backoff=10),
    "hang": Policy(tries=1),
    "io": Policy(tries=2, backoff=30),
    "error": Policy(tries=0),  # the same code will fail the same way
}
BREAKER = 3
"""Runs in a row that fail as `error` with the same last line pause the sweep: the rest would fail too."""
