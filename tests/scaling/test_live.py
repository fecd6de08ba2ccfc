"""What a person sees: counts, ETA and a row per running run, on a terminal and in a log."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from scaling.live import Running, Snapshot, View, duration, headline, publish, published, roughly, size

NOW = Snapshot(
    total=48,
    done=12,
    waiting=Counter({"node": 2, "slot": 29}),
    failed={"gpu_oom": 1},
    running=(
        Running(
            name="vit_s/mae",
            node="n1",
            phase="pretrain",
            step=30,
            n_steps=100,
            loss=0.5,
            images_per_second=1234.5,
            memory=3 * 2**30,
            eta_seconds=75,
        ),
        Running(name="vit_b/mae", phase="probe organs", n_steps=0, loss=0.4),
        Running(name="vit_l/mae", n_steps=100),
        Running(name="vit_h/mae", n_steps=100),
    ),
    gpu_hours=31.42,
    gpu_hours_allowed=200,
    eta_seconds=18600,
    eta_spread=2400,
)


def test_the_headline_accounts_for_every_run() -> None:
    expected = (
        "12/48 done, 4 running, 31 waiting (2 node, 29 slot), 1 failed (gpu_oom)"
        " | 31.4/200 GPU-h | ETA 5 h 10 min +- 40 min"
    )
    assert headline(NOW) == expected
    counted = NOW.done + len(NOW.running) + sum(NOW.waiting.values()) + sum(NOW.failed.values()) + NOW.cancelled
    assert counted == NOW.total


def test_the_headline_says_nothing_of_what_is_not_there() -> None:
    assert headline(Snapshot(total=3, done=3)) == "3/3 done, 0 running"
    assert headline(Snapshot(total=3, done=1, waiting={"": 2})) == "1/3 done, 0 running, 2 waiting"
    told = Snapshot(total=3, done=1, diverged=1, cancelled=2, cpu_hours=0.25, note="paused")
    assert headline(told) == "1/3 done, 0 running, 1 diverged, 2 cancelled | 0.25 CPU-h | paused"


def test_both_budgets_are_shown_where_both_are_set() -> None:
    both = Snapshot(total=1, done=1, gpu_hours=1, gpu_hours_allowed=2, cpu_hours=3, cpu_hours_allowed=4)
    assert headline(both).endswith("| 1/2 GPU-h | 3/4 CPU-h")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min"), (864000, "10.0 d")],
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(12, "12 s"), (2400, "40 min"), (9000, "2.5 h")])
def test_a_spread_is_told_in_one_unit(seconds: float, words: str) -> None:
    assert roughly(seconds) == words


@pytest.mark.parametrize(("n_bytes", "words"), [(10, "10 B"), (2048, "2 KiB"), (3.2 * 2**30, "3.2 GiB")])
def test_sizes_read_as_people_say_them(n_bytes: float, words: str) -> None:
    assert size(n_bytes) == words


def test_a_log_gets_plain_lines_and_no_control_characters() -> None:
    out = StringIO()
    with View(Console(file=out, width=100)) as view:
        view.show(NOW)
        view.say("failed [vit_s]: [Errno 2]")
    assert out.getvalue().splitlines() == [f"[0 s] {headline(NOW)}", "failed [vit_s]: [Errno 2]"]


def lines_on_a_terminal(now: Snapshot, height: int = 40) -> list[str]:
    out = StringIO()
    with View(Console(file=out, width=140, height=height, force_terminal=True, color_system=None)) as view:
        view.show(now)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_terminal_gets_a_line_per_running_run() -> None:
    lines = lines_on_a_terminal(NOW)
    assert any(line.startswith("running") and line.endswith("eta") for line in lines)
    row = ["vit_s/mae", "pretrain", "on", "n1", "30/100", "0.5", "1,234", "3", "GiB", "1", "min", "15", "s"]
    assert any(line.split() == row for line in lines)
    assert any(line.split() == ["vit_b/mae", "probe", "organs", "0.4"] for line in lines)
    assert any(line.split() == ["vit_l/mae", "starting", "0/100"] for line in lines)


def test_a_low_terminal_says_how_many_rows_it_hides() -> None:
    many = replace(NOW, running=[Running(name=f"run{i}") for i in range(30)])
    assert any(line == "... and 20 more" for line in lines_on_a_terminal(many, height=18))


def test_what_a_driver_publishes_is_read_back_while_it_is_fresh(tmp_path: Path) -> None:
    assert published(tmp_path) is None
    publish(tmp_path, NOW)
    assert published(tmp_path) == NOW
    long_ago = time.time() - 100
    os.utime(tmp_path / "snapshot.json", (long_ago, long_ago))
    assert published(tmp_path) is None
