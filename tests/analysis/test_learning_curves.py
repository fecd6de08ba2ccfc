"""Ten published learning curves: laws of one size foretell their larger end no worse than their authors' code.

Alabdulmohsin et al. 2022 (arXiv 2209.06640). Score: mean over a domain's curves of the RMSLE on the points not fitted.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.fit import fit
from analysis.laws import LAWS
from analysis.points import Points, Vector, cell_means, points
from analysis.select import select

Curve = tuple[Points, Vector, Vector]


def curves(shared: Path, domain: str) -> list[Curve]:
    """Points to fit, then x and y to foretell, of each curve."""
    table = pd.read_csv(shared / "reference" / "learning_curves" / "benchmark.lang.csv")
    found = []
    for _, rows in table[table["Domain"] == domain].groupby(["Task", "Model"]):
        x, y = rows["Seen Examples"].to_numpy(float), rows["Loss"].to_numpy(float)
        train = rows["Training"].to_numpy() == 1
        found.append((cell_means(points(x[train], y[train])), x[~train], y[~train]))
    return found


def rmsle(predicted: Vector, y: Vector) -> float:
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(y)) ** 2)))


@pytest.mark.parametrize(("domain", "published"), [("NMT", 0.2217), ("LM", 0.0140)])
def test_the_power_law_scores_exactly_as_published(shared: Path, domain: str, published: float) -> None:
    power = LAWS["power"]
    scores = [rmsle(fit(power, given).predict(x[:, None]), y) for given, x, y in curves(shared, domain)]
    assert np.mean(scores) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(
    ("law", "domain", "published"), [("saturating", "NMT", 0.0341), ("m3", "NMT", 0.0471), ("m3", "LM", 0.0023)]
)
def test_a_form_over_the_sizes_it_foretells_best_from_is_no_worse_than_its_authors(
    shared: Path, law: str, domain: str, published: float
) -> None:
    scores = [rmsle(select(given, [LAWS[law]]).predict(x), y) for given, x, y in curves(shared, domain)]
    assert np.mean(scores) <= published


@pytest.mark.parametrize(
    ("law", "published"),
    [("m2", {"NMT": 0.0341}), ("m3", {"NMT": 0.0471, "LM": 0.0023}), ("m4", {"NMT": 0.0208})],
)
def test_the_command_as_it_stands_is_no_worse_than_the_authors(
    shared: Path, capsys: pytest.CaptureFixture[str], law: str, published: dict[str, float]
) -> None:
    table = str(shared / "reference" / "learning_curves" / "benchmark.lang.csv")
    which = ["--x", "Seen Examples", "--map", "loss=Loss", "--by", "Domain,Model", "--exclude", "Domain==BB"]
    asked = ["--law", law, "--train", "Training==1", "--intervals", "delta", "--json"]
    assert main(["fit", table, *which, *asked]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    for domain, most in published.items():
        scores = [g["held_out"]["rmsle"] for g in groups if g["group"]["Domain"] == domain]
        assert len(scores) == 5
        assert np.mean(scores) <= most


def test_m4_is_no_worse_than_its_authors(shared: Path) -> None:
    scores = []
    for given, x, y in curves(shared, "NMT"):
        found = fit(LAWS["m4"], given)
        assert found.status.usable, found.reason
        scores.append(rmsle(found.predict(x[:, None]), y))
    assert np.mean(scores) <= 0.0208


@pytest.mark.slow
def test_the_automatic_choice_is_on_the_mean_no_worse_than_any_single_form(shared: Path) -> None:
    there = curves(shared, "NMT") + curves(shared, "LM")
    chosen = [rmsle(select(given).predict(x), y) for given, x, y in there]
    for name in ("power", "saturating", "m3", "m4", "broken1"):
        fits = [(fit(LAWS[name], given), x, y) for given, x, y in there]
        alone = [rmsle(f.predict(x[:, None]), y) for f, x, y in fits if f.status.usable]
        assert np.mean(chosen) <= np.mean(alone), name
