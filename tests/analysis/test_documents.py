"""Documents of anybody's table against answers that are known: published fits, planted laws, odd numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.commands import documents, fitting
from analysis.commands.fitting import Ask, fit_document
from analysis.commands.how import How
from analysis.commands.relating import CorrelateAsk, correlate_document
from analysis.tables.table import Question
from analysis.uncertainty import Estimate

DANWOOD = "y,x\n2.138,1.309\n3.421,1.471\n3.597,1.490\n4.340,1.565\n4.882,1.611\n5.660,1.680\n"
"""NIST StRD, nonlinear regression, data set DanWood (Daniel and Wood 1980); y = b1 x^b2."""


def test_danwood_by_plain_least_squares(tmp_path: Path) -> None:
    path = tmp_path / "danwood.csv"
    path.write_text(DANWOOD)
    (group,) = fit_document(Ask(question=Question(path=path), law="power", how=How(objective="squared")))["groups"]
    # certified to eleven digits; our exponent is minus theirs
    np.testing.assert_allclose(group["parameters"]["a"]["value"], 7.6886226176e-01, rtol=1e-8)
    np.testing.assert_allclose(group["parameters"]["b"]["value"], -3.8604055871, rtol=1e-8)
    np.testing.assert_allclose(2 * group["objective"]["sum"], 4.3173084083e-03, rtol=1e-8)
    # certified standard errors are those of the linearised model, as ours
    np.testing.assert_allclose(group["parameters"]["a"]["se"], 1.8281973860e-02, rtol=1e-6)
    np.testing.assert_allclose(group["parameters"]["b"]["se"], 5.1726610913e-02, rtol=1e-6)


def chinchilla(shared: Path) -> Question:
    path = shared / "reference" / "chinchilla" / "svg_extracted_data.csv"
    losses = sorted((float(line.split(",")[-1]) for line in path.read_text().splitlines()[1:]), reverse=True)
    return Question(
        path=path, mapping="n_params=Model Size,train_flops=Training FLOP,loss=loss", exclude=f"loss>={losses[4]!r}"
    )


def test_chinchilla_reaches_the_published_optimum(shared: Path) -> None:
    document = fit_document(Ask(question=chinchilla(shared), law="chinchilla", how=How(resamples=400)))
    (group,) = document["groups"]
    assert document["rows"]["used"] == 240
    assert document["rows"]["excluded"] == 5
    assert group["objective"]["sum"] <= 0.00101828
    np.testing.assert_allclose(group["objective"]["mean"] * 240, group["objective"]["sum"])
    # published bootstrap errors of 4,000 resamples; those of 400 scatter by 1 / sqrt(800) = 4 %, and B is log-normal
    for name, se, spread in (("alpha", 0.0154, 0.2), ("beta", 0.0206, 0.2), ("E", 0.0257, 0.2), ("A", 124.5, 0.3)):
        np.testing.assert_allclose(group["parameters"][name]["se"], se, rtol=spread)
    a = group["derived"]["a"]
    np.testing.assert_allclose((a["value"], a["se"]), (0.5139, 0.020), rtol=0.2)
    assert group["intervals"]["method"] == "bootstrap"


def test_the_simplest_law_extrapolates_as_its_authors_say(shared: Path) -> None:
    """M1's mean RMSLE over the five translation curves: .2217 in the authors' own code (squares of logarithms)."""
    question = Question(
        path=shared / "reference" / "learning_curves" / "benchmark.lang.csv",
        x="Seen Examples",
        by=("Domain", "Model"),
        train="Training==1",
        exclude="Domain!=NMT",
    )
    document = fit_document(Ask(question=question, law="m1", how=How(objective="log_squared")))
    scores = [group["held_out"]["rmsle"] for group in document["groups"]]
    assert len(scores) == 5
    np.testing.assert_allclose(np.mean(scores), 0.2217, atol=5e-5)


def test_published_correlations_come_again(shared: Path) -> None:
    folder = shared / "reference" / "biovfm"
    document = correlate_document(
        CorrelateAsk(benefits=folder / "slopes.csv", features=folder / "features.csv", benefit="printed_slope")
    )
    found = {(one["feature"], one["algorithm"]): one for one in document["correlations"]}
    published = {("num_samples", "dinov2"): 0.51, ("num_samples", "mae"): 0.33}
    published |= {("num_classes", "dinov2"): 0.05, ("num_classes", "mae"): -0.24}
    for pair, r in published.items():
        assert found[pair]["n_tasks"] == 12
        np.testing.assert_allclose(found[pair]["pearson"], r, atol=0.01)
    assert document["significant"] == 0
    assert document["settings"]["key"] == "dataset"  # not `task`, which both could mean and which holds kinds


def test_a_document_is_strict_json_whatever_the_numbers() -> None:
    for low, high, status in (
        (0.0, 1.0, "estimated"),
        (np.nan, np.nan, "no_interval"),
        (0.0, np.inf, "open_interval"),
        (-np.inf, 0.0, "open_interval"),
    ):
        found = documents.estimate(Estimate(value=0.5, se=np.nan, low=low, high=high))
        assert found["status"] == status
        assert found["se"] is None
        json.dumps(found, allow_nan=False)
    assert documents.estimate(Estimate(value=np.nan, se=np.nan, low=np.nan, high=np.nan))["status"] == "no_value"
    assert documents.score(np.array([1.0]), np.array([np.inf]))["rmsle"] is None


def test_scores_are_what_they_are_called() -> None:
    measured, predicted = np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.0, 2.0])
    found = documents.score(measured, predicted)
    np.testing.assert_allclose(found["rmsle"], np.sqrt((np.log(1.1) ** 2 + np.log(2) ** 2) / 3))
    np.testing.assert_allclose(found["mean_relative_error"], (0.1 + 0 + 0.5) / 3)
    np.testing.assert_allclose(found["median_relative_error"], 0.1)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Three series, the second with what no law has."""
    path = tmp_path / "t.csv"
    x = np.geomspace(1e3, 1e6, 6).tolist()
    rows = [f"{name},{a!r},{float(2 * a**-b)!r}" for name, b in (("p", 0.1), ("q", 0.2), ("r", 0.3)) for a in x]
    path.write_text("name,x,y\n" + "\n".join(rows))
    return path


def test_what_breaks_one_group_is_its_status(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(law, points, *, objective):  # type: ignore[no-untyped-def]
        if points.y[0] < 0.6 and points.y[0] > 0.4:  # of q: 2 x 1000^-0.2 = 0.502
            raise np.linalg.LinAlgError("singular matrix")
        return original(law, points, objective=objective)

    original = fitting.fit
    monkeypatch.setattr(fitting, "fit", breaks)
    ask = Ask(question=Question(path=series, by=("name",)), law="power", how=How(resamples=20), predict=series)
    document = fit_document(ask)
    assert document["statuses"] == {"converged": 2, "not_computable": 1}
    lost = document["groups"][1]
    assert lost["reason"] == "LinAlgError: singular matrix"
    assert lost["parameters"]["b"]["value"] is None
    assert [one["reason"] for one in lost["predictions"]] == ["LinAlgError: singular matrix"] * 6
    assert lost.keys() == document["groups"][0].keys()
    json.dumps(document, allow_nan=False)


def test_a_seed_repeats_its_answer_and_no_resamples_give_no_interval(series: Path) -> None:
    rng = np.random.default_rng(3)
    x = np.geomspace(1e3, 1e6, 24)
    y = 2 * x**-0.1 * np.exp(0.02 * rng.standard_normal(24))
    series.write_text("x,y\n" + "\n".join(f"{a!r},{b!r}" for a, b in zip(x.tolist(), y.tolist(), strict=True)))
    ask = Ask(question=Question(path=series), law="power", how=How(resamples=100, seed=1))

    def parameters(asked: Ask) -> dict[str, object]:
        (group,) = fit_document(asked)["groups"]
        return dict(group["parameters"])

    first = parameters(ask)
    assert parameters(ask) == first
    assert parameters(replace(ask, how=How(resamples=100, seed=2))) != first
    (group,) = fit_document(replace(ask, how=How(resamples=0)))["groups"]
    assert group["parameters"]["b"]["status"] == "no_interval"
    assert group["warnings"]
