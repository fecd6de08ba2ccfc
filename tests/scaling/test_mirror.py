"""The tracker's thread: the newest word on each run, in time, whatever the store does; nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scaling.mirror import Mirror
from scaling.planned import PlannedRun


class Store:
    """Keeps what it is told; `broken` calls raise, and while `gate` is closed nothing gets through."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.broken: Callable[[str, str], bool] = lambda verb, run: False
        self.gate = threading.Event()
        self.gate.set()
        self.opened = 0

    def open(self) -> Store:
        self.opened += 1
        if self.broken("open", ""):
            raise ConnectionError("refused\nmore lines")
        return self

    def _tell(self, verb: str, run: str) -> None:
        assert self.gate.wait(20)
        if self.broken(verb, run):
            raise ConnectionError("refused\nmore lines")
        self.told.append((verb, run))

    def start(self, run: PlannedRun) -> None:
        self._tell("start", run.dir.run)

    def sync(self, run: PlannedRun) -> None:
        self._tell("sync", run.dir.run)

    def finish(self, run: PlannedRun, status: str) -> None:
        self._tell(status, run.dir.run)

    def finish_sweep(self, report: Path | None, *, complete: bool) -> None:
        self._tell("sweep complete" if complete else "sweep incomplete", "")


def run(name: str) -> PlannedRun:
    return cast(PlannedRun, SimpleNamespace(dir=SimpleNamespace(run=name)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.mirror.FIRST_RETRY", 0.01)


def test_all_is_told_and_the_sweep_last() -> None:
    store, said = Store(), list[str]()
    mirror = Mirror(store.open, said.append)
    store.gate.clear()
    mirror.finish_sweep(None, complete=True)
    for name in "abc":
        mirror.finish(run(name), "done")
    store.gate.set()
    assert mirror.close()
    assert sorted(store.told) == [("done", "a"), ("done", "b"), ("done", "c"), ("sweep complete", "")]
    assert store.opened == 1
    assert said == []


def test_of_a_run_only_the_newest_word_is_told() -> None:
    store = Store()
    mirror = Mirror(store.open, print)
    store.gate.clear()
    mirror.start(run("busy"))  # keeps the thread waiting at the gate
    mirror.start(run("a"))
    mirror.sync(run("a"))
    mirror.finish(run("a"), "failed")
    mirror.sync(run("a"))  # weaker than what waits
    store.gate.set()
    assert mirror.close()
    assert [told for told in store.told if told[1] == "a"] == [("failed", "a")]


def test_a_store_that_is_down_is_tried_again_and_said_once() -> None:
    store, said = Store(), list[str]()
    left = [4]

    def broken(verb: str, name: str) -> bool:
        left[0] -= 1
        return left[0] >= 0

    store.broken = broken
    mirror = Mirror(store.open, said.append)
    mirror.finish(run("a"), "done")
    for _ in range(500):
        if store.told:
            break
        threading.Event().wait(0.01)
    assert mirror.close()
    assert store.told == [("done", "a")]
    assert said[0].startswith("tracking: ConnectionError: refused; runs go on")
    assert said[1:] == ["tracking: the store answers again"]


def test_one_run_that_cannot_be_told_keeps_no_other_waiting() -> None:
    store = Store()
    store.broken = lambda verb, name: name == "bad"
    mirror = Mirror(store.open, lambda text: None)
    mirror.finish(run("bad"), "done")
    mirror.finish(run("good"), "done")
    assert not mirror.close(patience=5)  # something was left out
    assert store.told == [("done", "good")]


def test_a_dead_store_does_not_keep_the_driver_from_ending() -> None:
    store = Store()
    store.broken = lambda verb, name: True
    mirror = Mirror(store.open, lambda text: None)
    mirror.finish(run("a"), "done")
    mirror.finish_sweep(None, complete=True)
    assert not mirror.close(patience=5)
    assert not mirror._thread.is_alive()


def test_nothing_to_tell_opens_no_store() -> None:
    store = Store()
    assert Mirror(store.open, print).close()
    assert store.opened == 0


def test_what_is_said_to_the_mirror_returns_at_once_while_the_store_hangs() -> None:
    store = Store()
    store.gate.clear()
    mirror = Mirror(store.open, print)
    done: list[Any] = []
    told = threading.Thread(target=lambda: done.extend(mirror.finish(run(str(i)), "done") or [i] for i in range(100)))
    told.start()
    told.join(10)
    assert len(done) == 100
    store.gate.set()
    assert mirror.close()
    assert len(store.told) == 100
