"""The command line: parse, call, print. Heavy imports wait until a verb needs them, so `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from scaling.driver import Driver, Tracking
    from scaling.plan import Plan

DONE, BAD_INPUT, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130
"""Exit codes."""
WIDE = 160
"""Columns of tables that go to a file or a pipe, so that no name is cut."""


def main(arguments: Sequence[str] | None = None) -> int:
    from scaling.errors import SpecError

    options = _parser().parse_args(arguments)
    try:
        return int(options.verb(options))
    except SpecError as error:
        print(f"{len(error.problems)} problem{'s' * (len(error.problems) > 1)}, nothing was started:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scaling", description="What would scale buy you? Sweeps of self-supervised pretraining, fitted laws."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, do: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(verb=do)
        return added

    plan = verb("plan", _plan, "what a sweep would run, what it costs, what is already done")
    run = verb("run", _run, "do what is missing of a sweep, then write its report; safe to repeat at any time")
    for added in (plan, run):
        added.add_argument("sweep", type=Path, help="the sweep's YAML")
        added.add_argument("--data-root", metavar="DIR", help="folder of the source's files")
    run.add_argument("--launcher", choices=("ray", "inline"), default="ray", help="where runs go (default: ray)")
    run.add_argument("--address", help="Ray cluster to join; without it Ray runs on this machine")
    run.add_argument(
        "--tracking", choices=("mlflow", "none"), default="mlflow", help="where to mirror (default: mlflow)"
    )
    run.add_argument("--no-report", action="store_true", help="leave the report to `scaling report`")
    status = verb("status", _status, "how a sweep stands")
    report = verb("report", _report, "write a sweep's report again from what is there")
    for added in (status, report):
        added.add_argument("name", help="the sweep's name")
        added.add_argument("--root", type=Path, default=Path("results/.state"), help="its root (default: %(default)s)")
    for added in (run, report):
        added.add_argument("--out", type=Path, help="the report's folder (default: results/NAME)")
    catalog = verb("catalog", _catalog, "what a YAML can name")
    catalog.add_argument("table", nargs="?", choices=("models", "algorithms", "sources", "probes"))
    return parser


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _planned(options: argparse.Namespace) -> Plan:
    from scaling.config import load
    from scaling.plan import make_plan, open_source

    sweep, document = load(options.sweep)
    sweep, source = open_source(sweep, document, data_root=options.data_root)
    return make_plan(sweep, document, source)


def _plan(options: argparse.Namespace) -> int:
    from scaling.tables import plan_summary, plan_table

    plan, console = _planned(options), _console()
    console.print(plan_table(plan))
    for line in plan_summary(plan):
        console.print(line, soft_wrap=True)
    return DONE


def _run(options: argparse.Namespace) -> int:
    from scaling.driver import Driver, only_driver
    from scaling.live import View
    from scaling.tables import plan_summary

    console, started = _console(), time.monotonic()
    plan = _planned(options)
    out = options.out or Path("results") / plan.sweep.name
    for line in plan_summary(plan):
        console.print(line, soft_wrap=True)
    with only_driver(plan.root):
        plan.save()
        todo = [run for run in plan.runs if not run.done]
        mirrored = options.tracking == "none" or all(run.mirrored(plan.tracking_uri) for run in plan.runs)
        driver = Driver(plan, _tracker_of(plan, options.tracking), View(console))
        if todo:
            _carry_out(driver, options)
            console.print(
                _closing(len(todo), len(driver.tally.failed), time.monotonic() - started, options.sweep), soft_wrap=True
            )
        else:
            console.print("nothing to do: every run of this sweep is done")
        page = out / "report.html"
        renew = not options.no_report and (bool(todo) or not page.exists())
        if renew:
            _write_report(plan, out, console)
        elif page.exists():
            console.print(f"report: {page}", soft_wrap=True)
        if todo or renew or not mirrored:
            driver.finish_sweep(None if options.no_report else out)
    return SOME_FAILED if driver.tally.failed else DONE


def _tracker_of(plan: Plan, name: str) -> Callable[[], Tracking]:
    """What opens the tracker; MLflow is imported no earlier."""
    from scaling.driver import NoTracking

    def open_tracker() -> Tracking:
        if name == "none":
            return NoTracking()
        from scaling.tracking import Tracker

        return Tracker(plan)

    return open_tracker


def _carry_out(driver: Driver, options: argparse.Namespace) -> None:
    from scaling.catalog import LAUNCHERS
    from scaling.launch.launcher import LaunchOptions

    resources = driver.plan.sweep.resources
    launch = LaunchOptions(
        cpus=resources.cpus,
        gpus=None if resources.gpus == "auto" else resources.gpus,
        n_runs=len(driver.waiting),
        address=options.address,
    )
    with driver.view:
        launcher = LAUNCHERS[options.launcher].load()(launch)
        launcher.on_step = driver.refresh
        driver.carry_out(launcher)


def _closing(n_runs: int, failed: int, seconds: float, sweep: Path) -> str:
    from scaling.live import duration

    words = f"{n_runs - failed} of {n_runs} runs done in {duration(seconds)}"
    return words + (f"; {failed} failed, `scaling run {sweep}` tries them again" if failed else "")


def _write_report(plan: Plan, out: Path, console: Console) -> None:
    from scaling import report

    page = report.write(plan, out)
    console.print(f"report: {page}", soft_wrap=True)


def _report(options: argparse.Namespace) -> int:
    from scaling.plan import load_plan

    plan = load_plan(options.root, options.name)
    _write_report(plan, options.out or Path("results") / options.name, _console())
    return DONE


def _status(options: argparse.Namespace) -> int:
    from scaling.driver import describe_failure
    from scaling.plan import load_plan
    from scaling.tables import plan_table

    plan, console = load_plan(options.root, options.name), _console()
    console.print(plan_table(plan))
    failed = [run for run in plan.runs if not run.done and run.dir.failure()]
    for run in failed:
        console.print(describe_failure(run), soft_wrap=True, markup=False)
    return SOME_FAILED if failed else DONE


def _catalog(options: argparse.Namespace) -> int:
    from scaling.tables import catalog_tables

    console = _console()
    for table in catalog_tables(options.table):
        console.print(table)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
