"""The directory of a run: the truth about it, named by its fingerprint. Standard library only.

job.json        what to do: spec, data, tasks, probes      (driver, before each attempt)
lease.json      the token of the attempt that may write    (driver, before each attempt)
log.txt         standard output and error of all attempts  (worker)
metrics.jsonl   one line per logged step                   (worker)
checkpoint.pt   where to go on                             (worker, gone at the end)
encoder.pt      weights of the probed encoder              (worker)
result.json     RunRecord: pretraining is over             (worker, after encoder.pt)
probes/F.json   one task's read-outs, by their fingerprint (worker)
failed.json     why the last attempt gave no result        (worker or driver)
mlflow.json     what MLflow already has                    (driver)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from scaling.records import ProbeResult, RunRecord


class LeaseLost(RuntimeError):
    """Another attempt owns the run now; this one must write nothing more."""


def write_whole(path: Path, content: str | bytes) -> None:
    """The file appears complete or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with open(beside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any | None:
    """None when the file is not there."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def run(self) -> str:
        return self.path.name

    def record(self) -> RunRecord | None:
        """Present once pretraining is over, whether it converged or diverged."""
        values = read_json(self.path / "result.json")
        return RunRecord(**values) if values else None

    def probes(self, fingerprint: str) -> list[ProbeResult] | None:
        values = read_json(self.path / "probes" / f"{fingerprint}.json")
        return None if values is None else [ProbeResult(**v) for v in values]

    def failure(self) -> dict[str, Any] | None:
        return read_json(self.path / "failed.json")

    def fail(self, kind: str, error: str) -> None:
        write_json(self.path / "failed.json", {"kind": kind, "error": error, "log": str(self.path / "log.txt")})

    def lease(self, token: str) -> None:
        """Gives the run to one attempt; whoever held it before can write no more."""
        (self.path / "failed.json").unlink(missing_ok=True)
        write_json(self.path / "lease.json", {"token": token})

    def guard(self, token: str) -> None:
        """Raises LeaseLost unless `token` still holds the run."""
        lease = read_json(self.path / "lease.json")
        if lease is None or lease["token"] != token:
            raise LeaseLost(f"run {self.run} belongs to another attempt")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Logged steps in order; a line cut off by a crash is left out."""
        with suppress(FileNotFoundError), open(self.path / "metrics.jsonl") as file:
            for line in file:
                with suppress(json.JSONDecodeError):
                    yield json.loads(line)

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
        with suppress(FileNotFoundError):
            return "\n".join((self.path / "log.txt").read_text(errors="replace").splitlines()[-lines:])
        return ""
