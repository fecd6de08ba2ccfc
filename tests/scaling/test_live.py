"""What a person sees: counts, ETA and a row per running run, on a terminal and in a log."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from scaling.live import Running, Snapshot, View, duration, headline

NOW = Snapshot(
    total=10,
    done=4,
    diverged=1,
    failed=2,
    running=[
        Running(name="vit_s/mae", step=30, n_steps=100, loss=0.5, images_per_second=1234.5),
        Running(name="vit_b/mae", step=100, n_steps=0, loss=0.4, images_per_second=None),
    ],
    eta_seconds=3700,
)


def test_the_headline_accounts_for_every_run() -> None:
    assert headline(NOW) == "4/10 done, 2 running, 2 waiting, 1 diverged, 2 failed | ETA 1 h 01 min"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")]
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_log_gets_plain_lines_and_no_control_characters() -> None:
    out = StringIO()
    with View(Console(file=out, width=100)) as view:
        view.show(NOW)
        view.say("failed [vit_s]: [Errno 2]")
    assert out.getvalue().splitlines() == [f"[0 s] {headline(NOW)}", "failed [vit_s]: [Errno 2]"]


def test_a_terminal_gets_a_line_per_running_run() -> None:
    out = StringIO()
    with View(Console(file=out, width=100, force_terminal=True, color_system=None)) as view:
        view.show(NOW)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert any(line.startswith("running") and line.endswith("images/s") for line in lines)
    assert any(line.split() == ["vit_s/mae", "30/100", "0.5", "1,234"] for line in lines)
    assert any(line.split() == ["vit_b/mae", "probing", "0.4"] for line in lines)
