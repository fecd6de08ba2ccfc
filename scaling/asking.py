"""The words of the command line that ask laws: predict, suggest, and the report of a table without a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.verbs import DONE, console_of, kept, print_json, say
from scaling.verbs import report as report_of_sweep

if TYPE_CHECKING:
    from rich.table import Table

    from scaling.forecasting import Answers
    from scaling.suggesting import Budget, Next

FEW_RUNS = 6
"""Names of runs that a line shows; --json has all."""
OF_A_TABLE = (
    "map",
    "tasks",
    "map_tasks",
    "trajectories",
    "title",
    "benefit",
    "exclude",
    "holdout",
    "under_trained",
    "outlier",
)
"""Options of `report` that mean nothing for a sweep."""


def add_report_options(report: argparse.ArgumentParser) -> None:
    report.add_argument("name", nargs="?", help="the sweep's YAML, or its name")
    report.add_argument(
        "--size",
        metavar="COLUMN",
        default="n_params",
        help="what a model's size is: n_params (encoder), n_params_total, n_params_non_embedding, paper_axis (MAE with "
        "the paper's decoder), flops_per_image (default: %(default)s)",
    )
    table = report.add_argument_group("of any table instead of a sweep")
    table.add_argument(
        "--observations", type=Path, metavar="FILE", help="a .csv, .tsv or .parquet file, a row a result"
    )
    table.add_argument("--map", metavar="NAME=COL,...", help="what columns are: task=dataset,n_params=Millions*1e6")
    table.add_argument("--tasks", type=Path, metavar="FILE", help="a table of task features, a row a task")
    table.add_argument("--map-tasks", metavar="NAME=COL,...", help="the same for its columns: task=dataset,samples=n")
    table.add_argument(
        "--trajectories", type=Path, metavar="FILE", help="AUC or loss along training: run, algorithm, images_seen, ..."
    )
    table.add_argument("--title", help="heads the report (default: the file's name)")
    table.add_argument(
        "--benefit", metavar="NAME", help="what is correlated with features: exponent, slope_log_auc, gain"
    )
    for option, what in (("exclude", "leave out"), ("holdout", "predict instead of fit")):
        table.add_argument(
            f"--{option}", action="append", metavar="WHICH", help=f"rows to {what}, as in 'n_params < 1e6'; repeatable"
        )
    table.add_argument(
        "--under-trained",
        type=float,
        metavar="SHARE",
        help="leave out runs that saw less of the most seen at their size",
    )
    table.add_argument(
        "--outlier", type=float, metavar="K", help="leave out seeds beyond K scaled median absolute deviations"
    )
    table.add_argument("--no-data", action="store_true", help="do not copy the table beside the report")


def add_predict_options(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("--model", help="a name of `scaling catalog models` (default: the largest that was run)")
    predict.add_argument("--n-images", type=float, metavar="N", help="unique images (default: the most that were run)")
    _add_choice(predict)


def add_suggest_options(suggest: argparse.ArgumentParser) -> None:
    budget = suggest.add_mutually_exclusive_group(required=True)
    budget.add_argument("--gpu-hours", type=float, metavar="H", help="what the runs may cost")
    budget.add_argument("--cpu-hours", type=float, metavar="H", help="the same for sweeps without GPUs")
    budget.add_argument("--flops", type=float, metavar="F", help="the same where no run was timed")
    suggest.add_argument(
        "--target-model", metavar="MODEL", help="what is to be foretold (default: about ten times larger)"
    )
    suggest.add_argument("--target-n-images", type=float, metavar="N", help="on so many images (default: the most run)")
    _add_choice(suggest)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algorithm", help="only of this one")
    parser.add_argument("--mixture", help="only of this one")
    parser.add_argument(
        "--task", action="append", default=[], help="of this task, repeatable, or `all` (default: mean over tasks)"
    )
    parser.add_argument("--probe", help="which read-out (default: linear)")
    parser.add_argument("--law", default="auto", help="auto, power, saturating, chinchilla, ... (default: auto)")


def report(options: argparse.Namespace) -> int:
    from scaling.errors import Problem, SpecError

    given = [f"--{name.replace('_', '-')}" for name in OF_A_TABLE if getattr(options, name) is not None]
    given += ["--no-data"] * options.no_data
    if options.observations is None:
        problems = [Problem(where=option, what="is for a table; give --observations FILE too") for option in given]
        if options.name is None:
            problems.insert(0, Problem(where="report", what="of what? give a sweep, or --observations FILE"))
        if problems:
            raise SpecError(problems)
        return report_of_sweep(options)
    if options.name is not None:
        what = f"is a table instead of a sweep, but {options.name!r} is given too; give one of them"
        raise SpecError([Problem(where="--observations", what=what)])
    return _report_of_table(options)


def _report_of_table(options: argparse.Namespace) -> int:
    from scaling.tabular import Question, Rules, write

    question = Question(
        observations=options.observations,
        mapping=options.map,
        tasks=options.tasks,
        mapping_of_tasks=options.map_tasks,
        trajectories=options.trajectories,
        rules=Rules(
            exclude=tuple(options.exclude or ()),
            holdout=tuple(options.holdout or ()),
            under_trained=options.under_trained,
            outlier=options.outlier,
        ),
        title=options.title or "",
        **({"benefit": options.benefit} if options.benefit else {}),
        keep_observations=not options.no_data,
        size=options.size,
    )
    page = write(question, options.out or Path("results") / options.observations.stem)
    say(console_of(), f"report: {page}")
    return DONE


def predict(options: argparse.Namespace) -> int:
    from scaling.forecasting import Asked, predict

    asked = Asked(
        model=options.model,
        n_images=options.n_images,
        algorithm=options.algorithm,
        mixture=options.mixture,
        tasks=tuple(options.task),
        probe=options.probe,
        law=options.law,
    )
    found = predict(kept(options), asked)
    if options.json:
        print_json(found.to_json())
        return DONE
    console = console_of()
    console.print(_predictions(found))
    for line in _words(found):
        say(console, line)
    if found.held:
        console.print(_held(found))
    return DONE


def suggest(options: argparse.Namespace) -> int:
    from scaling.forecasting import Asked
    from scaling.launch.machine import here
    from scaling.suggesting import Budget, suggest_runs

    asked = Asked(
        model=options.target_model,
        n_images=options.target_n_images,
        algorithm=options.algorithm,
        mixture=options.mixture,
        tasks=tuple(options.task),
        probe=options.probe,
        law=options.law,
    )
    if options.flops is not None:
        budget = Budget(amount=options.flops, unit="FLOPs")
    elif options.cpu_hours is not None:
        budget = Budget(amount=options.cpu_hours, unit="CPU-hours")
    else:
        budget = Budget(amount=options.gpu_hours, unit="GPU-hours")
    found = suggest_runs(kept(options), asked, budget, [here("here")])
    if options.json:
        print_json(found.to_json())
        return DONE
    console = console_of()
    for one in found.nexts:
        for line in _advice(one, found.budget):
            say(console, line)
        if one.points:
            console.print(_steps(one, found.budget))
    lines = [line for one in found.nexts for line in _include(one)]
    if lines:
        say(console, "to run them, add to the YAML:\ninclude:\n" + "\n".join(dict.fromkeys(lines)))
    return DONE


def _advice(one: Next, budget: Budget) -> Iterator[str]:
    """The target, the law, what the runs would do to the interval, and doubts."""
    found = one.suggestion
    by = f" by the {one.law} law" if one.law else ""
    yield f"{one.name}: to foretell {one.model} on {one.n_images:,.0f} images{by}"
    if found is None or not one.points:
        yield f"  no suggestion: {one.reason}"
    else:
        runs = f"{len(one.points)} of {one.n_candidates} candidates"
        yield (
            f"  {runs} for {found.cost:.3g} of {budget.amount:g} {budget.unit}"
            f"; 95 % of a run there: today {_interval(*found.interval)}, then about {_interval(*found.expected)}"
        )
    for note in one.notes:
        yield f"  note: {note}"


def _steps(one: Next, budget: Budget) -> Table:
    table = _table(("model",), ("n_images", "seed", budget.unit, "in all"), "interval over today's")
    steps = one.suggestion.steps if one.suggestion else ()
    for point, step in zip(one.points, steps, strict=True):
        costs = (f"{step.candidate.cost:.3g}", f"{step.spent:.3g}")
        table.add_row(point.model, f"{point.n_images:,}", str(point.seed), *costs, f"{step.shrinks:.2f}")
    return table


def _include(one: Next) -> Iterator[str]:
    for p in one.points:
        at = f"model: {p.model}, algorithm: {p.algorithm}, n_images: {p.n_images}, mixture: {p.mixture}, seed: {p.seed}"
        yield f"  - {{{at}}}"


def _table(left: tuple[str, ...], right: tuple[str, ...], last: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    table.add_column(last)
    return table


def _predictions(found: Answers) -> Table:
    table = _table(
        ("algorithm", "mixture", "task", "model"), ("n_images", "error", "95 % of the law", "95 % of a run"), "beyond"
    )
    for p in found.predictions:
        table.add_row(
            p.algorithm,
            p.mixture,
            p.task or f"mean of {p.n_tasks}",
            p.model,
            f"{p.n_images:,.0f}",
            f"{p.value:.4f}" if p.answered else "?",
            _interval(p.low, p.high),
            _interval(p.run_low, p.run_high),
            _beyond(p.beyond) if p.answered else p.status,
        )
    return table


def _beyond(beyond: dict[str, float]) -> str:
    from scaling.forecasting import multiple

    return ", ".join(f"{axis} {multiple(times)}x" for axis, times in beyond.items())


def _interval(low: float, high: float) -> str:
    return f"[{low:.4f}, {high:.4f}]" if low == low and high == high else "none"  # NaN is not itself


def _words(found: Answers) -> Iterator[str]:
    """Of each series which law, why, from what, and what to hold against it."""
    for p in found.predictions:
        if not p.answered:
            yield f"{p.name}: {p.reason}"
            continue
        shown = ", ".join(p.runs[:FEW_RUNS]) + (", ..." if len(p.runs) > FEW_RUNS else "")
        from_what = f"fitted to {len(p.runs)} runs of {p.n_cells} sizes ({shown})"
        yield f"{p.name}: {p.law} law, {p.formula}: {p.why}; {from_what}"
        for doubt in (p.reason, *p.warnings):
            if doubt:
                yield f"  note: {doubt}"
    measured = [h for h in found.held if h.inside is not None]
    if found.held:
        inside = sum(bool(h.inside) for h in measured)
        rest = len(found.held) - len(measured)
        yield f"held out: {inside} of {len(measured)} within their interval" + (f", {rest} without one" if rest else "")


def _held(found: Answers) -> Table:
    table = _table(
        ("held out", "algorithm", "mixture", "task", "model"),
        ("n_images", "seed", "measured", "predicted", "off", "95 % of a run"),
        "within",
    )
    for h in found.held:
        p = h.prediction
        table.add_row(
            h.run,
            p.algorithm,
            p.mixture,
            p.task or f"mean of {p.n_tasks}",
            p.model,
            f"{p.n_images:,.0f}",
            "" if h.seed is None else str(h.seed),
            f"{h.measured:.4f}",
            f"{p.value:.4f}" if p.answered else "?",
            f"{h.off:+.1%}" if p.answered else "",
            _interval(p.run_low, p.run_high),
            p.reason if not p.answered else "" if h.inside is None else "yes" if h.inside else "no",
        )
    return table
