"""Steps timed in turns, each in a process of its own: what one leaves in its memory does not help or harm another."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

Make = Callable[[], Callable[[], object]]
"""Makes a step, in the process that is to time it."""


def seconds_apart(makers: Mapping[str, Make], *, repeats: int) -> dict[str, float]:
    """Median processor seconds of each step, A B A B, after one call that does not count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for name, make in makers.items():
            pipes[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(make, theirs), daemon=True))
            processes[-1].start()
            theirs.close()
        found: dict[str, list[float]] = {name: [] for name in makers}
        for turn in range(repeats + 1):
            for name, pipe in pipes.items():
                pipe.send(True)
                seconds = pipe.recv()
                if turn:
                    found[name].append(seconds)
        return {name: statistics.median(each) for name, each in found.items()}
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join(10)
            process.kill()


def _serve(make: Make, pipe: Connection) -> None:
    step = make()
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        began = time.process_time()
        step()
        pipe.send(time.process_time() - began)
