"""One experiment of an MLflow store: opened so that nothing waits long, asked what it has.

What is relied on, read in MLflow 3.17.2's `store/tracking/sqlalchemy_store.py`, which the server uses too:
* The metrics of one `log_batch` are one transaction (`_log_metrics_once`): all are there or none. Params, metrics and
  tags of a batch are three, and the client cuts what is above 1000 metrics or 100 params into several: we send one kind
  at a time, at most 1000 metrics.
* A metric's primary key is (key, timestamp, step, run, value): the same one again changes nothing, another time or
  value at the same step is a second row. Points carry the worker's own time, so a request that is repeated is harmless.
* A run's "latest" metric is the one of the highest step (`_compare_metrics`), and `get_run` gives it for every key.
* `create_run` with its tags is one transaction. Params are added once and never change.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # these are read by mlflow when it is imported
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A request repeated by the HTTP layer could create a run twice, and the default waits minutes for a dead server.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from scaling.errors import Problem, SpecError
from scaling.rundir import beside
from scaling.tracking.content import is_curve

REACH_SECONDS = 3.0
"""For a connection; SQLAlchemy's engine would be tried for 100 s."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
PAGE = 1000
NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "fuse.", "9p", "afs")
"""SQLite's write-ahead log needs memory shared among its users, which these do not give."""


@dataclass(kw_only=True)
class Seen:
    """What the store has of a run."""

    run_id: str
    status: str
    tags: dict[str, str]
    params: set[str] = field(default_factory=set)
    steps: dict[str, int] = field(default_factory=dict)
    """Metric -> its highest step."""
    inputs: set[tuple[str, str]] = field(default_factory=set)
    """Name and digest of data sets."""

    def curve_step(self) -> int:
        """Up to which its curves are there; 0 without any."""
        return max((step for key, step in self.steps.items() if is_curve(key)), default=0)

    @classmethod
    def of(cls, run: Run) -> Seen:
        inputs = run.inputs.dataset_inputs if run.inputs else []
        return cls(
            run_id=str(run.info.run_id),
            status=str(run.info.status),
            tags=dict(run.data.tags),
            params=set(run.data.params),
            steps={metric.key: metric.step for metric in run.data.to_proto().metrics},
            inputs={(used.dataset.name, used.dataset.digest) for used in inputs},
        )


class Store:
    """Raises MlflowException or OSError when the store cannot be reached."""

    def __init__(self, uri: str, root: Path, experiment: str) -> None:
        for noisy in ("alembic", "mlflow.store.db"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self.database = _database(uri, root)
        if self.database is None:
            _reach(uri)
            try:
                self.client = MlflowClient(uri)
            except ModuleNotFoundError as error:
                what = f"needs the Python package '{error.name}'; install it where `scaling run` is called"
                raise SpecError([Problem(where="tracking.uri", what=what)]) from None
        else:
            self._inode = _open_database(self.database)
            self.client = MlflowClient(_address(self.database, self._inode))
        self.experiment, created = self._experiment(experiment, None if _is_server(uri) else root)
        self.identity = f"{uri.split('@')[-1]} {self.experiment} {created}"
        """Tells it from a store at the same place that was deleted and made again; without a password."""

    def _experiment(self, name: str, root: Path | None) -> tuple[str, int]:
        """Its id, and when it was made."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            artifacts = (root / "mlflow_artifacts").resolve().as_uri() if root else None  # a server knows its own place
            found = self.client.get_experiment(self.client.create_experiment(name, artifact_location=artifacts))
        if found.lifecycle_stage == LifecycleStage.DELETED:
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id), int(found.creation_time)

    def lost(self) -> bool:
        """Whether the database's file is gone or is another one; what is written to it then is written to nothing."""
        return self.database is not None and _inode(self.database) != self._inode

    def get(self, run_id: str) -> Seen | None:
        """None when it is unknown or in the trash."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            raise
        return Seen.of(run) if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def find(self, tag: str, value: str) -> Seen | None:
        """The one run with this tag, from the trash if need be."""
        found = self._search(f"tags.`{tag}` = '{value}'", ViewType.ALL)
        return self._one(list(found))

    def index(self, tag: str) -> dict[str, Seen]:
        """All runs that have a tag, by its value."""
        groups: dict[str, list[Run]] = defaultdict(list)
        for run in self._search("", ViewType.ALL):
            if tag in run.data.tags:
                groups[run.data.tags[tag]].append(run)
        return {value: seen for value, runs in groups.items() if (seen := self._one(runs)) is not None}

    def running(self) -> list[Seen]:
        return [Seen.of(run) for run in self._search("attributes.status = 'RUNNING'", ViewType.ACTIVE_ONLY)]

    def _search(self, condition: str, view: int) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment], condition, view, PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _one(self, runs: list[Run]) -> Seen | None:
        """Of several the furthest; the others go to the trash.

        Several come of a request that took effect after we had given it up and asked again.
        """
        if not runs:
            return None

        def worth(run: Run) -> tuple[bool, int, int]:
            return run.info.lifecycle_stage == LifecycleStage.ACTIVE, len(run.data.metrics), -run.info.start_time

        best = max(runs, key=worth)
        for other in runs:
            if other is not best and other.info.lifecycle_stage == LifecycleStage.ACTIVE:
                self.client.delete_run(other.info.run_id)
        if best.info.lifecycle_stage == LifecycleStage.DELETED:
            self.client.restore_run(best.info.run_id)
        return Seen.of(best)


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _database(uri: str, root: Path) -> Path | None:
    """The file of a SQLite store; a relative path starts at the sweep's root, wherever the driver was started."""
    prefix = "sqlite:///"
    return root.resolve() / uri.removeprefix(prefix).split("?")[0] if uri.startswith(prefix) else None


def _address(database: Path, inode: int) -> str:
    """MLflow keeps an engine per address, with open files: a database made anew needs an address not used before."""
    addresses = _addresses.setdefault(database, [])
    if inode not in addresses:
        addresses.append(inode)
    return f"sqlite:///{database.parent}{'/.' * addresses.index(inode)}/{database.name}"


_addresses: dict[Path, list[int]] = {}
"""Files that stood at a path, in the order we met them."""


def _inode(path: Path) -> int:
    """0 for none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _open_database(database: Path) -> int:
    """Its inode, after making it if need be: beside its place, as one cut off in its migrations could never be used."""
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        for rest in database.parent.glob(f".{database.name}.*"):
            rest.unlink()
        for rest in database.parent.glob(f"{database.name}-*"):  # the log of a deleted database must not be replayed
            rest.unlink()
        with beside(database) as draft:
            SqlAlchemyStore(f"sqlite:///{draft}", str(database.parent)).engine.dispose()
    if not _on_network(database, _mounts()):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # persistent, and a third of the time per write
    return _inode(database)


def _mounts() -> str:
    """A line per file system: device, place, kind, options; empty where the system does not tell."""
    try:
        return Path("/proc/mounts").read_text()
    except OSError:
        return ""


def _on_network(path: Path, mounts: str) -> bool:
    placed = [(where.replace("\\040", " "), kind) for _, where, kind, *_ in map(str.split, mounts.splitlines())]
    under = [(where, kind) for where, kind in placed if path.is_relative_to(where)]
    return bool(under) and max(under, key=lambda mount: len(mount[0]))[1].startswith(NETWORK_FILESYSTEMS)


def _reach(uri: str) -> None:
    """Raises OSError within seconds when nobody listens there."""
    parts = urlsplit(uri)
    port = parts.port or PORTS.get(parts.scheme.split("+")[0])
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), timeout=REACH_SECONDS).close()
