"""One process at a time mirrors a root: two that compare and then send would both send. Standard library only."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from scaling.errors import Problem, SpecError

_claims: WeakValueDictionary[Path, Claim] = WeakValueDictionary()
_claiming = threading.Lock()


class Claim:
    """Held as long as any tracker of this process lives; ends with the process, however it ends."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.turn = threading.RLock()
        """A driver has a tracker per sweep, each in a thread; sweeps may share runs."""
        self.active: dict[str, str] = {}
        """Runs under way -> the sweep they were started for."""
        self.sweeps: set[str] = set()
        """Sweeps under way."""
        self.seen: dict[tuple[str, str], Any] = {}
        """(store, fingerprint) -> what the store has of a run, shared as sweeps share runs."""
        self.doubts = 0
        """Raised by every error, as what took effect before it is unknown: all trackers then ask again."""
        self._file = open(root / "mlflow.lock", "a+")  # noqa: SIM115 (its closing ends the claim)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            what = f"process {holder} mirrors this root to MLflow and sends all there is; wait for it or end it"
            raise SpecError([Problem(where=str(root), what=what)]) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def doubt(self) -> None:
        self.doubts += 1
        self.seen.clear()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def claim(root: Path) -> Claim:
    """This process's claim on a root; raises SpecError while another process has it."""
    root = root.resolve()
    with _claiming:
        held = _claims.get(root)
        if held is None:
            held = _claims[root] = Claim(root)
        return held
