"""One attempt's hold on its run: all that a worker writes goes through here, so that a fenced one writes nothing.

Standard library only. Of several ranks the first writes; the others keep silent.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scaling.failures import FailureClass, Stopped
from scaling.rundir import RunDir, append_line, beside, read_json

EVERY = 1.0
"""Seconds between two signs of life, and between two looks for an order to stop."""


class Attempt:
    """Every writing method raises LeaseLost, before anything is written, once another attempt holds the run."""

    def __init__(self, path: Path, token: str, *, rank: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.run_dir = RunDir(path)
        self.path = path
        self.token = token
        self.rank = rank
        self.asked = False
        """To save and go, by a signal or a stop file."""
        self._clock = clock
        self._pulse_at = float("-inf")

    @property
    def writes(self) -> bool:
        return self.rank == 0

    @property
    def number(self) -> int:
        """1 for the run's first attempt."""
        return int((read_json(self.path / "lease.json") or {}).get("attempt", 0))

    # --- signs of life and orders -----------------------------------------------------------------------------------

    def begin(self, phase: str) -> None:
        """The word on a new phase."""
        if self.writes:
            self.run_dir.begin(self.token, phase)

    def ask(self) -> None:
        """To save and go, as soon as it can."""
        self.asked = True

    def pulse(self) -> bool:
        """Gives a sign of life, at most once a second; whether the attempt is asked to stop. Cheap: call it often."""
        now = self._clock()
        if now - self._pulse_at >= EVERY:
            self._pulse_at = now
            if self.writes:
                self.run_dir.beat()
            self.asked = self.asked or self.run_dir.asked_to_stop()
        return self.asked

    def go_on(self) -> None:
        """A sign of life between pieces of work that need no saving. Raises Stopped when asked to stop."""
        if self.pulse():
            raise Stopped("asked to stop")

    # --- writing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """A draft, written and synced without the lock, that takes the place of `path` under it."""
        with ExitStack() as held, beside(path) as draft:
            yield draft
            with open(draft, "rb") as file:
                os.fsync(file.fileno())  # here, not under the lock
            held.enter_context(self.run_dir.writing(self.token))

    def write(self, path: Path, content: str | bytes) -> None:
        if self.writes:
            with self.replacing(path) as draft:
                draft.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_json(self, path: Path, value: Any) -> None:
        self.write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def append(self, path: Path, line: dict[str, Any]) -> None:
        if self.writes:
            with self.run_dir.writing(self.token):
                append_line(path, line)

    def remove(self, path: Path) -> None:
        if self.writes:
            with self.run_dir.writing(self.token):
                path.unlink(missing_ok=True)

    def set_aside(self, path: Path, aside: Path) -> None:
        if self.writes:
            with self.run_dir.writing(self.token):
                path.replace(aside)

    def keep_metrics_until(self, step: int) -> None:
        """Drops logged steps that a resumed run writes again."""
        if self.writes:
            with self.run_dir.writing(self.token):
                if (self.path / "metrics.jsonl").exists():
                    self.run_dir.keep_metrics_until(step)

    def clear_drafts(self, *names: str) -> None:
        """Removes what attempts that were killed while writing left of these files."""
        if self.writes:
            with self.run_dir.writing(self.token):
                for draft in [found for name in names for found in self.path.glob(f".{name}.*")]:
                    draft.unlink(missing_ok=True)

    def fail(self, kind: FailureClass, error: str) -> None:
        """Of any rank: whichever knows the reason says it."""
        with self.run_dir.writing(self.token):
            self.run_dir.fail(kind, error)
