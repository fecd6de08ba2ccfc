"""Observations + task features -> one HTML page, Markdown, CSV and LaTeX tables, figures. Needs nothing else.

A report is always written, whatever is missing: what cannot be answered says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis import answers, confounders
from analysis.page.blocks import Block, Fold, Line, Note, Numbers, Picture, Section, Words, every
from analysis.page.html import html, markdown
from analysis.page.latex import latex
from analysis.sections import axes, benefits, comparing, features, forecasts, frontiers, mixtures, runs
from analysis.sections import trajectories as along
from analysis.sections.drawing import Pen
from analysis.sections.naming import in_words_of
from analysis.sizes import ENCODER
from analysis.study import Study, study

SYNTHETIC = "All images are synthetic. Nothing here says anything about patients or about real modalities."


def write(
    observations: pd.DataFrame | Path,
    tasks: pd.DataFrame,
    out: Path,
    *,
    title: str,
    question: str = "",
    benefit: str = "exponent",
    provenance: dict[str, str] | None = None,
    failures: pd.DataFrame | None = None,
    tuning: pd.DataFrame | None = None,
    trajectories: pd.DataFrame | None = None,
    synthetic: bool = False,
    spec_text: str | None = None,
    gallery: Path | None = None,
    keep_observations: bool = True,
    size: str = ENCODER.column,
) -> Path:
    """The page's path. `benefit`: which definition is correlated, a key of `analysis.benefit.DEFINITIONS`; `size`: the
    column that is the models' size, a key of `analysis.sizes.SIZES`.

    `trajectories`: as `scaling.records.TRAJECTORY_COLUMNS`. Without `keep_observations` neither table is copied beside
    the report, nor are numbers told by figures, for data that may not be passed on. Raises ValueError for a table that
    is not what it should be, before anything is written.
    """
    of, seen = study(observations, tasks, benefit=benefit, size=size), along.judged(trajectories)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    pen = Pen(folder=out / "figures", values=keep_observations)
    pairs = answers.paired(of.fitted, of.references)
    ahead, contests, splits = forecasts.forecasts(of), comparing.contests(of.means), frontiers.splits(of)
    best = mixtures.best_mixtures(of)

    def named(*found: Section) -> list[Section]:
        return [in_words_of(of.size, one) for one in found]

    sections = [
        *named(in_short(of, pairs, ahead, contests, splits, best, seen)),
        *named(runs.what_was_run(of, pen, gallery, synthetic=synthetic)),
        *([runs.tuning(tuning, pen)] if tuning is not None else []),
        *named(axes.model_size(of, pen), axes.data_size(of, pen), axes.compute(of, pen)),
        *([along.section(seen, pen)] if seen else []),
        *named(forecasts.section(of, ahead, pen), comparing.section(of, contests)),
        *named(frontiers.section(splits, pen, of.mean_error, of.size.unit)),
        *([found] if (found := mixtures.section(best)) else []),
        axes.against_references(pairs),
        *named(benefits.section(of, pen)),
        features.section(of, pen),
        runs.read_outs(of),
        runs.failures(of, failures),
        runs.provenance(provenance or {}, spec_text),
    ]
    notes = [Note(text=SYNTHETIC, severity="serious")] if synthetic else []
    _write_tables(out, sections)
    _write_inputs(out, of, seen, keep_observations=keep_observations)
    _whole(out / "report.md", markdown(title, question, notes, sections))
    page = out / "report.html"
    _whole(page, html(title, question, notes, sections, downloads=("csv", "tex")))
    _remove_what_earlier_reports_left(out, sections)
    return page


def in_short(
    of: Study,
    pairs: pd.DataFrame,
    ahead: forecasts.Forecasts,
    contests: list[comparing.Contest],
    splits: list[frontiers.Split],
    best: list[mixtures.Best],
    seen: along.Judged | None,
) -> Section:
    """The answers in words, each with the table that holds its numbers, and what to hold against them."""

    def lines(texts: Iterable[str], *see: str) -> list[Line]:
        return [Line(text=text, see=see) for text in texts]

    def predicted(texts: Iterable[forecasts.Said]) -> list[Line]:
        return [Line(text=said.text, see=("forecasts", "holdout"), runs=said.runs) for said in texts]

    quoted = {(row.algorithm, row.mixture) for row in of.headline.itertuples()} | {("", "")}
    unit = of.size.unit
    said = forecasts.sentences(ahead, unit)
    first = [one for one in said if one.series in quoted and one.axis != "n_images"]
    main = [
        *predicted(first),
        *lines(comparing.sentences(contests, "algorithm", unit), "duels", "shared_parameters"),
        *lines(answers.gaining(of.headline), "benefit_headline"),
        *lines(answers.correlated(of.correlations), "correlations_main"),
        *lines(answers.references(pairs), "references"),
        *lines(along.sentences(seen), "trajectory_ends"),
    ]
    more = [
        *lines(answers.best_run(of.means, of.measure), "read_outs"),
        *lines(answers.tenfold(of.along["n_params"], unit), "law_n_params"),
        *lines(answers.tenfold(of.along["n_images"], "images"), "law_n_images"),
        *predicted(one for one in said if one not in first),
        *lines(comparing.sentences(contests, "mixture", unit), "duels", "shared_parameters"),
        *lines(frontiers.sentences(splits, unit), "frontier"),
        *lines(mixtures.sentences(best), "mixtures"),
    ]
    brackets = f"Errors are {of.measure}, lower is better; square brackets hold 95 % intervals."
    weak = answers.weaknesses(of.fitted, of.lost, of.along["n_params"])
    weak += confounders.sentences(of.fitted, of.along)
    blocks: list[Block] = [
        Words(lines=[*([of.size.sentence] if of.size.sentence else []), brackets]),
        Words(lines=main, bullets=True),
        Fold(title="More answers", blocks=[Words(lines=more, bullets=True)]),
        *(Note(text=text, severity="warning") for text in weak),
    ]
    return Section(title="In short", blocks=blocks)


def _write_inputs(out: Path, of: Study, seen: along.Judged | None, *, keep_observations: bool) -> None:
    """The tables that the report was made of, or none of those that an earlier one left."""
    for name, rows in (("observations", of.given), ("trajectories", seen.found.rows if seen else None)):
        if keep_observations and rows is not None:
            _whole(out / f"{name}.csv", rows.to_csv(index=False))
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)


def _write_tables(out: Path, sections: list[Section]) -> None:
    for block in _blocks(sections):
        if isinstance(block, Numbers):
            _whole(out / f"{block.name}.csv", block.rows.to_csv(index=False))
            _whole(out / f"{block.name}.tex", latex(block))


def _blocks(sections: list[Section]) -> list[object]:
    return [block for section in sections for block in every(section.blocks)]


def _remove_what_earlier_reports_left(out: Path, sections: list[Section]) -> None:
    """A task that is no longer probed would else still have its figure, a section its table."""
    blocks = _blocks(sections)
    shown = {block.path.stem for block in blocks if isinstance(block, Picture)}
    for path in (out / "figures").iterdir():
        if path.suffix in (".png", ".svg", ".pdf") and path.stem not in shown:
            path.unlink()
    named = {block.name for block in blocks if isinstance(block, Numbers)}
    for path in out.glob("*.tex"):  # only what has both endings is a table of ours
        if path.stem not in named:
            path.unlink()
            path.with_suffix(".csv").unlink(missing_ok=True)


def _whole(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
