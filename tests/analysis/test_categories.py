"""One law over categories, and the mixture law, asked of a table by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.laws.mixture import mixture
from tests.analysis.test_cli import answer, problems

X = np.geomspace(1e5, 1e9, 8)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two algorithms of one exponent, the second worse by half; 1 % of noise."""
    path, rng = tmp_path / "runs.csv", np.random.default_rng(0)
    rows = [
        f"{name},{x!r},{float(a * x**-0.2 * np.exp(0.01 * rng.standard_normal()))!r},{int(x < 5e8)}"
        for name, a in (("mae", 3.0), ("dino", 2.0))
        for x in X.tolist()
    ]
    path.write_text("\n".join(["algorithm,x,y,fit", *rows, "new,1e6,0.5,0", ",1e6,0.5,1"]))
    return path


def test_the_data_choose_what_categories_share(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("algorithm,x\ndino,1e10\nmae,1e10\nother,1e10\n,1e10\n")
    asked = ("fit", runs, "--law", "power", "--across", "algorithm", "--bootstrap", 100)
    (group,) = answer(capsys, *asked, "--train", "fit==1", "--predict", wanted)["groups"]
    found = group["across"]
    assert (found["categories"], found["separate"], found["shared"]) == (["mae", "dino"], ["a"], ["b"])
    assert found["patterns"][0]["above_best"] == 0
    assert len(found["patterns"]) == 3  # a separate exponent with a shared coefficient would depend on the unit
    tests = {one["parameter"]: one for one in found["sharing"]}
    assert tests["a"]["q"] < 0.05
    assert group["parameters"].keys() == {"a[mae]", "a[dino]", "b"}
    assert any("b are shared was chosen by AICc" in warning for warning in group["warnings"])
    np.testing.assert_allclose(group["parameters"]["b"]["value"], 0.2, atol=0.01)
    assert [one["status"] for one in group["held_out"]["predictions"]] == ["predicted", "predicted", "not_predicted"]
    assert group["held_out"]["n"] == 2
    assert group["rows"]["excluded"] == 1
    first, second, *others = group["predictions"]
    np.testing.assert_allclose(second["value"] / first["value"], 1.5, rtol=0.03)
    assert [one["reason"] for one in others] == ["algorithm: 'other' has no fitted row", "algorithm: missing"]
    (duel,) = found["duels"]
    assert duel["low"] < 1.5 < duel["high"]
    assert duel["p_first"] < 0.01
    np.testing.assert_allclose(duel["times_largest_common"], 10)


def test_what_is_shared_is_as_asked_or_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("fit", runs, "--across", "algorithm", "--train", "fit==1", "--objective", "log_squared")
    (group,) = answer(capsys, *asked, "--law", "power", "--separate", "b", "--at", "1e12")["groups"]
    assert group["parameters"].keys() == {"a", "b[mae]", "b[dino]"}
    assert group["across"]["chosen_by"] == "asked for"
    assert not any("AICc" in warning for warning in group["warnings"])
    assert group["across"]["duels"][0]["x"] == 1e12
    assert "unknown parameter of the law power 'q'" in problems(capsys, *asked, "--law", "power", "--shared", "q")
    assert "name it with --law" in problems(capsys, *asked, "--shared", "b")
    assert "give one of them" in problems(capsys, *asked, "--law", "power", "--shared", "b", "--separate", "a")
    assert "unknown column 'algo'" in problems(capsys, "fit", runs, "--across", "algo")


@pytest.mark.parametrize("whole", [1.0, 100.0])
def test_a_mixture_is_fitted_and_its_best_shares_found(
    whole: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law = mixture(("ct", "mr"))
    x = law.example_x
    y = law.predict(x, law.theta(law.example)) * np.exp(0.005 * np.random.default_rng(2).standard_normal(len(x)))
    path = tmp_path / "mix.csv"
    cells = (x * [1, 1, whole, whole]).tolist()
    rows = [",".join(map(repr, [*cell, e])) for cell, e in zip(cells, y.tolist(), strict=True)]
    path.write_text("\n".join(["N,D,CT,MR,error", *rows, f"1e6,1e6,{0.2 * whole},{0.2 * whole},0.5"]))
    asked = ("--law", "mixture", "--map", "N=N,D=D,share_ct=CT,share_mr=MR,error=error", "--intervals", "delta")
    found = answer(capsys, "fit", path, *asked, "--objective", "log_squared")
    (group,) = found["groups"]
    assert [(one["reason"], one["rows"]) for one in group["rows"]["exclusions"]] == [("shares do not add up", 1)]
    assert any("add up to 100" in note for note in found["notes"]) == (whole == 100)
    gamma, best = group["derived"]["gamma"], group["derived"]["best_share_ct"]
    assert abs(gamma["value"] - 1.6 * 0.3) < 3 * gamma["se"] < 0.1  # three: one draw of noise in twenty leaves the 95 %
    assert 0.5 < best["value"] < 1
    path.write_text(
        "N,D,CT,MR,error\n"
        + "\n".join(f"{n},{d},.5,.5,{0.1 + n**-0.3 + d**-0.2}" for n in (1e5, 1e6, 1e7) for d in (1e4, 1e5, 1e6))
    )
    (group,) = answer(capsys, "fit", path, *asked)["groups"]
    assert group["status"] == "unidentified"
    assert "too few to tell 2 modalities apart" in group["reason"]
    assert "needs the shares of two modalities" in problems(capsys, "fit", path, "--law", "mixture", "--map", "N=N,D=D")
