"""A YAML text as plain data, with the line of every key. Row 1, and the one place that imports yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from scaling.errors import Problem, SpecError

Location = tuple[str | int, ...]
"""Keys and list positions from the top: ("grid", "algorithm", 1)."""


SWEEP, IMPORT = "a sweep", "an import"
"""What a document can be of."""
FIRST = {SWEEP: "name", IMPORT: "store"}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; here it is the number that everybody means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class Document:
    """Raises SpecError when the text is no YAML mapping; keys that stand twice wait in `problems`."""

    def __init__(self, path: str, text: str, *, of: str = SWEEP) -> None:
        self.path = path
        self.text = text
        self.lines: dict[Location, int] = {}
        self.problems: list[Problem] = []
        try:
            root = yaml.compose(text, Loader=_Loader)
            if not isinstance(root, yaml.MappingNode):
                what = "is empty" if root is None else "is not a mapping"
                raise SpecError([Problem(where=path, what=f"{what}; {of} is `key: value` lines, first `{FIRST[of]}:`")])
            self._walk(root, ())
            self.raw: dict[str, Any] = yaml.load(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{path}:{mark.line + 1}" if mark else path
            raise SpecError([Problem(where=where, what=f"no valid YAML: {error.problem or error.context}")]) from None
        except yaml.YAMLError as error:
            raise SpecError([Problem(where=path, what=f"no valid YAML: {error}")]) from None

    @classmethod
    def read(cls, path: Path, *, of: str = SWEEP) -> Document:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise SpecError([Problem(where=str(path), what=f"is not UTF-8 text; give {of}'s YAML")]) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise SpecError([Problem(where=str(path), what=f"cannot be read: {reason}; give {of}'s YAML")]) from None
        return cls(str(path), text, of=of)

    def where(self, location: Location) -> str:
        """`sweep.yaml:12: grid.algorithm[1]`; the nearest enclosing line for a key that is missing."""
        known = next(location[:n] for n in range(len(location), -1, -1) if location[:n] in self.lines)
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        return f"{self.path}:{self.lines[known]}" + (f": {dotted}" if dotted else "")

    def problem(self, location: Location, what: str) -> Problem:
        return Problem(where=self.where(location), what=what)

    def in_order(self, problems: list[Problem]) -> list[Problem]:
        """Without repeats, from the top of the file to its end."""

        def line(problem: Problem) -> int:
            number = problem.where.removeprefix(self.path).split(":")[1:2]
            return int(number[0]) if number and number[0].isdigit() else 0

        return sorted(dict.fromkeys(problems), key=line)

    def _walk(self, node: yaml.Node, at: Location) -> None:
        self.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for i, child in enumerate(node.value):
                self._walk(child, (*at, i))
        elif isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                here = (*at, str(key.value))
                if here in self.lines:
                    what = f"stands twice, first in line {self.lines[here]}; keep one"
                    self.lines[here] = key.start_mark.line + 1
                    self.problems.append(self.problem(here, what))
                self.lines[here] = key.start_mark.line + 1
                self._walk(child, here)
