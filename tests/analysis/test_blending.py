"""The frontier of mixtures against planted laws whose optimum a grid finds, and the refusals where runs cannot tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.cli import main
from analysis.commands.blending import blend
from analysis.commands.how import How
from analysis.laws.mixture import mixture, optimum, with_shares
from analysis.optima.allocation import runs_of
from analysis.optima.compromise import common_optimum
from analysis.optima.flops import Flops
from analysis.optima.frontier import log_optimum
from analysis.points import points

NAMES = ("ct", "mr", "us")
LAW = mixture(NAMES)
BUDGETS = (1e14, 1e16)
TASKS = {
    "chest": {"E": 0.03, "A": 20.0, "alpha": 0.4, "beta": 0.3, "kappa": 1.6, "B[ct]": 3.0, "B[mr]": 5.0, "B[us]": 9.0},
    "brain": {"E": 0.02, "A": 25.0, "alpha": 0.45, "beta": 0.3, "kappa": 2.0, "B[ct]": 5.0, "B[mr]": 4.0, "B[us]": 6.0},
}
MIXTURES = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.4, 0.3, 0.3)]
SIZES = np.geomspace(1e6, 1e8, 4)
IMAGES = np.geomspace(1e4, 1e6, 4)
MAP = "n_params=N,n_images=D,share_ct=CT,share_mr=MR,share_us=US,error=error"


def theta(task: str) -> np.ndarray:
    return LAW.theta(TASKS[task])


def design(mixtures: Sequence[tuple[float, ...]] = tuple(MIXTURES)) -> np.ndarray:
    return np.array([(n, d, *h) for n in SIZES for d in IMAGES for h in mixtures], float)


def write(path: Path, x: np.ndarray, noise: float, tasks: Sequence[str] = tuple(TASKS)) -> Path:
    rng = np.random.default_rng(0)
    luck = rng.standard_normal(len(x))
    lines = ["N,D,CT,MR,US,task,error"]
    for task in tasks:
        y = LAW.predict(x, theta(task)) * np.exp(noise * (luck + rng.standard_normal(len(x))))
        lines += [",".join(map(repr, row)) + f",{task},{e!r}" for row, e in zip(x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(lines))
    return path


def ask(capsys: pytest.CaptureFixture[str], path: Path, *more: str, mapping: str = MAP) -> dict[str, Any]:
    arguments = ["frontier", str(path), "--law", "mixture", "--map", mapping, "--by", "task", "--bootstrap", "200"]
    assert main([*arguments, "--budget", "1e14,1e16", *more, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def best_of_grid(tasks: Sequence[str], budget: float) -> tuple[float, np.ndarray, float]:
    """ln N, shares and mean ln error by search alone."""
    steps = 40
    shares = np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps
    ln_n = np.linspace(np.log(1e5), np.log(1e10), 300)
    best = (np.nan, shares[0], np.inf)
    for one in shares:
        x = np.column_stack([np.exp(ln_n), budget / 6 / np.exp(ln_n), np.tile(one, (len(ln_n), 1))])
        mean = np.mean([LAW.log_predict(x, theta(task)) for task in tasks], axis=0)
        if mean.min() < best[2]:
            best = (float(ln_n[mean.argmin()]), one, float(mean.min()))
    return best


def test_without_noise_the_answers_are_those_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, write(tmp_path / "t.csv", design(), 0.0))
    answers = [(group["approaches"][0]["optima"], [group["group"]["task"]]) for group in found["groups"]]
    for optima, tasks in [*answers, (found["together"]["optima"], list(TASKS))]:
        for one, budget in zip(optima, BUDGETS, strict=True):
            ln_n, shares, ln_y = best_of_grid(tasks, budget)
            assert one["budget"] == budget
            # the grid's steps: 1/40 in a share, 0.04 in ln N; flat about the optimum, so a little more
            np.testing.assert_allclose([one["shares"][name]["value"] for name in NAMES], shares, atol=0.04)
            assert np.log(one["n_params"]["value"]) == pytest.approx(ln_n, abs=0.1)
            assert ln_y - 2e-3 < np.log(one["loss"]["value"]) <= ln_y + 1e-6
            assert 6 * one["n_params"]["value"] * one["n_images"]["value"] == pytest.approx(budget)


def test_intervals_hold_the_planted_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, write(tmp_path / "t.csv", design(), 0.01), "--objective", "log_squared")
    thetas = np.array([theta(task) for task in TASKS])

    def holds(one: dict[str, Any], truth: float) -> None:
        assert one["low"] < truth < one["high"]
        assert one["high"] / one["low"] < 2

    for group in found["groups"]:
        mine = theta(group["group"]["task"])[None]
        (approach,) = group["approaches"]
        assert (approach["approach"], approach["name"], approach["status"]) == (3, "mixture", "answered")
        holds(group["gamma"], float(LAW.derived[0].compute(mine)[0]))
        for one in approach["optima"]:
            best = optimum(mine)
            ln_n, ln_d, ln_y = log_optimum(
                with_shares(mine, best), log_flops=float(np.log(one["budget"])), cost=Flops()
            )
            for key, truth in (("n_params", ln_n), ("n_images", ln_d), ("loss", ln_y)):
                holds(one[key], float(np.exp(truth[0])))
            for j, name in enumerate(NAMES):
                holds(one["shares"][name], best[0, j])
            assert one["loss_over_best_run_mixture"]["high"] < 1
    joint = found["together"]
    assert joint["intervals"]["luck"] == "of the same runs, in common"
    for one in joint["optima"]:
        truth = common_optimum(thetas[None], log_flops=float(np.log(one["budget"])), cost=Flops())
        holds(one["n_params"], float(np.exp(truth.log_n_params[0])))
        for j, name in enumerate(NAMES):
            holds(one["shares"][name], truth.shares[0, j])
        for g, part in enumerate(one["groups"]):
            assert part["group"] == {"task": list(TASKS)[g]}
            holds(part["loss"], float(np.exp(truth.log_y[0, g])))
            assert part["loss_over_own"]["value"] > 1


@pytest.mark.slow
def test_over_many_tables_intervals_cover_as_stated() -> None:
    x, mine, truth = design(), theta("chest"), optimum(theta("chest")[None])[0]
    ln_n = log_optimum(with_shares(mine[None], truth), log_flops=float(np.log(1e15)), cost=Flops())[0][0]
    hits = []
    for seed in range(32):
        y = LAW.predict(x, mine) * np.exp(0.02 * np.random.default_rng(seed).standard_normal(len(x)))
        found = blend(
            runs_of(x[:, 0], x[:, 1], None, y, None),
            points(x, y),
            NAMES,
            [1e15],
            How(objective="log_squared", resamples=100),
        )
        (one,) = found.approach.optima
        hits.append([one.shares["ct"].low < truth[0] < one.shares["ct"].high])
        hits[-1].append(one.n_params.low < np.exp(ln_n) < one.n_params.high)
    # of 32 at 95 %, fewer than 27 happen once in 200 times
    assert (np.sum(hits, axis=0) >= 27).all()


def test_an_optimum_far_from_the_runs_or_at_a_corner_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gamma_above_one = {**TASKS["chest"], "kappa": 6.0}
    x = design()
    y = LAW.predict(x, LAW.theta(gamma_above_one)) * np.exp(0.005 * np.random.default_rng(0).standard_normal(len(x)))
    path = tmp_path / "corner.csv"
    cells = [",".join(map(repr, row)) + f",a,{e!r}" for row, e in zip(x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(["N,D,CT,MR,US,task,error", *cells]))
    found = ask(capsys, path)
    assert "together" not in found  # one group has nothing to share
    near, far = found["groups"][0]["approaches"][0]["optima"]
    assert near["shares"]["ct"]["value"] == 1
    assert "at a corner of the simplex: ct alone is best" in near["notes"]
    # the costliest run is of 6e14 FLOPs
    assert far["times_costliest_run"] == pytest.approx(1e16 / 6e14)
    assert any("16.7 times the FLOPs of the costliest run" in note for note in far["notes"])
    assert any("times the largest data size" in note for note in far["notes"])


def test_a_mixture_beyond_those_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixtures = [(0.3, 0.5, 0.2), (0.2, 0.6, 0.2), (0.1, 0.3, 0.6), (0.3, 0.2, 0.5)]
    found = ask(capsys, write(tmp_path / "t.csv", design(mixtures), 0.0, ["chest"]))
    notes = found["groups"][0]["approaches"][0]["optima"][0]["notes"]
    assert any(note.startswith("more ct than in any run (0.8") and "at most 0.3 was run" in note for note in notes)


@pytest.mark.parametrize(
    ("x", "status", "why"),
    [
        (design([(1, 0, 0)]), "unidentified", "all images of the runs are ct"),
        (design([(0.5, 0.3, 0.2)]), "unidentified", "too few to tell 3 modalities apart"),
        (design([(1, 0, 0), (0, 1, 0)])[:6], "too_few", "distinct sizes for 7 parameters"),
    ],
)
def test_runs_that_cannot_tell_are_refused(
    x: np.ndarray, status: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(capsys, write(tmp_path / "t.csv", x, 0.01))
    for group in found["groups"]:
        (one,) = group["approaches"]
        assert one["status"] == status
        assert why in one["reason"]
        assert one["optima"] == []
        assert one["a"]["value"] is None
    assert found["together"]["status"] == "not_joined"
    assert "none has one" in found["together"]["reason"]
    assert found["together"]["optima"] == []


def test_a_size_that_never_stops_to_pay_has_no_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = design()
    y = LAW.predict(x, LAW.theta({**TASKS["chest"], "A": 1e-9})) * x[:, 0] ** 0.01  # larger models do a little worse
    path = tmp_path / "flat.csv"
    cells = [",".join(map(repr, row)) + f",a,{e!r}" for row, e in zip(x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(["N,D,CT,MR,US,task,error", *cells]))
    (one,) = ask(capsys, path)["groups"][0]["approaches"]
    assert one["status"] in ("no_minimum", "unidentified")  # an exponent of 0, or so large that no size is left to gain
    assert "alpha stands at its" in one["reason"]
    assert one["optima"] == []


def test_groups_of_other_modalities_have_no_mixture_in_common(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write(tmp_path / "a.csv", design(), 0.01, ["chest"]).read_text()
    two = [one for one in MIXTURES if one[2] == 0]
    part = write(tmp_path / "b.csv", design([*two, (0.8, 0.2, 0)]), 0.01, ["brain"]).read_text()
    path = tmp_path / "both.csv"
    path.write_text(whole + "\n" + part.partition("\n")[2])
    found = ask(capsys, path)
    chest, brain = found["groups"]
    assert (chest["modalities"], brain["modalities"], brain["absent_modalities"]) == (list(NAMES), ["ct", "mr"], ["us"])
    assert [group["approaches"][0]["status"] for group in found["groups"]] == ["answered"] * 2
    assert any("no run has images of us" in warning for warning in brain["approaches"][0]["warnings"])
    assert found["together"]["status"] == "not_joined"
    assert "do not share modalities (task chest: ct, mr, us; task brain: ct, mr)" in found["together"]["reason"]


def test_text_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.csv", design(), 0.01)
    arguments = ["--law", "mixture", "--map", MAP, "--by", "task", "--budget", "1e14", "--bootstrap", "100"]
    assert main(["frontier", str(path), *arguments, "--gpu-hours", "5", "--flops-per-gpu-hour", "1e14"]) == 0
    out = capsys.readouterr().out
    for said in (
        "task chest: 112 rows",
        "approach 3, mixture: answered",
        "below 1 a mixture beats its parts",
        "  C = 5e+14: N = ",
        "    shares: ct 0.",
        "all groups together, least mean log error: answered",
        "over that of its own optimum",
    ):
        assert said in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--approach", "1,2"], "--approach: --law mixture is approach 3"),
        (["--isoflop", "N"], "--isoflop: is of approach 2, which --law mixture leaves out"),
        (["--map", "n_params=N,n_images=D,error=error"], "needs the shares of two modalities or more"),
        (["--map", f"{MAP.replace('CT', 'CTT')}"], "share_ct: unknown column 'CTT'; did you mean 'CT'?"),
        (["--law", "mixtures"], "--law: unknown law of N and D 'mixtures'; did you mean 'mixture'?"),
    ],
)
def test_bad_questions_are_refused(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.csv", design()[:2], 0.0)
    assert main(["frontier", str(path), "--law", "mixture", "--map", MAP, "--budget", "1e14", *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
