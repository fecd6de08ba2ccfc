"""What is free on which machine, and where a run fits best. Pure counting; the scheduler's tick is built on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.launch.launcher import Node, Resources

EPSILON = 1e-6
"""Shares of GPUs are sums of 1/k."""


@dataclass
class _Free:
    node: Node
    cpus: int
    memory: int
    gpus: list[float]
    """Free share of each GPU: a run that shares takes its share of one, others take whole ones."""
    runs: int = 0
    """On it now."""

    def fits(self, wanted: Resources) -> bool:
        if self.node.runs and self.runs >= self.node.runs:
            return False
        if wanted.accelerator is not None and wanted.gpus and self.node.accelerator != wanted.accelerator:
            return False
        if wanted.cpus > self.cpus or (self.node.memory and wanted.memory > self.memory):
            return False
        return len(self._devices(wanted.gpus)) >= (wanted.gpus > 0) * max(1, round(wanted.gpus))

    def _devices(self, gpus: float) -> list[int]:
        """GPUs that could serve, the fullest first, so that whole ones stay whole."""
        share = min(gpus, 1.0)
        return sorted((i for i, free in enumerate(self.gpus) if free >= share - EPSILON), key=lambda i: self.gpus[i])

    def take(self, wanted: Resources, devices: Sequence[int] | None = None) -> tuple[int, ...]:
        """The GPUs taken; those given, where a run is on them already."""
        self.runs += 1
        self.cpus -= wanted.cpus
        self.memory -= wanted.memory
        if devices is None:
            devices = self._devices(wanted.gpus)[: max(1, round(wanted.gpus))] if wanted.gpus else ()
        for i in devices:
            if i < len(self.gpus):  # a node may come back with fewer
                self.gpus[i] -= min(wanted.gpus, 1.0)
        return tuple(devices)


class Room:
    """Begins with whole nodes; `take` what runs."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.free = {n.name: _Free(n, n.cpus, n.memory, [1.0] * n.gpus) for n in nodes}
        self._kept: str | None = None
        self._full: bool | None = None
        """None until it is asked for again: of thousands of waiting runs each asks, and hardly any changes it."""

    @property
    def full(self) -> bool:
        """No node can take even the smallest run."""
        if self._full is None:
            smallest = Resources()
            self._full = not any(free.fits(smallest) for name, free in self.free.items() if name != self._kept)
        return self._full

    def place(self, wanted: Resources) -> Node | None:
        """The node it fits with least left over; runs without a GPU stay off nodes that have them, if they can."""
        fitting = [free for name, free in self.free.items() if name != self._kept and free.fits(wanted)]
        best = min(fitting, key=lambda f: (not wanted.gpus and f.node.gpus > 0, sum(f.gpus), f.cpus), default=None)
        return best.node if best else None

    def take(self, node: str, wanted: Resources) -> tuple[int, ...]:
        """For a run that is to start: the GPUs it gets, the fullest first, as launchers give them out too."""
        self._full = None
        free = self.free[node]
        assert free.fits(wanted), f"{node} is oversubscribed by {wanted}"
        return free.take(wanted)

    def hold(self, node: str, wanted: Resources, devices: Sequence[int]) -> None:
        """For a run that is on these GPUs, also on a node that has shrunk; nothing on one that is gone."""
        self._full = None
        if node in self.free:
            self.free[node].take(wanted, devices)

    def reserve(self, wanted: Resources) -> str | None:
        """Keeps the node free on which `wanted` would fit soonest: the emptiest of those that are large enough."""
        whole = Room([free.node for free in self.free.values()])
        able = [free for name, free in self.free.items() if whole.free[name].fits(wanted)]
        best = max(able, key=lambda f: (sum(f.gpus), f.cpus), default=None)
        self._kept, self._full = best.node.name if best else None, None
        return self._kept
