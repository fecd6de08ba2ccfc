"""`scaling run` from a plan to its report: asks, drives or hands over, and ends with a code that says how it went."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from scaling.attach import request, watch
from scaling.bill import bill_of
from scaling.calibration import load_calibrations
from scaling.catalog import LAUNCHERS
from scaling.control import Asked, Control, DriverBusy, only_driver
from scaling.driver import Driver
from scaling.errors import SpecError
from scaling.launch.launcher import Launcher, LaunchOptions, Node
from scaling.live import View
from scaling.mirror import Mirror, Tracking
from scaling.plan import Plan, load_plan
from scaling.preflight import preflight
from scaling.provenance import freeze
from scaling.runbody import close_open_attempt
from scaling.sweeping import ALL_DONE, BUDGET, INTERRUPTED, SOME_FAILED, Sweeping


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    launcher: str = "ray"
    address: str | None = None
    """Ray cluster to join."""
    tracking: str = "mlflow"
    out: Path | None = None
    """Of the report; None writes none."""
    yes: bool = False
    """Spend beyond the budget without asking."""
    cancel_removed: bool = False
    again: bool = True
    """Try what failed before once more."""


def carry_out(plan: Plan, options: RunOptions, view: View, write_report: Callable[[Plan, Path], None]) -> int:
    """Exit code. Raises SpecError when something can never run, before anything starts."""
    asked = request(plan, cancel_removed=options.cancel_removed)
    while True:
        try:
            with only_driver(plan.root):
                newest = Control.read(plan.folder).asked
                if newest and newest.id != asked.id:  # somebody edited the sweep meanwhile
                    plan = load_plan(plan.root, plan.sweep.name)
                work = not all(run.done for run in plan.runs)
                return _drive(plan, options, view, write_report, work=work)
        except DriverBusy as busy:
            view.say(f"{busy.holder} drives {plan.root} and carries this sweep out too; watching (Ctrl-C only leaves)")
            code = _watch(plan, asked, view)
        if code is not None:
            if options.out:
                write_report(plan, options.out)
            return code


def _affordable(plan: Plan, nodes: Sequence[Node], view: View) -> bool:
    """Asks a person before the budget is overspent; where nobody can answer, the answer is no."""
    question = bill_of(plan, nodes, check=False).question
    return question is None or _agreed(question, view)


def _agreed(over: str, view: View) -> bool:
    if not sys.stdin.isatty():
        view.say(f"{over}. Nothing was started: raise the budget, or give --yes to go on until it is spent")
        return False
    view.say(over)
    with suppress(EOFError):
        return input("go on until it is spent? [y/N] ").strip().lower() in ("y", "yes")
    return False


def _watch(plan: Plan, asked: Asked, view: View) -> int | None:
    with view:
        return watch(plan, asked, view)


def _drive(
    plan: Plan, options: RunOptions, view: View, write_report: Callable[[Plan, Path], None], *, work: bool
) -> int:
    for run in plan.runs:  # nobody else drives the root, so what is still open was a dead driver's
        close_open_attempt(run.dir)
    mirrors: list[Mirror] = []

    def open_mirror(wanted: Plan) -> Mirror | None:
        if options.tracking == "none":
            return None
        mirrors.append(Mirror(lambda: _open_tracker(wanted), view.say))
        return mirrors[-1]

    if not work:
        view.say("nothing to do: every run of this sweep is done")
        return _settle_finished(plan, options, view, write_report, open_mirror)
    driver = _driver(plan, options, view, open_mirror)
    if driver is None:
        return BUDGET
    with view, _interruptible(driver):
        driver.carry_out()
    for sweeping in driver.sweeps.values():
        _conclude(sweeping, options if sweeping.name == plan.sweep.name else None, view, write_report)
    return INTERRUPTED if driver.interrupted else driver.sweeps[plan.sweep.name].exit_code()


def _driver(plan: Plan, options: RunOptions, view: View, open_mirror: Callable[[Plan], Mirror | None]) -> Driver | None:
    """With the sweep taken up; None when it costs too much. Raises SpecError when a run of it can never start."""
    made: list[Driver] = []
    launch = LaunchOptions(
        root=plan.root,
        address=options.address,
        code=freeze(plan.root),
        on_step=lambda step: made[0].look(step),
    )
    launcher: Launcher = LAUNCHERS[options.launcher].load()(launch)
    try:
        problems = preflight(plan, launcher.nodes(), load_calibrations(plan.root))
        if problems:
            raise SpecError(problems)
        if not options.yes and not _affordable(plan, launcher.nodes(), view):
            launcher.close()
            return None
        made.append(Driver(plan.root, launcher, view, open_mirror))
        made[0].adopt(plan, again=options.again)
    except BaseException:
        launcher.close()
        raise
    return made[0]


def _conclude(
    sweeping: Sweeping, options: RunOptions | None, view: View, write_report: Callable[[Plan, Path], None]
) -> None:
    """Report and mirror of a sweep this driver is through with; `options` None when another process reports on it."""
    out = options.out if options else None
    if options:
        view.say(_closing(sweeping))
    if out:
        write_report(sweeping.plan, out)
    if sweeping.mirror:
        sweeping.mirror.finish_sweep(out, complete=sweeping.exit_code() == ALL_DONE)
        if not sweeping.mirror.close():
            view.say(f"tracking: the store did not answer; `scaling sync {sweeping.plan.document.path}` sends the rest")


def _closing(sweeping: Sweeping) -> str:
    n, name = len(sweeping.runs), sweeping.plan.document.path
    words = [f"{len(sweeping.done)} of {n} runs done"]
    words += [f"{n} of them {how}" for how, n in sorted(Counter(sweeping.unsound.values()).items())]
    words += [f"{len(sweeping.failed)} failed: `scaling failures {name}`"] if sweeping.failed else []
    words += [f"{len(sweeping.cancelled)} cancelled"] if sweeping.cancelled else []
    if sweeping.exit_code() in (SOME_FAILED, BUDGET, INTERRUPTED):
        words.append(f"`scaling run {name}` goes on from here")
    hours = sweeping.used.gpu_hours or sweeping.used.cpu_hours
    unit = "GPU" if sweeping.used.gpu_hours else "CPU"
    return f"{sweeping.name}: {'; '.join(words)} ({hours:.3g} {unit}-hours in all)"


def _settle_finished(
    plan: Plan,
    options: RunOptions,
    view: View,
    write_report: Callable[[Plan, Path], None],
    open_mirror: Callable[[Plan], Mirror | None],
) -> int:
    """What a finished sweep may still lack: its report, and runs that the store has not heard of."""
    out = options.out
    renew = out is not None and not (out / "report.html").exists()
    if out and renew:
        write_report(plan, out)
    elif out:
        view.say(f"report: {out / 'report.html'}")
    behind = [run for run in plan.runs if not run.mirrored(plan.tracking_uri)]
    if (renew or behind) and (mirror := open_mirror(plan)):
        for run in behind:
            record = run.dir.record()
            mirror.finish(run, record.status if record else "failed")
        mirror.finish_sweep(out, complete=True)
        mirror.close()
    return ALL_DONE


def _open_tracker(plan: Plan) -> Tracking:
    from scaling.tracking import Tracker  # MLflow takes seconds to import

    return Tracker(plan)


@contextmanager
def _interruptible(driver: Driver) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets what runs save its checkpoint, the second ends it at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if driver.interrupted:
            raise KeyboardInterrupt
        driver.interrupt()
        driver.view.say("interrupted: runs save their checkpoints and go; once more ends them at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
