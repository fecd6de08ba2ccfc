"""The frontier where images run out, against a planted law searched by brute force, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.cli import main
from analysis.commands.repeating import best_size
from analysis.laws.constrained import CONSTRAINED
from analysis.optima.flops import Flops
from analysis.optima.frontier import log_optimum

TRUTH = CONSTRAINED.theta(CONSTRAINED.example)
COST = Flops(k=40.0, power=0.9)
X = np.array(
    [(n, u, u * e) for n in np.geomspace(1e7, 1e10, 5) for u in np.geomspace(1e8, 1e10, 3) for e in (1, 4, 16, 64)]
)
MAP = "n_params=N,n_images=U,images_seen=S,loss=loss"


def write(path: Path, x: np.ndarray, noise: float = 0.003) -> Path:
    y = CONSTRAINED.predict(x, TRUTH) * np.exp(noise * np.random.default_rng(0).standard_normal(len(x)))
    rows = [",".join(map(repr, (*row, loss))) for row, loss in zip(x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(["N,U,S,loss", *rows]))
    return path


def ask(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> dict[str, Any]:
    arguments = ["--law", "constrained", "--map", MAP, "--bootstrap", "200", *more, "--json"]
    assert main(["frontier", str(path), *arguments]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    (found,) = group["approaches"]
    return dict(found)


@pytest.mark.parametrize("unique", [1e8, 1e9, 1e10, 1e13])
@pytest.mark.parametrize("budget", [1e19, 1e21, 1e23])
def test_no_size_on_the_line_of_a_budget_is_better(unique: float, budget: float) -> None:
    log_flops = float(np.log(budget))
    ln_n, ln_d, ln_y = (float(one[0]) for one in best_size(TRUTH[None], unique=unique, log_flops=log_flops, cost=COST))
    grid = np.linspace(np.log(1e5), np.log(1e14), 20001)
    sizes = np.exp(np.column_stack([grid, np.full(len(grid), np.log(unique)), COST.log_n_images(log_flops, grid)]))
    losses = CONSTRAINED.log_predict(sizes, TRUTH)
    assert ln_y <= losses.min() + 1e-12
    assert losses[np.abs(grid - ln_n).argmin()] == pytest.approx(losses.min(), abs=1e-6)
    assert np.exp(ln_n) ** 0.9 * np.exp(ln_d) * 40 == pytest.approx(budget)


def test_with_images_in_plenty_it_is_the_optimum_of_chinchilla() -> None:
    found = best_size(TRUTH[None], unique=1e15, log_flops=float(np.log(1e21)), cost=Flops())
    plenty = log_optimum(TRUTH[None, :5], log_flops=float(np.log(1e21)), cost=Flops())
    np.testing.assert_allclose(np.array(found)[:, 0], np.array(plenty)[:, 0], atol=1e-6)


def test_intervals_hold_the_planted_optimum_and_notes_say_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(capsys, write(tmp_path / "t.csv", X), "--budget", "1e21,1e26", "--unique", "1e9,1e13")
    assert found["status"] == "answered"
    asked = [(one["budget"], one["unique_images"]) for one in found["optima"]]
    assert asked == [(1e21, 1e9), (1e21, 1e13), (1e26, 1e9), (1e26, 1e13)]
    short, plenty, wasted, _ = found["optima"]
    for one, (budget, unique) in zip((short, plenty), asked[:2], strict=True):
        best = best_size(TRUTH[None], unique=unique, log_flops=float(np.log(budget)), cost=Flops())
        ln_n, ln_d, ln_y = (float(of[0]) for of in best)
        for key, truth in (("n_params", ln_n), ("n_images", ln_d), ("loss", ln_y), ("epochs", ln_d - np.log(unique))):
            assert one[key]["low"] < np.exp(truth) < one[key]["high"]
    assert short["loss_over_unlimited_images"]["low"] > 1.1
    assert plenty["loss_over_unlimited_images"]["value"] == pytest.approx(1, abs=1e-9)
    assert any("1e+13 images do not run out" in note for note in plenty["notes"])
    assert any("times the most epochs in the runs" in note for note in wasted["notes"])
    assert any("half of this budget does as well" in note for note in wasted["notes"])


def test_runs_without_repeats_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = X[X[:, 2] == X[:, 1]]
    found = ask(capsys, write(tmp_path / "t.csv", once), "--budget", "1e21", "--unique", "1e9")
    assert found["status"] == "unidentified"
    assert "no run sees an image twice" in found["reason"]
    assert found["optima"] == []


def test_text_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--law", "constrained", "--map", MAP, "--bootstrap", "50", "--budget", "1e21", "--unique", "1e9"]
    assert main(["frontier", str(write(tmp_path / "t.csv", X)), *arguments]) == 0
    out = capsys.readouterr().out
    assert "approach 3, constrained: answered" in out
    assert "    of 1e+09 images: epochs " in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--law", "constrained"], "--unique: how many images there are, which --law constrained needs"),
        (["--law", "constrained", "--unique", "-3"], "--unique: -3 is no number of images"),
        (["--law", "chinchilla", "--unique", "1e9"], "--unique: is of --law constrained"),
        (["--law", "constrained", "--unique", "1e9", "--approach", "2"], "is approach 3"),
        (["--law", "constrained", "--unique", "1e9", "--map", "n_params=N,n_images=U,loss=loss"], "needs images_seen"),
    ],
)
def test_bad_questions_are_refused(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frontier", str(write(tmp_path / "t.csv", X)), "--map", MAP, "--budget", "1e21", *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
