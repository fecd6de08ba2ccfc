"""The contract of a launcher: somewhere to run many workers. Five methods; the scheduler does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one run is given."""

    cpus: int = 1
    gpus: float = 0.0
    """0, 1/k for one of k runs that share a GPU, or a whole number."""
    memory: int = 0
    """Bytes of host memory; 0 is not counted."""
    accelerator: str | None = None
    """GPU type the node must have, as `Node.accelerator`."""

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU{'s' * (self.cpus != 1)}"]
        if self.gpus:
            parts.append(f"{self.gpus:g} GPU{'s' * (self.gpus > 1)}" + f" {self.accelerator or ''}".rstrip())
        if self.memory:
            parts.append(f"{self.memory / 2**30:.3g} GiB")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine and what its launcher may give away of it."""

    name: str
    """How the launcher tells it from others."""
    host: str
    cpus: int
    gpus: int = 0
    memory: int = 0
    """Bytes of host memory; 0 is unknown and not counted."""
    accelerator: str | None = None
    """GPU type, e.g. H100; None without GPUs."""
    gpu_memory: int = 0
    """Bytes of one GPU; 0 is unknown."""
    runs: int = 0
    """Runs it can carry at once, whatever they ask for; 0 is as many as fit."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One attempt at a run: where, with what."""

    path: Path
    token: str
    resources: Resources
    node: str
    n_ranks: int = 1
    """Processes that share the run; above 1 under torchrun."""
    code: Path | None = None
    """Folder that holds the `scaling` package to run; None = the installed one."""
    calibrate: bool = False
    """Measure the job for a few steps instead of carrying it out."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An attempt that is over. Whether it succeeded is in its directory."""

    path: Path
    token: str
    code: int | None
    """Exit code of its process, negative for a signal; None when whoever watched it is gone."""
    oom_killed: bool = False
    """The machine's memory ran out and this was killed for it."""
    detail: str = ""
    """What the launcher knows beyond the code, one line."""


class Launcher(Protocol):
    """A failing or dying worker ends its own run and no other. Constructed as `Launcher(LaunchOptions)`."""

    def nodes(self) -> Sequence[Node]:
        """The living machines with all their resources, also those in use. Cheap enough for every tick."""
        ...

    def submit(self, order: Order) -> None:
        """Starts an attempt on the node it names; the caller keeps count of what is free."""
        ...

    def wait(self, timeout: float) -> list[Ended]:
        """What ended, after at most `timeout` seconds; an inline launcher may take as long as its run."""
        ...

    def kill(self, path: Path) -> None:
        """Ends the attempt in `path` at once; it still comes out of `wait`. Nothing where there is none."""
        ...

    def close(self) -> None:
        """Ends what is still running."""
        ...


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    root: Path
    """Of the run directories; every node must see it. A launcher that spans machines checks that, and raises
    SpecError."""
    address: str | None = None
    """Ray cluster to join; None starts one on this machine."""
    code: Path | None = None
    """Folder of the package that the orders will name, where it is known; a launcher may load it ahead."""
    on_step: Callable[[int], None] = lambda step: None
    """Hears of every logged step from a launcher whose runs take the driver's own process."""
