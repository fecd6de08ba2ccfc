"""One run in several processes on one machine, under torchrun's agent. Runs in the run's own process, under a slot.

The agent is called and not started as a command, because only its exception knows with which code each rank ended: a
rank that saved and went, or was fenced, must not look like one that failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from scaling.failures import EXIT_DONE, EXIT_FAILED, EXIT_FENCED, EXIT_IO, EXIT_STOPPED

RANK = """\
import sys
from scaling.process import die_with_parent
die_with_parent(int(sys.argv.pop(1)))
from scaling.worker import main
main()
"""
"""Bound to its agent before it spends seconds on imports: an agent killed meanwhile must leave no rank behind."""
GRACE = 15
"""Seconds for the other ranks to go once one has failed; one that waits for a lost peer on a GPU never hears."""


def run_ranks(path: Path, token: str, n_ranks: int) -> int:
    """Exit code of the whole, negative for a signal. Ranks print to this process's output.

    Ranks end with the first of them that fails: the agent asks by SIGTERM and kills after a while.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_ranks,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port, so that several runs share a machine
        max_restarts=0,  # trying again is the scheduler's business
        shutdown_timeout=GRACE,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-c", RANK, str(os.getpid()), str(path), token)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        return joint_code([failure.exitcode for failure in error.failures.values()])
    return EXIT_DONE


def joint_code(codes: Sequence[int]) -> int:
    """One code for those of the ranks that did not end well.

    A rank that lost its peer ends as failed without knowing why, so every other code says more: first a signal, then
    that the attempt was fenced, then that it saved and went.
    """
    signals = [code for code in codes if code < 0]
    return next((code for code in (*signals, EXIT_FENCED, EXIT_STOPPED, EXIT_IO) if code in codes), EXIT_FAILED)
