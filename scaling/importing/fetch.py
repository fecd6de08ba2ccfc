"""A file from a server: goes on where a transfer ended, and appears only when its MD5 is the published one.

Row of data/, the standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

BLOCK = 2**20
TIMEOUT = 30.0
"""Seconds without a byte."""
TRIES = 4
"""In a row that bring nothing."""
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which another try makes sense."""
Progress = Callable[[int, int | None], None]
"""Bytes there are, and in all where the server says."""


class FetchFailed(RuntimeError):
    """Why a file could not be had, in one line."""


class Unreachable(FetchFailed):
    """The server cannot be reached: its other files cannot be had either."""


class Interrupted(RuntimeError):
    """A try that ended before the file did; another may go on."""

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass(frozen=True, kw_only=True)
class Wanted:
    address: str
    path: Path
    md5: str

    @property
    def part(self) -> Path:
        """What there is so far."""
        return self.path.with_name(f".{self.path.name}.{self.md5[:8]}.part")


def fetch(
    wanted: Wanted, progress: Progress = lambda done, total: None, *, wait: Callable[[float], None] = time.sleep
) -> Literal["there", "fetched"]:
    """Raises FetchFailed; what was received stays, so that the next call goes on from there."""
    if wanted.path.exists():
        found = md5_of(wanted.path)
        if found != wanted.md5:
            raise FetchFailed(f"another file (MD5 {found}) is there and is left alone; move it away")
        return "there"
    try:
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        with open(wanted.part, "ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FetchFailed("another process is fetching it") from None
            try:
                _complete(wanted, file, progress, wait)
            finally:
                if file.seek(0, os.SEEK_END) == 0:
                    wanted.part.unlink()
            os.fsync(file.fileno())
            wanted.part.replace(wanted.path)
    except OSError as error:
        raise FetchFailed(f"{error.filename or wanted.part} cannot be written: {error.strerror or error}") from None
    return "fetched"


def md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _complete(wanted: Wanted, file: IO[bytes], progress: Progress, wait: Callable[[float], None]) -> None:
    """Receives until all is there and right; what was left by an earlier call may be wrong once."""
    resumed = file.seek(0, os.SEEK_END) > 0
    while True:
        _receive_all(wanted, file, progress, wait)
        found = _digest(file)
        if found == wanted.md5:
            return
        file.truncate(0)
        if not resumed:
            raise FetchFailed(f"what was received has MD5 {found}, not {wanted.md5}; it is deleted")
        resumed = False


def _receive_all(wanted: Wanted, file: IO[bytes], progress: Progress, wait: Callable[[float], None]) -> None:
    fruitless = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            return _receive(wanted.address, file, progress)
        except Interrupted as interrupted:
            fruitless = 0 if file.seek(0, os.SEEK_END) > before else fruitless + 1
            if fruitless >= TRIES:
                there = f"; {before:,} bytes of it are kept and the next try goes on from there" if before else ""
                kind = FetchFailed if interrupted.reached else Unreachable
                raise kind(f"{interrupted}{there}") from None
            wait(min(2.0**fruitless, 10.0))


def _receive(address: str, file: IO[bytes], progress: Progress) -> None:
    """One request for what is missing. Raises Interrupted, FetchFailed, and OSError where the disk does."""
    start = file.seek(0, os.SEEK_END)
    response = _asked(address, start)
    if response is None:  # the server has nothing beyond `start`
        return
    with response:
        if response.status != 206 or not _begins_at(response, start):
            file.truncate(0)
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        _room(file, total, start)
        done = start
        progress(done, total)
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                file.flush()
                raise Interrupted(f"the transfer broke off ({error or type(error).__name__})", reached=True) from None
            if not block:
                break
            file.write(block)
            done += len(block)
            progress(done, total)
        file.flush()
        if total is not None and done < total:
            raise Interrupted(f"the transfer ended after {done:,} of {total:,} bytes", reached=True)


def _asked(address: str, start: int) -> http.client.HTTPResponse | None:
    """None where the server says that there is no more."""
    headers = {"User-Agent": "scaling", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=TIMEOUT
        )
        return response
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return None
        if error.code in BUSY:
            raise Interrupted(f"the server answers {error.code} {error.reason}", reached=True) from None
        raise FetchFailed(f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise Interrupted(f"the server cannot be reached ({error.reason})", reached=False) from None
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the server does not answer ({error or type(error).__name__})", reached=False) from None


def _begins_at(response: http.client.HTTPResponse, start: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == start


def _room(file: IO[bytes], total: int | None, start: int) -> None:
    free = shutil.disk_usage(Path(file.name).parent).free
    if total is not None and total - start > free:
        raise FetchFailed(f"{total - start:,} bytes are to come and {Path(file.name).parent} has {free:,} free")


def _digest(file: IO[bytes]) -> str:
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, _md5).hexdigest()  # type: ignore[arg-type]
