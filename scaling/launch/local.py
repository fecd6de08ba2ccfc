"""Runs on this machine alone, each in a process of its own. Starts no services and knows no cluster."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from pathlib import Path

from scaling.launch import machine
from scaling.launch.launcher import Ended, LaunchOptions, Node, Order
from scaling.launch.warm import WarmSlot

NAME = "local"
WHOLE = 1 - 1e-6
"""Of a GPU: shares of 1/3 add up to one only nearly."""


class Devices:
    """Which run has which GPU. A share never lies across two, so a sum of free shares may be no free GPU."""

    def __init__(self, names: Sequence[str]) -> None:
        self._free = dict.fromkeys(names, 1.0)
        self._taken: dict[str, tuple[tuple[str, ...], float]] = {}

    def take(self, token: str, gpus: float) -> str | None:
        """CUDA_VISIBLE_DEVICES for `gpus` of them; None while they are not free."""
        if gpus <= 0:
            return ""
        n, share = (1, gpus) if gpus < WHOLE else (round(gpus), 1.0)
        fitting = [name for name, free in self._free.items() if free >= share * WHOLE]
        if len(fitting) < n:
            return None
        fitting.sort(key=lambda name: self._free[name])  # the fullest first keeps whole GPUs whole
        for name in fitting[:n]:
            self._free[name] -= share
        self._taken[token] = (tuple(fitting[:n]), share)
        return ",".join(fitting[:n])

    def give_back(self, token: str) -> None:
        names, share = self._taken.pop(token, ((), 0.0))
        for name in names:
            self._free[name] = min(1.0, self._free[name] + share)


class LocalLauncher:
    """One slot per code folder: all its runs are children of one process that loaded torch once."""

    def __init__(self, options: LaunchOptions) -> None:
        gpus = machine.gpus()
        self._node = machine.here(NAME, gpus)
        self._devices = Devices([gpu.uuid for gpu in gpus])
        self._slots: dict[Path | None, WarmSlot] = {}
        self._selector = selectors.DefaultSelector()
        self._held: list[Order] = []
        """Wait for a GPU: the sum of free shares was enough, but not on one device."""
        self._ended: list[Ended] = []
        if options.code is not None:
            self._slot(options.code)  # loads while the driver still does other things

    def nodes(self) -> Sequence[Node]:
        return (self._node,)

    def submit(self, order: Order) -> None:
        devices = self._devices.take(order.token, order.resources.gpus)
        if devices is None:
            self._held.append(order)
        else:
            self._slot(order.code).start(order, devices=devices)

    def wait(self, timeout: float) -> list[Ended]:
        until = time.monotonic() + timeout
        ended, self._ended = self._ended, []
        while not ended:
            left = until - time.monotonic()
            for key, _ in self._selector.select(max(0.0, left)):
                ended += self._read(key.data)
            if left <= 0:
                break
        for one in ended:
            self._devices.give_back(one.token)
        held, self._held = self._held, []
        for order in held:
            self.submit(order)
        return ended

    def kill(self, path: Path) -> None:
        for order in self._held:
            if order.path == path:
                self._ended.append(Ended(path=path, token=order.token, code=-9, detail="ended before it began"))
        self._held = [order for order in self._held if order.path != path]
        for slot in self._slots.values():
            slot.kill(path)

    def close(self) -> None:
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        self._selector.close()

    def _slot(self, code: Path | None) -> WarmSlot:
        if code not in self._slots:
            self._slots[code] = WarmSlot(code)
            self._selector.register(self._slots[code], selectors.EVENT_READ, self._slots[code])
        return self._slots[code]

    def _read(self, slot: WarmSlot) -> list[Ended]:
        descriptor = slot.fileno()
        ended = slot.read()
        if slot.dead:
            self._selector.unregister(descriptor)
            self._slots = {code: other for code, other in self._slots.items() if other is not slot}
        return ended
