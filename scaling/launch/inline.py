"""Runs in this process, one after the other: for debuggers, notebooks and machines that forbid processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scaling.failures import EXIT_FAILED
from scaling.launch import machine
from scaling.launch.launcher import Ended, LaunchOptions, Node, Order

NAME = "inline"


class InlineLauncher:
    """A run has the process to itself while `wait` lasts; a crash of the process is a crash of the driver.

    Runs the code that is loaded already, whatever folder an order names, and one rank only.
    """

    def __init__(self, options: LaunchOptions) -> None:
        self._on_step = options.on_step
        self._node = replace(machine.here(NAME), runs=1)
        self._waiting: list[Order] = []
        self._ended: list[Ended] = []

    def nodes(self) -> Sequence[Node]:
        return (self._node,)

    def submit(self, order: Order) -> None:
        if order.n_ranks > 1:
            detail = f"this launcher has one process and the run wants {order.n_ranks}; take --launcher local or ray"
            self._ended.append(Ended(path=order.path, token=order.token, code=EXIT_FAILED, detail=detail))
        else:
            self._waiting.append(order)

    def wait(self, timeout: float) -> list[Ended]:
        if self._ended or not self._waiting:
            if not self._ended:
                time.sleep(timeout)
            ended, self._ended = self._ended, []
            return ended
        from scaling import worker  # imports torch, which a sweep with nothing left to do never needs

        order = self._waiting.pop(0)
        if order.calibrate:
            code = worker.calibrate(order.path, order.token)
        else:
            code = worker.attempt(order.path, order.token, self._on_step)
        return [Ended(path=order.path, token=order.token, code=code)]

    def kill(self, path: Path) -> None:
        """A run that has begun cannot be killed from within its own process; one that waits can."""
        for order in [order for order in self._waiting if order.path == path]:
            self._waiting.remove(order)
            self._ended.append(Ended(path=path, token=order.token, code=-9, detail="ended before it began"))

    def close(self) -> None:
        self._waiting.clear()
