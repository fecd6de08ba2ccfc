"""What people ask of a sweep while a driver works: files that either side may write, so no port and no server.

<root>/driver.lock                 held by the one driver of the root; ends with its process
<root>/sweeps/NAME/control.json    what is wanted: run it, pause, stop, these runs cancelled
<root>/sweeps/NAME/live.json       how the driver says it stands, every few seconds
<root>/sweeps/NAME/events.jsonl    what happened, a line each

Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from scaling.errors import Problem, SpecError
from scaling.rundir import read_json, write_json

ASKER_GONE = 120.0
"""Seconds after which a request from another machine, whose process cannot be looked up, is nobody's any more."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A `scaling run` that wants its sweep carried out by whoever drives the root."""

    id: str
    host: str
    pid: int
    time: float

    @classmethod
    def now(cls) -> Asked:
        return cls(id=uuid4().hex, host=socket.gethostname(), pid=os.getpid(), time=time.time())

    def waits(self) -> bool:
        """Whether the process that asked is still there."""
        if self.host != socket.gethostname():
            return time.time() - self.time < ASKER_GONE
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


@dataclass(frozen=True, kw_only=True)
class Control:
    asked: Asked | None = None
    paused: bool = False
    """Nothing new starts; what runs goes on."""
    stop: Literal["", "drain", "save"] = ""
    """drain: what runs may finish; save: it saves its checkpoint and goes. Then the sweep's driver ends."""
    cancelled: tuple[str, ...] = ()
    """Fingerprints that are ended at once and not started again until resumed."""
    cancel_removed: bool = False
    """Runs that the YAML no longer names are ended too, instead of being let finish."""

    @classmethod
    def read(cls, folder: Path) -> Control:
        values = read_json(folder / "control.json") or {}
        asked = values.pop("asked", None)
        cancelled = tuple(values.pop("cancelled", ()))
        return cls(**values, cancelled=cancelled, asked=Asked(**asked) if asked else None)


def sweep_folder(root: Path, name: str) -> Path:
    return root / "sweeps" / name


def change(root: Path, name: str, **changes: Any) -> Control:
    """Changes what is wanted of a sweep; a function is given what is wanted now, so that no other change is lost.

    Raises SpecError for a sweep the root does not have.
    """
    folder = sweep_folder(root, name)
    if not folder.is_dir():
        from scaling.errors import unknown

        known = [path.name for path in (root / "sweeps").glob("*") if path.is_dir()]
        raise SpecError([Problem(where=str(root), what=f"{unknown('sweep', name, known)}; or give --root")])
    with open(folder / ".control.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        old = Control.read(folder)
        wanted = replace(old, **{key: value(old) if callable(value) else value for key, value in changes.items()})
        write_json(folder / "control.json", asdict(wanted))
    return wanted


def pause(root: Path, name: str) -> None:
    """Nothing new of the sweep starts; what runs goes on."""
    change(root, name, paused=True)


def resume(root: Path, name: str, runs: Sequence[str] = (), *, everything: bool = False) -> Control:
    """Undoes `pause` and `stop`, and `cancel` of these runs or of all; what is wanted then."""

    def kept(old: Control) -> tuple[str, ...]:
        return () if everything else tuple(run for run in old.cancelled if run not in runs)

    return change(root, name, paused=False, stop="", cancelled=kept)


def stop(root: Path, name: str, *, drain: bool = False) -> None:
    """Nothing new starts; what runs saves its checkpoint and goes, or with `drain` finishes; the driver ends."""
    change(root, name, stop="drain" if drain else "save")


def cancel(root: Path, name: str, runs: Sequence[str]) -> None:
    """Ends these runs (fingerprints) at once and keeps them from starting until they are resumed."""
    change(root, name, cancelled=lambda old: tuple(dict.fromkeys([*old.cancelled, *runs])))


# --- the one driver of a root -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Holder:
    host: str = "unknown"
    pid: int = 0
    since: float = 0.0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class DriverBusy(RuntimeError):
    """Another process drives this root; carries who."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        super().__init__(str(holder))


@contextmanager
def only_driver(root: Path) -> Iterator[None]:
    """One driver per root at a time; the lock ends with the process, however it ends. Raises DriverBusy."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "driver.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DriverBusy(driver_of(root) or Holder()) from None
        file.truncate(0)
        file.write(json.dumps(asdict(Holder(host=socket.gethostname(), pid=os.getpid(), since=time.time()))))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def driver_of(root: Path) -> Holder | None:
    """Who drives the root now; None when nobody does. Takes no lock for longer than the look."""
    path = root / "driver.lock"
    if not path.exists():
        return None
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            text = file.read()
            return Holder(**json.loads(text)) if text else Holder()
    return None


# --- how it stands ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Live:
    """The driver's word on a sweep, for whoever watches from another process."""

    time: float
    pid: int
    answered: str = ""
    """Id of the newest request it works on."""
    finished: bool = False
    exit_code: int = 0
    """Meaningful once finished."""
    note: str = ""
    """Why nothing starts, when that is so."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Run -> what it waits for."""
    eta_seconds: float | None = None
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Live | None:
        values = read_json(folder / "live.json")
        return None if values is None else cls(**values)

    def write(self, folder: Path) -> None:
        write_json(folder / "live.json", asdict(self), durable=False)
