"""A slot: a process that has torch loaded and forks a child for every run it is given.

`python -m scaling.launch.slot` reads one JSON line per run, {"path", "token"}, and answers {"code"} when its child is
gone. A fork takes milliseconds where a new interpreter takes seconds of imports, and isolates as well: whatever a run
leaks or breaks ends with its process. Nothing here may start a thread or touch CUDA, which no fork survives.
Children die with the slot, the slot with the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """On Linux the kernel kills this process when `parent` is gone; elsewhere the closed pipe ends an idle slot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def run_in_child(path: Path, token: str) -> int:
    """Exit code of the child; negative for the signal that killed it."""
    slot, child = os.getpid(), os.fork()
    if child == 0:
        code = 1
        try:
            die_with_parent(slot)
            os.close(0)
            from scaling.worker import attempt_logged

            code = 0 if attempt_logged(path, token) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print must not mix with answers
    import scaling.worker  # noqa: F401 - loaded once here instead of in every child
    from scaling.catalog import ALGORITHMS, PROBES, SOURCES

    for table in (ALGORITHMS, PROBES, SOURCES):  # also, runs that still wait keep the code the sweep started with
        for entry in table.values():
            with suppress(ImportError, AttributeError):  # what does not load fails the runs that need it, not the slot
                entry.load()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        code = run_in_child(Path(order["path"]), order["token"])
        print(json.dumps({"code": code}), file=answers, flush=True)


if __name__ == "__main__":
    main()
