"""What each word of the command line does: call, print, return an exit code. Heavy imports wait inside the verbs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from scaling.config import Sweep
    from scaling.data.source import Source
    from scaling.document import Document
    from scaling.live import View
    from scaling.plan import Plan

DONE, SOME_FAILED = 0, 3
WIDE = 180
"""Columns of tables that go to a file or a pipe, so that no name is cut."""


def console_of() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def print_json(values: Any) -> None:
    print(json.dumps(values, indent=1, allow_nan=False))


def say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)


def _planned(options: argparse.Namespace) -> Plan:
    """Of the YAML as it is now; with `tune:`, with the options it chose, or the YAML's own until it has."""
    from scaling.choice import tuned_options
    from scaling.plan import make_plan

    sweep, document, source = _opened(options)
    return make_plan(sweep, document, source, tuned_options(sweep, Path(sweep.root).resolve()))


def _priced(options: argparse.Namespace) -> Plan:
    """As `_planned`; where the data is not here, of what the YAML says of it."""
    from scaling.errors import DataMissing

    try:
        return _planned(options)
    except DataMissing as missing:
        from scaling.pricing import price

        return price(options.sweep, missing)


def _opened(options: argparse.Namespace) -> tuple[Sweep, Document, Source]:
    from scaling.config import load
    from scaling.plan import open_source

    sweep, document = load(options.sweep)
    sweep, source = open_source(sweep, document, data_root=options.data_root)
    return sweep, document, source


def kept(options: argparse.Namespace) -> Plan:
    from scaling.config import load
    from scaling.plan import load_plan, with_holdout

    if not options.name.endswith((".yaml", ".yml")):
        return load_plan(options.root.resolve(), options.name)
    sweep, document = load(Path(options.name))  # says both where and what
    return with_holdout(load_plan(Path(sweep.root).resolve(), sweep.name), sweep, document)


# --- of a YAML ---------------------------------------------------------------------------------------------------


def plan(options: argparse.Namespace) -> int:
    from scaling.bill import bill_of
    from scaling.launch.machine import here
    from scaling.pricing import stated
    from scaling.tables import plan_legend, plan_summary, plan_table

    planned = _priced(options)
    bill = bill_of(planned, [stated(planned) or here("here")])
    if options.json:
        print_json({**bill.to_json(), **_tuning(planned)})
        return DONE
    console = console_of()
    console.print(plan_table(bill, everything=options.all))
    for line in plan_legend(bill):
        say(console, line)
    for line in plan_summary(bill):
        say(console, line)
    if planned.sweep.tune is not None and not planned.missing:
        from scaling.choice import words

        for line in words(*_opened(options)):
            say(console, line)
    return DONE


def _tuning(plan: Plan) -> dict[str, Any]:
    """What a tuning stage found; nothing of a sweep without one, None while it is to be run."""
    if plan.sweep.tune is None:
        return {}
    from scaling.choice import finished

    found = finished(plan.sweep, plan.root)
    return {"tuning": asdict(found) if found else None}


def run(options: argparse.Namespace) -> int:
    from scaling.bill import bill_of
    from scaling.carry import RunOptions, carry_out
    from scaling.errors import SpecError
    from scaling.launch.machine import here
    from scaling.live import View
    from scaling.preflight import preflight
    from scaling.tables import plan_summary

    console = console_of()
    view = View(console)
    _tune(options, view)
    planned, nodes = _planned(options), [here("here")]
    alone = options.launcher != "ray" or not options.address
    lines = list(plan_summary(bill_of(planned, nodes, check=False)))
    for line in lines if alone else lines[:1]:  # what a cluster has is known when it is joined
        say(console, line)
    if alone and (problems := preflight(planned, nodes)):
        raise SpecError(problems)
    wanted = RunOptions(
        launcher=options.launcher,
        address=options.address,
        tracking=options.tracking,
        out=None if options.no_report else options.out or Path("results") / planned.sweep.name,
        yes=options.yes,
        cancel_removed=options.cancel_removed,
        again=options.failed == "again",
    )
    return carry_out(planned, wanted, view, lambda plan, out: _write_report(plan, out, console))


def _tune(options: argparse.Namespace, view: View) -> None:
    """Does what is missing of the sweep's tuning stage, so that its runs can be planned."""
    from scaling.choice import tuned_options
    from scaling.control import DriverBusy, only_driver
    from scaling.errors import Problem, SpecError

    sweep, document, source = _opened(options)
    root = Path(sweep.root).resolve()
    if tuned_options(sweep, root) is not None:
        return
    from scaling.tune import run_tuning

    view.say(f"{sweep.name}: tuning first")
    try:
        with only_driver(root):
            run_tuning(sweep, document, source, address=options.address, say=view.say)
    except DriverBusy as busy:
        what = f"{busy.holder} drives this root, and tuning needs it alone; wait for it, or stop it"
        raise SpecError([Problem(where=str(root), what=what)]) from None


def _write_report(plan: Plan, out: Path, console: Console, *, size: str = "n_params") -> None:
    from scaling import report

    page = report.write(plan, out, size=size)
    say(console, f"report: {page}")


def calibrate(options: argparse.Namespace) -> int:
    from scaling.catalog import LAUNCHERS
    from scaling.launch.launcher import LaunchOptions
    from scaling.measuring import measure_all
    from scaling.tables import calibration_table

    planned, console = _priced(options), console_of()
    launch = LaunchOptions(root=planned.root, address=options.address)
    launcher = LAUNCHERS[options.launcher].load()(launch)
    try:
        found, failed = measure_all(planned, launcher, lambda text: say(console, text), again=options.again)
    finally:
        launcher.close()
    console.print(calibration_table(found))
    return SOME_FAILED if failed else DONE


# --- of a sweep --------------------------------------------------------------------------------------------------


def pause(options: argparse.Namespace) -> int:
    from scaling import control

    plan = kept(options)
    control.pause(plan.root, plan.sweep.name)
    _tell_driver(plan, f"{plan.sweep.name}: nothing new starts; `scaling resume {plan.document.path}` goes on")
    return DONE


def resume(options: argparse.Namespace) -> int:
    from scaling import control
    from scaling.standings import chosen

    plan = kept(options)
    runs = chosen(plan, options.selection)
    wanted = control.resume(plan.root, plan.sweep.name, runs, everything=options.all)
    n = len(wanted.cancelled)
    still = f"; {n} run{'s' * (n != 1)} stay cancelled until named, or --all" if n else ""
    _tell_driver(plan, f"{plan.sweep.name}: goes on{still}")
    return DONE


def stop(options: argparse.Namespace) -> int:
    from scaling import control

    plan = kept(options)
    control.stop(plan.root, plan.sweep.name, drain=options.drain)
    what = "what runs may finish" if options.drain else "what runs saves its checkpoint and goes"
    _tell_driver(plan, f"{plan.sweep.name}: {what}, nothing new starts; `scaling run` goes on from there")
    return DONE


def cancel(options: argparse.Namespace) -> int:
    from scaling import control
    from scaling.standings import chosen

    plan = kept(options)
    runs = [run for run in chosen(plan, options.selection) if not plan.unique()[run].done]
    if not runs:
        print(f"{plan.sweep.name}: nothing to cancel, what was named is done")
        return DONE
    control.cancel(plan.root, plan.sweep.name, runs)
    _tell_driver(plan, f"{plan.sweep.name}: {len(runs)} run{'s' * (len(runs) != 1)} cancelled; `resume` takes it back")
    return DONE


def _tell_driver(plan: Plan, text: str) -> None:
    """With a word on whether anybody listens."""
    from scaling.control import driver_of

    print(text)
    if driver_of(plan.root) is None:
        print(f"no `scaling run` is at work here now; the next one obeys it (scaling run {plan.document.path})")


def report(options: argparse.Namespace) -> int:
    out = options.out or Path("results") / options.name
    _write_report(kept(options), out, console_of(), size=options.size)
    return DONE


def export(options: argparse.Namespace) -> int:
    from scaling.export import export as write

    n = write(kept(options), options.out, options.what)
    print(f"{options.out}: {n:,} rows")
    return DONE


def sync(options: argparse.Namespace) -> int:
    from scaling.tracking import Tracker

    plan = kept(options)
    with _progress("MLflow") as progress:
        n = Tracker(plan).rebuild(progress)
    print(f"{plan.tracking_uri}: {n} runs are as their directories say")
    return DONE


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A callback (n done, n in all) that draws a bar on a terminal and nothing elsewhere."""
    from rich.progress import Progress

    console = console_of()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- of a root ---------------------------------------------------------------------------------------------------


def ui(options: argparse.Namespace) -> int:
    from scaling.errors import Problem, SpecError
    from scaling.tracking import serve

    if options.name:
        plan = kept(options)
        root, uri = plan.root, plan.tracking_uri
    else:
        root = options.root.resolve()
        uri = f"sqlite:///{root / 'mlflow.db'}"
        if not (root / "mlflow.db").exists():
            what = "holds no MLflow store; run a sweep first, name one (its YAML), or give --root"
            raise SpecError([Problem(where=str(root), what=what)])
    return serve(uri, root / "mlflow_artifacts", options.host, options.port)


def doctor(options: argparse.Namespace) -> int:
    from scaling.housekeeping import checks

    found = list(checks(options.root.resolve()))
    bad = [check for check in found if check.state == "bad"]
    if options.json:
        print_json({"root": str(options.root.resolve()), "checks": [vars(check) for check in found]})
    else:
        for check in found:
            mark = {"good": "ok  ", "note": "note", "bad": "BAD "}[check.state]
            print(f"{mark}  {check.name}: {check.what}")
    return 2 if bad else DONE


def gc(options: argparse.Namespace) -> int:
    from scaling.housekeeping import delete, needless, spare
    from scaling.live import size

    root = options.root.resolve()
    features = spare(root)
    found = [*needless(root), *(features if options.features else [])]
    for item in found:
        print(f"{size(item.bytes):>10}  {item.path.relative_to(root)}  ({item.why})")
    total = size(sum(item.bytes for item in found))
    if not found:
        print(f"{root}: nothing to delete")
    elif options.yes:
        print(f"{total} freed in {delete(root, found)} of {len(found)} places")
    else:
        more = " --features" if options.features else ""
        print(f"{total} in {len(found)} places can go; `scaling gc{more} --yes` deletes them")
    if features and not options.features:
        print(f"{size(sum(item.bytes for item in features))} of kept features could go too; `scaling gc --features`")
    return DONE


def catalog(options: argparse.Namespace) -> int:
    from scaling.catalog_tables import catalog_tables, options_of

    console = console_of()
    for shown in options_of(options.table, options.name) if options.name else catalog_tables(options.table):
        console.print(shown)
    return DONE
