"""Runs in this process, one after the other: for debuggers, notebooks and machines without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scaling.launch.launcher import Ended, LaunchOptions


class InlineLauncher:
    def __init__(self, options: LaunchOptions, on_step: Callable[[int], None] = lambda step: None) -> None:
        self.on_step = on_step
        """Hears of every logged step, so that a live view can move while the run has the process."""
        self._waiting: list[tuple[Path, str]] = []

    def slots(self) -> int:
        return 1

    def submit(self, path: Path, token: str) -> None:
        self._waiting.append((path, token))

    def wait(self, timeout: float) -> list[Ended]:
        from scaling.worker import attempt  # imports torch, which a sweep with nothing left to do never needs

        path, token = self._waiting.pop(0)
        attempt(path, token, self.on_step)
        return [Ended(path=path)]

    def close(self) -> None:
        self._waiting.clear()
