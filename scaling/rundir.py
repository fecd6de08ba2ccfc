"""The directory of a run: the truth about it, named by its fingerprint. Standard library only.
job.json        what to do: spec, data, tasks, probes      (driver, before each attempt)
lease.json      the one attempt that may write             (driver, before each attempt)
heartbeat.json  who works on it; its mtime is the newest sign of life (worker)
stop            the attempt is asked to save and go        (driver)
attempts.jsonl  when each attempt began and how it ended   (driver)
provenance/     N.json: with what attempt N computes       (worker)
log.txt         standard output and error of all attempts  (worker)
metrics.jsonl   one line per logged step                   (worker)
checkpoint.pt   where to go on                             (worker, gone at the end)
encoder.pt      weights of the probed encoder; picture.png what it learned (worker)
result.json     RunRecord: pretraining is over             (worker, after encoder.pt)
probes/F.json   one task's read-outs, by their fingerprint (worker); features-T.npz, of task T's images, may go
failed.json     why the last attempt gave no result        (worker or driver)
mlflow.json     what MLflow already has                    (driver)
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from scaling.failures import FailureClass
from scaling.records import ProbeResult, RunRecord

FEATURES = "features-*.npz"
"""What a run keeps of the tasks it probes, one file each."""


class LeaseLost(RuntimeError):
    """Another attempt owns the run now; this one must write nothing more."""


def write_whole(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """The file appears complete or not at all; `durable`: also after a power cut, which takes a wait for the disk."""
    with beside(path, durable=durable) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def beside(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A draft next to `path` that takes its place, synced to disk, when the block ends well; else it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        yield draft
        if durable:
            with open(draft, "rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n", durable=durable)


def read_json(path: Path) -> Any | None:
    """None when the file is not there."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file; a line cut off by a crash is left out, a file that is not there is empty."""
    with suppress(FileNotFoundError), open(path) as file:
        for line in file:
            with suppress(json.JSONDecodeError):
                yield json.loads(line)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """One write of one line, begun on a line of its own even if a crash cut the last one off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
        torn = end > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + json.dumps(value, allow_nan=False).encode() + b"\n")


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The newest sign of life of a run."""

    host: str
    pid: int
    token: str
    phase: str
    """What the worker is at: data, pretrain, probe TASK."""
    mtime_ns: int

    def process_lives(self) -> bool:
        """Whether its process still runs, as far as this host can tell; a process of another host counts as gone."""
        if self.host != socket.gethostname():
            return False
        try:
            return "State:\tZ" not in Path(f"/proc/{self.pid}/status").read_text()  # a zombie writes no more
        except OSError:
            return False


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def run(self) -> str:
        return self.path.name

    # --- what came out ------------------------------------------------------------------------------------------

    def record(self) -> RunRecord | None:
        """Present once pretraining is over, however it ended."""
        values = read_json(self.path / "result.json")
        return RunRecord(**values) if values else None

    def probes(self, fingerprint: str) -> list[ProbeResult] | None:
        values = read_json(self.path / "probes" / f"{fingerprint}.json")
        return None if values is None else [ProbeResult(**v) for v in values]

    def failure(self) -> dict[str, Any] | None:
        """{"kind": its class, "error": one line, "log": path} of the last attempt, if that failed."""
        return read_json(self.path / "failed.json")

    def fail(self, kind: FailureClass, error: str) -> None:
        write_json(self.path / "failed.json", {"kind": kind, "error": error, "log": str(self.path / "log.txt")})

    # --- who may write ------------------------------------------------------------------------------------------

    def lease(self, token: str, *, owner: str = "") -> int:
        """Gives the run to one attempt and counts it; whoever held it before can write no more.

        `owner` names the driver. Waits for a write under way, so that none of the old attempt comes after this.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            attempt = int((read_json(self.path / "lease.json") or {}).get("attempt", 0)) + 1
            for stale in ("failed.json", "stop"):
                (self.path / stale).unlink(missing_ok=True)
            values = {"token": token, "attempt": attempt, "owner": owner, "time": time.time()}
            write_json(self.path / "lease.json", values)
        return attempt

    @contextmanager
    def writing(self, token: str) -> Iterator[None]:
        """Inside, `token` holds the run and nobody can take it: a fenced attempt can never overwrite.

        Raises LeaseLost before anything is written. Keep the block short: prepare drafts outside.
        """
        with self._locked():
            self.guard(token)
            yield

    def guard(self, token: str) -> None:
        """Raises LeaseLost unless `token` still holds the run; for what is to be given up early, not for writes."""
        lease = read_json(self.path / "lease.json")
        if lease is None or lease["token"] != token:
            raise LeaseLost(f"run {self.run} belongs to another attempt")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock that ends with its holder, also over NFS; its file stays, because removing it would split it."""
        with open(self.path / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- signs of life ------------------------------------------------------------------------------------------

    def begin(self, token: str, phase: str) -> None:
        """The worker's first act, and its word on every new phase. Raises LeaseLost."""
        values = {"host": socket.gethostname(), "pid": os.getpid(), "token": token, "phase": phase}
        with self.writing(token):
            write_json(self.path / "heartbeat.json", values, durable=False)  # no process outlives a power cut

    def beat(self) -> None:
        """The worker lives and gets on. Cheap; call it at most once a second."""
        with suppress(FileNotFoundError):
            os.utime(self.path / "heartbeat.json")

    def last_beat(self) -> Beat | None:
        try:
            values = read_json(self.path / "heartbeat.json")
        except json.JSONDecodeError:  # cut short by a power cut
            return None
        if values is None:
            return None
        return Beat(**values, mtime_ns=(self.path / "heartbeat.json").stat().st_mtime_ns)

    def ask_to_stop(self) -> None:
        """The attempt under way is to save its checkpoint and go."""
        (self.path / "stop").touch()

    def asked_to_stop(self) -> bool:
        return (self.path / "stop").exists()

    # --- history ------------------------------------------------------------------------------------------------

    def log_attempt(self, line: dict[str, Any]) -> None:
        append_line(self.path / "attempts.jsonl", line)

    def attempts(self) -> list[dict[str, Any]]:
        """Beginnings ({"attempt", "began", ...}) and ends ({"attempt", "ended", "outcome", ...}) in order."""
        return list(read_lines(self.path / "attempts.jsonl"))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Logged steps in order."""
        return read_lines(self.path / "metrics.jsonl")

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest logged step, without reading the whole file."""
        with suppress(FileNotFoundError), open(self.path / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            for line in reversed(file.read().splitlines()):
                with suppress(json.JSONDecodeError):
                    last: dict[str, Any] = json.loads(line)
                    return last
        return None

    def keep_metrics_until(self, step: int) -> None:
        """Drops lines after `step`: a resumed run writes them again."""
        kept = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        write_whole(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def log_tail(self, lines: int = 15) -> str:
        """The log's last lines, without reading the whole file."""
        with suppress(FileNotFoundError), open(self.path / "log.txt", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        return ""
