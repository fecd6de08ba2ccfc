"""The line of an import under way: numbers that add up, and a time that follows from bytes."""

from __future__ import annotations

import pytest

from scaling.importing import progress
from scaling.importing.decoding import Count
from scaling.importing.progress import Progress, added


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_counts_of_jobs_add_up_and_a_job_that_starts_again_is_counted_once(clock: list[float]) -> None:
    shown = Progress("ct", 1000, 0, Count())
    shown.done(Count(n_items=100, n_images=90, n_set_aside=10))
    shown.under_way([Count(n_items=50, n_images=50), Count(n_items=30, n_images=25, n_set_aside=5)])
    clock[0] += 10
    assert shown.line() == "ct: 180 of 1,000 items, 165 images, 15 set aside, 16 images/s, 0:46 left"
    shown.under_way([Count(n_items=50, n_images=50)])  # the other process died
    assert shown.line().startswith("ct: 150 of 1,000 items, 140 images, 10 set aside")


def test_time_left_goes_by_bytes_and_by_what_was_read_now(clock: list[float]) -> None:
    before = Count(n_items=500, n_bytes=5000, n_images=500)
    shown = Progress("ct", 1000, 100_000, before)
    assert "left" not in shown.line()
    clock[0] += 100
    shown.under_way([Count(n_items=400, n_bytes=1000, n_images=400)])
    assert shown.line() == "ct: 900 of 1,000 items, 900 images, 4 images/s, 2:36:40 left"  # 94,000 bytes at 10 a second


def test_without_a_terminal_a_line_comes_every_quarter_of_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Progress("ct", 1000, 0, Count())
    with shown.shown():
        for _ in range(33):
            clock[0] += 1
            shown.under_way([Count(n_items=1)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(",")[0] for line in captured.err.splitlines()] == ["ct: 1 of 1", "ct: 1 of 1"]


def test_no_counts_are_none() -> None:
    assert added() == Count()
