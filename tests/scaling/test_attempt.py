"""An attempt's hold on its run: signs of life and looks for orders in their time, drafts outside the lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from scaling.attempt import Attempt
from scaling.failures import Stopped
from scaling.rundir import LeaseLost, RunDir


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "run")
    found.lease("mine")
    return found


def test_a_sign_of_life_is_given_at_most_once_a_second(run_dir: RunDir) -> None:
    clock = Clock()
    attempt = Attempt(run_dir.path, "mine", clock=clock)
    attempt.begin("pretrain")
    beats = []
    for seconds in (0.0, 0.4, 0.5, 0.2):
        clock.now += seconds
        os.utime(run_dir.path / "heartbeat.json", (1, 1))
        attempt.pulse()
        beat = run_dir.last_beat()
        assert beat is not None
        beats.append(beat.mtime_ns != 10**9)
    assert beats == [True, False, False, True]


def test_an_order_to_stop_is_heard_at_the_next_look_and_not_forgotten(run_dir: RunDir) -> None:
    clock = Clock()
    attempt = Attempt(run_dir.path, "mine", clock=clock)
    assert not attempt.pulse()
    run_dir.ask_to_stop()
    assert not attempt.pulse()
    clock.now += 1
    assert attempt.pulse()
    (run_dir.path / "stop").unlink()
    clock.now += 1
    assert attempt.pulse()
    with pytest.raises(Stopped):
        attempt.go_on()


def test_a_signal_is_heard_at_once(run_dir: RunDir) -> None:
    attempt = Attempt(run_dir.path, "mine", clock=Clock())
    assert not attempt.pulse()
    attempt.ask()
    assert attempt.pulse()


def test_a_draft_is_prepared_without_the_lock_and_takes_its_place_under_it(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def is_held() -> bool:
        with open(run_dir.path / ".lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: held.append(is_held()) or replace(self, to))
    with Attempt(run_dir.path, "mine").replacing(run_dir.path / "a" / "file") as draft:
        draft.write_text("new")
        held.append(is_held())
    assert held == [False, True]
    assert (run_dir.path / "a" / "file").read_text() == "new"


def test_a_lease_lost_while_drafting_leaves_the_file_before_and_no_draft(run_dir: RunDir) -> None:
    attempt = Attempt(run_dir.path, "mine")
    attempt.write(run_dir.path / "file", "old")
    lose = attempt.replacing(run_dir.path / "file")
    lose.__enter__().write_text("new")
    run_dir.lease("next")
    with pytest.raises(LeaseLost):
        lose.__exit__(None, None, None)
    assert (run_dir.path / "file").read_text() == "old"
    assert not list(run_dir.path.glob(".file.*"))


def test_of_several_ranks_only_the_first_writes_and_any_says_why_it_failed(run_dir: RunDir) -> None:
    second = Attempt(run_dir.path, "mine", rank=1)
    before = sorted(run_dir.path.iterdir())
    second.begin("pretrain")
    second.pulse()
    second.write(run_dir.path / "file", "x")
    second.append(run_dir.path / "metrics.jsonl", {"step": 1})
    second.remove(run_dir.path / "lease.json")
    second.keep_metrics_until(0)
    assert sorted(run_dir.path.iterdir()) == before
    second.fail("gpu_oom", "OutOfMemoryError: CUDA out of memory")
    failure = run_dir.failure()
    assert failure is not None
    assert failure["kind"] == "gpu_oom"
