"""What readers list alike: files of a folder, which links are followed, groups by pattern.

Row of data/. Links are followed only to files inside the folder; folders behind links are not entered, so no loop is.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from scaling.errors import Problem, SpecError
from scaling.importing.reader import Unreadable

SOUGHT = {"group": "patient or study", "task.label": "class"}
"""What an option's pattern finds."""

LINKED = "a link to a folder, which is not followed; import that as a source of its own"


def files_below(root: Path, *, all_links: bool = False) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(path below root with `/`, entry) of every regular file, in no order. Hidden ones are left out.

    `all_links`: also links, wherever they lead, those to folders too; none of these is followed.
    """
    waiting = [("", str(root))]
    real = os.path.realpath(root)
    while waiting:
        prefix, folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    inward = os.path.isfile(target) and inside(target, real)
                    if inward or all_links:
                        yield prefix + entry.name, entry
                elif entry.is_file():
                    yield prefix + entry.name, entry


def link_fault(entry: os.DirEntry[str], root: Path) -> str | None:
    """Why a link is not followed; None for one to a file inside `root`, and for what is no link."""
    if not entry.is_symlink():
        return None
    target = os.path.realpath(entry.path)
    if os.path.isdir(target):
        return LINKED
    return None if os.path.isfile(target) and inside(target, root) else "a link out of the folder or to nothing"


def archives_below(root: Path, endings: tuple[str, ...]) -> list[tuple[str, Path]]:
    """(path below root, file) of files that end so, in order. Raises SpecError for links that are not followed, as a
    missing shard would be missed by nobody."""
    found, faults = [], []
    for name, entry in files_below(root, all_links=True):
        if fault := link_fault(entry, root):
            if name.lower().endswith(endings) or os.path.isdir(entry.path):
                faults.append(Problem(where=f"path: {name}", what=fault))
        elif name.lower().endswith(endings):
            found.append((name, Path(entry.path)))
    if faults:
        raise SpecError(sorted(faults, key=str))
    return sorted(found)


def needs(package: str) -> None:
    """Raises SpecError where a package of the readers is not installed."""
    if importlib.util.find_spec(package) is None:
        what = f"{package} is not installed; pip install 'scaling-laws-orchestrator[readers]'"
        raise SpecError([Problem(where="reader", what=what)])


def stamp_of(file: os.DirEntry[str] | Path) -> tuple[int, str]:
    """Bytes, and what changes with the content: size and time of the last change."""
    known = file.stat()
    return known.st_size, f"{known.st_size}-{known.st_mtime_ns}"


def root_of(path: str) -> Path:
    """The folder of an import; of one file, its own. Raises SpecError where there is none."""
    root = Path(path)
    if not root.exists():
        raise SpecError([Problem(where="path", what=f"'{path}' does not exist; give the folder with the files")])
    return root


def pattern_of(group: str, where: str = "group") -> re.Pattern[str]:
    """Raises SpecError for a pattern that does not parse or has not exactly one group."""
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise SpecError([Problem(where=where, what=f"'{group}' is no regular expression: {error}")]) from None
    if pattern.groups != 1:
        what = f"'{group}' has {pattern.groups} groups in parentheses; exactly one names the {SOUGHT.get(where, where)}"
        raise SpecError([Problem(where=where, what=what)])
    return pattern


def matched(pattern: re.Pattern[str], image_id: str) -> str:
    """What the group of the pattern finds in a path. Raises Unreadable: a guess would let a patient stand twice."""
    found = pattern.search(image_id)
    if found is None or found.group(1) is None:
        raise Unreadable("the pattern of `group` finds nothing in the path")
    return found.group(1)


def inside(path: Path | str, root: Path | str) -> bool:
    """Whether a file, behind all links, lies in a folder, or is that one file."""
    target, real_root = os.path.realpath(path), os.path.realpath(root)
    return target == real_root or target.startswith(real_root + os.sep)
