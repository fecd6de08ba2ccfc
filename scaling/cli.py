"""The command line: what can be asked, word by word. `verbs.py` does it; `--help` imports nothing heavy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.cli import add_verbs
from scaling import asking, downloading, looking, storing, verbs

DONE, BAD_INPUT, SOME_FAILED, OVER_BUDGET, INTERRUPTED = 0, 2, 3, 4, 130
"""Exit codes."""
CODES = (
    "exit codes: 0 all done but what was cancelled, 2 the sweep or its resources are impossible, 3 some runs failed, "
    "4 budget, 130 interrupted or stopped"
)
CATALOG = ("models", "algorithms", "sources", "readers", "probes", "modalities", "recipes")
Verb = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    from scaling.errors import RunFailed, SpecError

    options = _parser().parse_args(arguments)
    if getattr(options, "launcher", "") == "auto":
        options.launcher = "ray" if options.address else "local"
    try:
        return int(options.verb(options))
    except SpecError as error:
        n = len(error.problems)
        print(f"{n} problem{'s' * (n > 1)}, nothing was {options.undone}:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return BAD_INPUT
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return SOME_FAILED
    except KeyboardInterrupt:
        print(f"\ninterrupted{options.after_interrupt}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scaling",
        description="What would scale buy you? Sweeps of self-supervised pretraining, fitted laws.",
        epilog=CODES,
    )
    table = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, do: Verb, about: str, *, undone: str = "done") -> argparse.ArgumentParser:
        added = table.add_parser(name, help=about, description=about)
        added.set_defaults(verb=do, undone=undone, after_interrupt="")
        return added

    _of_a_yaml(verb)
    _of_a_sweep(verb)
    _of_a_root(verb)
    _of_a_store(verb)
    add_verbs(verb)
    catalog = verb("catalog", verbs.catalog, "what a YAML can name, and what can be set of it", undone="shown")
    catalog.add_argument("table", nargs="?", choices=CATALOG)
    catalog.add_argument("name", nargs="?", help="an algorithm, source, reader or probe, to see its options")
    return parser


Add = Callable[..., argparse.ArgumentParser]


def _of_a_yaml(verb: Add) -> None:
    plan = verb("plan", verbs.plan, "what a sweep would run, what it takes, what is already done")
    run = verb(
        "run", verbs.run, "do what is missing of a sweep, then report; safe to repeat at any time", undone="started"
    )
    run.set_defaults(after_interrupt="; the same command goes on from the last checkpoints")
    run.epilog = CODES
    calibrate = verb("calibrate", verbs.calibrate, "measure memory and speed of each shape of a sweep by a few steps")
    for added in (plan, run, calibrate):
        added.add_argument("sweep", type=Path, help="the sweep's YAML")
        added.add_argument("--data-root", metavar="DIR", help="folder of the source's files")
    _json(plan)
    plan.add_argument("--all", action="store_true", help="a row per run, however many")
    for added in (run, calibrate):
        added.add_argument(
            "--launcher",
            choices=("auto", "ray", "local", "inline"),
            default="auto",
            help="where runs go: ray with --address, else processes of this machine (default: auto)",
        )
        added.add_argument(
            "--address",
            default=os.environ.get("RAY_ADDRESS"),
            help="Ray cluster to join (default: $RAY_ADDRESS); `--launcher ray` without one starts Ray here",
        )
    calibrate.add_argument("--again", action="store_true", help="also what was measured before")
    run.add_argument(
        "--tracking", choices=("mlflow", "none"), default="mlflow", help="where to mirror (default: mlflow)"
    )
    run.add_argument("--no-report", action="store_true", help="leave the report to `scaling report`")
    run.add_argument("--out", type=Path, help="the report's folder (default: results/NAME)")
    run.add_argument("--yes", action="store_true", help="start also what will take more than the budget has left")
    run.add_argument("--cancel-removed", action="store_true", help="end runs under way that the YAML no longer has")
    run.add_argument(
        "--failed", choices=("again", "skip"), default="again", help="runs that failed before (default: again)"
    )


def _of_a_sweep(verb: Add) -> None:
    status = verb("status", looking.status, "how a sweep stands")
    status.add_argument("--watch", action="store_true", help="go on showing it until it is over")
    status.add_argument("--all", action="store_true", help="a row per run, however many")
    logs = verb("logs", looking.logs, "what a run printed; without RUN, that of the newest failure")
    failures = verb("failures", looking.failures, "what failed, grouped by cause, and where the logs are")
    pause = verb("pause", verbs.pause, "start nothing new of a sweep; what runs goes on")
    resume = verb("resume", verbs.resume, "undo pause, and cancel of the runs named")
    stop = verb("stop", verbs.stop, "let what runs save its checkpoint and go; `scaling run` goes on")
    stop.add_argument("--drain", action="store_true", help="let what runs finish instead")
    cancel = verb("cancel", verbs.cancel, "end runs at once and keep them from starting until resumed")
    report = verb(
        "report",
        asking.report,
        "write a sweep's report again from what is there, or that of any table",
        undone="written",
    )
    predict = verb("predict", asking.predict, "what a run that nobody made would give, by the laws of a sweep")
    suggest = verb("suggest", asking.suggest, "which runs to do next to foretell a larger one better")
    export = verb("export", verbs.export, "all results as one table")
    sync = verb("sync", verbs.sync, "make MLflow again what the run directories say")
    for added in (status, logs, failures, pause, resume, stop, cancel, predict, suggest, export, sync):
        added.add_argument("name", help="the sweep's YAML, or its name")
    asking.add_report_options(report)
    asking.add_predict_options(predict)
    asking.add_suggest_options(suggest)
    for added in (status, logs, failures, pause, resume, stop, cancel, report, predict, suggest, export, sync):
        _root(added)
    for added in (status, failures, predict, suggest):
        _json(added)
    logs.add_argument("run", nargs="?", help="beginning of its fingerprint, or (part of) its point")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it prints, until the run is over")
    logs.add_argument("-n", "--lines", type=int, default=100, help="last lines to show, 0 for all (default: 100)")
    for added, how_many in ((resume, "*"), (cancel, "+")):
        added.add_argument(
            "selection",
            nargs=how_many,
            metavar="RUN",
            help="beginning of a fingerprint, or axis=value as in model=vit_s",
        )
    resume.add_argument("--all", action="store_true", help="also every run that was cancelled")
    report.add_argument("--out", type=Path, help="the report's folder (default: results/NAME)")
    export.add_argument("out", type=Path, help="a .csv or .parquet file")
    for what, words in (
        ("trajectories", "online read-outs and loss along training instead of the results"),
        ("curves", "every logged step instead of the results"),
    ):
        export.add_argument(
            f"--{what}", dest="what", action="store_const", const=what, default="observations", help=words
        )


def _of_a_root(verb: Add) -> None:
    ui = verb("ui", verbs.ui, "browse the runs in MLflow's pages")
    ui.add_argument("name", nargs="?", help="a sweep with an MLflow store of its own")
    ui.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine alone)")
    ui.add_argument("--port", type=int, default=5000, help="default: %(default)s")
    doctor = verb("doctor", verbs.doctor, "is everything in order: versions, GPUs, disk, database, what runs")
    _json(doctor)
    gc = verb("gc", verbs.gc, "what can be deleted; deletes nothing without --yes")
    gc.add_argument("--features", action="store_true", help="the features kept of runs too, where they can come again")
    gc.add_argument("--yes", action="store_true", help="delete it")
    for added in (ui, doctor, gc):
        _root(added)


def _of_a_store(verb: Add) -> None:
    data = verb("data", storing.list_, "images made ready once: import them into a store, look at it, prove it")
    table = data.add_subparsers(required=True, metavar="WORD")

    def word(name: str, do: Verb, about: str, *, undone: str = "done") -> argparse.ArgumentParser:
        added = table.add_parser(name, help=about, description=about)
        added.set_defaults(verb=do, undone=undone, after_interrupt="")
        return added

    imports = word("import", storing.import_, "read images into a store; safe to repeat", undone="imported")
    imports.set_defaults(after_interrupt="; the same command goes on")
    storing.add_import_options(imports)
    fetched = word("download", downloading.download, "fetch published sets, each known by its MD5", undone="fetched")
    downloading.add_download_options(fetched)
    listed = word("list", storing.list_, "the sources of a store")
    stats = word("stats", storing.stats, "images, groups, sizes, labels of a store's sources")
    show = word("show", storing.show, "a sheet of a store's images to look at", undone="drawn")
    verify = word("verify", storing.verify, "prove a store: checksums, groups, duplicates")
    for added in (listed, stats, show, verify):
        added.add_argument("store", type=Path, help="its folder")
    for added in (stats, show, verify):
        added.add_argument("name", nargs="*", help="sources (default: all)")
    for added in (listed, stats, verify):
        _json(added)
    show.add_argument("--out", type=Path, required=True, help="a .png file")
    verify.add_argument("--quick", action="store_true", help="without reading pixels")


def _root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("results/.state"), help="its root (default: %(default)s)")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


if __name__ == "__main__":
    sys.exit(main())
