"""`scaling doctor` and `scaling gc`: is a root in order, and what in it is of no use any more.

What a sweep may still need is never called needless: a run counts as wanted when any file of any sweep names it.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError
from urllib.request import urlopen

from scaling.control import DriverBusy, driver_of, only_driver
from scaling.document import Document
from scaling.errors import Problem, SpecError
from scaling.launch.machine import here
from scaling.live import duration, size
from scaling.preflight import in_memory, unwritable
from scaling.rundir import FEATURES, RunDir, read_json

PACKAGES = ("torch", "timm", "ray", "mlflow", "numpy", "scipy", "sklearn")
SILENT_AFTER = 60.0
"""Seconds without a word after which a driver is called silent."""
DRAFT_AFTER = 3600.0
"""Seconds after which a file's draft is what a crash left."""
LITTLE_DISK, LITTLE_SHM = 5 * 2**30, 2**30
FINGERPRINT = re.compile(r"\b[0-9a-f]{12}\b")
IDENTITY = re.compile(r"[0-9a-f]{12,}")
DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")
"""As `rundir.beside` names them."""


# --- doctor ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    state: Literal["good", "note", "bad"]
    what: str


def checks(root: Path) -> Iterator[Check]:
    """One by one, as they are found; the imports of heavy packages take seconds."""
    yield Check(name="python", state="good", what=f"{sys.version.split()[0]} ({sys.executable})")
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(_package, PACKAGES)
    yield from _machine()
    yield from _storage(root)
    yield from _stores(root)
    yield from _driver(root)
    yield from _runs(root)


def _package(name: str) -> Check:
    """Whether it imports, in a process of its own, and what GPUs torch sees."""
    code = f"import {name} as m; print(m.__version__)"
    if name == "torch":
        code += "; print(', sees', m.cuda.device_count(), 'GPUs' if m.cuda.is_available() else 'GPUs (no CUDA)')"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return Check(name=name, state="bad", what="its import hangs")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Check(name=name, state="bad", what=f"does not import: {last}")
    return Check(name=name, state="good", what="".join(done.stdout.splitlines()))


def _machine() -> Iterator[Check]:
    node = here("here")
    gpus = f"{node.gpus} GPU{'s' * (node.gpus != 1)}"
    if node.gpus:
        gpus += f" {node.accelerator or ''} of {size(node.gpu_memory)}"
    memory = size(node.memory) if node.memory else "unknown memory"
    yield Check(name="machine", state="good", what=f"{node.cpus} CPUs, {memory}, {gpus}")
    shm = Path("/dev/shm")
    if shm.exists():
        free = shutil.disk_usage(shm).free
        state: Literal["good", "note"] = "good" if free >= LITTLE_SHM else "note"
        hint = "" if free >= LITTLE_SHM else "; ranks and loaders share memory there; docker: --shm-size"
        yield Check(name="/dev/shm", state=state, what=f"{size(free)} free{hint}")


def _storage(root: Path) -> Iterator[Check]:
    if not root.exists():
        yield Check(name="root", state="note", what=f"{root} is not there yet; `scaling run` makes it, or give --root")
        return
    if problem := unwritable(root):
        yield Check(name="root", state="bad", what=str(problem))
    else:
        yield Check(name="root", state="good", what=f"{root} can be written")
    usage = shutil.disk_usage(root)
    free = f"{size(usage.free)} of {size(usage.total)} free"
    yield Check(name="disk", state="good" if usage.free >= LITTLE_DISK else "note", what=free)
    if in_memory(root):
        yield Check(name="disk", state="note", what="the root lies in memory (tmpfs) and is gone after a reboot")


def _stores(root: Path) -> Iterator[Check]:
    """MLflow's databases and servers that the root's sweeps name."""
    uris = {f"sqlite:///{root / 'mlflow.db'}"}
    for path in _plans(root):
        with suppress(json.JSONDecodeError, SpecError):  # a broken plan is another check's business
            tracking = Document(str(path), (read_json(path) or {}).get("yaml", "")).raw.get("tracking") or {}
            uris |= {tracking["uri"]} if tracking.get("uri") else set()
    for uri in sorted(uris):
        if uri.startswith("sqlite:///"):
            yield from _sqlite(Path(uri.removeprefix("sqlite:///")))
        elif uri.startswith(("http://", "https://")):
            yield _server(uri)


def _sqlite(path: Path) -> Iterator[Check]:
    if not path.exists():
        yield Check(
            name="MLflow", state="note", what=f"{path} is not there yet; `scaling sync NAME` makes it from disk"
        )
        return
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            (n_runs,) = database.execute("select count(*) from runs").fetchone()
            (n_open,) = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
            (mode,) = database.execute("pragma journal_mode").fetchone()
        what = f"{path}: {n_runs} runs, {n_open} of them running, journal {mode}, {size(path.stat().st_size)}"
        yield Check(name="MLflow", state="good", what=what)
    except sqlite3.Error as error:
        what = f"{path}: {error}; move it away and `scaling sync NAME` makes it again from disk"
        yield Check(name="MLflow", state="bad", what=what)


def _server(uri: str) -> Check:
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=5) as answer:
            return Check(name="MLflow", state="good", what=f"{uri} answers: {answer.read(20).decode()}")
    except (URLError, OSError) as error:
        what = f"{uri} does not answer ({error}); runs go on without it, `scaling sync NAME` catches up"
        return Check(name="MLflow", state="bad", what=what)


def _driver(root: Path) -> Iterator[Check]:
    holder = driver_of(root) if root.exists() else None
    if holder is None:
        yield Check(name="driver", state="good", what="no `scaling run` is at work here")
        return
    words = [path.stat().st_mtime for path in (root / "sweeps").glob("*/live.json")]
    silent = time.time() - max([holder.since, *words])
    if silent > SILENT_AFTER:
        what = f"{holder} holds the root but has been silent for {duration(silent)}; look at it, or end it"
        yield Check(name="driver", state="bad", what=what)
    else:
        yield Check(name="driver", state="good", what=f"{holder} is at work")


def _runs(root: Path) -> Iterator[Check]:
    """Processes without a driver, files that cannot be read, attempts that ended without a word."""
    orphans, broken, lost, n_runs = [], [], 0, 0
    driven = driver_of(root) if root.exists() else None
    for folder in _run_folders(root):
        n_runs += 1
        try:
            record, beat = folder.record(), folder.last_beat()
            lease, failure = read_json(folder.path / "lease.json"), folder.failure()
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            broken.append(f"{folder.run} ({error})")
            continue
        if beat and beat.process_lives() and driven is None:
            orphans.append(f"{folder.run}: process {beat.pid}")
        elif lease and record is None and failure is None and driven is None:
            lost += 1
    yield Check(name="runs", state="good", what=f"{n_runs} directories")
    if broken:
        what = f"{len(broken)} have an unreadable file: {', '.join(broken[:4])}; remove the directory to do it anew"
        yield Check(name="runs", state="bad", what=what)
    if orphans:
        shown = ", ".join(orphans[:4])
        what = f"{len(orphans)} are worked on without a driver: {shown}; the next `scaling run` fences them"
        yield Check(name="runs", state="note", what=what)
    if lost:
        yield Check(
            name="runs", state="note", what=f"{lost} were cut off; `scaling run` goes on from their checkpoints"
        )


def _run_folders(root: Path) -> Iterator[RunDir]:
    for path in sorted((root / "runs").glob("*")):
        if path.is_dir():
            yield RunDir(path)


def _plans(root: Path) -> list[Path]:
    return sorted((root / "sweeps").glob("*/plan.json"))


# --- gc ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Needless:
    path: Path
    bytes: int
    why: str


def needless(root: Path) -> list[Needless]:
    """What can go, the largest first. Of a run that a process works on, nothing."""
    return _largest_first(*_of_runs(root), *_of_caches(root), *_left_by_crashes(root))


def spare(root: Path) -> list[Needless]:
    """Features kept of runs, the largest first, that the run's encoder and the cached task would give again."""
    runs, gone = _named_by_sweeps(root), {item.path for item in _of_caches(root)}
    found = []
    for folder in _run_folders(root):
        if folder.run in runs and not _at_work(folder):
            found += [path for path in folder.path.glob(FEATURES) if _comes_again(path, root / "cache", gone)]
    why = "kept features; a further read-out would compute them again"
    return _largest_first(*(Needless(path=path, bytes=bytes_of(path), why=why) for path in found))


def _comes_again(features: Path, cache: Path, gone: set[Path]) -> bool:
    """Whether their encoder and their task's images are there, and stay."""
    job = read_json(features.parent / "job.json")
    if job is None or not all((features.parent / name).exists() for name in ("encoder.pt", "result.json")):
        return False
    tasks = [task for task in job["tasks"].values() if FEATURES.replace("*", task["name"]) == features.name]
    images = [cache / f"task-{task['name']}-{task['identity']}.npz" for task in tasks]
    return any(path.exists() and path not in gone for path in images)


def _at_work(folder: RunDir) -> bool:
    beat = folder.last_beat()
    return beat is not None and beat.process_lives()


def _largest_first(*found: Needless) -> list[Needless]:
    return sorted(found, key=lambda item: -item.bytes)


def _of_runs(root: Path) -> Iterator[Needless]:
    wanted = _named_by_sweeps(root)
    for folder in _run_folders(root):
        if _at_work(folder):
            continue
        if folder.run not in wanted:
            yield Needless(path=folder.path, bytes=bytes_of(folder.path), why="run of no sweep")
            continue
        checkpoint = folder.path / "checkpoint.pt"
        if checkpoint.exists() and (folder.path / "result.json").exists():
            yield Needless(path=checkpoint, bytes=bytes_of(checkpoint), why="checkpoint of a finished run")


def _named_by_sweeps(root: Path) -> set[str]:
    """Every word that looks like a fingerprint in any file of any sweep: plans, trials, histories."""
    return {word for path in (root / "sweeps").glob("*/*") if path.is_file() for word in _words(path)}


def _words(path: Path) -> set[str]:
    try:
        return set(FINGERPRINT.findall(path.read_text(errors="replace")))
    except FileNotFoundError:
        return set()


def _of_caches(root: Path) -> Iterator[Needless]:
    """Arrays whose task, images or sweep no plan names."""
    plans = [path.read_text() for path in _plans(root)]
    names = {path.parent.name for path in _plans(root)}
    for path in sorted((root / "cache").glob("*")):
        identities = IDENTITY.findall(path.name)
        unnamed = identities and not any(f'"{identity}' in text for text in plans for identity in identities)
        gallery = path.name.startswith("gallery-") and path.stem.removeprefix("gallery-") not in names
        if path.is_file() and not DRAFT.fullmatch(path.name) and (unnamed or gallery):
            yield Needless(path=path, bytes=bytes_of(path), why="cache that no plan refers to")


def _left_by_crashes(root: Path) -> Iterator[Needless]:
    for path in sorted((root / "calibration" / ".work").glob("*")):
        yield Needless(path=path, bytes=bytes_of(path), why="left by a calibration")
    for folder in ("runs/*", "runs/*/probes", "sweeps/*", "cache", "calibration/*"):
        for path in sorted(root.glob(f"{folder}/.*")):
            old = path.is_file() and time.time() - path.stat().st_mtime > DRAFT_AFTER
            if old and DRAFT.fullmatch(path.name):
                yield Needless(path=path, bytes=bytes_of(path), why="draft that a crash left")


def bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def delete(root: Path, found: Sequence[Needless]) -> int:
    """How many of them are gone now. Raises SpecError while a driver works, which may be about to want one."""
    try:
        with only_driver(root):
            for item in found:
                if item.path.is_dir():
                    shutil.rmtree(item.path, ignore_errors=True)
                else:
                    item.path.unlink(missing_ok=True)
    except DriverBusy as busy:
        what = f"{busy.holder} is at work here and may want what looks needless; wait for it, or `scaling stop` it"
        raise SpecError([Problem(where=str(root), what=what)]) from None
    return sum(not item.path.exists() for item in found)
