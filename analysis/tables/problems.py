"""What can be wrong with what a user asks of a table, said once and completely. Imports nothing of ours, nor NumPy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The question cannot be asked of this table; carries every problem: `where: what is wrong; the way out`."""

    def __init__(self, problems: Iterable[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def unknown(kind: str, name: object, known: Iterable[object]) -> str:
    """`unknown law 'chinchila'; did you mean 'chinchilla'? known: chinchilla, power`: what is near, only if it is."""
    names = list(dict.fromkeys(map(str, known)))
    lower = {one.lower(): one for one in reversed(names)}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f" did you mean '{lower[near[0]]}'?" if near else ""
    return f"unknown {kind} '{name}';{hint} known: {', '.join(names) or 'none'}"
