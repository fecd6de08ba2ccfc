"""What can go wrong, said once and completely. Row 0: imports nothing of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake of the user's: where it stands and what would be right."""

    where: str
    """Place in the input, e.g. ``sweep.yaml:12: grid.algorithm[1]``."""
    what: str
    """What is wrong, what is allowed, the way out."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class SpecError(ValueError):
    """The input asks for something impossible; carries every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class DataMissing(SpecError):
    """Nothing is wrong with what is asked but that its files are not on this machine: it can be priced, not run."""


class RunFailed(RuntimeError):
    """A run gave no usable answer; the message says why in one line."""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """`unknown <kind> 'maee'; did you mean 'mae'? known: dinov2, mae` - the nearest match only when there is one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}';{hint} known: {', '.join(names) or 'none'}"
