"""What the scheduler and its callers tell each other: a run that is wanted, what it gets, how it went.

Standard library and the launcher's contract only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from scaling.failures import POLICIES, FailureClass, Policy
from scaling.launch.launcher import Ended, Node, Resources

Ending = Literal["done", "diverged", "collapsed", "stopped", "cancelled", "failed"]
"""How a run leaves the scheduler. `stopped` may go on another day."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one attempt ended, as its directory and its process tell."""

    kind: Literal["done", "diverged", "collapsed", "stopped"] | FailureClass
    """stopped: saved and gone, whoever asked for it."""
    error: str = ""
    """One line."""
    progressed: bool = True
    """Whether the run got further than before; a run that does may be preempted without end."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What one attempt is given; changes with what the last ones failed of."""

    resources: Resources
    n_micro: int = 1
    """Micro-batches per step and rank."""
    recomputed: bool = False
    """Whether blocks compute their activations anew in the backward pass."""


class Body(Protocol):
    """What a run does outside the scheduler; files in production, a few lines in tests."""

    def prepare(self, token: str, effort: Effort, node: Node) -> None:
        """Writes what the worker needs and gives the attempt the run; fences all attempts before."""
        ...

    def outcome(self, ended: Ended) -> Outcome: ...

    def pulse(self) -> object:
        """Changes whenever the run gets on."""
        ...

    def slow_pulse(self) -> float:
        """Seconds between two pulses that are no cause for alarm, by how fast the run got on so far; 0 is unknown."""
        ...

    def ask_to_stop(self) -> None: ...

    def occupied(self) -> bool:
        """Whether a process of an earlier driver still lives in the run; fences it, so that it will end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run that is wanted."""

    key: str
    path: Path
    sweep: str
    body: Body
    rank: float
    """Smaller goes first within a priority: the run's cost, or minus it."""
    effort: Effort
    n_ranks: int = 1
    max_micro: int = 1
    """Micro-batches beyond which a step cannot be split."""
    priority: int = 0
    code: Path | None = None
    policies: Mapping[FailureClass, Policy] = field(default_factory=lambda: POLICIES)
    hang_after: float = 600.0
    """Seconds without a pulse."""
    patience: float = 3600.0
    """Seconds of waiting after which nothing that came later overtakes and a node is kept free."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a person or a mirror may want to know of."""

    kind: Literal["started", "retry", "hang", "breaker"] | Ending
    task: Task
    attempt: int = 0
    node: str = ""
    seconds: float = 0.0
    """Of the attempt that ended."""
    effort: Effort | None = None
    """Of the attempt that began or ended."""
    failure: FailureClass | None = None
    error: str = ""
    delay: float = 0.0
    """Seconds until the next attempt."""
    final: bool = True


def lighter(effort: Effort, kind: FailureClass, task: Task, nodes: Sequence[Node]) -> Effort | None:
    """What the next attempt gets after a failure of this class; None where nothing lighter is possible."""
    given = effort.resources
    if kind == "gpu_oom":
        n_micro = min(2 * effort.n_micro, task.max_micro)
        whole = replace(given, gpus=max(given.gpus, 1.0) if given.gpus else 0.0)  # a run that has none gets none
        if n_micro > effort.n_micro or whole != given:
            return replace(effort, resources=whole, n_micro=n_micro)
        return None if effort.recomputed else replace(effort, recomputed=True)
    if kind == "host_oom":
        largest = max((node.memory for node in nodes), default=0)
        # Who asked for nothing had at most the share of its cores.
        fair = max((node.memory * given.cpus // max(1, node.cpus) for node in nodes), default=0)
        wanted = int(1.5 * (given.memory or fair))
        return replace(effort, resources=replace(given, memory=min(wanted, largest) if largest else given.memory))
    return effort
