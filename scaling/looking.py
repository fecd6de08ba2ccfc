"""The words of the command line that only look: status, failures, logs. What can be asked while a driver works."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.verbs import DONE, SOME_FAILED, console_of, kept, print_json, say

if TYPE_CHECKING:
    from scaling.plan import Plan
    from scaling.planned import PlannedRun
    from scaling.standings import FailureGroup, Status

WATCH_SECONDS, FOLLOW_SECONDS = 2.0, 0.5


def status(options: argparse.Namespace) -> int:
    from scaling.standings import look

    plan = kept(options)
    if options.watch:
        return _watch(plan)
    now = look(plan)
    if options.json:
        print_json(now.to_json())
    else:
        _show_status(now, everything=options.all)
    return SOME_FAILED if now.failed else DONE


def _show_status(now: Status, *, everything: bool) -> None:
    from scaling.live import standing
    from scaling.standings import failure_groups
    from scaling.tables import status_table

    console = console_of()
    console.print(status_table(now.plan, now.standings, everything=everything, cancelled=now.control.cancelled))
    console.print(standing(now.snapshot, bar=console.is_terminal))
    for group in failure_groups(now.plan, now.standings):
        say(console, describe(group, lines=0))


def _watch(plan: Plan) -> int:
    """Until it is over, or nobody works on it any more."""
    from rich.live import Live

    from scaling.live import LINES_BESIDE_RUNS, PLAIN_EVERY, headline, standing
    from scaling.standings import look

    console = console_of()
    now, told = look(plan), 0.0
    if not console.is_terminal:
        while now.driver and (now.snapshot.running or any(now.snapshot.waiting.values())):
            if time.monotonic() - told > PLAIN_EVERY:
                told = time.monotonic()
                say(console, headline(now.snapshot))
            time.sleep(WATCH_SECONDS)
            now = look(plan)
        say(console, headline(now.snapshot))
        return SOME_FAILED if now.failed else DONE
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            live.update(standing(now.snapshot, max(3, console.height - LINES_BESIDE_RUNS)))
            if not now.driver or not (now.snapshot.running or any(now.snapshot.waiting.values())):
                break
            time.sleep(WATCH_SECONDS)
            now = look(plan)
    return SOME_FAILED if now.failed else DONE


def failures(options: argparse.Namespace) -> int:
    from scaling.standings import failure_groups

    plan = kept(options)
    groups = failure_groups(plan, plan.standings())
    if options.json:
        print_json({"sweep": plan.sweep.name, "failures": [group.to_json() for group in groups]})
        return SOME_FAILED if groups else DONE
    console = console_of()
    for group in groups:
        say(console, describe(group, lines=12))
    if not groups:
        say(console, f"{plan.sweep.name}: nothing failed")
    return SOME_FAILED if groups else DONE


def describe(group: FailureGroup, lines: int) -> str:
    """How many, of what, which, where the newest log is, and its end."""
    n, shown = len(group.runs), ", ".join(f"{run.point} ({run.dir.run})" for run in group.runs[:4])
    more = f" and {n - 4} more" if n > 4 else ""
    tail = group.runs[0].dir.log_tail(lines).splitlines() if lines else []
    return "\n".join(
        [
            f"{n} run{'s' * (n > 1)} failed, {group.kind}: {group.error}",
            f"  {shown}{more}",
            f"  log: {group.log}",
            *(f"    {line}" for line in tail),
        ]
    )


def logs(options: argparse.Namespace) -> int:
    from scaling.standings import find

    plan = kept(options)
    chosen = find(plan, options.run) if options.run else _newest(plan)
    path = chosen.dir.path / "log.txt"
    print(f"{chosen.point} ({chosen.dir.run}): {path}", file=sys.stderr)
    if not path.exists() and not options.follow:
        print("it has printed nothing yet", file=sys.stderr)
        return DONE
    shown = _tail(path, options.lines)
    if not shown:
        last = chosen.dir.last_metrics()
        at = f"; step {last['step']}/{chosen.spec.n_steps}, loss {last['loss']:.4g}" if last and "loss" in last else ""
        print(f"it has printed nothing{at}", file=sys.stderr)
    if options.follow:
        _follow(chosen, path, shown)
    return DONE


def _newest(plan: Plan) -> PlannedRun:
    """The newest failure; where none is, the run that printed last."""
    from scaling.errors import Problem, SpecError

    def newest(name: str) -> PlannedRun | None:
        paths = [(run.dir.path / name, run) for run in plan.unique().values()]
        there = [(path.stat().st_mtime, run) for path, run in paths if path.exists()]
        return max(there, key=lambda pair: pair[0])[1] if there else None

    found = newest("failed.json") or newest("log.txt")
    if found is None:
        raise SpecError([Problem(where=plan.sweep.name, what="no run has printed anything yet; start it first")])
    return found


def _tail(path: Path, lines: int) -> int:
    """Prints the last lines; the bytes of the file that were seen."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return 0
    kept = text.decode(errors="replace").splitlines()
    for line in kept[-lines:] if lines else kept:
        print(line)
    return len(text)


def _follow(run: PlannedRun, path: Path, seen: int) -> None:
    while True:
        over = run.standing().state not in ("running", "begun", "waiting")
        if path.exists():
            with open(path, "rb") as file:
                file.seek(seen)
                fresh = file.read()
            seen += len(fresh)
            sys.stdout.write(fresh.decode(errors="replace"))
            sys.stdout.flush()
        if over:
            return
        time.sleep(FOLLOW_SECONDS)
