"""The words that ask something of anybody's table. Parsed here; whatever takes time to import waits for the answer.

One JSON document goes to standard output with --json, else the same as text. Bad input is said on standard error, all
of it, and exits with 2; what the data cannot answer is a status in the document, and exits with 0.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
Verb = Callable[[argparse.Namespace], int]
Add = Callable[[str, Verb, str], argparse.ArgumentParser]
Document = dict[str, Any]
MAP_HELP = "which columns are what: n_params=Model Size,n_images=D,loss=loss; units as in n_params=Params (M)*1e6"
EXPRESSION = 'such as "Training==1" or "loss>=4.2 or Model in (a, b)"'


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m analysis`: the same words without the rest of the program."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Scaling laws of anybody's table.")
    table = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, do: Verb, about: str) -> argparse.ArgumentParser:
        added = table.add_parser(name, help=about, description=about)
        added.set_defaults(verb=do)
        return added

    add_verbs(verb)
    options = parser.parse_args(arguments)
    try:
        return int(options.verb(options))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away
        return DONE


def add_verbs(verb: Add) -> None:
    """`verb(name, what it does, about)` makes a parser."""
    _add_fit(verb("fit", fit, "fit a law to any CSV or Parquet table"))
    _add_frontier(verb("frontier", frontier, "compute-optimal model and data sizes of any table of runs"))
    _add_correlate(verb("correlate", correlate, "what goes with the benefit: a table of benefits, one of features"))


def _add_table(parser: argparse.ArgumentParser) -> None:
    """What every question of a table has."""
    parser.add_argument("table", type=Path, metavar="TABLE", help="a .csv, .tsv or .parquet file")
    parser.add_argument("--map", default="", metavar="NAME=COL,...", help=MAP_HELP)
    parser.add_argument("--by", action="append", default=[], metavar="COL,...", help="a fit for each value of these")
    parser.add_argument("--exclude", default="", metavar="WHICH", help=f"rows to leave out, {EXPRESSION}")
    parser.add_argument("--weights", default="", metavar="COL", help="weight of each row")
    parser.add_argument("--se", default="", metavar="COL", help="standard error of each row's target: weights 1/se^2")
    parser.add_argument(
        "--cluster",
        default="cell",
        metavar="cell|row|COL",
        help="what shares luck and is resampled together: rows of the same inputs, single rows, or rows that agree in "
        "a column (default: cell)",
    )
    parser.add_argument("--objective", default="log_huber", help="log_huber (default), log_squared, squared or huber")
    parser.add_argument("--huber-delta", type=float, metavar="D", help="corner of the Huber loss (default: 1e-3)")
    parser.add_argument(
        "--intervals", default="auto", help="auto (default), profile, bootstrap, parametric, wild or delta"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples, where the intervals come from resampling"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    parser.add_argument("--level", type=float, default=0.95, help="confidence of intervals (default: 0.95)")
    parser.add_argument("--json", action="store_true", help="the same as one JSON document")


def _add_fit(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    parser.add_argument("--law", default="auto", help="a law's name (an unknown one lists them), or auto (default)")
    parser.add_argument("--x", default="", metavar="COL", help="the input of a law of one input")
    parser.add_argument("--train", default="", metavar="WHICH", help=f"rows to fit, {EXPRESSION}; others are held out")
    parser.add_argument("--across", default="", metavar="COL", help="one law over the categories of a column")
    parser.add_argument(
        "--shared", action="append", default=[], metavar="P,...", help="parameters all categories share"
    )
    parser.add_argument("--separate", action="append", default=[], metavar="P,...", help="parameters of each its own")
    parser.add_argument(
        "--at", type=float, metavar="X", help="size at which categories are compared (default: 10 times)"
    )
    parser.add_argument("--predict", type=Path, metavar="TABLE2", help="a table of rows to predict")
    parser.add_argument(
        "--sizes",
        default="auto",
        metavar="all|chosen",
        help="sizes a law is fitted to; chosen: without the smallest where that foretells the larger ones far better "
        "(default: chosen to find a law or, with --train or --predict, for a law with a limit; else all)",
    )


def _add_frontier(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    parser.add_argument(
        "--law",
        default="chinchilla",
        help="of approach 3: chinchilla (default), chinchilla_tied; mixture, which finds the best shares of the "
        "modalities too, for each group and for all of them together (map share_MODALITY=COL of each); or constrained, "
        "which finds the epochs too (map images_seen)",
    )
    parser.add_argument(
        "--unique", type=_floats, default=(), metavar="D,...", help="images there are, with --law constrained"
    )
    parser.add_argument("--budget", type=_floats, default=(), metavar="FLOPS,...", help="such as 1e21,1e22")
    parser.add_argument("--gpu-hours", type=_floats, default=(), metavar="H,...", help="budgets in GPU-hours")
    parser.add_argument("--flops-per-gpu-hour", type=float, metavar="F", help="else from the map's gpu_hours column")
    parser.add_argument("--approach", type=_integers, default=(1, 2, 3), metavar="1,2,3", help="which (default: all)")
    parser.add_argument(
        "--flops-per", type=float, metavar="K", help="FLOPs = K N D (default: measured where FLOPs are mapped, else 6)"
    )
    parser.add_argument("--isoflop", default="", metavar="COL", help="budget of each run (default: found by FLOPs)")


def _add_correlate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benefits", type=Path, required=True, metavar="FILE", help="a row per task and series")
    parser.add_argument("--features", type=Path, required=True, metavar="FILE", help="a row per task")
    parser.add_argument("--key", default="", metavar="COL", help="the task's column, or COL=COL where names differ")
    parser.add_argument("--benefit", default="", metavar="COL", help="of the benefits (default: the column of numbers)")
    parser.add_argument("--se", default="", metavar="COL", help="the benefit's standard error (default: BENEFIT_se)")
    parser.add_argument(
        "--by", action="append", default=[], metavar="COL,...", help="what tells series apart (default: algorithm)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="COL,...", help='features to take; "log10 COL" is a logarithm'
    )
    parser.add_argument("--control", default="", metavar="COL", help="feature held equal in partial correlations")
    parser.add_argument("--seed", type=int, default=0, help="of permutations (default: 0)")
    parser.add_argument("--json", action="store_true", help="the same as one JSON document")


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def fit(options: argparse.Namespace) -> int:
    def document() -> Document:
        from analysis.commands.categories import Across
        from analysis.commands.fitting import Ask, fit_document

        question = _question(options, x=options.x, train=options.train, across=options.across)
        of = Across(
            column=options.across, shared=_columns(options.shared), separate=_columns(options.separate), at=options.at
        )
        return fit_document(
            Ask(
                question=question,
                law=options.law,
                how=_how(options),
                sizes=options.sizes,
                predict=options.predict,
                across=of,
            )
        )

    return _answer(document, options)


def frontier(options: argparse.Namespace) -> int:
    def document() -> Document:
        from analysis.commands.allocating import FrontierAsk, frontier_document
        from analysis.commands.spending import Budgets

        spend = Budgets(
            flops=options.budget, gpu_hours=options.gpu_hours, flops_per_gpu_hour=options.flops_per_gpu_hour
        )
        more = {} if options.flops_per is None else {"flops_per": options.flops_per}
        ask = FrontierAsk(
            question=_question(options, **more),
            how=_how(options),
            budgets=spend,
            law=options.law,
            approaches=options.approach,
            isoflop=options.isoflop,
            flops_per=options.flops_per,
            unique=options.unique,
        )
        return frontier_document(ask)

    return _answer(document, options)


def correlate(options: argparse.Namespace) -> int:
    def document() -> Document:
        from analysis.commands.relating import CorrelateAsk, correlate_document

        ask = CorrelateAsk(
            benefits=options.benefits,
            features=options.features,
            key=options.key,
            benefit=options.benefit,
            se=options.se,
            by=_columns(options.by),
            only=_columns(options.only),
            control=options.control,
            seed=options.seed,
        )
        return correlate_document(ask)

    return _answer(document, options)


def _how(options: argparse.Namespace) -> Any:
    from analysis.commands.how import How

    return How(
        objective=options.objective,
        huber_delta=options.huber_delta,
        intervals=options.intervals,
        resamples=options.bootstrap,
        seed=options.seed,
        level=options.level,
    )


def _question(options: argparse.Namespace, **more: Any) -> Any:
    from analysis.tables.table import Question

    return Question(
        path=options.table,
        mapping=options.map,
        by=_columns(options.by),
        exclude=options.exclude,
        weights=options.weights,
        se=options.se,
        cluster=options.cluster,
        **more,
    )


def _columns(texts: Sequence[str]) -> tuple[str, ...]:
    """`A,B` or `"a name, with a comma",B`, as often as the option is given."""
    names = [name.strip() for row in csv.reader(texts, skipinitialspace=True) for name in row]
    return tuple(dict.fromkeys(name for name in names if name))


def _answer(document: Callable[[], Document], options: argparse.Namespace) -> int:
    from analysis.tables.problems import InputError

    try:
        answer = document()
    except InputError as error:
        n = len(error.problems)
        print(f"{n} problem{'s' * (n > 1)}, nothing was done:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        print(json.dumps(answer, indent=1, allow_nan=False))
    else:
        from analysis.commands.plain import text_of

        print(text_of(answer))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
