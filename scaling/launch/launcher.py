"""The contract of a launcher: somewhere to run many workers. Four methods; the driver does the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run's attempt that is over. Whether it succeeded is in its directory; `crash` says what killed its process."""

    path: Path
    crash: str = ""


class Launcher(Protocol):
    """A failing or dying worker ends its own run and no other. Constructed as `Launcher(LaunchOptions)`."""

    def slots(self) -> int:
        """Runs at once. Raises SpecError when not even one run fits the machine or cluster."""
        ...

    def submit(self, path: Path, token: str) -> None:
        """Starts the run in `path`; at most `slots()` are under way."""
        ...

    def wait(self, timeout: float) -> list[Ended]:
        """What ended, after at most `timeout` seconds; an inline launcher may take as long as its run."""
        ...

    def close(self) -> None:
        """Ends what is still running."""
        ...


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    cpus: int
    """Cores of one run."""
    gpus: float | None
    """GPUs of one run; None = one where there are any, else none."""
    n_runs: int
    """Slots beyond it would idle."""
    address: str | None = None
    """Ray cluster to join; None starts one on this machine."""
