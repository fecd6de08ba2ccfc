"""What a file from outside may do to us, bounded in one place: where it points, how much it unpacks to.

Row of data/. Readers ask here before they open a path that stood in a file, or read what an archive announces.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import inside
from scaling.importing.reader import Unreadable

MAX_FILE = 2 << 30
"""Bytes of one encoded image."""
MAX_TEXT = 1 << 20
"""Bytes of one label or metadata member."""
MAX_RATIO = 1100
"""Bytes unpacked of a byte packed: deflate reaches 1032 at most; what announces more lies."""
OUTSIDE = "path outside the folder"


def name_fault(name: str) -> str | None:
    """Why a path that stands in a file may not be followed; None where it stays below its root, links aside."""
    if not name.strip():
        return "no path"
    if "\0" in name:
        return "path with a null character"
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or (len(parts[0]) == 2 and parts[0][1] == ":") or "://" in name:
        return OUTSIDE
    return OUTSIDE if ".." in parts else None


def file_fault(path: Path, root: Path) -> str | None:
    """Why the file may not be read; None where it is a regular one inside `root`, behind all links."""
    try:
        if not inside(path, root):
            return OUTSIDE
        known = os.stat(path)
    except OSError as error:  # a loop of links, a name too long
        return "missing file" if isinstance(error, FileNotFoundError) else f"cannot be opened: {error.strerror}"
    if not stat.S_ISREG(known.st_mode):
        return "no regular file"
    return f"too large: more than {MAX_FILE} bytes" if known.st_size > MAX_FILE else None


def read_file(path: Path, root: Path) -> bytes:
    """All of an image file inside `root`. Raises Unreadable."""
    if fault := file_fault(path, root):
        raise Unreadable(fault)
    return read_span(path, 0, os.stat(path).st_size)


def read_span(path: Path, start: int, n_bytes: int) -> bytes:
    """So many bytes from `start`, no fewer. Raises Unreadable."""
    if n_bytes > MAX_FILE:
        raise Unreadable(f"too large: more than {MAX_FILE} bytes")
    try:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read(n_bytes)
    except OSError as error:
        raise Unreadable(
            "missing file" if isinstance(error, FileNotFoundError) else f"cannot be opened: {error.strerror}"
        ) from None
    if len(content) < n_bytes:
        raise Unreadable("truncated file")
    return content


def checked_ratio(where: str, packed: int, unpacked: int) -> None:
    """Raises SpecError for an archive's member that announces more than deflate can hold."""
    if unpacked > MAX_RATIO * max(packed, 1) + 1024:
        what = f"announces {unpacked:,} bytes unpacked from {packed:,}, which cannot be; it may be a decompression bomb"
        raise SpecError([Problem(where=where, what=what)])
